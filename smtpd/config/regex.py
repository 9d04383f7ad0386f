"""Regular expressions of smtpd.conf: POSIX extended ones, run by Python's `re`.

The two agree on what mail rules use.  `[[:alpha:]]` and its like are translated; Python's own additions (`\\d`, `(?i)`,
look-ahead) work too.  Back references in bracket expressions, collating elements and equivalence classes do not exist.
Case counts, unless the expression begins with `(?i)`.
"""

import re
import string
import warnings

from smtpd.config.error import Wrong, quoted, suggestion

CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": re.escape(string.punctuation),
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
CLASS = re.compile(r"\[:([A-Za-z]*):\]")


def compile_regex(text: str) -> re.Pattern[str]:
    """For `search`: an expression of smtpd.conf is not anchored.  Raises Wrong with the reason."""
    try:
        with warnings.catch_warnings(action="ignore"):  # "[[" and "--" in brackets: meant as POSIX has them
            return re.compile(CLASS.sub(_class, text))
    except re.error as error:
        raise Wrong(f"{quoted(text)} is not a regular expression: {error}") from None
    except (OverflowError, RecursionError, ValueError):
        raise Wrong(f"{quoted(text)} is not a regular expression that can be compiled") from None


def _class(found: re.Match[str]) -> str:
    name = found[1]
    if name not in CLASSES:
        raise re.error(f"no character class [:{name}:]" + suggestion(name, CLASSES))
    return CLASSES[name]

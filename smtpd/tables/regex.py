"""POSIX extended regular expressions, matched in time linear in the text (RE2).

The text comes from a client, and an administrator's `^([a-z]+\\.?)+@` must not stop all mail when a client sends forty
letters: a backtracking matcher such as Python's would try 2^40 paths.  Hence RE2, in its POSIX mode with the usual
escapes: \\w \\W \\s \\S \\d \\D \\b \\B.  Where POSIX differs from RE2, the expression is rewritten
first: a backslash in brackets is a character (9.3.5), \\< and \\> are edges of words, (?i) is OpenSMTPD's flag.

Not supported: back references, collating elements.  Tells whether the text matches, not where.
"""

import re

import re2  # type: ignore[import-untyped]

MEMORY_MAX = 8 * 1024 * 1024  # bytes of one expression: compiled, and its states while it matches
IGNORE_CASE = "(?i)"

_REWRITTEN = re.compile(r"\\[<>]|\\.|\[\^?\]?(?:\[:[a-z]*:\]|[^\]])*\]?", re.DOTALL)


class RegexError(ValueError):
    """Not a regular expression."""


class Pattern:
    """A compiled expression.  Raises RegexError."""

    def __init__(self, text: str):
        options = re2.Options()
        options.posix_syntax = options.perl_classes = options.word_boundary = options.one_line = True
        options.max_mem = MEMORY_MAX
        options.log_errors = False
        options.case_sensitive = not text.startswith(IGNORE_CASE)
        try:
            self._compiled = re2.compile(_REWRITTEN.sub(_rewrite, text.removeprefix(IGNORE_CASE)), options)
        except re2.error as error:
            reason = error.args[0]
            raise RegexError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None

    def search(self, text: str) -> bool:
        return self._compiled.search(text) is not None


def _rewrite(found: re.Match[str]) -> str:
    word = found[0]
    if word in (r"\<", r"\>"):
        return r"\b"
    if not word.startswith("["):
        return word
    if "[." in word[1:] or "[=" in word[1:]:
        raise RegexError("[. .] and [= =] are not available")
    return word.replace("\\", r"\\")

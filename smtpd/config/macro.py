"""-D macro=value, a macro on the command line of `smtpd`, which passes it on to the one-shot process.

-D host=mx.example.org      host    mx.example.org
-D "opt=a b"                opt     a b
-D a=b=c                    an error: split at the last =, as by OpenSMTPD, and a=b is not a valid name
"""

import re

MACRO_NAME = re.compile(r"[A-Za-z0-9_]*")


def split(text: str) -> tuple[str, str]:
    """The name and the value.  Raises ValueError."""
    name, sign, value = text.rpartition("=")
    if not sign or not name:
        raise ValueError(f'"{text}": expected macro=value')
    if not MACRO_NAME.fullmatch(name):
        raise ValueError(f'"{text}": invalid macro name "{name}", expected letters, digits and _')
    return name, value

"""-D macro=value, a macro of the command line: of `smtpd`, and of the one-shot process that it passes it on to.

-D host=mx.example.org      host    mx.example.org
-D "opt=a b"                opt     a b
-D a=b=c                    an error: it is split at the last =, as by OpenSMTPD, and no macro is named a=b
"""

import re

MACRO_NAME = re.compile(r"[A-Za-z0-9_]*")


def split(text: str) -> tuple[str, str]:
    """The name and the value.  Raises ValueError."""
    name, sign, value = text.rpartition("=")
    if not sign or not name:
        raise ValueError(f'"{text}": expected macro=value')
    if not MACRO_NAME.fullmatch(name):
        raise ValueError(f'"{text}": "{name}" cannot name a macro, expected letters, digits and _')
    return name, value

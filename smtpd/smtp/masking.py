"""What of a command may stand in a log: not what looks like a password."""

import re

MAX_LOGGED = 256  # bytes of a command

_MECHANISM = re.compile(r"AUTH [A-Z0-9_-]{1,20}(?= )", re.ASCII)  # RFC 4422 3.1


def loggable(line: bytes) -> str:
    """Known by the first letters alone, so that no mistake behind them, nor a refusal, brings the rest to light."""
    text = line.lstrip()[:MAX_LOGGED].decode("utf-8", "replace")
    if text[:4].upper() != "AUTH":
        return text
    mechanism = _MECHANISM.match(text)
    return (mechanism[0] if mechanism else text[:4]) + " (...)"

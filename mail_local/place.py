"""Where an action's path leads for one user.

    ~/Maildir                              the user's home
    /var/mail/%{user.username}/Maildir     %{user.directory} is the home, %% a percent sign

Both values come from the user database, neither from mail.  Other specifiers would let a sender choose a path: refused,
here and when the configuration is read.
"""

import re

_SPECIFIER = re.compile(r"%(%|\{([^}]*)\})?")


def expand(path: str, user: str, home: str) -> str:
    """The absolute path.  Raises ValueError with the reason when there is none."""
    if path.startswith("~/"):
        path = "%{user.directory}" + path[1:]
    values = {"user.username": user, "user.directory": home}

    def value(found: re.Match[str]) -> str:
        if found[1] == "%":
            return "%"
        name = (found[2] or "").lower()
        if name not in values:
            raise ValueError(f"{found[0]} cannot be part of a path")
        if not values[name]:
            raise ValueError(f"no {name} to put into {path!r}")
        return values[name]

    expanded = _SPECIFIER.sub(value, path)
    if not expanded.startswith("/") or "\0" in expanded:
        raise ValueError(f"not an absolute path: {expanded!r}")
    return expanded

"""pledge(2) and unveil(2) on OpenBSD."""

from collections.abc import Sequence

from smtpd.sandbox.libc import call

ONLY_LINUX = {"memfd"}  # promises that pledge does not know

# For a root process that starts others and looks up what they may not.  It remains root, but without devices, routes,
# raw sockets and tracing.  A program that it executes starts without promises.
PARENT = "stdio rpath wpath cpath fattr chown flock unix inet getpw proc exec id sendfd recvfd"


def restrict(paths: Sequence[tuple[str, str]], promises: str) -> list[str]:
    """Leave this process nothing but `paths` and `promises`.  Raises OSError."""
    for path, letters in paths:
        call("unveil", path.encode(), letters.encode())
    if not paths:
        call("unveil", b"/", b"")  # one path without permissions: nothing is visible
    call("unveil", None, None)
    pledge(promises)
    return ["unveil", f"pledge {promises}"]


def pledge(promises: str) -> None:
    """Raises OSError."""
    call("pledge", " ".join(word for word in promises.split() if word not in ONLY_LINUX).encode(), None)

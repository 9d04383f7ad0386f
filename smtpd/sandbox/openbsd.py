"""pledge(2) and unveil(2), on the system they come from."""

from collections.abc import Sequence

from smtpd.sandbox.libc import call

# What a root process needs that starts others and looks up what they may not: not a promise of less than root, but of
# no device, no route, no raw socket, no tracing.  What it executes starts without promises.
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
    call("pledge", promises.encode(), None)

"""Entering a sandbox, and the order of its steps.

    alone? no ring? no callback page?  |  chroot, groups, gid, uid, capabilities, no_new_privs, dumpable, limits,
    death with the parent  |  unveil  |  promises

Each step takes away what the next one does not need any more; the promises come last, as they forbid all the others.
"""

import os
import posixpath
import sys
from collections.abc import Sequence

from smtpd.sandbox import landlock, memory, openbsd, preload, privilege, promise, seccomp
from smtpd.sandbox.privilege import Ids

MISSING = "missing: "  # how a line of what does not hold begins
NOT_ROOT = "(not root)"


class SandboxUnavailable(Exception):
    """This machine cannot give a protection that was required."""


def is_required(missing: str) -> bool:
    """Whether the lack of this, a line without MISSING, ends a start for which the sandbox is required.

    Not of what only root could give, when the daemon was started by another user.  Nor of the ports of connections:
    what may connect at all has said so in its promises, and kernels before Linux 6.7 know no ports."""
    return not missing.endswith(NOT_ROOT) and not missing.startswith(landlock.PORTS)


class _Held(list[str]):
    """What holds, line by line; raises at the first thing missing when everything is required."""

    def __init__(self, required: bool):
        super().__init__()
        self.required = required

    def add(self, *lines: str) -> None:
        for line in lines:
            if self.required and line.startswith(MISSING) and is_required(line.removeprefix(MISSING)):
                raise SandboxUnavailable(line.removeprefix(MISSING))
            self.append(line)


_chrooted: bool | None = None


def inside(root: str) -> str:
    """The directory by which `root` is to be opened once the sandbox was entered with it: "/" after a chroot, `root`
    itself where there could be none."""
    chrooted = os.geteuid() == 0 if _chrooted is None else _chrooted
    return "/" if chrooted else root


def enter(
    user: str | Ids | None,
    root: str | None,
    promises: str,
    *,
    unveil: Sequence[tuple[str, str]] = (),
    ports: Sequence[int] | None = None,
    program: bytes | None = None,
    required: bool = False,
) -> list[str]:
    """Become `user` in `root`, with nothing but `promises` and the files in `unveil`.  For good.

    unveil    (path, letters out of rwxc), paths as seen in `root`; what is not named cannot be opened
    ports     TCP ports that may be connected to (None: any that the promises allow); see is_required
    program   the promises, compiled elsewhere
    required  raise SandboxUnavailable for what this machine cannot give, instead of saying so

    Returns what really holds, a line each, and what does not as "missing: …".  Raises SandboxUnavailable, ValueError
    for an unknown word, RuntimeError when the process is in no state to be confined (threads, an io_uring), OSError for
    a path that is not there.  After an exception the process must end.
    """
    held = _Held(required)
    parent = os.getppid()
    promise.words(promises)
    ids = _ids(user) if os.geteuid() == 0 else None
    if privilege.LINUX:
        _check_state(held)
        program = program or _compile(held, promises)
    preload.rehearse()
    preload.import_nothing_more()
    preload.keep_tracebacks_off_the_disk()
    _change_root(held, root)
    _change_user(held, user, ids)
    _limit(held, parent)
    paths = [(_as_seen(root, path), letters) for path, letters in unveil]
    if sys.platform.startswith("openbsd"):
        held.add(*openbsd.restrict(paths, promises))
        if ports is not None:
            held.add(f"{MISSING}{landlock.PORTS} (pledge knows none)")
    elif privilege.LINUX:
        held.add(*landlock.restrict(paths, ports, alone=True, sockets="unix" in promises.split()))
        if program is not None:
            held.add(_install(program, promises))
    else:
        held.add(f"{MISSING}unveil ({sys.platform})", f"{MISSING}promises ({sys.platform})")
    return list(held)


def _ids(user: str | Ids | None) -> Ids | None:
    ids = privilege.find_ids(user) if isinstance(user, str) else user
    if ids is None and user is not None:
        raise SandboxUnavailable(f"user {user} (no such user)")
    if ids is not None and 0 in ids:
        raise ValueError("refusing to become root")
    return ids


def _check_state(held: _Held) -> None:
    """Uid, capabilities, Landlock and seccomp belong to a thread; a second one would stay outside."""
    try:
        threads = len(os.listdir("/proc/self/task"))
        descriptors = [_target(number) for number in os.listdir("/proc/self/fd")]
        writable = memory.check()
    except OSError:
        held.add(f"{MISSING}check of threads and memory (no /proc)")
        return
    if threads > 1:
        raise RuntimeError(f"{threads} threads: a sandbox is entered by a process that has one")
    if "anon_inode:[io_uring]" in descriptors:
        raise RuntimeError("an io_uring is open, which no filter sees into: deny() comes before the event loop is made")
    held.add(*[f"{MISSING}memory either writable or executable ({mapping})" for mapping in writable])


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""  # the one by which the directory was listed


def _change_root(held: _Held, root: str | None) -> None:
    global _chrooted
    _chrooted = False
    if root is None:
        return
    if os.geteuid() != 0:
        held.add(f"{MISSING}chroot {NOT_ROOT}")
        return
    try:
        privilege.change_root(root)
    except PermissionError as error:
        held.add(f"{MISSING}chroot {root} ({error.strerror})")
        return
    _chrooted = True
    held.add(f"chroot {root}")


def _as_seen(root: str | None, path: str) -> str:
    """The name of what `unveil` calls `path`, from where we are now."""
    if root is None or _chrooted:
        return path
    return posixpath.join(root, path.lstrip("/")).rstrip("/") or "/"


def _change_user(held: _Held, user: str | Ids | None, ids: Ids | None) -> None:
    root = os.geteuid() == 0
    if root and privilege.LINUX:
        try:
            privilege.cut_bounding_set()
        except PermissionError as error:
            held.add(f"{MISSING}empty bounding set ({error.strerror})")
    if ids is not None:
        privilege.become(ids)
    if ids is not None or isinstance(user, Ids) and user.uid == os.getuid():
        held.add(f"uid {os.getuid()}", f"gid {os.getgid()}")
    else:
        held.add(f"{MISSING}own uid " + ("(no user named)" if root else NOT_ROOT))


def _limit(held: _Held, parent: int) -> None:
    os.umask(0o077)
    if privilege.LINUX:
        privilege.set_capabilities()
        privilege.set_no_new_privileges()
        held.add("capabilities none", "no_new_privs")
    privilege.forbid_inspection()
    privilege.raise_descriptor_limit()
    if privilege.LINUX:
        privilege.die_with(parent)
        held.add("not dumpable", "dies with its parent")


def _compile(held: _Held, promises: str) -> bytes | None:
    try:
        return seccomp.compile(promises)
    except OSError as error:
        held.add(f"{MISSING}seccomp ({error})")
        return None


def _install(program: bytes, promises: str) -> str:
    try:
        seccomp.install(program)
    except OSError as error:
        return f"{MISSING}seccomp ({error.strerror})"
    return f"seccomp {promises}"

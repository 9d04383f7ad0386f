"""Root directory, ids, capabilities, limits: what a process of any Unix can give up, and what Linux adds.

Nothing here can be taken back, which is the point.
"""

import ctypes
import os
import pwd
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from smtpd.sandbox.libc import call, prctl

LINUX = sys.platform == "linux"

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_CAPABILITY_VERSION_3 = 0x20080522

# linux/capability.h, in the order of their numbers
_CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap "
    "mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
)
CAPABILITIES = _CAPABILITIES.split()


class Ids(NamedTuple):
    """The ids of a user."""

    uid: int
    gid: int


def find_ids(user: str) -> Ids | None:
    """The ids of a user by name.  Asks NSS: only before a sandbox is entered."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None
    return Ids(entry.pw_uid, entry.pw_gid)


def find_uids(users: Iterable[str]) -> frozenset[int]:
    """The uids of those of `users` that exist.  Asks NSS: only before a sandbox is entered."""
    return frozenset(ids.uid for ids in map(find_ids, users) if ids is not None)


def change_root(root: str) -> None:
    os.chroot(root)
    os.chdir("/")


def become(ids: Ids) -> None:
    """Set real, effective and saved ids, and no further group.  Raises RuntimeError if root can be regained."""
    os.setgroups([ids.gid])
    os.setresgid(ids.gid, ids.gid, ids.gid)
    os.setresuid(ids.uid, ids.uid, ids.uid)
    if (os.getresuid(), os.getresgid(), os.getgroups()) != ((ids.uid,) * 3, (ids.gid,) * 3, [ids.gid]):
        raise RuntimeError(f"did not become uid {ids.uid}, gid {ids.gid}")
    if ids.uid == 0:
        return
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise RuntimeError(f"uid {ids.uid} can become root again")


def cut_bounding_set(keep: int = 0) -> None:
    """Drop every capability that is not in the bit set `keep` from what any later exec could give.  Needs setpcap."""
    for number in range(64):
        try:
            present = prctl(_PR_CAPBSET_READ, number)
        except OSError:
            return  # EINVAL: one more than this kernel knows
        if present and not keep >> number & 1:
            prctl(_PR_CAPBSET_DROP, number)


def set_capabilities(keep: int = 0) -> None:
    """Hold no capability outside of `keep`, and leave none to be inherited."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    keep &= _permitted()
    low, high = keep & 0xFFFFFFFF, keep >> 32
    call("capset", _capability_header(), struct.pack("=6I", low, low, 0, high, high, 0))


def _permitted() -> int:
    sets = ctypes.create_string_buffer(24)  # two times effective, permitted, inheritable
    call("capget", _capability_header(), sets)
    _, low, _, _, high, _ = struct.unpack("=6I", sets)
    return low | high << 32


def _capability_header() -> bytes:
    return struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)


def limit_capabilities(keep: Sequence[str]) -> list[str]:
    """Cut what this process may do as root, and what all it starts may ever do, to the capabilities named in `keep`
    (setpcap must be among them where a descendant is to call enter).  Returns what holds."""
    if not LINUX:
        return ["missing: capabilities (not Linux)"]
    if os.geteuid() != 0:
        set_capabilities()
        return ["capabilities none"]
    bits = sum(1 << CAPABILITIES.index(name) for name in set(keep))
    cut_bounding_set(bits)
    set_capabilities(bits)
    return ["capabilities " + (" ".join(sorted(keep)) or "none")]


def set_no_new_privileges() -> None:
    """From here on no exec gives anything: set-user-id bits and file capabilities have no effect."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_inspection() -> None:
    """No core file, and no process of the same uid may trace this one or read its memory.  Changing ids resets this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if LINUX:
        prctl(_PR_SET_DUMPABLE, 0)


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors to the hard limit; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def die_with(parent: int) -> None:
    """Be killed when `parent`, our parent until now, ends.  Changing ids resets this."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # it ended before we asked

"""Pledge, unveil, chroot, users and capabilities: one call, and a list of what really holds.

    enter(user, root, promises, unveil=…)     once, as the last thing before a process reads what others wrote
    inside(root)                              where the paths of `root` are from then on
    rehearse(), check_memory()                before forking many who will enter
    deny(), limit_capabilities(keep)          for what stays root, and for all that it starts
    compile(promises), install(program)       a filter made in one process and loaded in another

    enter       the order of things                 landlock    unveil on Linux
    promise     words -> system calls, a table      openbsd     pledge and unveil where they come from
    seccomp     the table -> a filter               memory      no page both writable and executable
    privilege   chroot, ids, capabilities, limits   preload     what the interpreter would open later
                                                    violation   which system call a dead child had tried

It knows nothing of what the processes do.  It compiles with libseccomp, and needs nothing but ctypes to load a filter
that was compiled elsewhere.
"""

from smtpd.sandbox.enter import MISSING, SandboxUnavailable, enter, inside, is_required
from smtpd.sandbox.memory import check as check_memory
from smtpd.sandbox.memory import executable_writable_mappings, seal_callbacks
from smtpd.sandbox.preload import rehearse
from smtpd.sandbox.privilege import Ids, find_ids, find_uids, limit_capabilities
from smtpd.sandbox.seccomp import compile, deny, install
from smtpd.sandbox.seccomp_kill import describe_seccomp_kill, open_kernel_log

__all__ = [
    "MISSING",
    "Ids",
    "SandboxUnavailable",
    "check_memory",
    "compile",
    "deny",
    "describe_seccomp_kill",
    "enter",
    "executable_writable_mappings",
    "find_ids",
    "find_uids",
    "inside",
    "install",
    "is_required",
    "limit_capabilities",
    "open_kernel_log",
    "rehearse",
    "seal_callbacks",
]

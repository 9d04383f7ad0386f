"""The system calls of Linux that each promise allows: a table, no code that runs in a sandbox.

The words are pledge(2)'s, and `memfd`, which is memory as a file.  Differences, all towards less: a socket of `inet` is
TCP, one of `dns` UDP; nothing makes symbolic links or changes modes and times; memory cannot become executable without
`exec`.  Three answers besides yes:

    death       what is on no list, or has the wrong arguments.  No program does that by accident.
    EACCES      looking for a file without `rpath`.  Libraries do that at odd moments (libuv when descriptors run out,
                glibc for a time zone), where being killed would be an outage; an attacker learns nothing from it.
    ENOSYS      what libraries try before they fall back: clone3 and openat2 hide their arguments behind a pointer,
                io_uring does other system calls where no filter sees them.  And all that is newer than this list.

Arguments are compared in their lower 32 bits, which is what the kernel looks at.  What stands in memory no filter sees:
a path, an address, a control message.  So `recvfd` and `sendfd` are in `stdio`, as sendmsg and recvmsg are; and where
connect goes, Landlock has to say.
"""

import errno
import fcntl
import os
import socket
import termios
from typing import NamedTuple


class Where(NamedTuple):
    """A condition: argument number `argument`, under `mask`, is `value`."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF


class Rule(NamedTuple):
    """A system call, let through (errno 0) or refused with an errno, where all conditions hold."""

    call: str
    where: tuple[Where, ...] = ()
    errno: int = 0


# A placeholder for the pid of the process that the filter is loaded into; no pid is that large.
SELF = 0x5E1F5E1F

LAST_KNOWN = 450  # set_mempolicy_home_node; system calls with higher numbers are newer than this list

_CLONE_VM, _CLONE_SIGHAND, _CLONE_THREAD = 0x100, 0x800, 0x10000
# new mount, cgroup, uts, ipc, user, pid, net and time namespaces; and to be traced with the parent
CLONE_NAMESPACES = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x80
_CLONE_PTRACE = 0x2000
_THREAD = _CLONE_VM | _CLONE_SIGHAND | _CLONE_THREAD

_AT_EMPTY_PATH = 0x1000
_O_TMPFILE = 0o20000000  # without the O_DIRECTORY that Python's constant has in it
_CHANGES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_TYPE = 0xF  # of a socket, without SOCK_CLOEXEC and SOCK_NONBLOCK
_EXECUTABLE = 4  # PROT_EXEC

# asm-generic/ioctls.h, linux/prctl.h, asm-generic/fcntl.h, linux/tcp.h, linux/in.h: what Python has no names for, or
# only on Linux
_TCGETS, _TCGETS2, _TIOCSTI, _TIOCLINUX = 0x5401, 0x802C542A, 0x5412, 0x541C
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41  # the last one gives a name to memory
_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW = 36, 37, 38
_F_ADD_SEALS = 1033
_TCP_CORK, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT, _TCP_DEFER_ACCEPT = 3, 4, 5, 6, 9
_TCP_QUICKACK, _TCP_USER_TIMEOUT = 12, 18
_IP_BIND_ADDRESS_NO_PORT = 24

_RDONLY, _WRONLY, _RDWR = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def _calls(names: str, errno: int = 0) -> list[Rule]:
    return [Rule(name, (), errno) for name in names.split()]


def _one_of(call: str, argument: int, *values: int, where: tuple[Where, ...] = ()) -> list[Rule]:
    return [Rule(call, (*where, Where(argument, value))) for value in values]


def _opening(kind: int) -> list[Rule]:
    """openat with exactly these of the flags that change something."""
    return [Rule("openat", (Where(2, kind, _CHANGES & ~(os.O_TRUNC if kind & os.O_ACCMODE else 0)),))]


def _sockets(domain: int, kind: int, *protocols: int) -> list[Rule]:
    return _one_of("socket", 2, *protocols, where=(Where(0, domain), Where(1, kind, _TYPE)))


_LOOKUPS = _calls("stat lstat access faccessat readlink readlinkat statfs getcwd chdir")
_LOOKUPS_BY_FLAG = [("newfstatat", 3), ("statx", 2)]  # are fstat too, where they carry AT_EMPTY_PATH

_HIDDEN = _calls("clone3 io_uring_setup io_uring_enter io_uring_register", errno.ENOSYS)
_TRIED_FIRST = [*_HIDDEN, *_calls("openat2 faccessat2 epoll_pwait2 futex_waitv", errno.ENOSYS)]

_STDIO = [
    # descriptors that one has
    *_calls("read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek close close_range"),
    *_calls("dup dup2 dup3 pipe pipe2 fstat fstatfs fsync fdatasync ftruncate fallocate fadvise64 sync_file_range"),
    *[Rule(call, (Where(flags, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)) for call, flags in _LOOKUPS_BY_FLAG],
    *_one_of(
        "fcntl", 1, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL
    ),
    *_one_of("ioctl", 1, termios.FIONREAD, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX),
    *_one_of("ioctl", 1, _TCGETS, _TCGETS2, termios.TIOCGWINSZ),  # isatty
    # sockets that one has; a pair of streams cannot be connected elsewhere, one of datagrams could
    *_calls("recvfrom shutdown accept accept4 listen getsockname getpeername getsockopt sendmsg recvmsg"),
    Rule("sendto", (Where(4, 0),)),
    Rule("socketpair", (Where(0, socket.AF_UNIX), Where(1, socket.SOCK_STREAM, _TYPE), Where(2, 0))),
    *_one_of(
        "setsockopt",
        2,
        *(socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_SNDTIMEO, socket.SO_RCVTIMEO),
        *(socket.SO_KEEPALIVE, socket.SO_LINGER, socket.SO_REUSEADDR),
        where=(Where(1, socket.SOL_SOCKET),),
    ),
    # waiting
    *_calls("poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd eventfd2"),
    *_calls("timerfd_create timerfd_settime timerfd_gettime signalfd4 setitimer getitimer alarm pause"),
    *_calls("nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time sched_yield restart_syscall"),
    # memory
    *_calls("brk munmap mremap madvise membarrier"),
    Rule("mmap", (Where(2, 0, _EXECUTABLE),)),
    Rule("mprotect", (Where(2, 0, _EXECUTABLE),)),
    # threads
    Rule("clone", (Where(0, _THREAD, _THREAD | CLONE_NAMESPACES | _CLONE_PTRACE),)),
    *_calls("futex set_robust_list get_robust_list rseq set_tid_address gettid sched_getaffinity getcpu"),
    *_calls("sched_getparam sched_getscheduler exit exit_group"),
    *_one_of("prctl", 0, _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA),
    # signals, to oneself
    *_calls("rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack"),
    *_one_of("kill", 0, SELF),
    *_one_of("tgkill", 0, SELF),
    # oneself
    *_calls("getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid"),
    *_calls("getrusage times uname sysinfo umask getrandom getrlimit"),
    *_one_of("prlimit64", 0, 0, SELF),
]

_RPATH = [
    *_LOOKUPS,
    *_calls("getdents64 fchdir"),
    *[Rule(call, (Where(flags, 0, _AT_EMPTY_PATH),)) for call, flags in _LOOKUPS_BY_FLAG],
    *_opening(_RDONLY),
]

_WITHOUT_RPATH = [rule._replace(errno=errno.EACCES) for rule in _RPATH if rule.call not in ("getdents64", "fchdir")]

_FLOCK = [
    *_calls("flock"),
    *_one_of("fcntl", 1, fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW),
    *_one_of("fcntl", 1, _F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW),
]

_CPATH = _calls("rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat rmdir")

_INET = [
    *[
        rule
        for domain in (socket.AF_INET, socket.AF_INET6)
        for rule in _sockets(domain, socket.SOCK_STREAM, 0, socket.IPPROTO_TCP)
    ],
    *_calls("bind connect"),
    *_one_of(
        "setsockopt",
        2,
        *(socket.TCP_NODELAY, _TCP_CORK, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT),
        *(_TCP_USER_TIMEOUT, _TCP_QUICKACK, _TCP_DEFER_ACCEPT),
        where=(Where(1, socket.IPPROTO_TCP),),
    ),
    *_one_of("setsockopt", 2, socket.IPV6_V6ONLY, where=(Where(1, socket.IPPROTO_IPV6),)),
    *_one_of("setsockopt", 2, _IP_BIND_ADDRESS_NO_PORT, where=(Where(1, socket.IPPROTO_IP),)),
]

_DNS = [
    *[
        rule
        for domain in (socket.AF_INET, socket.AF_INET6)
        for rule in _sockets(domain, socket.SOCK_DGRAM, 0, socket.IPPROTO_UDP)
    ],
    *_calls("bind connect sendto sendmsg recvmsg sendmmsg recvmmsg"),
]

_UNIX = [
    *_sockets(socket.AF_UNIX, socket.SOCK_STREAM, 0),
    *_sockets(socket.AF_UNIX, socket.SOCK_DGRAM, 0),
    *_calls("bind connect sendto"),
]

_MEMFD = [
    *_calls("memfd_create"),
    *_one_of("fcntl", 1, _F_ADD_SEALS),
]

_PROC = [
    Rule("clone", (Where(0, 0, _CLONE_THREAD | CLONE_NAMESPACES | _CLONE_PTRACE),)),
    *_calls("fork vfork wait4 waitid setsid setpgid"),
]

# A program starts with mapping its libraries.
_EXEC = _calls("execve mmap mprotect arch_prctl")

PROMISES = {
    "stdio": _STDIO,
    "rpath": _RPATH,
    "wpath": _opening(_WRONLY),
    "cpath": _CPATH,
    "flock": _FLOCK,
    "inet": _INET,
    "dns": _DNS,
    "unix": _UNIX,
    "memfd": _MEMFD,
    "recvfd": _calls("recvmsg"),
    "sendfd": _calls("sendmsg"),
    "proc": _PROC,
    "exec": _EXEC,
}

# Calls that only two promises together allow.
_TOGETHER = [
    ({"rpath", "wpath"}, _opening(_RDWR)),
    ({"rpath", "cpath"}, _opening(_RDONLY | os.O_CREAT)),
    ({"wpath", "cpath"}, _opening(_WRONLY | os.O_CREAT)),
    ({"rpath", "wpath", "cpath"}, _opening(_RDWR | os.O_CREAT)),
]


def words(promises: str) -> list[str]:
    """The promises one by one.  Raises ValueError for an unknown one."""
    unknown = [word for word in promises.split() if word not in PROMISES]
    if unknown:
        raise ValueError(f"no such promise: {' '.join(unknown)}")
    return promises.split()


def rules(promises: str) -> list[Rule]:
    """The rules of calls that `promises` allow or refuse with an errno; any other call kills the process."""
    given = set(words(promises))
    chosen = [rule for word in PROMISES if word in given for rule in PROMISES[word]]
    chosen += [rule for needed, more in _TOGETHER if needed <= given for rule in more]
    chosen += _TRIED_FIRST
    if "rpath" not in given:
        chosen += _WITHOUT_RPATH
    return _without_the_narrower(chosen)


def _without_the_narrower(chosen: list[Rule]) -> list[Rule]:
    """A call that is let through whatever its arguments needs no further rule."""
    unconditional = {rule.call for rule in chosen if not rule.where and not rule.errno}
    return [*dict.fromkeys(rule for rule in chosen if not (rule.where and rule.call in unconditional))]


# Calls that no descendant of the parent needs, however privileged, and that most attacks on a kernel do.
DENIED = _calls(
    # the kernel itself
    "init_module finit_module delete_module create_module query_module get_kernel_syms kexec_load kexec_file_load "
    "reboot bpf perf_event_open userfaultfd iopl ioperm modify_ldt vm86 vm86old syslog lookup_dcookie acct _sysctl "
    "uselib swapon swapoff nfsservctl sysfs ustat vhangup sethostname setdomainname "
    # its clock
    "settimeofday stime clock_settime clock_settime64 adjtimex clock_adjtime clock_adjtime64 "
    # mounts, and files by number
    "mount umount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr "
    "open_by_handle_at fanotify_init "
    # keys
    "add_key request_key keyctl "
    # other processes
    "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp move_pages migrate_pages "
    # namespaces
    "unshare setns",
    errno.EPERM,
)


def denials() -> list[Rule]:
    """The rules of calls that are refused to a process that stays root and to all that it starts; others pass."""
    chosen = [*DENIED, *_HIDDEN]
    for namespace in (1 << bit for bit in range(32) if CLONE_NAMESPACES >> bit & 1):
        chosen.append(Rule("clone", (Where(0, namespace, namespace),), errno.EPERM))
    for request in (_TIOCSTI, _TIOCLINUX):  # typing for the terminal's owner, also by TIOCLINUX
        chosen.append(Rule("ioctl", (Where(1, request),), errno.EPERM))
    return chosen

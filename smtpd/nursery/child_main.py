"""From fork to the first line of work: what a child of the nursery does, in blocking calls.

    run_user_lookup    a user without rights, asks NSS               name --> verdict, again and again
    run_agent          find the account                                       --> "ids UID GID"
                       become the user, sandbox, then serve its socket        --> "ok", or "verdict reason"
    run_table_program  become its user, exec                                  --> nothing, or "verdict reason"
    run_offline        open a file, become its owner, sandbox, hand it in     --> "verdict reason"
    run_password       stay root, without what root may, exec                 --> nothing, or "verdict reason"

A child reports by a pipe that the nursery watches, a line at a time.  An agent first reports the ids that it will have,
while it is root and no code or file of a user had a part in it.  Beside that pipe a child has no descriptor of the
nursery's: an agent has its socket, or two, and a program its socket and a log of its own.
"""

import errno
import fcntl
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NoReturn, Protocol

from setproctitle import setproctitle

from smtpd import sandbox
from smtpd.boot import PARENT, command
from smtpd.errand import OFFLINE_PROMISES, PROMISES, AgentSpec
from smtpd.ipc.log import visible
from smtpd.ipc.os_error import describe_error, error_path
from smtpd.ipc.selector_loop import SIGNALS, forget_signals
from smtpd.nursery.account import (
    Account,
    UserDatabaseError,
    check_entry,
    check_ids,
    find_account,
    find_with_verdict,
)
from smtpd.sandbox import Ids, privilege
from smtpd.slice import LMTP_USER, PROGRAM_USER

EX_SOFTWARE = 70
MEMORY_MAX = 512 * 1024 * 1024  # bytes of data of one agent
PROCESSES_MAX = 1024  # and threads, of one user, as far as commands may make more of them
REPORT_MAX = 1000  # characters of a line that is reported, and bytes of a name that is looked up
DESCRIPTORS_MAX = os.sysconf("SC_OPEN_MAX")
OFFLINE_MODE = 0o600  # of a file that sendmail has written
NO_GROUP = 65534  # the group of a process that hands in a user's mail: the daemon looks at no group
LMTP_KINDS = ("lmtp", "lmtp-unix")
# For PAM: to read a shadow file that not even its owner may, and to write the audit log, without which it says no.
PASSWORD_CAPABILITIES = ["dac_read_search", "audit_write"]
ENVIRONMENT = ("PATH", "LANG", "TZ")  # of a program: as ours, which the parent has made anew


class Agent(Protocol):
    """What `prepare` of the agent's room makes."""

    @property
    def visible_paths(self) -> list[tuple[str, str]]: ...

    def serve(self, sock: socket.socket, mailbox_socket: socket.socket | None) -> None: ...


Prepare = Callable[[AgentSpec, str, str], Agent]  # spec, user, home


class OfflineSubmission(Protocol):
    """A session with the daemon, which room smtpctl has opened; `submit` returns the verdict, with its reason."""

    def submit(self, descriptor: int) -> str: ...


PrepareOffline = Callable[[str], OfflineSubmission]  # path of the control socket


@dataclass(frozen=True)
class AgentSetup:
    """An agent to be."""

    user: str
    account: tuple[int, int, str] | None  # uid, gid, home of a userbase; None: as the system has them for `user`
    spec: AgentSpec
    filter: bytes | None  # of seccomp; None: compile it, if this machine can
    reserved_uids: Collection[int] = ()  # of our users: it must not have one of these


class AccountRefused(Exception):
    """There will be no agent: the verdict, and why."""


def fork(child: Callable[..., None], *kept: int) -> int:
    """Run `child` in a process of its own, which ends with it; returns its pid.  It is called with its own numbers of
    the descriptors in `kept`, and has no others."""
    nursery = os.getpid()
    # No signal may come before ours are forgotten: it would be told to the nursery by the descriptor that both share.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    try:
        forget_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setsid()  # a ^C is not for it
        if privilege.LINUX:
            privilege.die_with(nursery)
        child(*_keep_only(kept))
        os._exit(0)
    finally:
        os._exit(EX_SOFTWARE)


def _keep_only(descriptors: tuple[int, ...]) -> range:
    """They become 3, 4 and so on.  The channel to the parent is closed, and so is the log."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in (null, null, null, *descriptors)]
    for number, descriptor in enumerate(aside):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(len(aside), DESCRIPTORS_MAX)
    return range(3, len(aside))


# -- user lookups ----------------------------------------------------------------------------


def run_user_lookup(us: Ids | None, reserved_uids: Collection[int], descriptor: int) -> None:
    """`us`: the user to become, as modules of the name service may speak with a server; None: stay."""
    me = os.geteuid()
    setproctitle("smtpd: nursery: user lookup")
    if us is not None:
        _become(us)
    _limit(resource.RLIMIT_DATA, MEMORY_MAX)
    _give_up_privileges()
    with socket.socket(fileno=descriptor) as sock:
        while name := sock.recv(REPORT_MAX):
            sock.send(_verdict(name.decode(), me, reserved_uids).encode())


def _verdict(name: str, me: int, reserved_uids: Collection[int]) -> str:
    try:
        return check_entry(name, find_account(name), me, reserved_uids)
    except UserDatabaseError:
        return "later"


# -- agents ----------------------------------------------------------------------------------


def run_agent(setup: AgentSetup, prepare: Prepare, descriptor: int, *more: int) -> None:
    """`more`: the mailbox socket where the agent has one, and the pipe that it reports to."""
    *mailbox_sockets, report = more
    try:
        agent, missing = _make(setup, prepare, report)
    except AccountRefused as refused:
        _say(report, " ".join(refused.args))
        return
    except Exception as error:
        # A child of one user: whatever state the user's home is in, no other user may notice.
        what = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        _say(report, f"later {what}{describe_error(error)}")
        return
    _say(report, f"ok {', '.join(missing)}")
    os.close(report)
    agent.serve(socket.socket(fileno=descriptor), socket.socket(fileno=mailbox_sockets[0]) if mailbox_sockets else None)


def _make(setup: AgentSetup, prepare: Prepare, report: int) -> tuple[Agent, list[str]]:
    """The agent, as its user and in its sandbox, and what of that this machine could not give.  No descriptor above
    `report` is its own."""
    account = _get_account(setup)
    _say(report, f"ids {account.uid} {account.gid}")
    setproctitle(f"smtpd: agent of {account.name}")
    _become(account.ids)
    os.umask(0o077)
    _go_home(account.home)
    promises = PROMISES[setup.spec.kind]
    if promises is None:  # a fork bomb would take from all agents what a service manager allows us
        _limit(resource.RLIMIT_NPROC, PROCESSES_MAX)
    else:
        _limit(resource.RLIMIT_DATA, MEMORY_MAX)
    agent = prepare(setup.spec, account.name, account.home)
    os.closerange(report + 1, DESCRIPTORS_MAX)  # what the name service may have left open
    if promises is None:
        _give_up_privileges()
        return agent, []
    held = sandbox.enter(account.ids, None, promises, unveil=agent.visible_paths, program=setup.filter)
    return agent, [line.removeprefix("missing: ") for line in held if line.startswith("missing: ")]


def _get_account(setup: AgentSetup) -> Account:
    """The account to become.  Raises AccountRefused."""
    if setup.account is None:
        return _get_user(setup.user, setup.reserved_uids, LMTP_USER if setup.spec.kind in LMTP_KINDS else "")
    account = Account(setup.user, *setup.account)
    verdict = check_ids(account, os.geteuid(), setup.reserved_uids)
    if verdict != "user":
        raise AccountRefused(verdict, "")
    return account


def _get_user(name: str, reserved_uids: Collection[int], service_account: str) -> Account:
    """Raises AccountRefused."""
    try:
        verdict, account = find_with_verdict(name, os.geteuid(), reserved_uids, service_account=service_account)
    except UserDatabaseError as error:
        raise AccountRefused("later", f"the user database does not answer: {error}") from None
    if verdict != "user" or account is None:
        raise AccountRefused(verdict, "")
    return account


def _become(ids: Ids) -> None:
    """Not started as root, check_ids and find_service_account have made sure that it is our own user."""
    if os.geteuid() != 0:
        return
    if privilege.LINUX:
        privilege.cut_bounding_set()
    privilege.become(ids)


def _give_up_privileges() -> None:
    """All that confines a process whose commands, or modules, may do what its user may; and the deny filter, which it
    inherits."""
    nursery = os.getppid()
    if privilege.LINUX:
        privilege.set_capabilities()
        privilege.set_no_new_privileges()
        privilege.die_with(nursery)  # becoming the user has undone it
    privilege.forbid_inspection()


def _limit(what: int, most: int) -> None:
    """What is limited more tightly already stays so."""
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(what, (most, most))


def _go_home(home: str) -> None:
    """Whether a home that is gone matters is the agent's to say: its Maildir may be elsewhere."""
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")


# -- mail that was kept while the daemon did not run ------------------------------------------------


@dataclass(frozen=True)
class OfflineSetup:
    """A file whose mail is to be handed in."""

    name: str
    socket: str  # path of the control socket
    filter: bytes | None  # of seccomp; None: compile it, if this machine can
    reserved_uids: Collection[int]  # of our users: none of them hands in mail


def run_offline(setup: OfflineSetup, prepare: PrepareOffline, folder: int, report: int) -> None:
    """`folder`: the directory.  What the file holds is read only behind the sandbox."""
    setproctitle("smtpd: offline mail")
    try:
        line = _submit(setup, prepare, folder)
    except FileNotFoundError:
        line = "gone"
    except AccountRefused as refused:
        line = f"refused {' '.join(refused.args)}"
    except OSError as error:
        line = f"later {describe_error(error)}"
    except Exception as error:  # one file's trouble: it would be the same the next time
        line = f"refused {type(error).__name__}: {error}"
    _say(report, line)


def _submit(setup: OfflineSetup, prepare: PrepareOffline, folder: int) -> str:
    descriptor, owner = open_offline(folder, setup.name, setup.reserved_uids)
    os.close(folder)
    os.umask(0o077)
    os.chdir("/")
    _limit(resource.RLIMIT_DATA, MEMORY_MAX)
    if owner == 0:
        privilege.cut_bounding_set()  # it is _smtpx as soon as control knows that it was root
    else:
        _become(Ids(owner, NO_GROUP))
    submission = prepare(setup.socket)
    if os.geteuid() == 0:
        return "later no session"  # root's mail: with one it would be _smtpx now
    sandbox.enter(None, None, OFFLINE_PROMISES, program=setup.filter)
    return submission.submit(descriptor)


def open_offline(folder: int, name: str, reserved_uids: Collection[int]) -> tuple[int, int]:
    """A descriptor of that file, and its owner.  Raises AccountRefused for what sendmail has not made, OSError."""
    if "/" in name or name in ("", ".", ".."):
        raise AccountRefused("not a name")
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise AccountRefused("not a regular file") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise AccountRefused("not a regular file")
    if status.st_nlink != 1:
        raise AccountRefused("more than one link")  # another user's file, perhaps
    if stat.S_IMODE(status.st_mode) != OFFLINE_MODE:
        raise AccountRefused(f"its mode is not {OFFLINE_MODE:04o}")
    if status.st_uid in reserved_uids:
        raise AccountRefused("it belongs to a process of the daemon")
    if os.geteuid() not in (0, status.st_uid):
        raise AccountRefused("another user's")
    return descriptor, status.st_uid


# -- programs, passwords ---------------------------------------------------------------------------


def run_table_program(
    user: str, arguments: list[str], reserved_uids: Collection[int], descriptor: int, stderr: int, report: int
) -> None:
    """Another program from here on, with the socket as 0 and 1 and `stderr` as 2.  Silence is success: the pipe closes
    by itself."""
    try:
        _become(_get_user(user, reserved_uids, PROGRAM_USER).ids)
        os.umask(0o077)
        os.chdir("/")
        os.closerange(report + 1, DESCRIPTORS_MAX)
        _give_up_privileges()
        for number, target in ((0, descriptor), (1, descriptor), (2, stderr)):
            os.dup2(target, number)
        _execute(arguments)
    except AccountRefused as refused:
        _say(report, " ".join(refused.args))
    except Exception as error:
        _say(report, f"later {describe_error(error)}")


def run_password(descriptor: int, stderr: int, report: int) -> None:
    """`smtpd -x password` from here on: still root, and able to do next to nothing of what root can."""
    try:
        assert descriptor == PARENT  # what is kept begins with it
        sandbox.limit_capabilities(PASSWORD_CAPABILITIES)
        os.dup2(stderr, 2)
        for number in (0, 1, descriptor):
            os.set_inheritable(number, True)
        _execute(command("password"))
    except Exception as error:
        _say(report, f"later {describe_error(error)}")


def _execute(arguments: list[str]) -> NoReturn:
    with error_path(arguments[0]):
        os.execve(arguments[0], arguments, {name: os.environ[name] for name in ENVIRONMENT if name in os.environ})
    raise AssertionError("it has become another program")


def _say(report: int, line: str) -> None:
    os.write(report, visible(line)[:REPORT_MAX].encode(errors="replace") + b"\n")

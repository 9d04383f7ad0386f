"""From fork to the first line of work: what a child of the nursery does, alone, with nobody waiting in a loop.

    look_up      NSS, as a user without rights                                --> "verdict"
    be_agent     NSS again, become the user, sandbox, then serve its socket   --> "ok", or "verdict reason"

What it has to say goes as one line into a pipe that the nursery watches.  Beside that pipe a child has nothing of the
nursery's; an agent has its socket.
"""

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from setproctitle import setproctitle

from smtpd import sandbox
from smtpd.ipc.errand import PROMISES
from smtpd.ipc.plain import SIGNALS, forget_signals
from smtpd.nursery.person import Unreachable, find_person, judge
from smtpd.sandbox import Ids, privilege

EX_SOFTWARE = 70
MEMORY_MAX = 512 * 1024 * 1024  # bytes of data of one agent
LINE_MAX = 1000  # characters
DESCRIPTORS_MAX = os.sysconf("SC_OPEN_MAX")


class Agent(Protocol):
    """What `prepare` of the agent's room makes."""

    @property
    def places(self) -> list[tuple[str, str]]: ...

    def serve(self, sock: socket.socket) -> None: ...


Prepare = Callable[[str, str, bool, str, str], Agent]  # kind, path, junk, user, home


@dataclass(frozen=True)
class Errand:
    """An agent to be."""

    user: str
    kind: str
    path: str
    junk: bool
    program: bytes | None  # its seccomp filter; None: compile it, if this machine can


class Refused(Exception):
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
    """They become 3, 4 and so on.  The channel to the parent goes, and the log, which is nobody else's to write to."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in (null, null, null, *descriptors)]
    for number, descriptor in enumerate(aside):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(len(aside), DESCRIPTORS_MAX)
    return range(3, len(aside))


def look_up(name: str, us: Ids | None, report: int) -> None:
    """`us`: whom to be while modules of the name service work, which may speak with a server; None: stay."""
    me = os.geteuid()
    try:
        if us is not None:
            privilege.cut_bounding_set()
            privilege.become(us)
        verdict = judge(name, find_person(name), me)
    except Unreachable:
        verdict = "later"
    os.write(report, verdict.encode() + b"\n")


def be_agent(errand: Errand, prepare: Prepare, descriptor: int, report: int) -> None:
    try:
        agent, missing = _become(errand, prepare, report)
    except Refused as refused:
        _say(report, " ".join(refused.args))
        return
    except Exception as error:
        # A child of one user: the world around him may be in any state, and nobody else may feel it.
        _say(report, f"later {type(error).__name__}: {error}")
        return
    _say(report, f"ok {', '.join(missing)}")
    os.close(report)
    agent.serve(socket.socket(fileno=descriptor))


def _become(errand: Errand, prepare: Prepare, last: int) -> tuple[Agent, list[str]]:
    """The agent, as its user and in its sandbox, and what of that this machine could not give.  No descriptor above
    `last` is its own."""
    me = os.geteuid()
    try:
        person = find_person(errand.user)
    except Unreachable as error:
        raise Refused("later", f"the user database does not answer: {error}") from None
    verdict = judge(errand.user, person, me)
    if verdict != "user" or person is None:
        raise Refused(verdict, "")
    setproctitle(f"smtpd: agent of {person.name}")
    if me == 0:
        if privilege.LINUX:
            privilege.cut_bounding_set()
        privilege.become(person.ids)
    os.umask(0o077)
    _go_home(person.home)
    _limit_memory()
    agent = prepare(errand.kind, errand.path, errand.junk, person.name, person.home)
    os.closerange(last + 1, DESCRIPTORS_MAX)  # what the name service may have left open
    held = sandbox.enter(person.ids, None, PROMISES[errand.kind], unveil=agent.places, program=errand.program)
    return agent, [line.removeprefix("missing: ") for line in held if line.startswith("missing: ")]


def _limit_memory() -> None:
    """What is limited more tightly already stays so."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = MEMORY_MAX if hard == resource.RLIM_INFINITY else min(hard, MEMORY_MAX)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _go_home(home: str) -> None:
    """Whether a home that is gone matters is the agent's to say: its Maildir may be elsewhere."""
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")


def _say(report: int, line: str) -> None:
    printable = "".join(char if char.isprintable() else "?" for char in line[:LINE_MAX])
    os.write(report, printable.encode(errors="replace") + b"\n")

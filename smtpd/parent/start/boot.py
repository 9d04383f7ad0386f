"""From the command line to Begin.

    deny filter, nursery            before anything of the configuration is known
    smtpd -x config                 parses as a user without rights, answers with a slice for each role
    spool, empty, pid file, sockets what needs root, made and bound
    the six                         each is handed its slice and its sockets, and told to enter its sandbox
    our own sandbox                 from here on root can do little
    keys and certificates           opened as at any later HUP, and taken by those who need them
    Begin                           when all have answered

Everything blocks here, with deadlines; whatever fails ends the start, with a reason for the administrator.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from mail_local import mailbox
from smtpd import PRODUCT, VERSION, sandbox
from smtpd.config import trust
from smtpd.errand import PROMISES
from smtpd.imsg import (
    ROLES,
    Begin,
    ConfigurationParsed,
    ConfigurationRefused,
    Configure,
    EnterSandbox,
    SandboxEntered,
    TakeControlSocket,
    TakeListener,
    TakeSeccompFilter,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import PARENT_NAME, PROGRAM_PREFIX, log
from smtpd.ipc.os_error import describe_error
from smtpd.parent import child
from smtpd.parent.certificate_file import directories
from smtpd.parent.certificate_update import update_at_start
from smtpd.parent.child import Child
from smtpd.parent.late_listener import late
from smtpd.parent.listener import AddressInUse, bind, bind_control, supported
from smtpd.parent.privileged_request import has_mailboxes
from smtpd.parent.start import wire
from smtpd.parent.start.activation import InheritedSockets
from smtpd.parent.start.await_child import CannotStart, ChildAnswers, flush
from smtpd.parent.start.check import check_configured, check_reachable, check_start
from smtpd.parent.start.directory import DirectoryError, check_empty, make_directory
from smtpd.parent.start.log_pipes import LogPipes, StderrLog
from smtpd.parent.start.option import Options
from smtpd.parent.start.pidfile import AlreadyRunning, PidFile
from smtpd.paths import Paths
from smtpd.sandbox import Ids, landlock, privilege
from smtpd.slice import ListenerSlice, ParentSlice

CONFIGURATION_TIMEOUT = 30.0  # seconds; names of listeners may have to be resolved
SANDBOX_TIMEOUT = 30.0  # seconds; queue waits up to 10 for the lock on its spool
PRIVILEGED_PORTS = 1024  # the first one that anybody may bind
ADDRESS_IN_USE_TIMEOUT = 3.0  # seconds that an address may still be in use


@dataclass
class StartState:
    """All that there is when everybody has begun, or that must be cleared away when it did not come to that."""

    options: Options
    places: Paths
    record: StderrLog | LogPipes
    kernel_log: int | None
    inherited: InheritedSockets = field(default_factory=InheritedSockets)  # sockets of the service manager
    children: list[Child] = field(default_factory=list)
    configuration: ParentSlice | None = None
    late: tuple[ListenerSlice, ...] = ()  # whose interface was not there when the others were bound
    pid_file: PidFile | None = None
    control_socket: bool = False
    mailboxes: int | None = None  # their directory, where an action needs it
    missing: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # what sandboxes lack, and which of them
    program_logs: dict[str, int] = field(default_factory=dict)  # by table, for the programs that answer for them

    def __post_init__(self) -> None:
        self.answers = ChildAnswers(self.children, self.kernel_log)

    @property
    def nursery(self) -> Child:
        return self.children[0]

    @property
    def configured(self) -> ParentSlice:
        assert self.configuration is not None  # it has been read first of all
        return self.configuration

    @property
    def strict(self) -> bool:
        """What root reads has to be root's."""
        return os.geteuid() == 0 and not self.options.insecure_paths

    def channels(self, role: str) -> list[Channel]:
        return [child.channel for child in self.children if child.role == role]

    def clear_away(self) -> None:
        """Nobody outlives the parent, and nothing of it stays behind."""
        for one in self.children:
            one.kill()
            one.wait()
        if self.control_socket:
            with contextlib.suppress(OSError):
                os.unlink(self.places.socket)
        if self.pid_file is not None:
            self.pid_file.remove()


def boot(booted: StartState) -> None:
    """Raises CannotStart, Interrupted."""
    try:
        log.info(f"{PRODUCT} {VERSION} starting")
        _confine_all(booted)
        check_start(booted.options, booted.places)
        _start_nursery(booted)
        slices = _read_configuration(booted)
        _take_places(booted)
        _start_six(booted, slices)
        _await_sandboxes(booted)
        _confine_ourselves(booted)
        _sum_up_sandboxes(booted)
        update_at_start(booted.configured, booted.children[1:], booted.strict, booted.answers)
    except (
        OSError,
        DirectoryError,
        AddressInUse,
        AlreadyRunning,
        trust.Untrusted,
        sandbox.SandboxUnavailable,
    ) as error:
        raise CannotStart(describe_error(error)) from error
    # control last: a program that waits at its socket already finds a dispatcher that takes sessions.
    for one in sorted(booted.children, key=lambda one: one.role == "control"):
        one.channel.send(Begin())
        flush(one)


# -- before anybody is started ---------------------------------------------------------


def _confine_all(booted: StartState) -> None:
    """This holds for all descendants; without it, an event loop could use an io_uring, where no filter sees."""
    _report(booted, "all", sandbox.deny())
    reason = child.find_common_layout(sys.executable)
    if reason:
        log.warn(f"processes may share addresses in memory: {reason}")


def _start_nursery(booted: StartState) -> None:
    """It gets no part of the configuration, not even by inheritance."""
    nursery = _start(booted, "nursery")
    nursery.channel.send(_configure(booted, 0, b"\xc0", required=False))
    _enter_sandbox(booted, nursery)


def _enter_sandbox(booted: StartState, one: Child) -> None:
    booted.answers.expect(one, SandboxEntered)
    one.channel.send(EnterSandbox())
    flush(one)


def _start(booted: StartState, role: str, number: int = 0) -> Child:
    name = child.title(role, number)
    descriptor = booted.record.writing_end(name)
    started = child.start(role, number, log=descriptor)
    booted.record.set_pid(name, started.pid)
    if descriptor != 2:
        os.close(descriptor)
    booted.children.append(started)
    return started


# -- the configuration --------------------------------------------------------------------


def _read_configuration(booted: StartState) -> dict[str, bytes]:
    """The slices of the six; our own is kept."""
    answer = _ask_parser(booted)
    if isinstance(answer, ConfigurationRefused):
        raise CannotStart("\n".join(answer.errors))
    for warning in answer.warnings:
        log.warn(warning)
    if set(answer.slices) != set(ROLES):
        raise CannotStart("the configuration process did not answer for every role")
    configured = msgspec.msgpack.decode(answer.parent, type=ParentSlice)
    booted.configuration = msgspec.structs.replace(configured, listeners=supported(configured.listeners))
    check_configured(booted.options, booted.configuration)
    return answer.slices


def _ask_parser(booted: StartState) -> ConfigurationParsed | ConfigurationRefused:
    options = booted.options
    arguments = ["-f", options.configuration]
    for name, value in options.macros.items():
        arguments += ["-D", f"{name}={value}"]
    if options.insecure_paths:
        arguments.append("--insecure-paths")
    descriptor = booted.record.writing_end("config")
    parser = child.start("config", log=descriptor, arguments=tuple(arguments))
    booted.record.set_pid("config", parser.pid)
    if descriptor != 2:
        os.close(descriptor)
    try:
        booted.answers.expect(parser, ConfigurationParsed, ConfigurationRefused)
        answer: ConfigurationParsed | ConfigurationRefused
        _, answer = booted.answers.next_of([parser], time.monotonic() + CONFIGURATION_TIMEOUT)
        return answer
    finally:
        parser.kill()
        parser.wait()
        parser.channel.close()


# -- what needs root -------------------------------------------------------------------------


def _take_places(booted: StartState) -> None:
    places = booted.places
    me = Ids(os.geteuid(), os.getegid())
    queue = sandbox.find_ids("_smtpq") if me.uid == 0 else me
    assert queue is not None  # _check_users has seen it
    if places.state is not None:
        make_directory(places.state, me, 0o755)
    make_directory(places.empty, me, 0o755)
    check_empty(places.empty)
    make_directory(places.spool, queue, 0o700)
    booted.pid_file = PidFile(places.pidfile)
    if has_mailboxes(booted.configured):
        if places.state is not None:
            make_directory(places.mail, me, 0o755)
        check_reachable(booted.options, places.mail)
        booted.mailboxes = mailbox.open_directory(places.mail)


def _start_six(booted: StartState, slices: dict[str, bytes]) -> None:
    configuration = booted.configured
    dispatchers = configuration.dispatchers
    control_socket = _take(booted, partial(bind_control, booted.places.socket))
    booted.control_socket = True
    booted.late = late(configuration.listeners)
    present = [one for one in configuration.listeners if one not in booted.late]
    sockets = _take_sockets(booted, present)
    required = _required(booted)
    for role, number in wire.processes(dispatchers):
        started = _start(booted, role, number)
        started.channel.send(_configure(booted, number, slices[role], required=required))
        if role == "dispatcher":
            for listener, of_each in zip(present, sockets, strict=True):
                started.channel.send(TakeListener(listener.number), of_each.pop().detach())
        elif role == "control":
            started.channel.send(TakeControlSocket(), control_socket.detach())
    for program in configuration.programs:
        booted.program_logs[program.table] = booted.record.writing_end(f"{PROGRAM_PREFIX}{program.table[:100]}")
    six = booted.children[1:]
    wire.connect(six)
    if configuration.pki:
        wire.connect_signing(six)
    booted.record.hand_to(next(one.channel for one in six if one.role == "control"))
    for one in six:
        _enter_sandbox(booted, one)


def _take_sockets(booted: StartState, listeners: list[ListenerSlice]) -> list[list[socket.socket]]:
    """For each listener one for each dispatcher: of its own, or the service manager's."""
    dispatchers = booted.configured.dispatchers
    inherited = [booted.inherited.maybe_take(listener) for listener in listeners]
    booted.inherited.close()  # before any is bound: what is not used may be in the way, and is named first
    sockets = []
    for listener, taken in zip(listeners, inherited, strict=True):
        if taken is None:
            make = partial(bind, listener, shared=dispatchers > 1)
            sockets.append([_take(booted, make) for _ in range(dispatchers)])
        else:
            log.info(f"{listener.address} port {listener.port}: the socket is the service manager's")
            with taken:
                sockets.append([taken.dup() for _ in range(dispatchers)])
    return sockets


def _take(booted: StartState, bound: Callable[[], socket.socket]) -> socket.socket:
    """The processes of a daemon that was killed outlive it by a moment, with all addresses that it had."""
    assert booted.pid_file is not None
    deadline = time.monotonic() + (ADDRESS_IN_USE_TIMEOUT if booted.pid_file.left_behind else 0)
    while True:
        try:
            return bound()
        except AddressInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _configure(booted: StartState, number: int, slice: bytes, *, required: bool) -> Configure:
    return Configure(
        number=number,
        slice=slice,
        empty=booted.places.empty,
        spool=booted.places.spool,
        sandbox_required=required,
        verbose=booted.options.verbose,
        paused=list(booted.options.paused),
    )


def _required(booted: StartState) -> bool:
    """`sandbox required` or `optional`; a start as root requires it unless told otherwise."""
    said = booted.configured.sandbox_required
    return os.geteuid() == 0 if said is None else said


# -- everybody stands --------------------------------------------------------------------------


def _await_sandboxes(booted: StartState) -> None:
    deadline = time.monotonic() + SANDBOX_TIMEOUT
    waiting = list(booted.children)
    while waiting:
        one, imsg = booted.answers.next_of(waiting, deadline)
        _report(booted, one.title, [*imsg.held, *(f"missing: {line}" for line in imsg.missing)])
        waiting.remove(one)
    for kind, promises in PROMISES.items():
        if promises is None:
            continue
        try:
            program = sandbox.compile(promises)
        except (ImportError, RuntimeError):
            continue  # there is no libseccomp: the agents say so
        booted.nursery.channel.send(TakeSeccompFilter(kind, program))


def _report(booted: StartState, name: str, held: list[str]) -> None:
    """One line for this process, in a verbose log; what is required and does not hold ends the start."""
    missing = [line.removeprefix("missing: ") for line in held if line.startswith("missing: ")]
    log.debug(f"sandbox of {name}: {', '.join(held) or 'nothing'}")
    if not missing:
        return
    booted.missing.setdefault(tuple(missing), []).append(name)
    needed = [line for line in missing if not line.endswith("(not root)")]
    if needed and booted.configuration is not None and _required(booted):
        raise CannotStart(f"sandbox of {name}: {needed[0]} is missing, and the sandbox is required")


def _sum_up_sandboxes(booted: StartState) -> None:
    """What no sandbox lacks is not worth more than a line; what some lack is, once for all that lack the same."""
    titles = [PARENT_NAME, *(one.title for one in booted.children)]
    if not booted.missing:
        log.info(f"sandbox: {len(titles)} processes confined, nothing is missing")
    for missing, names in booted.missing.items():
        where = "all processes" if len(names) == len(titles) else ", ".join(names)
        log.warn(f"sandbox: missing in {where}: {', '.join(missing)}")


def _confine_ourselves(booted: StartState) -> None:
    """All that root still has to do is to kill, to remove two files, to connect to syslog, to open keys and
    certificates, to make mailboxes, and to bind an address that is not there yet."""
    configuration = booted.configured
    capabilities, places = ["kill"], [(os.path.dirname(booted.places.socket), "c")]
    places += [(directory, "r") for directory in directories(configuration)]
    if any(listener.port < PRIVILEGED_PORTS for listener in booted.late):
        capabilities.append("net_bind_service")
    if booted.mailboxes is not None:
        capabilities += ["chown", "dac_override"]  # a new one is its user's, and an old one is not ours to open
        places.append((booted.places.mail, "rwc"))
    held = sandbox.limit_capabilities(capabilities)
    held += landlock.restrict(places)
    privilege.forbid_inspection()
    _report(booted, PARENT_NAME, [*held, "not dumpable"])

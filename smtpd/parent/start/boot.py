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
from smtpd.ipc.log import PARENT_NAME, PROGRAM_PREFIX, log
from smtpd.ipc.os_error import describe_error
from smtpd.parent.child import Child, title
from smtpd.parent.cleanup import Cleanup
from smtpd.parent.daemon import Started
from smtpd.parent.listener import AddressInUse
from smtpd.parent.notify import ServiceManager
from smtpd.parent.privileged_request import has_mailboxes
from smtpd.parent.start import spawn, wire
from smtpd.parent.start.activation import InheritedSockets
from smtpd.parent.start.await_child import CannotStart, ChildAnswers, flush
from smtpd.parent.start.bind import bind_at_start, bind_control, find_late, supported
from smtpd.parent.start.certificates import directories, update_at_start
from smtpd.parent.start.check import check_configured, check_reachable, check_start
from smtpd.parent.start.directory import DirectoryError, check_empty, make_directory
from smtpd.parent.start.log_pipes import LogPipes, StderrLog
from smtpd.parent.start.option import Options
from smtpd.parent.start.pidfile import AlreadyRunning, lock_pid_file
from smtpd.paths import Paths
from smtpd.sandbox import Ids, landlock, privilege
from smtpd.slice import ListenerSlice, ParentSlice

CONFIGURATION_TIMEOUT = 30.0  # seconds; names of listeners may have to be resolved
SANDBOX_TIMEOUT = 30.0  # seconds; queue waits up to 10 for the lock on its spool
PRIVILEGED_PORTS = 1024  # the first one that needs no privilege
ADDRESS_IN_USE_TIMEOUT = 3.0  # seconds that an address may still be in use


@dataclass
class StartState:
    """What there is of the daemon so far."""

    options: Options
    paths: Paths
    logs: StderrLog | LogPipes
    kernel_log: int | None
    inherited: InheritedSockets = field(default_factory=InheritedSockets)  # sockets of the service manager
    cleanup: Cleanup = field(default_factory=Cleanup)  # with the processes that run
    configuration: ParentSlice | None = None
    late: tuple[ListenerSlice, ...] = ()  # whose interface was not there when the others were bound
    mailboxes: int | None = None  # the mail directory, where an action needs it
    missing: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # what sandboxes lack, and which of them
    program_logs: dict[str, int] = field(default_factory=dict)  # by table, for the programs that answer for them

    def __post_init__(self) -> None:
        self.answers = ChildAnswers(self.children, self.kernel_log)

    @property
    def children(self) -> list[Child]:
        """The nursery first."""
        return self.cleanup.children

    @property
    def configured(self) -> ParentSlice:
        assert self.configuration is not None  # it has been read first of all
        return self.configuration

    @property
    def strict(self) -> bool:
        """What root reads has to be root's."""
        return os.geteuid() == 0 and not self.options.insecure_paths


def boot(state: StartState, manager: ServiceManager) -> Started:
    """Raises CannotStart, await_child.StartInterrupted."""
    try:
        log.info(f"{PRODUCT} {VERSION} starting")
        _confine_all(state)
        check_start(state.options, state.paths)
        _start_nursery(state)
        slices = _read_configuration(state)
        _take_paths(state)
        _start_six(state, slices)
        _await_sandboxes(state)
        _confine_ourselves(state)
        _sum_up_sandboxes(state)
        update_at_start(state.configured, state.children[1:], state.strict, state.answers)
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
    for one in sorted(state.children, key=lambda one: one.role == "control"):
        one.channel.send(Begin())
        flush(one)
    state.logs.started()
    return Started(
        configuration=state.configured,
        cleanup=state.cleanup,
        requests={one: state.answers.requests_of(one) for one in state.children},
        manager=manager,
        syslog=state.logs.syslog,
        kernel_log=state.kernel_log,
        strict=state.strict,
        late=state.late,
        mailboxes=state.mailboxes,
        mail_directory=state.paths.mail,
        program_logs=state.program_logs,
        control_socket=state.paths.socket,
        paused=state.options.paused,
    )


# -- before any process is started ---------------------------------------------------------


def _confine_all(state: StartState) -> None:
    """This holds for all descendants; without it, an event loop could use an io_uring, where no filter sees."""
    _report(state, "all", sandbox.deny())
    reason = spawn.find_common_layout(sys.executable)
    if reason:
        log.warn(f"processes may share addresses in memory: {reason}")


def _start_nursery(state: StartState) -> None:
    """It gets no part of the configuration, not even by inheritance."""
    nursery = _start(state, "nursery")
    nursery.channel.send(_configure(state, 0, b"\xc0", required=False))
    _enter_sandbox(state, nursery)


def _enter_sandbox(state: StartState, one: Child) -> None:
    state.answers.expect(one, SandboxEntered)
    one.channel.send(EnterSandbox())
    flush(one)


def _start(state: StartState, role: str, number: int = 0) -> Child:
    name = title(role, number)
    descriptor = state.logs.writing_end(name)
    started = spawn.start(role, number, log=descriptor)
    state.logs.set_pid(name, started.pid)
    if descriptor != 2:
        os.close(descriptor)
    state.children.append(started)
    return started


# -- the configuration --------------------------------------------------------------------


def _read_configuration(state: StartState) -> dict[str, bytes]:
    """The slices of the six; our own is kept."""
    answer = _ask_parser(state)
    if isinstance(answer, ConfigurationRefused):
        raise CannotStart("\n".join(answer.errors))
    for warning in answer.warnings:
        log.warn(warning)
    if set(answer.slices) != set(ROLES):
        raise CannotStart("the configuration process did not answer for every role")
    configured = msgspec.msgpack.decode(answer.parent, type=ParentSlice)
    state.configuration = msgspec.structs.replace(configured, listeners=supported(configured.listeners))
    check_configured(state.options, state.configuration)
    return answer.slices


def _ask_parser(state: StartState) -> ConfigurationParsed | ConfigurationRefused:
    options = state.options
    arguments = ["-f", options.configuration]
    for name, value in options.macros.items():
        arguments += ["-D", f"{name}={value}"]
    if options.insecure_paths:
        arguments.append("--insecure-paths")
    descriptor = state.logs.writing_end("config")
    parser = spawn.start("config", log=descriptor, arguments=tuple(arguments))
    state.logs.set_pid("config", parser.pid)
    if descriptor != 2:
        os.close(descriptor)
    try:
        state.answers.expect(parser, ConfigurationParsed, ConfigurationRefused)
        answer: ConfigurationParsed | ConfigurationRefused
        _, answer = state.answers.next_of([parser], time.monotonic() + CONFIGURATION_TIMEOUT)
        return answer
    finally:
        parser.kill()
        parser.wait()
        parser.channel.close()


# -- what needs root -------------------------------------------------------------------------


def _take_paths(state: StartState) -> None:
    paths = state.paths
    me = Ids(os.geteuid(), os.getegid())
    queue = sandbox.find_ids("_smtpq") if me.uid == 0 else me
    assert queue is not None  # check.py has looked for it
    if paths.state is not None:
        make_directory(paths.state, me, 0o755)
    make_directory(paths.empty, me, 0o755)
    check_empty(paths.empty)
    make_directory(paths.spool, queue, 0o700)
    state.cleanup.pid_file = lock_pid_file(paths.pidfile)
    if has_mailboxes(state.configured):
        if paths.state is not None:
            make_directory(paths.mail, me, 0o755)
        check_reachable(state.options, paths.mail)
        state.mailboxes = mailbox.open_directory(paths.mail)


def _start_six(state: StartState, slices: dict[str, bytes]) -> None:
    configuration = state.configured
    dispatchers = configuration.dispatchers
    control_socket = _take(state, partial(bind_control, state.paths.socket))
    state.cleanup.control_socket = state.paths.socket
    state.late = find_late(configuration.listeners)
    present = [one for one in configuration.listeners if one not in state.late]
    sockets = _take_sockets(state, present)
    required = _required(state)
    for role, number in wire.processes(dispatchers):
        started = _start(state, role, number)
        started.channel.send(_configure(state, number, slices[role], required=required))
        if role == "dispatcher":
            for listener, of_each in zip(present, sockets, strict=True):
                started.channel.send(TakeListener(listener.number), of_each.pop().detach())
        elif role == "control":
            started.channel.send(TakeControlSocket(), control_socket.detach())
    for program in configuration.programs:
        state.program_logs[program.table] = state.logs.writing_end(f"{PROGRAM_PREFIX}{program.table[:100]}")
    six = state.children[1:]
    wire.connect(six)
    if configuration.pki:
        wire.connect_signing(six)
    state.logs.hand_to(next(one.channel for one in six if one.role == "control"))
    for one in six:
        _enter_sandbox(state, one)


def _take_sockets(state: StartState, listeners: list[ListenerSlice]) -> list[list[socket.socket]]:
    """For each listener one for each dispatcher: of its own, or the service manager's."""
    dispatchers = state.configured.dispatchers
    inherited = [state.inherited.maybe_take(listener) for listener in listeners]
    state.inherited.close()  # before any is bound: what is not used may be in the way, and is named first
    sockets = []
    for listener, taken in zip(listeners, inherited, strict=True):
        if taken is None:
            make = partial(bind_at_start, listener, shared=dispatchers > 1)
            sockets.append([_take(state, make) for _ in range(dispatchers)])
        else:
            log.info(f"{listener.address} port {listener.port}: the socket is the service manager's")
            with taken:
                sockets.append([taken.dup() for _ in range(dispatchers)])
    return sockets


def _take(state: StartState, bound: Callable[[], socket.socket]) -> socket.socket:
    """The processes of a daemon that was killed outlive it by a moment, with all addresses that it had."""
    assert state.cleanup.pid_file is not None
    deadline = time.monotonic() + (ADDRESS_IN_USE_TIMEOUT if state.cleanup.pid_file.left_behind else 0)
    while True:
        try:
            return bound()
        except AddressInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _configure(state: StartState, number: int, slice: bytes, *, required: bool) -> Configure:
    return Configure(
        number=number,
        slice=slice,
        empty=state.paths.empty,
        spool=state.paths.spool,
        sandbox_required=required,
        verbose=state.options.verbose,
        paused=list(state.options.paused),
    )


def _required(state: StartState) -> bool:
    """`sandbox required` or `optional`; a start as root requires it unless told otherwise."""
    said = state.configured.sandbox_required
    return os.geteuid() == 0 if said is None else said


# -- all processes have started --------------------------------------------------------------------------


def _await_sandboxes(state: StartState) -> None:
    deadline = time.monotonic() + SANDBOX_TIMEOUT
    waiting = list(state.children)
    while waiting:
        one, imsg = state.answers.next_of(waiting, deadline)
        _report(state, one.title, [*imsg.held, *(f"missing: {line}" for line in imsg.missing)])
        waiting.remove(one)
    for kind, promises in PROMISES.items():
        if promises is None:
            continue
        try:
            filter = sandbox.compile(promises)
        except OSError:
            continue  # there is no libseccomp: the agents say so
        state.children[0].channel.send(TakeSeccompFilter(kind, filter))


def _report(state: StartState, name: str, held: list[str]) -> None:
    """One line for this process, in a verbose log; what is required and does not hold ends the start."""
    missing = [line.removeprefix("missing: ") for line in held if line.startswith("missing: ")]
    log.debug(f"sandbox of {name}: {', '.join(held) or 'nothing'}")
    if not missing:
        return
    state.missing.setdefault(tuple(missing), []).append(name)
    needed = [line for line in missing if sandbox.is_required(line)]
    if needed and state.configuration is not None and _required(state):
        raise CannotStart(f"sandbox of {name}: {needed[0]} is missing, and the sandbox is required")


def _sum_up_sandboxes(state: StartState) -> None:
    """What no sandbox lacks is not worth more than a line; what some lack is, once for all that lack the same."""
    titles = [PARENT_NAME, *(one.title for one in state.children)]
    if not state.missing:
        log.info(f"sandbox: {len(titles)} processes confined, nothing is missing")
    for missing, names in state.missing.items():
        where = "all processes" if len(names) == len(titles) else ", ".join(names)
        log.warn(f"sandbox: missing in {where}: {', '.join(missing)}")


def _confine_ourselves(state: StartState) -> None:
    """All that root still has to do is to kill, to remove two files, to connect to syslog, to open keys and
    certificates, to make mailboxes, and to bind an address that is not there yet."""
    configuration = state.configured
    capabilities, places = ["kill"], [(os.path.dirname(state.paths.socket), "c")]
    places += [(directory, "r") for directory in directories(configuration)]
    if any(listener.port < PRIVILEGED_PORTS for listener in state.late):
        capabilities.append("net_bind_service")
    if state.mailboxes is not None:
        capabilities += ["chown", "dac_override"]  # a new one is its user's, and an old one is not ours to open
        places.append((state.paths.mail, "rwc"))
    held = sandbox.limit_capabilities(capabilities)
    held += landlock.restrict(places)
    privilege.forbid_inspection()
    _report(state, PARENT_NAME, [*held, "not dumpable"])

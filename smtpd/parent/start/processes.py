"""Starts the nursery and the six; each is handed its slice and its sockets, and told to enter its sandbox.

    the nursery     first, with no part of the configuration, not even by inheritance
    the six         Configure, TakeListener or TakeControlSocket, TakePeer, TakeSigningSocket, TakeLog, EnterSandbox

All sockets are bound first: an address that is in use ends the start before any of the six runs.
"""

import os

from smtpd.imsg import Configure, TakeControlSocket, TakeListener, TakeOfflineDirectory, TakeQueueKeys
from smtpd.ipc.log import PROGRAM_PREFIX
from smtpd.parent.child import Child
from smtpd.parent.start import wire
from smtpd.parent.start.bind import bind_control, bind_listeners, find_late, when_free
from smtpd.parent.start.queue_key import open_queue_key
from smtpd.parent.start.sandboxes import enter_sandbox
from smtpd.parent.start.spawn import start_logged
from smtpd.parent.start.state import StartState

ADDRESS_IN_USE_TIMEOUT = 3.0  # seconds that an address may still be in use, after a daemon that was killed
_NO_SLICE = b"\xc0"  # nil in msgpack


def start_nursery(state: StartState) -> None:
    nursery = _start(state, "nursery")
    nursery.channel.send(_configure(state, 0, _NO_SLICE, required=False))
    enter_sandbox(state, nursery)


def hand_offline_directory(state: StartState) -> None:
    """To the nursery, whose children open the files in it."""
    if state.offline is not None:
        imsg = TakeOfflineDirectory(state.paths.socket)
        state.children[0].channel.send(imsg, os.dup(state.offline))


def start_six(state: StartState, slices: dict[str, bytes]) -> None:
    """Bind their sockets, start and connect them.  Raises listener.AddressInUse, await_child.CannotStart, OSError."""
    configuration = state.configured
    assert state.cleanup.pid_file is not None
    patience = ADDRESS_IN_USE_TIMEOUT if state.cleanup.pid_file.left_behind else 0
    control_socket = when_free(lambda: bind_control(state.paths.socket), patience)
    state.cleanup.control_socket = state.paths.socket
    state.late = find_late(configuration.listeners)
    present = [one for one in configuration.listeners if one not in state.late]
    sockets = bind_listeners(present, configuration.dispatchers, state.inherited, patience)
    for role, number in wire.processes(configuration.dispatchers):
        started = _start(state, role, number)
        started.channel.send(_configure(state, number, slices[role], required=state.sandbox_required))
        if role == "dispatcher":
            for listener, of_each in zip(present, sockets, strict=True):
                started.channel.send(TakeListener(listener.number), of_each.pop().detach())
        elif role == "queue" and configuration.queue_key:
            started.channel.send(TakeQueueKeys(), open_queue_key(configuration.queue_key, state.strict))
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
        enter_sandbox(state, one)


def _start(state: StartState, role: str, number: int = 0) -> Child:
    started = start_logged(state.logs, role, number)
    state.children.append(started)
    return started


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

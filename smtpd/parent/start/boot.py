"""From the command line to Begin.

    sandboxes, processes    deny filter, and the nursery, before anything of the configuration is known
    configuration           smtpd -x config parses it as a user without rights, answers with a slice for each role
    here                    spool, empty, pid file, mail directory: what needs root
    processes               sockets; the six, each is handed its slice and its sockets, told to enter its sandbox
    sandboxes               our own: from here on root can do little
    certificates            keys and certificates are opened as at any later HUP, and taken by those who need them
    here                    Begin, when all have answered

Everything blocks, with deadlines; whatever fails ends the start, with a reason for the administrator.
"""

import os

from mail_local import mailbox
from smtpd import PRODUCT, VERSION, sandbox
from smtpd.config import trust
from smtpd.imsg import Begin
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.parent.daemon import Started
from smtpd.parent.listener import AddressInUse
from smtpd.parent.notify import ServiceManager
from smtpd.parent.privileged_request import has_mailboxes
from smtpd.parent.start.await_child import CannotStart, flush
from smtpd.parent.start.certificates import update_at_start
from smtpd.parent.start.check import check_reachable, check_start
from smtpd.parent.start.configuration import read_configuration
from smtpd.parent.start.directory import DirectoryError, check_empty, make_directory, open_shared_directory
from smtpd.parent.start.pidfile import AlreadyRunning, lock_pid_file
from smtpd.parent.start.processes import hand_offline_directory, start_nursery, start_six
from smtpd.parent.start.sandboxes import await_sandboxes, confine_all, confine_ourselves, send_filters, sum_up
from smtpd.parent.start.state import StartState
from smtpd.sandbox import Ids


def boot(state: StartState, manager: ServiceManager) -> Started:
    """Raises CannotStart, await_child.StartInterrupted."""
    try:
        log.info(f"{PRODUCT} {VERSION} starting")
        confine_all(state)
        check_start(state.options, state.paths)
        start_nursery(state)
        slices = read_configuration(state)
        _take_paths(state)
        start_six(state, slices)
        await_sandboxes(state)
        send_filters(state.children[0])
        hand_offline_directory(state)
        confine_ourselves(state)
        sum_up(state)
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
    _begin(state)
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
        offline=state.offline,
        offline_directory=state.paths.offline,
        program_logs=state.program_logs,
        control_socket=state.paths.socket,
        paused=state.options.paused,
    )


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
    state.offline = open_shared_directory(paths.offline, me)
    state.cleanup.pid_file = lock_pid_file(paths.pidfile)
    if has_mailboxes(state.configured):
        if paths.state is not None:
            make_directory(paths.mail, me, 0o755)
        check_reachable(state.options, paths.mail)
        state.mailboxes = mailbox.open_directory(paths.mail)


def _begin(state: StartState) -> None:
    """Control last: a program that waits at its socket already finds a dispatcher that takes sessions."""
    for one in sorted(state.children, key=lambda one: one.role == "control"):
        one.channel.send(Begin())
        flush(one)

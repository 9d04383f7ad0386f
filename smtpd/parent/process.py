"""parent -- root: starts the other processes, answers a few questions about names, stops them all.

    lookup  --FindUser------------------>          --LookUpUser------------>
            --CheckPassword------------->          --ForkPassword---------->
    queue   --StartAgent, EndAgent------>  parent  --ForkAgent, KillAgent-->  nursery
            --LockMailbox, UnlockMailbox>          --ForkTableProgram----------->
    control --SetVerbose, ReopenSyslog-->
    crypto  --KeyTaken------------------>          --TryPassword----------->  password
    dispatcher
            --CertificateTaken, AuthoritiesTaken>
            --ContextsMade, CertificatesUsed---->

SECURITY
    Reads the imsgs of its children and nothing else: no configuration text (a one-shot process without rights parses
    it), no mail, no file of a user, no key.  It is told names and looks up what they mean, by a child of the nursery;
    it takes no uid, no path and no command from them.  Once all processes run it keeps one capability, to kill, sees
    its run directory and the directories of keys and certificates, which it opens and does not read, and starts none.
    Where an action is mbox it sees the directory of the mailboxes too, makes and opens files there for their users, and
    keeps what that needs: to give a file away, and to open one that is another's.  It lists the directory of mail that
    was kept while no daemon ran, where any user may have made anything, and removes and renames files there; it opens
    none.  Where a listener waits for its
    interface it may still bind low ports.  A password passes through, to a process that the nursery starts for it: what
    PAM needs would be too much to keep here.
    Taken over, it could stop the daemon, read and write mailboxes, read keys, and have the nursery fork agents, and
    with them commands, for any user but root.
    The modules that it may load are a test.  An audit reads the files of this folder, and half of smtpd/ipc; the
    folder start/ ran before any process had read what others wrote.
"""

import os
from functools import partial

from setproctitle import setproctitle

from smtpd import sandbox
from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentMailboxSocket,
    AgentNotForked,
    AuthoritiesTaken,
    CertificatesUsed,
    CertificateTaken,
    CheckPassword,
    ContextsMade,
    EndAgent,
    FindUser,
    KeyTaken,
    LockMailbox,
    OfflineSubmitted,
    ReopenSyslog,
    SetVerbose,
    StartAgent,
    TableProgramEnded,
    TableProgramForked,
    TableProgramNotForked,
    UnlockMailbox,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel, owned, unexpected
from smtpd.ipc.log import log, take_tracebacks
from smtpd.parent.daemon import Daemon
from smtpd.parent.notify import find_service_manager
from smtpd.parent.start.activation import InheritedSockets, count_sockets
from smtpd.parent.start.await_child import CannotStart, StartInterrupted
from smtpd.parent.start.boot import StartState, boot
from smtpd.parent.start.daemonize import daemonize
from smtpd.parent.start.log_pipes import LogPipes, StderrLog
from smtpd.parent.start.option import Options
from smtpd.parent.watch import EX_FAILED
from smtpd.paths import Paths


def main(options: Options) -> int:
    """The exit status, after all processes have ended."""
    handed = count_sockets(os.environ)
    tell_caller = daemonize(options.foreground, handed)
    manager = find_service_manager()
    setproctitle("smtpd: parent")
    take_tracebacks(log)
    log.verbose = options.verbose
    logs = StderrLog() if options.log_to_stderr else LogPipes()
    state = StartState(options, Paths(options.state), logs, sandbox.open_kernel_log(), InheritedSockets(handed))
    try:
        started = boot(state, manager)
    except StartInterrupted as signalled:
        log.info(f"{signalled}: the start is given up")
        logs.give_up()
        state.cleanup.run()
        return 0
    except CannotStart as error:
        for line in str(error).splitlines():
            log.warn(f"fatal: {line}")
        logs.give_up()
        state.cleanup.run()
        return EX_FAILED
    daemon = Daemon(started)
    handlers = {
        "nursery": from_nursery,
        "crypto": from_crypto,
        "lookup": from_lookup,
        "dispatcher": from_dispatcher,
        "queue": from_queue,
        "control": from_control,
    }
    for child in started.children:
        handler = partial(handlers.get(child.role, from_others), daemon)
        ended = partial(daemon.watch.channel_ended, child)
        daemon.channels.add(child.channel, handler, ended, started.requests[child])
    tell_caller()
    return daemon.run()


def from_nursery(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case UserLookedUp():
            daemon.users.user_looked_up(imsg)
        case AgentMailboxSocket():
            daemon.agents.agent_mailbox_socket(imsg, owned(descriptor))
        case AgentForked():
            daemon.agents.agent_forked(imsg, owned(descriptor))
        case AgentNotForked():
            daemon.agents.agent_not_forked(imsg)
        case AgentEnded():
            daemon.agent_ended(imsg)
        case OfflineSubmitted():
            daemon.offline.submitted(imsg)
        case TableProgramForked():
            daemon.programs.program_forked(imsg, owned(descriptor))
        case TableProgramNotForked():
            daemon.programs.program_not_forked(imsg)
        case TableProgramEnded():
            daemon.programs.program_ended(imsg)
        case _:
            unexpected("nursery", imsg)


def from_lookup(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case FindUser():
            daemon.users.find_user(channel, imsg)
        case CheckPassword():
            daemon.passwords.check_password(channel, imsg)
        case _:
            unexpected("lookup", imsg)


def from_crypto(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case KeyTaken():
            daemon.reload.take(channel, imsg)
        case _:
            unexpected("crypto", imsg)


def from_dispatcher(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case CertificateTaken() | AuthoritiesTaken() | ContextsMade() | CertificatesUsed():
            daemon.reload.take(channel, imsg)
        case _:
            unexpected("dispatcher", imsg)


def from_queue(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case StartAgent():
            daemon.agents.start_agent(channel, imsg)
        case EndAgent():
            daemon.agents.end_agent(channel, imsg)
        case LockMailbox():
            daemon.mailboxes.lock_mailbox(channel, imsg)
        case UnlockMailbox():
            daemon.mailboxes.unlock_mailbox(channel, imsg)
        case _:
            unexpected("queue", imsg)


def from_control(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case SetVerbose():
            daemon.set_verbose(imsg)
        case ReopenSyslog():
            daemon.reopen_syslog(channel)
        case _:
            unexpected("control", imsg)


def from_others(daemon: Daemon, channel: Channel, imsg: object, descriptor: int | None) -> None:
    """After the start the scheduler sends nothing to root."""
    unexpected(channel.peer, imsg)

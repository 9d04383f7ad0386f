"""parent -- root: starts the others, answers a few questions about names, stops everybody.

    lookup  --FindUser------------------>          --LookUpUser------------>
    queue   --StartAgent, EndAgent------>  parent  --ForkAgent, KillAgent-->  nursery
            --LockMailbox, UnlockMailbox>          --ForkProgram----------->
    control --SetVerbose, ReopenSyslog-->

SECURITY
    Reads the imsgs of its children and nothing else: no configuration text (a one-shot process without rights parses
    it), no mail, no file of a user.  It is told names and looks up what they mean, by a child of the nursery; it takes
    no uid, no path and no command from anybody.  Once everybody stands it keeps one capability, to kill, sees one
    directory, and starts nobody.  Where an action is mbox it sees the directory of the mailboxes too, makes and opens
    files there for their users, and keeps what that needs: to give a file away, and to open one that is another's.
    Taken over, it could stop the daemon, read and write mailboxes, and have the nursery fork agents, and with them
    commands, for any user but root.
    The modules that it may load are a test; whoever audits it reads this folder and half of smtpd/ipc.
"""

from functools import partial

from setproctitle import setproctitle

from smtpd import sandbox
from smtpd.config.place import Places
from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentNotForked,
    AgentTether,
    EndAgent,
    FindUser,
    LockMailbox,
    ProgramEnded,
    ProgramForked,
    ProgramNotForked,
    ReopenSyslog,
    SetVerbose,
    StartAgent,
    UnlockMailbox,
    UserLookedUp,
)
from smtpd.ipc.channel import unexpected
from smtpd.ipc.log import log, take_tracebacks
from smtpd.parent.answer import CannotStart
from smtpd.parent.boot import Booted, boot
from smtpd.parent.daemon import Daemon
from smtpd.parent.ground import settle
from smtpd.parent.notify import find_service_manager
from smtpd.parent.option import Options
from smtpd.parent.record import Pipes, Stderr
from smtpd.parent.watch import EX_FAILED


def main(options: Options) -> int:
    """The exit status, after everybody has ended."""
    started = settle(options.foreground)
    manager = find_service_manager()
    setproctitle("smtpd: parent")
    take_tracebacks(log)
    log.verbose = options.verbose
    record = Stderr() if options.log_to_stderr else Pipes()
    booted = Booted(options, Places(options.state), record, sandbox.open_kernel_log())
    try:
        boot(booted)
    except CannotStart as error:
        for line in str(error).splitlines():
            log.warn(f"fatal: {line}")
        record.give_up()
        booted.clear_away()
        return EX_FAILED
    daemon = Daemon(booted, manager)
    handlers = {"nursery": from_nursery, "lookup": from_lookup, "queue": from_queue, "control": from_control}
    for child in booted.children:
        handler = partial(handlers.get(child.role, from_anybody_else), daemon)
        daemon.loop.add(child.channel, handler, partial(daemon.watch.channel_ended, child))
    started()
    return daemon.run()


def from_nursery(daemon, channel, imsg, descriptor):
    match imsg:
        case UserLookedUp():
            daemon.users.user_looked_up(imsg)
        case AgentTether():
            daemon.agents.agent_tether(imsg, descriptor)
        case AgentForked():
            daemon.agents.agent_forked(imsg, descriptor)
        case AgentNotForked():
            daemon.agents.agent_not_forked(imsg)
        case AgentEnded():
            daemon.agents.agent_ended(imsg)
        case ProgramForked():
            daemon.programs.program_forked(imsg, descriptor)
        case ProgramNotForked():
            daemon.programs.program_not_forked(imsg)
        case ProgramEnded():
            daemon.programs.program_ended(imsg)
        case _:
            unexpected("nursery", imsg)


def from_lookup(daemon, channel, imsg, descriptor):
    match imsg:
        case FindUser():
            daemon.users.find_user(channel, imsg)
        case _:
            unexpected("lookup", imsg)


def from_queue(daemon, channel, imsg, descriptor):
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


def from_control(daemon, channel, imsg, descriptor):
    match imsg:
        case SetVerbose():
            daemon.set_verbose(imsg)
        case ReopenSyslog():
            daemon.reopen_syslog(channel)
        case _:
            unexpected("control", imsg)


def from_anybody_else(daemon, channel, imsg, descriptor):
    """Once they stand, dispatcher, scheduler and crypto have nothing to say to root."""
    unexpected(channel.peer, imsg)

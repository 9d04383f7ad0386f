"""The parent while the other processes run: its loop, its services, and what control asks of it."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from typing import Any

from smtpd.imsg import AgentEnded, NurserySetVerbose, SetVerbose, TakeSyslog
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.log import PARENT_NAME, log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.agent import Agents
from smtpd.parent.child import Child
from smtpd.parent.cleanup import Cleanup
from smtpd.parent.late_listener import LateListeners
from smtpd.parent.mailbox import Mailboxes
from smtpd.parent.notify import ServiceManager
from smtpd.parent.offline import OfflineMails
from smtpd.parent.password import Passwords
from smtpd.parent.reload import Reload
from smtpd.parent.syslog import Syslog
from smtpd.parent.table_program import TablePrograms
from smtpd.parent.user import Users
from smtpd.parent.watch import Watch
from smtpd.slice import ListenerSlice, ParentSlice

SYSLOG_RETRY_INTERVAL = 1.0  # seconds between two attempts to reach it
# Blocked during the start, which a HUP would end, and TERM and INT too, with files left behind.
DEFERRED_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@dataclass
class Started:
    """What the start leaves: every process is in its sandbox and has been told to begin."""

    configuration: ParentSlice
    cleanup: Cleanup  # with the processes
    requests: dict[Child, list[tuple[Any, int | None]]]  # that came during the start, with their descriptors
    manager: ServiceManager
    syslog: Syslog | None  # None: the log goes to stderr
    kernel_log: int | None
    strict: bool  # keys and certificates have to be root's
    late: tuple[ListenerSlice, ...]  # listeners whose interface was not there yet
    mailboxes: int | None  # the mail directory, open, where an action needs it
    mail_directory: str  # its path
    offline: int | None  # the directory of mail that was kept while the daemon did not run, open
    offline_directory: str  # its path
    program_logs: dict[str, int]  # by table, for the programs that answer for them
    control_socket: str
    paused: tuple[str, ...]

    @property
    def children(self) -> list[Child]:
        """The nursery first."""
        return self.cleanup.children

    def channels(self, role: str) -> list[Channel]:
        return [child.channel for child in self.children if child.role == role]


class Daemon:
    def __init__(self, started: Started):
        configuration, (nursery,) = started.configuration, started.channels("nursery")
        self.loop = SelectorLoop()
        self.channels = ChannelSet(self.loop)
        self.offline = OfflineMails(self.loop, nursery, started.offline, started.offline_directory)
        self.users = Users(self.loop, nursery, configuration)
        self.passwords = Passwords(self.channels, nursery, self.users, configuration)
        self.agents = Agents(self.loop, nursery, configuration)
        self.mailboxes = Mailboxes(self.loop, self.agents, configuration, started.mailboxes, started.mail_directory)
        (lookup,), (crypto,) = started.channels("lookup"), started.channels("crypto")
        dispatchers = started.channels("dispatcher")
        self.programs = TablePrograms(self.loop, nursery, lookup, configuration.programs, started.program_logs)
        self.reload = Reload(self.loop, started.manager, configuration, crypto, dispatchers, started.strict)
        present = [one for one in configuration.listeners if one not in started.late]
        self.late_listeners = LateListeners(self.loop, started.late, dispatchers, present)
        log_directly = started.syslog.log_directly if started.syslog else lambda _text: None
        self.watch = Watch(self.loop, self.channels, started.children, started.kernel_log, log_directly, self._stopping)
        self._started = started
        self._nursery = nursery
        self._reopening = False

    def run(self) -> int:
        self.watch.begin()
        self.loop.on_signal(signal.SIGHUP, self.reload.begin)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED_SIGNALS)
        self._say_ready()
        self._started.manager.ready()
        self.programs.begin()
        self.late_listeners.begin()
        self.offline.begin()
        self.loop.run_forever()
        self._started.cleanup.run()
        self.mailboxes.close()
        self.offline.close()
        self.reload.close()
        return self.watch.status

    def _say_ready(self) -> None:
        """The listeners, and the pid of each process: a line in syslog has only a pid."""
        for listener in self._started.configuration.listeners:
            if listener in self._started.late:
                where = listener.address or f"interface {listener.interface}"
                log.info(f"listening on {where} port {listener.port} as soon as there is such an interface and address")
            else:
                log.info(f"listening on {listener.address} port {listener.port}")
        log.info(f"listening on {self._started.control_socket}")
        pids = [f"{PARENT_NAME} {os.getpid()}", *(f"{child.title} {child.pid}" for child in self._started.children)]
        log.info(f"processes: {', '.join(pids)}")
        paused = self._started.paused
        log.info(f"ready, {' and '.join(paused)} paused" if paused else "ready")

    def _stopping(self) -> None:
        self.programs.stop()
        self.reload.stop()
        self.late_listeners.stop()
        self.offline.stop()
        self._started.manager.tell("STOPPING=1")

    def agent_ended(self, imsg: AgentEnded) -> None:
        self.mailboxes.agent_ended(self.agents.agent_ended(imsg))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
        if not self._nursery.closed:
            self._nursery.send(NurserySetVerbose(imsg.verbose))

    def reopen_syslog(self, control: Channel) -> None:
        """syslogd has been restarted, or was not there yet."""
        if self._started.syslog is None:
            raise Violation("control asks for syslog, and the log goes to stderr")
        if not self._reopening:
            self._reopening = True
            self._try_syslog(control, self._started.syslog)

    def _try_syslog(self, control: Channel, syslog: Syslog) -> None:
        if control.closed:
            return
        descriptor = syslog.connect()
        if descriptor is None:
            self.loop.call_later(SYSLOG_RETRY_INTERVAL, partial(self._try_syslog, control, syslog))
            return
        self._reopening = False
        control.send(TakeSyslog(), descriptor)

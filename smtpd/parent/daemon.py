"""The parent while everybody runs: its loop, its services, and what control asks of it."""

import os
import signal

from smtpd.imsg import NurserySetVerbose, SetVerbose, TakeSyslog
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import PARENT_NAME, log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.agent import Agents
from smtpd.parent.late_listener import LateListeners
from smtpd.parent.mailbox import Mailboxes
from smtpd.parent.notify import ServiceManager
from smtpd.parent.password import Passwords
from smtpd.parent.reload import Reload
from smtpd.parent.start.boot import StartState
from smtpd.parent.start.daemonize import DEFERRED_SIGNALS
from smtpd.parent.table_program import TablePrograms
from smtpd.parent.user import Users
from smtpd.parent.watch import Watch

SYSLOG_RETRY_INTERVAL = 1.0  # seconds between two attempts to reach it


class Daemon:
    def __init__(self, booted: StartState, manager: ServiceManager):
        configuration, nursery = booted.configured, booted.nursery.channel
        self.loop = SelectorLoop()
        self.users = Users(self.loop, nursery, configuration)
        self.passwords = Passwords(self.loop, nursery, self.users, configuration)
        self.agents = Agents(self.loop, nursery, configuration)
        self.mailboxes = Mailboxes(self.loop, self.agents, configuration, booted.mailboxes, booted.places.mail)
        (lookup,), (crypto,) = booted.channels("lookup"), booted.channels("crypto")
        dispatchers = booted.channels("dispatcher")
        self.programs = TablePrograms(self.loop, nursery, lookup, configuration.programs, booted.program_logs)
        self.reload = Reload(self.loop, manager, configuration, crypto, dispatchers, booted.strict)
        present = [one for one in configuration.listeners if one not in booted.late]
        self.interfaces = LateListeners(self.loop, booted.late, dispatchers, present)
        self.watch = Watch(self.loop, booted.children, booted.kernel_log, booted.record.log_directly, self._stopping)
        self._booted = booted
        self._manager = manager
        self._reopening = False

    def run(self) -> int:
        self.watch.begin()
        self._booted.record.started()
        self.loop.on_signal(signal.SIGHUP, self.reload.begin)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED_SIGNALS)
        self._say_ready()
        self._manager.ready()
        self.programs.begin()
        self.interfaces.begin()
        self.loop.run()
        self._booted.clear_away()
        self.mailboxes.close()
        self.reload.close()
        return self.watch.status

    def _say_ready(self) -> None:
        """The listeners, and the pid of each process: a line in syslog has only a pid."""
        for listener in self._booted.configured.listeners:
            if listener in self._booted.late:
                where = listener.address or f"interface {listener.interface}"
                log.info(f"listening on {where} port {listener.port} as soon as there is such an interface and address")
            else:
                log.info(f"listening on {listener.address} port {listener.port}")
        log.info(f"listening on {self._booted.places.socket}")
        pids = [f"{PARENT_NAME} {os.getpid()}", *(f"{child.title} {child.pid}" for child in self._booted.children)]
        log.info(f"processes: {', '.join(pids)}")
        paused = self._booted.options.paused
        log.info(f"ready, {' and '.join(paused)} paused" if paused else "ready")

    def _stopping(self) -> None:
        self.programs.stop()
        self.reload.stop()
        self.interfaces.stop()
        self._manager.tell("STOPPING=1")

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
        nursery = self._booted.nursery.channel
        if not nursery.closed:
            nursery.send(NurserySetVerbose(imsg.verbose))

    def reopen_syslog(self, control: Channel) -> None:
        """syslogd has been restarted, or was not there yet."""
        if not self._booted.record.by_syslog:
            raise Violation("control asks for syslog, and the log goes to stderr")
        if not self._reopening:
            self._reopening = True
            self._try_syslog(control)

    def _try_syslog(self, control: Channel) -> None:
        if control.closed:
            return
        descriptor = self._booted.record.connect_syslog()
        if descriptor is None:
            self.loop.after(SYSLOG_RETRY_INTERVAL, lambda: self._try_syslog(control))
            return
        self._reopening = False
        control.send(TakeSyslog(), descriptor)

"""Where one daemon and its smtpctl find each other, and where its files are.

    state   spool             empty       socket               pid file            mailboxes
    none    /var/spool/smtpd  /var/empty  /var/run/smtpd.sock  /var/run/smtpd.pid  /var/mail
    DIR     DIR/spool         DIR/empty   DIR/smtpd.sock       DIR/smtpd.pid       DIR/mail

    state   mail that is handed in while the daemon does not run
    none    /var/spool/smtpd-offline
    DIR     DIR/offline

Names only: their owner, and whether they exist, is checked where they are opened.
"""

import os

CONFIGURATION = "/etc/smtpd.conf"


class Paths:
    """The six places; all of them below `state` (`--state DIR`) when one is given."""

    def __init__(self, state: str | None = None):
        self.state = None if state is None else os.path.abspath(state)
        self.spool = self._place("spool", "/var/spool/smtpd")
        self.offline = self._place("offline", "/var/spool/smtpd-offline")
        self.empty = self._place("empty", "/var/empty")
        self.socket = self._place("smtpd.sock", "/var/run/smtpd.sock")
        self.pidfile = self._place("smtpd.pid", "/var/run/smtpd.pid")
        self.mail = self._place("mail", "/var/mail")

    def _place(self, name: str, system: str) -> str:
        return system if self.state is None else os.path.join(self.state, name)

"""The servers, each with a configuration that does the same, and one place for mail."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.load import environment
from tests.bench.testbed import PEERS, TOP, Unavailable

READY = 20.0  # seconds

# Of smtpd and OpenSMTPD; Postfix has no limit on mails a session.
CONFIGURATION = """
{settings}
smtp limit max-mails 1000000
{pki}
listen on 127.0.0.1 port {port} hostname here.test {tls}
action "local" {action}
match from any for {destinations} action "local"
"""
PKI = """
pki here.test cert "{}"
pki here.test key "{}"
"""


class Server:
    """One start.  Everything it keeps lies in a directory of that start."""

    PORT = 2525
    NAME = LABEL = DURABILITY = ""
    SETTINGS = ""  # of smtpd, with the directory of this start
    MAIL = "mail"  # where the system's mailboxes are, below its directory

    def __init__(self, testbed, place):
        self.testbed = testbed
        self.place = place
        self.directory = testbed.next_run(self.NAME)
        self.mail = self.directory / self.MAIL
        self.log = self.directory / "log"

    def configuration(self):
        """Of smtpd and OpenSMTPD."""
        pki, tls = "", ""
        if self.place.KEY:
            pki, tls = PKI.format(*self.testbed.identity(self.place.KEY)), "tls pki here.test"
        conf = self.directory / "smtpd.conf"
        action, destinations = self.place.ACTION, self.place.FOR
        settings = self.SETTINGS.format(directory=self.directory)
        of_mail = {"settings": settings, "action": action, "destinations": destinations}
        text = CONFIGURATION.format(port=self.PORT, pki=pki, tls=tls, **of_mail)
        conf.write_text(text)
        return conf

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {"PATH": os.environ["PATH"]}

    def start(self):
        command = self.command()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(), cwd="/"
            )
        deadline = time.monotonic() + READY
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Unavailable(f"does not start: {self.last_words()}")
            time.sleep(0.05)

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.PORT), 5) as sock:
                greeting = sock.recv(4)
                sock.sendall(b"QUIT\r\n")
                while sock.recv(4096):
                    pass
                return greeting == b"220 "
        except OSError:
            return False

    def last_words(self):
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._until_nobody_listens()

    def _until_nobody_listens(self):
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.PORT), 5).close()
            except ConnectionRefusedError:
                return
            time.sleep(0.05)

    def times(self):
        """Name of each process -> ticks it has used.  Only asked of ours."""
        return {}


class Smtpd(Server):
    NAME = LABEL = "smtpd"
    DURABILITY = "the queue is synced before 250; mail files and their directory are synced before the queue forgets"
    MAIL = "state/mail"

    def command(self):
        state, conf = str(self.directory / "state"), str(self.configuration())
        return [sys.executable, "-P", "-m", "smtpd", "-d", "--state", state, "-f", conf]

    def environment(self):
        return {**super().environment(), "PYTHONPATH": str(TOP)}

    def times(self):
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
                title = (status.parent / "cmdline").read_bytes().rstrip(b"\0").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith("smtpd: "):
                role = title.removeprefix("smtpd: ").split()[0]
                found[role] = found.get(role, 0) + int(fields[11]) + int(fields[12])
                if role == "nursery":
                    found["its ended children"] = int(fields[13]) + int(fields[14])
        return found


class Compressed(Smtpd):
    NAME, LABEL = "compressed", "smtpd, compressed"
    SETTINGS = "queue compression"


class Encrypted(Smtpd):
    NAME, LABEL = "encrypted", "smtpd, encrypted"
    SETTINGS = 'queue encryption key "{directory}/queue.key"'

    def configuration(self):
        key = self.directory / "queue.key"
        key.touch(0o600)
        key.write_text(secrets.token_hex(32))
        return super().configuration()


class Postfix(Server):
    NAME, LABEL = "postfix", "Postfix"
    DURABILITY = "the queue file is synced before 250; mail files are synced, their directory is not"
    TREE = PEERS / "postfix"
    QUEUES = (
        "active",
        "bounce",
        "corrupt",
        "defer",
        "deferred",
        "flush",
        "hold",
        "incoming",
        "private",
        "saved",
        "trace",
    )

    # The package's own master.cf without what this does not use; nothing is chrooted.
    SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
proxymap   unix  - - n - - proxymap
smtp       unix  - - n - - smtp
scache     unix  - - n - 1 scache
error      unix  - - n - - error
retry      unix  - - n - - error
discard    unix  - - n - - discard
local      unix  - n n - - local
lmtp       unix  - - n - - lmtp
anvil      unix  - - n - 1 anvil
tlsmgr     unix  - - n 1000? 1 tlsmgr
"""
    SETTINGS = """
compatibility_level = 3.6
import_environment = PATH LD_LIBRARY_PATH MAIL_CONFIG
mail_owner = postfix
setgid_group = postdrop
command_directory = {tree}/usr/sbin
daemon_directory = {tree}/usr/lib/postfix/sbin
meta_directory = {directory}/etc
queue_directory = {directory}/queue
data_directory = {directory}/data
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = here.test
mydestination = here.test
mynetworks = 127.0.0.0/8
{place}
alias_maps =
alias_database =
biff = no
"""
    TLS = """
smtpd_tls_security_level = may
smtpd_tls_cert_file = {}
smtpd_tls_key_file = {}
"""

    def command(self):
        if not (self.TREE / "usr/lib/postfix/sbin/master").exists():
            raise Unavailable("not here")
        place = self.place.POSTFIX.format(mail=self.mail)
        if self.place.KEY:
            place += self.TLS.format(*self.testbed.identity(self.place.KEY))
        places = {"tree": self.TREE, "directory": self.directory, "port": self.PORT, "place": place}
        etc = self.directory / "etc"
        etc.mkdir()
        (etc / "main.cf").write_text(self.SETTINGS.format(**places))
        (etc / "master.cf").write_text(self.SERVICES.format(**places))
        self._make_queue()
        return [str(self.TREE / "usr/lib/postfix/sbin/master"), "-d", "-c", str(etc)]

    def _make_queue(self):
        run = self.directory.name
        self.testbed.make_mail_directory(f"{run}/{self.MAIL}")
        self.testbed.make(f"{run}/data", "postfix", 0o700)
        self.testbed.make(f"{run}/queue/pid")
        for name in self.QUEUES:
            self.testbed.make(f"{run}/queue/{name}", "postfix", 0o700)
        self.testbed.make(f"{run}/queue/maildrop", "postfix", 0o730)
        self.testbed.make(f"{run}/queue/public", "postfix", 0o710)

    def environment(self):
        return {**environment(), "MAIL_CONFIG": str(self.directory / "etc")}


class OpenSMTPD(Server):
    NAME, LABEL = "opensmtpd", "OpenSMTPD"
    DURABILITY = "nothing is synced before 250; mail files are synced, their directory is not"
    TREE = PEERS / "opensmtpd"
    MAIL = "var/mail"

    # Its places are compiled in: shown to it in mounts of its own.
    MOUNTS = """
mount -t overlay overlay -o lowerdir={tree}/usr:/usr /usr
for place in var/spool var/lib var/mail run; do mount --bind {directory}/$place /$place; done
export LD_LIBRARY_PATH={tree}/usr/lib/x86_64-linux-gnu
exec /usr/sbin/smtpd -d -f {directory}/smtpd.conf
"""

    def command(self):
        if not (self.TREE / "usr/sbin/smtpd").exists():
            raise Unavailable("not here")
        for name in ("var/spool", "var/lib/opensmtpd/empty", "run"):
            self.testbed.make(f"{self.directory.name}/{name}")
        self.testbed.make_mail_directory(f"{self.directory.name}/{self.MAIL}")
        self.testbed.make(f"{self.directory.name}/var/spool/smtpd", mode=0o711)
        self.configuration()
        script = self.MOUNTS.format(tree=self.TREE, directory=self.directory)
        return ["unshare", "--mount", "sh", "-eu", "-c", script]


SERVERS = {server.NAME: server for server in (Smtpd, Compressed, Encrypted, Postfix, OpenSMTPD)}

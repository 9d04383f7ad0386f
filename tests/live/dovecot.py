"""A real Dovecot, as an LMTP server and to read back what it was given.

Its own configuration, state, log and users, all below one directory; users exist in a passwd-file only, and one system
user owns their mail.  Any number may run beside each other and beside the system's.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAM = "/usr/sbin/dovecot"
READY = 90.0  # seconds
MISSING = None if os.path.exists("/usr/lib/dovecot/lmtp") else "Dovecot's LMTP server is not installed"

COMMON = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
ssl = no
first_valid_uid = {uid}
recipient_delimiter = +
mbox_write_locks = fcntl
service lmtp {{
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    {listen} = 127.0.0.1
    port = {port}
  }}
}}
"""

CONF_2_3 = """
mail_location = maildir:~/Maildir
auth_username_format = %Ln
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
}}
mail_plugins = quota
plugin {{
  quota = maildir:User quota
  quota_grace = 0
}}
"""

# The version of the language comes first.
CONF_2_4 = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
mail_driver = maildir
mail_path = ~/Maildir
auth_username_format = %{{user | username | lower}}
passdb passwd-file {{
  passwd_file_path = {directory}/users
}}
userdb passwd-file {{
  passwd_file_path = {directory}/users
}}
mail_plugins {{
  quota = yes
}}
quota "User quota" {{
  driver = maildir
  storage_grace = 0
}}
"""


def version():
    """Major and minor number: the language of the configuration, and the names of a user's fields, depend on them."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = said.split(".")
    return int(major), int(minor)


class Dovecot:
    def __init__(self, directory, port, owner):
        """`owner` is the system user whose the mail is."""
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o755, exist_ok=True)
        self.port = port
        self.owner = pwd.getpwnam(owner)
        self.socket = self.directory / "lmtp"
        self.conf = self.directory / "dovecot.conf"
        self.new = version() >= (2, 4)
        listen, conf = ("listen", CONF_2_4 + COMMON) if self.new else ("address", COMMON + CONF_2_3)
        self.conf.write_text(conf.format(directory=directory, port=port, uid=self.owner.pw_uid, listen=listen))
        self.users = self.directory / "users"
        self.users.touch()
        self.homes = self.directory / "home"
        self.homes.mkdir()
        shutil.chown(self.homes, owner, self.owner.pw_gid)
        self.process = None

    def add_user(self, name, quota=None):
        """`quota` is in bytes."""
        field = "userdb_quota_storage_size={}B" if self.new else "userdb_quota_rule=*:bytes={}"
        self._add(name, self.owner, f"{self.homes}/{name}", field.format(quota) if quota else "")

    def add_reader(self, name, mail):
        """A system user whose mail lies elsewhere: `mail` as in mail_location, the word of Dovecot 2.3."""
        person = pwd.getpwnam(name)
        self._add(name, person, person.pw_dir, _location(mail) if self.new else f"userdb_mail={mail}")

    def _add(self, name, person, home, field):
        with self.users.open("a") as users:
            users.write(f"{name}:{{PLAIN}}x:{person.pw_uid}:{person.pw_gid}::{home}::{field}\n")

    def start(self):
        self.process = subprocess.Popen([PROGRAM, "-F", "-c", self.conf], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY
        while not self._greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dovecot does not start: {self.log}")
            time.sleep(0.02)
        return self

    def _greets(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"QUIT\r\n")
            return sock.makefile("rb").readline().startswith(b"220 ")
        return False

    def stop(self):
        """Sessions are ended, as by its service manager."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.stop()

    @property
    def log(self):
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def mails(self, name):
        """What a mail reader gets of this user's inbox, in the order of arrival."""
        command = ["doveadm", "-c", self.conf, "fetch", "-u", name, "text", "mailbox", "INBOX"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert done.returncode == 0 and not done.stderr, done.stderr
        _, *mails = re.split(rb"^text:\n", done.stdout, flags=re.MULTILINE)
        return mails

    def count(self, name):
        """Of what lies in this user's inbox; costs less than to read it."""
        return len([*(self.homes / name / "Maildir").glob("new/*"), *(self.homes / name / "Maildir").glob("cur/*")])


def _location(mail):
    """The same as fields of Dovecot 2.4, where each part of it is a setting."""
    driver, path, *options = mail.split(":")
    fields = [f"userdb_mail_driver={driver}", f"userdb_mail_path={path}"]
    names = {"INBOX": "mail_inbox_path", "INDEX": "mail_index_path"}
    for option in options:
        name, _, value = option.partition("=")
        fields.append(f"userdb_{names[name]}={value}")
    return " ".join(fields)

"""Where the bench happens: namespaces of its own, a user database of its own, one directory.

Nothing of it is seen outside, and nothing is left: the users exist in an /etc that is mounted in here.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.live.certificate import Authority

TOP = Path(__file__).parent.parent.parent
PEERS = TOP / ".cache/peers"

RECIPIENT = "bench-bob"
POPULATION = [f"{number}bench" for number in range(1, 201)]  # as smtp-source numbers its recipients
# name -> uid and gid; those of Debian's packages, of smtpd, and the recipients
USERS = {
    RECIPIENT: 59000,
    **{name: 59100 + number for number, name in enumerate(POPULATION)},
    **{f"_smtp{letter}": 59010 + number for number, letter in enumerate("dlqscxfm")},
    "postfix": 59020,
    "postdrop": 59021,
    "opensmtpd": 59022,
    "opensmtpq": 59023,
    "Debian-exim": 59024,
}


def unshared(arguments, module="tests.bench"):
    """The command that runs the bench again, in its namespaces."""
    namespaces = ["sh", str(TOP / "tests/unshare.sh"), "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return [*namespaces, sys.executable, "-P", "-m", module, *arguments]


def inside():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.umask(0o022)


class Unavailable(Exception):
    """A server is not here, does not start, or does not do its work."""


class Testbed:
    def __init__(self, directory):
        directory.chmod(0o755)
        # ext4 looks around the inodes that were freed lately, so one server's deleted files would slow the next one's
        # new ones.  With this attribute the directories below are spread over the disk, as top-level directories are.
        with contextlib.suppress(FileNotFoundError):  # a minimal system has no chattr, and perhaps no need of it
            subprocess.run(["chattr", "+T", directory], stderr=subprocess.DEVNULL)
        self.directory = directory
        self._runs = 0
        self._authority, self._identities = Authority("bench"), {}
        self.homes = {name: self.make(f"home/{name}", name, 0o700) for name in (RECIPIENT, *POPULATION)}
        self._mount_etc()

    def _mount_etc(self):
        """An overlay, because a file mounted over /etc/passwd would go when a useradd outside replaces that."""
        etc = self.make("etc")
        lines = {
            "passwd": [
                f"{name}:x:{n}:{n}::{self.homes.get(name, '/nonexistent')}:/bin/sh" for name, n in USERS.items()
            ],
            "group": [f"{name}:x:{n}:" for name, n in USERS.items()],
        }
        for name, ours in lines.items():
            theirs = [line for line in Path("/etc", name).read_text().splitlines() if line.split(":")[0] not in USERS]
            (etc / name).write_text("\n".join([*ours, *theirs]) + "\n")
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # which answers where a scenario starts it
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={etc}:/etc", "/etc"], check=True)

    def make(self, name, owner=None, mode=0o755):
        """A directory below the bench's own."""
        path = self.directory / name
        path.mkdir(parents=True)
        path.chmod(mode)
        if owner:
            os.chown(path, USERS[owner], USERS[owner])
        return path

    def make_mail_directory(self, name):
        """As Debian has it."""
        shutil.chown(self.make(name), group="mail")
        (self.directory / name).chmod(0o2775)

    def identity(self, kind):
        """Paths of a certificate and its key: the same for all servers."""
        if kind not in self._identities:
            directory = self.make(f"identity-{kind}", mode=0o700)
            self._identities[kind] = self._authority.issue("here.test", kind=kind).write(directory, "here.test")
        return self._identities[kind]

    def next_run(self, name):
        """A directory for one start of a server."""
        self._runs += 1
        return self.make(f"{name}-{self._runs}")

    def new_maildir(self, name):
        """An empty one for a round, and the last one left where it is until the end."""
        maildir = self.make(f"mail-{self._runs}/{name}", name, 0o700)
        link = self.homes[name] / "Maildir"
        link.unlink(missing_ok=True)
        link.symlink_to(maildir)
        return maildir

"""Where the bench happens: namespaces of its own, a user database of its own, one directory.

Nothing of it is seen outside, and nothing is left: the users exist in a file that is mounted over /etc/passwd in here.
"""

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent.parent
PEERS = TOP / ".cache/peers"

RECIPIENT = "bench-bob"
# name -> uid and gid; those of Debian's packages, of smtpd, and the recipient
USERS = {
    RECIPIENT: 59000,
    **{f"_smtp{letter}": 59010 + number for number, letter in enumerate("dlqscxf")},
    "postfix": 59020,
    "postdrop": 59021,
    "opensmtpd": 59022,
    "opensmtpq": 59023,
}


def unshared(arguments):
    """The command that runs the bench again, in its namespaces."""
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return [*namespaces, sys.executable, "-P", "-m", "tests.bench", *arguments]


def inside():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.umask(0o022)


class Ground:
    def __init__(self, directory):
        directory.chmod(0o755)
        self.directory = directory
        self.home = directory / "home" / RECIPIENT
        self._runs = 0
        for path in (self.home.parent, self.home):
            path.mkdir()
        os.chown(self.home, USERS[RECIPIENT], USERS[RECIPIENT])
        self.home.chmod(0o700)
        self._mount("passwd", self._passwd())
        self._mount("group", "".join(f"{name}:x:{number}:\n" for name, number in USERS.items()))

    def _passwd(self):
        homes = {RECIPIENT: self.home}
        return "".join(
            f"{name}:x:{number}:{number}::{homes.get(name, '/nonexistent')}:/bin/sh\n" for name, number in USERS.items()
        )

    def _mount(self, name, lines):
        """Our users before those of the system that have other names."""
        theirs = [line for line in Path("/etc", name).read_text().splitlines() if line.split(":")[0] not in USERS]
        file = self.directory / name
        file.write_text(lines + "\n".join(theirs) + "\n")
        subprocess.run(["mount", "--bind", file, f"/etc/{name}"], check=True)

    def make(self, name, owner=None, mode=0o755):
        """A directory below the bench's own."""
        path = self.directory / name
        path.mkdir(parents=True)
        path.chmod(mode)
        if owner:
            os.chown(path, USERS[owner], USERS[owner])
        return path

    def next_run(self, name):
        """A directory for one start of a server."""
        self._runs += 1
        return self.make(f"{name}-{self._runs}")

    def take_away_mail(self):
        """Mail of an earlier round aside: removing it would make the file system work in the next one."""
        maildir = self.home / "Maildir"
        if maildir.exists():
            self._runs += 1
            maildir.rename(self.directory / f"mail-{self._runs}")

"""Programs of the system that hand in mail by /usr/sbin/sendmail, each in its own way, with ours in that place."""

import json
import quopri
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.live.caller import CALLERS, PEERS, TEXT, UNPACKED
from tests.live.conftest import TOP, empty_maildir, mails, running, until
from tests.namespace import unshare

LINES = b"one\n50%\n100%\n.\nFrom here\nthree\n"  # as in caller.TEXT, with a line end for the bare CR

# What the mail holds, and how sendmail is called; {user}: who is written to.
EXPECTED = {
    "cron": (LINES, "-FCronDaemon -i -B8BITMIME -oem {user}"),
    "cronie": (LINES, "-FCronDaemon -i -odi -oem -oi -t -f {user}"),
    "anacron": (LINES, "-FAnacron -odi {user}"),
    "git": (LINES.replace(b"50%\n", b"50%"), "-i {user}"),
    "php": (LINES, "-t -i"),
    "mutt": (LINES, "-oem -oi -- {user}"),
    "s_nail": (LINES, "-i -- {user}"),
    "mailutils": (LINES, "-oi -f "),
    "logwatch": (b"Logwatch", "-t"),
    "smartd": (b"Device: /dev/sda, FAILED", "-oi -f "),
    "mdadm": (b"TestMessage event", "-t"),
    "reportbug": (LINES, "-f amy@there.test -oi -oem {user}"),
}
INSTALLED = {
    "cronie": "sh",
    "mutt": "mutt",
    "s_nail": "s-nail",
    "mailutils": "mail.mailutils",
    "reportbug": "reportbug",
}


def missing(name):
    if name in INSTALLED:
        return shutil.which(INSTALLED[name]) is None
    return not all(list(PEERS.glob(f"{beginning}*")) for beginning in UNPACKED[name])


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground) as made:
        yield made


@pytest.fixture
def call(daemon, alice):
    """`call(name)`: what became of it; see caller.py."""

    def call(name):
        directory = Path(tempfile.mkdtemp(prefix="caller-", dir=daemon.directory))
        directory.chmod(0o755)
        order = {"directory": str(directory), "state": str(daemon.state), "user": alice, "name": name}
        command = [*unshare(), sys.executable, "-P", "-m", "tests.live.caller"]
        done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, cwd=TOP, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


@pytest.mark.parametrize("name", CALLERS)
def test_its_mail_arrives_whole(call, users, alice, name):
    if missing(name):
        pytest.skip(f"{name} is not here: tests/peers.sh fetches it")
    empty_maildir(users.home(alice))
    done = call(name)
    content, words = EXPECTED[name]
    assert done["status"] == 0, done["said"]
    if name == "mdadm" and "error opening" in done["said"]:
        pytest.skip("this mdadm sends no test without an array, and none can be made here")
    assert len(done["calls"]) == 1 and done["calls"][0].startswith(words.format(user=alice)), done
    until(lambda: mails(users.home(alice)), what="delivery")
    (mail,) = mails(users.home(alice))
    assert content in mail or TEXT.encode() in quopri.decodestring(mail)  # some callers encode a CR themselves
    assert mail.startswith(b"Return-Path: <") and b"\r" not in mail and b"\0" not in mail

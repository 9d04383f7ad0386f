"""The programs of mail_local, run by another mail server: a real Postfix, for users who name them in a .forward."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.bench.testbed import PEERS, POPULATION
from tests.live import dovecot as peer
from tests.live.conftest import TOP
from tests.namespace import unshare
from tests.unique import free_port

POSTFIX = Path(__file__).with_name("postfix.py")
BODY = "\n{quote}From here\n.\nend\n"

pytestmark = pytest.mark.skipif(
    not (PEERS / "postfix/usr/sbin/postfix").exists(), reason="Postfix is not here (tests/peers.sh)"
)


@pytest.fixture(scope="module")
def programs(ground):
    """Name -> path: what an installation would make of pyproject.toml."""
    directory = ground / "programs"
    directory.mkdir()
    scripts = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
    made = {}
    for name, target in scripts.items():
        if name.startswith("mail."):
            module, _, function = target.partition(":")
            made[name] = directory / name
            made[name].write_text(f"#!{sys.executable} -P\nfrom {module} import {function}\n{function}()\n")
            made[name].chmod(0o755)
    return made


@pytest.fixture(scope="module")
def dovecot(ground, users):
    if peer.MISSING:
        pytest.skip(peer.MISSING)
    server = peer.Dovecot(ground / "dovecot-of-postfix", free_port(), users.make("smtpd-vmail"))
    yield server
    server.kill()


def test_a_postfix_delivers_by_each_of_the_programs(ground, programs, dovecot):
    namespaces = unshare("--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    directory = ground / "postfix"
    directory.mkdir()
    local, maildir, mboxfile, mda, lmtp = (
        programs[f"mail.{name}"] for name in ("local", "maildir", "mboxfile", "mda", "lmtp")
    )
    commands = [
        str(maildir),
        f"{maildir} -j $HOME/elsewhere",
        f"{mboxfile} -f $SENDER $HOME/archive",
        f"{mda} 'cat > $HOME/taken'",
        f"{local} -L -f $SENDER $LOGNAME",
        f"{lmtp} -d {dovecot.socket} -f $SENDER -u",
        f"{mda} 'exit 75'",
    ]
    in_maildir, in_junk, in_file, in_command, in_mailbox, in_dovecot, _ = POPULATION[: len(commands)]
    dovecot.add_user(in_dovecot)
    dovecot.start()
    done = subprocess.run(
        [*namespaces, sys.executable, "-P", POSTFIX],
        input=json.dumps({"directory": str(directory), "commands": commands}),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    files = {path: text for path, text in result["files"].items() if not path.endswith(".forward")}

    def one(beginning, name, quote=""):
        (path,) = (path for path in files if path.startswith(beginning) and files[path])
        text = files.pop(path)
        assert f"Subject: to {name}\n" in text and text.rstrip("\n").endswith(BODY.format(quote=quote).rstrip("\n"))
        return text

    one(f"home/{in_maildir}/Maildir/new/", in_maildir)
    one(f"home/{in_junk}/elsewhere/.Junk/new/", in_junk)
    assert one(f"home/{in_file}/archive", in_file, ">").startswith("From amy@there.test ")
    one(f"home/{in_command}/taken", in_command)
    assert one(f"mail/{in_mailbox}", in_mailbox, ">").startswith("From amy@there.test ")
    (mail,) = dovecot.mails(in_dovecot)
    assert f"Subject: to {in_dovecot}\n".encode() in mail
    assert result["deferred"] == 1 and not any(files.values()), files

"""What becomes of a recipient: asked of a running daemon by RCPT, and of its configuration by `smtpd -n --explain`."""

import itertools
import shutil
import subprocess

from tests.live.conftest import PYTHON, mails, until
from tests.trusted import OPTIONS

SENDER = "amy@there.test"


def rcpt(daemon, *recipients):
    """The reply to each, in one session; nothing is sent."""
    replies = []
    with daemon.client() as client:
        client.ehlo()
        client.mail(SENDER)
        for recipient in recipients:
            code, text = client.docmd("RCPT", f"TO:<{recipient}>")
            replies.append(f"{code} {text.decode()}")
    return replies


def explain(daemon, recipient):
    """What it prints, line by line.  The last one is the verdict."""
    command = [PYTHON, "-m", "smtpd", *OPTIONS, "-n", "-f", str(daemon.conf), "--explain"]
    words = ["from=192.0.2.1", f"mail-from={SENDER}", f"rcpt-to={recipient}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.stdout, done.stderr
    lines = done.stdout.splitlines()
    assert done.returncode == (0 if lines[-1].startswith("accepted: ") else 1), done.stdout
    return lines


_numbers = itertools.count(1)


def send(daemon, recipient):
    """A mail from SENDER; its subject, which no other one has."""
    subject = f"number {next(_numbers)}"
    daemon.send(recipient, f"Subject: {subject}\r\n\r\nx\r\n".encode(), SENDER)
    return subject


def send_and_wait(daemon, recipient):
    """Until the queue is empty."""
    subject = send(daemon, recipient)
    until(lambda: not envelopes(daemon), what="an empty queue")
    return subject


def envelopes(daemon):
    """Rows of the queue, as lists of fields."""
    return [line.split("|") for line in daemon.smtpctl("show", "queue").stdout.splitlines()]


def logged(daemon, *words):
    """Lines of the log that have all these words in them."""
    return [line for line in daemon.log.splitlines() if all(word in line for word in words)]


def arrived(home, subject):
    """The mails with this subject, in a Maildir."""
    return [mail for mail in mails(home) if f"\nSubject: {subject}\n".encode() in mail]


def write(path, text, owner="root"):
    """A file, as an editor writes it: another one in the place of the old one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    shutil.chown(new, owner)
    new.rename(path)

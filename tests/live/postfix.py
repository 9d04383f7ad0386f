"""Runs in namespaces of its own: a real Postfix, whose users hand their mail to programs of ours in their .forward.

    stdin   {"directory", "commands"}     directory: root's, empty.  For each user, in order, the command
    stdout  {"files", "deferred"}         all files in homes and mailboxes by path, and how many mails Postfix keeps

The users are those of the bench.  Homes are home/NAME below the directory, and mail/ is the system's mail directory.
"""

import json
import os
import shutil
import smtplib
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.server import Postfix
from tests.bench.testbed import POPULATION, TOP, Testbed, inside

MAIL = "Subject: to {name}\r\nX-Spam: yes\r\n\r\nFrom here\r\n.\r\nend\r\n"
WAIT_MAX = 60.0  # seconds


class Place:
    POSTFIX = "home_mailbox = Maildir/"
    KEY = ""


def show(path, aside):
    """Users have to reach it: each directory on the way that they may not enter becomes one that they may, and that
    holds the same."""
    for way in reversed(path.parents):
        if way.stat().st_mode & 0o001:
            continue
        bind(way, aside)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", way], check=True)
        for entry in aside.iterdir():
            if entry.is_symlink():
                (way / entry.name).symlink_to(entry.readlink())
            elif entry.is_dir():
                (way / entry.name).mkdir()
                bind(entry, way / entry.name)


def bind(path, place):
    subprocess.run(["mount", "--bind", path, place], check=True)


def main():
    order = json.load(sys.stdin)
    inside()
    ground = Testbed(Path(order["directory"]))
    for number, path in enumerate((Path(sys.base_prefix), TOP)):
        show(path, ground.make(f"aside-{number}"))
    bind(ground.make("mail"), "/var/mail")
    users = dict(zip(POPULATION, order["commands"], strict=False))
    for name, command in users.items():
        forward = ground.homes[name] / ".forward"
        forward.write_text(f'"|{command}"\n')
        mailbox = ground.directory / "mail" / name  # no program of a user's can make it
        mailbox.touch(mode=0o600)
        for path in (forward, mailbox):
            shutil.chown(path, name, name)
    server = Postfix(ground, Place())
    server.start()
    try:
        with smtplib.SMTP("127.0.0.1", server.PORT) as client:
            for name in users:
                client.sendmail("amy@there.test", f"{name}@here.test", MAIL.format(name=name))
        wait_until_tried(server.directory / "queue")
    finally:
        server.stop()
    json.dump({"files": files(ground.directory), "deferred": waiting(server.directory / "queue/deferred")}, sys.stdout)


def wait_until_tried(queue):
    deadline = time.monotonic() + WAIT_MAX
    while sum(waiting(queue / name) for name in ("maildrop", "incoming", "active")) and time.monotonic() < deadline:
        time.sleep(0.05)


def waiting(directory):
    return sum(len(names) for _, _, names in os.walk(directory))


def files(directory):
    found = [*(directory / "home").rglob("*"), *(directory / "mail").iterdir()]
    return {str(path.relative_to(directory)): path.read_text() for path in found if path.is_file()}


if __name__ == "__main__":
    main()

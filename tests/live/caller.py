"""Runs in a mount namespace of its own: programs that hand their mail to /usr/sbin/sendmail, which is ours in there.

    stdin   {"directory", "state", "user", "name"}     directory: root's, empty; name: of CALLERS
    stdout  {"status", "said", "calls"}                calls: the arguments of sendmail, of each call

Nothing of it is seen outside, and programs with services are only unpacked: cron runs as a child of ours, with one job.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.live.conftest import TOP
from tests.live.postfix import show

PEERS = TOP / ".cache/peers"
PROGRAM = "#!{interpreter} -IS\nimport sys\nsys.path += {path}\nfrom smtpctl.__main__ import main\nsys.exit(main())\n"
SENDMAIL = '#!/bin/sh\nprintf "%s\\n" "$*" >>{directory}/calls\nexec {directory}/bin/sendmail --state {state} "$@"\n'
WAIT_MAX = 60.0  # seconds for a program of which nobody says when it is done

TEXT = "one\n50%\r100%\r\n.\nFrom here\nthree\n"
PHP = """exit(mail($argv[1], "from PHP", $argv[2], "From: Amy <amy@there.test>\\r\\nX-Mailer: PHP") ? 0 : 1);"""
PATCH = """\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: Amy <amy@there.test>
Date: Mon, 30 Nov 2026 10:00:00 +0000
Subject: [PATCH] one

{text}---
 a | 1 +
"""


class Caller:
    """`run` and what follows are done as that user, or as root."""

    def __init__(self, directory, user):
        self.directory, self.user = directory, user
        self.entry = pwd.getpwnam(user)

    def as_user(self, *command, text="", **environment):
        return self._run(command, text, environment, user=self.entry.pw_uid, group=self.entry.pw_gid, extra_groups=[])

    def as_root(self, *command, text="", **environment):
        return self._run(command, text, environment)

    def _run(self, command, text, environment, **more):
        known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.entry.pw_dir, "LOGNAME": self.user, "LANG": "C"}
        return subprocess.run(
            command,
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=known | environment,
            cwd=self.entry.pw_dir,
            timeout=60,
            **more,
        )

    def file(self, name, text):
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return str(path)


def cron(caller):
    """@reboot is when cron starts; in a /etc, a /run and a spool without other jobs."""
    Path("/etc/cron.d").mkdir(exist_ok=True)
    for path in ("/etc/cron.d", "/run", "/var/spool"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
    Path("/var/spool/cron/crontabs").mkdir(parents=True)
    Path("/etc/crontab").write_text("")
    Path("/etc/cron.d/job").write_text(f"@reboot {caller.user} cat {caller.file('text', TEXT)}\n")
    process = subprocess.Popen(["cron", "-f"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + WAIT_MAX
    while not (caller.directory / "calls").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    while children(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    said, _ = process.communicate()
    return subprocess.CompletedProcess("cron", 0, said)


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def anacron(caller):
    spool = caller.directory / "anacron"
    spool.mkdir()
    tab = caller.file("anacrontab", f"MAILTO={caller.user}\n1 0 job cat {caller.file('text', TEXT)}\n")
    return caller.as_root("anacron", "-f", "-n", "-d", "-t", tab, "-S", str(spool))


def git(caller):
    patch = caller.file("0001.patch", PATCH.format(text=TEXT.replace("\r", "")))
    options = ["--confirm=never", "--suppress-cc=all", "--from=amy@there.test", f"--to={caller.user}"]
    identity = ["-c", "user.name=Amy", "-c", "user.email=amy@there.test"]
    return caller.as_user("git", *identity, "send-email", *options, patch)


def php(caller):
    program = shutil.which("php") or str(next(Path("/usr/bin").glob("php?.*")))
    return caller.as_user(program, "-n", "-r", PHP, caller.user, TEXT)


def mutt(caller):
    return caller.as_user("mutt", "-n", "-F", "/dev/null", "-s", "from mutt", "--", caller.user, text=TEXT)


def s_nail(caller):
    return caller.as_user("s-nail", "-n", "-s", "from s-nail", caller.user, text=TEXT)


def mailutils(caller):
    return caller.as_user("mail.mailutils", "-s", "from mailutils", caller.user, text=TEXT)


def logwatch(caller):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/cache"], check=True)
    Path("/var/cache/logwatch").mkdir()
    options = ["--output", "mail", "--mailto", caller.user, "--service", "zz-sys", "--detail", "high"]
    return caller.as_root("perl", "/usr/sbin/logwatch", *options)


def smartd(caller):
    """What smartd runs when a disk fails, of which there is none."""
    said = {"SMARTD_MESSAGE": "Device: /dev/sda, FAILED", "SMARTD_FULLMESSAGE": TEXT, "SMARTD_FAILTYPE": "Health"}
    where = {"SMARTD_DEVICE": "/dev/sda", "SMARTD_DEVICETYPE": "ata", "SMARTD_DEVICESTRING": "/dev/sda"}
    more = {"SMARTD_ADDRESS": caller.user, "SMARTD_MAILER": "/usr/share/smartmontools/smartd-runner"}
    times = {"SMARTD_TFIRST": "now", "SMARTD_TFIRSTEPOCH": "1", "SMARTD_PREVCNT": "0", "SMARTD_NEXTDAYS": "1"}
    return caller.as_root("/usr/share/smartmontools/smartd_warning.sh", **said, **where, **more, **times)


def mdadm(caller):
    options = ["--monitor", "--test", "--oneshot", f"--mail={caller.user}"]
    return caller.as_root("mdadm", *options, "/dev/md77")


def cronie(caller):
    """Not in Debian 12: the words and the header are those of its do_command.c."""
    header = f"From: {caller.user} (Cron Daemon)\nTo: {caller.user}\nSubject: Cron <{caller.user}@vm> cat text\n"
    header += "Content-Type: text/plain; charset=UTF-8\nAuto-Submitted: auto-generated\nX-Cron-Env: <LANG=C>\n\n"
    words = ["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", caller.user]
    return caller.as_user("/usr/sbin/sendmail", *words, text=header + TEXT)


REPORTBUG = r"""
import sys
to, text = sys.argv[1:]
sys.argv[1:] = []
from reportbug import submit
from reportbug.ui import text_ui
submit.ui = text_ui
submit.send_report("Subject: from reportbug\n\n" + text, [], None, "Amy <amy@there.test>", to, "", "", [],
                   package="coreutils", mta="/usr/sbin/sendmail", smtphost="")
"""


def reportbug(caller):
    """What it does with a report at its end: the questions before that are for a terminal and a network."""
    return caller.as_user("/usr/bin/python3", "-c", REPORTBUG, caller.user, TEXT)


# What is unpacked below .cache/peers, by the beginnings of its packages' names; the others are installed.
UNPACKED = {
    "cron": ["cron"],
    "anacron": ["anacron"],
    "git": ["git-email", "libmailtools-perl"],
    "php": ["php"],
    "logwatch": ["logwatch"],
    "smartd": ["smartmontools"],
    "mdadm": ["mdadm"],
}
CALLERS = {
    function.__name__: function
    for function in (cron, cronie, anacron, git, php, mutt, s_nail, mailutils, logwatch, smartd, mdadm, reportbug)
}


def unpack(name):
    """Lay the packages of a caller over the system, as it is seen in here."""
    for beginning in UNPACKED.get(name, []):
        for package in PEERS.glob(f"{beginning}*"):
            for part in package.iterdir():
                target = f"/usr/{part.name}" if part.name in ("bin", "sbin", "lib") else f"/{part.name}"
                if target.startswith(("/usr", "/etc")):
                    shutil.copytree(part, target, symlinks=True, dirs_exist_ok=True)


def overlay(path, directory):
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    layers = f"lowerdir={path},upperdir={directory}/upper,workdir={directory}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, path], check=True)


def main():
    order = json.load(sys.stdin)
    directory = Path(order["directory"])
    os.umask(0o022)
    top = directory / "overlay"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", top], check=True)
    for number, path in enumerate((Path(sys.base_prefix), TOP)):
        aside = directory / f"aside-{number}"
        aside.mkdir()
        show(path, aside)
    for path in ("/usr", "/etc"):
        overlay(path, top / path[1:])
    unpack(order["name"])
    (directory / "calls").touch()
    (directory / "calls").chmod(0o666)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    write(directory / "bin/sendmail", PROGRAM.format(interpreter=sys.executable, path=[str(TOP), packages]))
    write(Path("/usr/sbin/sendmail"), SENDMAIL.format(directory=directory, state=order["state"]))
    done = CALLERS[order["name"]](Caller(directory, order["user"]))
    calls = (directory / "calls").read_text().splitlines()
    json.dump({"status": done.returncode, "said": done.stdout.decode(errors="replace"), "calls": calls}, sys.stdout)


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


if __name__ == "__main__":
    main()

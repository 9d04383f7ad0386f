"""Mail readers that others wrote, given a mailbox or a Maildir: what they take for its mails.

Whatever a reader adds to a header or after a mail is its own affair: mails are told by subject and body.
"""

import contextlib
import email
import email.policy
import mailbox
import os
import pty
import re
import select
import shutil
import subprocess
import termios
import time

TERMINAL = {"TERM": "xterm", "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
WAIT_MAX = 60.0  # seconds
MUTT = "set folder=~ quit=yes confirmcreate=no confirmappend=no wait_key=no auto_tag=yes mbox_type=Maildir"


def by_python(path):
    kind = mailbox.Maildir if path.is_dir() else mailbox.mbox
    with contextlib.closing(kind(path, create=False)) as box:
        return _sorted(box.get_bytes(key) for key in box.iterkeys())


def by_mutt(path, scratch):
    """At a terminal, as it knows no other way: all tagged, and copied to a Maildir."""
    copy = scratch / "mutt"
    keys = f"push '<tag-pattern>~A<enter><copy-message>{copy}<enter><exit>'"
    environment = {**TERMINAL, "HOME": str(scratch)}
    command = ["mutt", "-n", "-F", "/dev/null", "-R", "-f", str(path), "-e", MUTT, "-e", keys]
    shown = _at_a_terminal(command, environment)
    assert copy.is_dir(), shown
    return by_python(copy)


def by_s_nail(path, scratch):
    """Copied to a file, which is read as it stands; and how many they are, s-nail says itself.  Not for a Maildir: in
    mails of one it quotes lines as in a mailbox."""
    copy = scratch / "s-nail"
    command = ["s-nail", "-n", "-#", "-R", "-f", str(path)]
    order = f"copy * {copy}\nShow *\nxit\n"
    environment = {**TERMINAL, "HOME": str(scratch), "MBOX": os.devnull}
    done = subprocess.run(command, input=order.encode(), env=environment, capture_output=True, timeout=WAIT_MAX)
    mails = by_python(copy)
    told = len(re.findall(rb"^\[-- Message +\d+ -- ", done.stdout, re.MULTILINE))
    assert told == len(mails), f"s-nail tells of {told} mails, and has copied {len(mails)}"
    return mails


def by_dovecot(dovecot, name):
    return _sorted(dovecot.mails(name))


def missing(program):
    return None if shutil.which(program) else f"{program} is not installed"


def subject_and_body(mail):
    header, _, body = mail.partition(b"\n\n")
    subject = email.message_from_bytes(header, policy=email.policy.compat32)["Subject"]
    return str(subject), body.rstrip(b"\n")


def _sorted(mails):
    return sorted(subject_and_body(mail) for mail in mails)


def _at_a_terminal(command, environment):
    """What it showed, to its end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 80))  # a new one has no size, and ncurses refuses that
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, process_group=0)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + WAIT_MAX
    with contextlib.suppress(OSError):  # nobody is at the other end any more
        while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
            shown += os.read(ours, 1 << 16)
    os.close(ours)
    process.kill()
    process.wait()
    return shown

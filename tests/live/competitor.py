"""Runs in a fresh interpreter: one of several programs that want the same mailbox at the same time.

    competitor.py local    DIRECTORY USER NAME COUNT   root, as mail.local does: with a dot-lock
    competitor.py user     DIRECTORY USER NAME COUNT   the user himself, without one: the directory is not his
    competitor.py mboxfile DIRECTORY USER NAME COUNT   the user, by its path, as a .forward has it
    competitor.py reader   DIRECTORY USER FILE COUNT   the user's mail reader: locks, takes all that is there into FILE,
                                                       until that is COUNT mails

The mails of a writer are `mail(NAME, 0)`, `mail(NAME, 1)` and so on.
"""

import fcntl
import os
import pwd
import re
import sys
import time
import zlib

from mail_local import mailbox, mbox, mboxfile

FROM = re.compile(rb"^From ", re.MULTILINE)


def mail(writer, number):
    """As it is in the end: a mail that is torn, or mixed with another one, is no mail of anybody."""
    lines = 1 + zlib.crc32(f"{writer} {number}".encode()) % 60
    body = f">From {writer} {number}\n".encode() * lines
    return b"Subject: %s %d %d\n\n%s" % (writer.encode(), number, lines, body)


def unquoted(writer, number):
    return mail(writer, number).replace(b"\n>From ", b"\nFrom ")


def main(role, directory, user, name, count):
    person = pwd.getpwnam(user)
    if role != "local":
        os.setgroups([])
        os.setresgid(*[person.pw_gid] * 3)
        os.setresuid(*[person.pw_uid] * 3)
    if role == "reader":
        read(f"{directory}/{user}", name, int(count))
        return
    where = os.open(directory, os.O_RDONLY)
    for number in range(int(count)):
        letter = mbox.MboxMail(f"{name}@there.test", time.time(), [unquoted(name, number)])
        if role == "mboxfile":
            mboxfile.append(f"{directory}/{user}", letter)
            continue
        with mailbox.locked(where, user, person.pw_uid, person.pw_gid, dot=role == "local") as descriptor:
            (reason,) = mbox.store(descriptor, [letter])
            assert not reason, reason


def read(path, into, count):
    found = 0
    with open(into, "wb") as taken:
        while found < count:
            with open(path, "r+b") as box:
                fcntl.lockf(box, fcntl.LOCK_EX)
                content = box.read()
                box.truncate(0)
            taken.write(content)
            found += len(FROM.findall(content))
            time.sleep(0.02)  # it has a user, too


if __name__ == "__main__":
    main(*sys.argv[1:])

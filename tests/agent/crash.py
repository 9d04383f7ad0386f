"""Rounds of crashes: agents killed in the middle of their work, mail readers that move what they find, new agents.

Forks its agents itself, without sandbox, so that a round takes milliseconds.  Arguments: a home, the number of rounds.
Ends with status 0 when every mail is there exactly once.
"""

import collections
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from smtpd.agent.process import prepare
from smtpd.envelope import Outcome
from smtpd.errand import PACKET_MAX, AgentSpec, Deliver, decode, encode

MAILS = 24


def start(home):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        prepare(AgentSpec("maildir", "~/Maildir"), "bob", home).serve(theirs)
        os._exit(0)
    theirs.close()
    return pid, ours


def errand(number, perhaps):
    content = b"Subject: %d\n\n" % number + b"x" * 3000
    path = "bob@here.test"
    return Deliver(7 << 32 | number, 1700000000, len(content), "", path, path, "", content, False, perhaps)


def live(home, waiting, answers):
    """One agent's life, until it has given so many answers and may be anywhere in the others.  Takes out of `waiting`
    what it says is delivered; all that it leaves was perhaps delivered."""
    pid, sock = start(home)
    for number, perhaps in waiting.items():
        sock.send(encode(errand(number, perhaps)))
    for _ in range(answers):
        take(sock, waiting)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while take(sock, waiting):
        pass
    sock.close()
    return dict.fromkeys(waiting, True)


def take(sock, waiting):
    """False at the end."""
    try:
        packet = sock.recv(PACKET_MAX)
    except ConnectionError:
        return False
    if packet:
        result = decode(packet)
        assert result.outcome is Outcome.DELIVERED, result
        del waiting[result.envelope & 0xFFFFFFFF]
    return bool(packet)


def read_some(maildir):
    """What a mail reader does: seen mails move from new/ to cur/."""
    for path in list((maildir / "new").iterdir()) if (maildir / "new").is_dir() else []:
        if random.random() < 0.5:
            path.rename(maildir / "cur" / f"{path.name}:2,S")


def main(home, rounds):
    maildir = Path(home) / "Maildir"
    killed = 0
    for turn in range(rounds):
        waiting = {turn * MAILS + number: False for number in range(1, MAILS + 1)}
        while waiting:
            waiting = live(home, waiting, random.randint(0, len(waiting)))
            killed += 1
            read_some(maildir)
    found = collections.Counter(
        path.read_bytes().splitlines()[2] for place in ("new", "cur") for path in (maildir / place).iterdir()
    )
    assert set(found) == {b"Subject: %d" % number for number in range(1, rounds * MAILS + 1)}
    assert set(found.values()) == {1}, [subject for subject, count in found.items() if count > 1]
    assert os.listdir(maildir / "tmp") == []
    print(f"{rounds} rounds, {killed} agents killed")


if __name__ == "__main__":
    random.seed(seed := time.time_ns())
    print("seed", seed)
    main(sys.argv[1], int(sys.argv[2]))

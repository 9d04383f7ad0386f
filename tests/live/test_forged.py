"""What a process that was taken over could send to the others: whoever gets it ends, at once and not with 0.

forge.py starts each process by itself, and has its peers in its hands, for every arrow of the table.  The parent is
that of a running daemon: we speak in the place of a child, through the child's own end of its channel.
"""

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smtpd.envelope import Duty
from smtpd.imsg import (
    ROLES,
    TABLE,
    AgentEnded,
    AgentRefused,
    AgentStarted,
    EndAgent,
    FindUser,
    LockMailbox,
    ReopenSyslog,
    StartAgent,
    TableProgramEnded,
    UnlockMailbox,
    UserFound,
)
from tests.live.conftest import CONF, until
from tests.live.forge import forgeries
from tests.namespace import unshare

FORGE = Path(__file__).with_name("forge.py")

# what was forged -> what the one who got it says of it
REASONS = {
    "against the arrow": r"may not send imsg \d+",
    "a shape that is none": "sent a malformed",
    "a field too many": "sent a malformed",
    "a length below the header": "of 15 bytes",
    "a length over the limit": r"of \d{5,} bytes",
    "a stray descriptor": "descriptor that belongs to no imsg|more descriptors than may wait",
    "without its descriptor": "without its descriptor",
    "when it stands already": "unexpected",
    "the answer to no question": "without a request",
    "of what there is not": "which is not its own|has not begun|twice at a time|not in flight",
}


@pytest.fixture
def stage(ground, users):
    """The two directories that processes have as their roots."""
    made = ground / "stage"
    for name, user in (("", "root"), ("empty", "root"), ("spool", "_smtpq")):
        path = made / name
        path.mkdir(exist_ok=True)
        os.chown(path, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        path.chmod(0o700 if name == "spool" else 0o755)
    return made


def reason_of(what):
    (reason,) = (reason for forged, reason in REASONS.items() if what.endswith(forged))
    return reason


def is_right(what, outcome):
    ended, log = outcome
    return ended == "1" and re.search(f"^warn: fatal: .*({reason_of(what)})", log, re.MULTILINE)


@pytest.mark.parametrize("role", [*ROLES, "nursery"])
def test_a_forged_imsg_ends_its_receiver(stage, role):
    order = json.dumps({"role": role, "directory": str(stage)})
    run = subprocess.run([sys.executable, "-I", "-P", FORGE], input=order, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    outcomes = json.loads(run.stdout)
    assert {what: outcome for what, outcome in outcomes.items() if not is_right(what, outcome)} == {}
    arrows = {sender for sender, receiver in TABLE.routes() if receiver == role} - {"smtpctl"}
    assert {what.partition(":")[0] for what in outcomes} == arrows
    assert len(outcomes) >= 6 * len(arrows)


# -- the parent -------------------------------------------------------------------


BROKEN = [
    ("crypto", "against the arrow"),
    ("dispatcher", "against the arrow"),
    ("scheduler", "SandboxEntered when it stands already"),
    ("lookup", "a field too many"),
    ("queue", "a length over the limit"),
    ("control", "a stray descriptor"),
    ("nursery", "AgentForked without its descriptor"),
    ("nursery", "UserLookedUp, the answer to no question"),
]


@pytest.mark.parametrize("role, what", BROKEN)
def test_a_child_that_forges_is_the_end_of_the_daemon(impostor, role, what):
    child = impostor(role)
    data, with_descriptor = dict(forgeries(role, "parent"))[what]
    socket.send_fds(child.channel.sock, [data], [0] if with_descriptor else [])
    assert child.daemon.ended() == 1
    assert re.search(f"^warn: fatal: {role} broke the rules: .*({reason_of(what)})", child.daemon.log, re.MULTILINE)


LMTP = 'action "lmtp" lmtp "127.0.0.1:24"\nlisten on 127.0.0.1 port {port}\nmatch from any for any action "lmtp"\n'
MBOX = 'action "mbox" mbox\nlisten on 127.0.0.1 port {port}\nmatch from any for any action "mbox"\n'
NO_DELIVERY = "listen on 127.0.0.1 port {port}\nmatch from any for any reject\n"
IMPOSSIBLE = [
    ("lookup", NO_DELIVERY, FindUser(1, "bin"), "does not enable"),
    ("queue", NO_DELIVERY, StartAgent(1, "bin", "", Duty.READ), "does not enable"),
    ("queue", CONF, StartAgent(1, "bin", "another", Duty.DELIVER), "not configured"),
    ("queue", CONF, StartAgent(1, "bin", "local", Duty.ALIASED), "commands of alias files, which are not allowed"),
    ("queue", LMTP, StartAgent(1, "root", "lmtp", Duty.DELIVER), "which runs as another user"),
    ("queue", CONF, LockMailbox(1, 1), "does not enable"),
    ("queue", MBOX, LockMailbox(1, 1), "unknown"),
    ("queue", MBOX, UnlockMailbox(1), "unknown"),
    ("nursery", CONF, TableProgramEnded(1, 0), "unknown"),
    ("queue", CONF, EndAgent(99), "unknown"),
    ("nursery", CONF, AgentEnded(1, 0), "unknown"),
    ("control", CONF, ReopenSyslog(), "the log goes to stderr"),
]


@pytest.mark.parametrize(
    "role, conf, imsg, reason",
    IMPOSSIBLE,
    ids=[f"{type(imsg).__name__}: {reason}" for _, _, imsg, reason in IMPOSSIBLE],
)
def test_a_child_that_asks_for_what_cannot_be_meant_is_the_end_of_the_daemon(impostor, role, conf, imsg, reason):
    child = impostor(role, conf)
    child.say("parent", imsg)
    assert child.daemon.ended() == 1
    assert re.search(f"^warn: fatal: {role} broke the rules: .*{reason}", child.daemon.log, re.MULTILINE)


@pytest.fixture
def known_as_toor(ground, alice):
    """What starts a command for which the system has a second name for uid 0, and no other process notices.  In all of
    /etc: a mount on a single file is gone when somebody, wherever, puts another file in its place."""
    etc = ground / "etc"
    if not etc.exists():
        shutil.copytree("/etc", etc, symlinks=True)
        with (etc / "passwd").open("a") as passwd:
            passwd.write("toor:x:0:0::/root:/bin/sh\n")
    program = f'mount --bind {etc} /etc && exec "$@"'
    return [*unshare(), "sh", "-c", program, "sh"]


NAMES = {
    "/": "unknown",
    "../../etc/passwd": "unknown",
    "..": "unknown",
    "": "unknown",
    "nobody-of-this-name": "unknown",
    "root": "root",
    "toor": "root",
    "nobody": "daemon",
    "bin": "daemon",
    "_smtpq": "daemon",
}


def test_the_parent_is_told_names_and_knows_them(impostor, known_as_toor, alice):
    lookup = impostor("lookup", prefix=known_as_toor)
    names = {**NAMES, alice: "user"}
    assert {name: lookup.ask(FindUser(7, name)) for name in names} == {
        name: UserFound(7, verdict) for name, verdict in names.items()
    }
    assert lookup.daemon.running()


@pytest.mark.parametrize("action, duty", [("local", Duty.DELIVER), ("local", Duty.FORWARDED), ("", Duty.READ)])
def test_no_agent_becomes_root_or_one_of_our_users(impostor, known_as_toor, alice, action, duty):
    """For good, however often it is asked; and who is refused is not forked first."""
    queue = impostor("queue", prefix=known_as_toor)
    before = set(queue.daemon.descendants())
    for name in NAMES:
        answer = queue.ask(StartAgent(7, name, action, duty))
        assert isinstance(answer, AgentRefused) and answer.permanent, (name, answer)
    until(lambda: set(queue.daemon.descendants()) == before, what="the end of all that was forked")
    assert queue.ask(StartAgent(7, alice, action, duty)) == AgentStarted(7, 1)
    (agent,) = set(queue.daemon.descendants()) - before
    assert re.search(f"^Uid:\t{pwd.getpwnam(alice).pw_uid}\t", Path(f"/proc/{agent}/status").read_text(), re.MULTILINE)

"""What `ps` and /proc show of a running daemon."""

import contextlib
import os
import pwd
import re
from pathlib import Path

import pytest

from tests.live.conftest import PYTHON, ROLES, empty_maildir, mails, running, until
from tests.live.descriptors import descriptors, sockets

USERS = {
    "dispatcher": "_smtpd",
    "lookup": "_smtpl",
    "queue": "_smtpq",
    "scheduler": "_smtps",
    "crypto": "_smtpc",
    "control": "_smtpx",
}


@pytest.fixture(scope="module")
def daemon(ground, users):
    """One for all who only look."""
    with running(ground) as made:
        yield made


def status(pid):
    return dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


def mappings(pid):
    """Where text, heap and stack of a process begin."""
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else ""
        start = fields[0].partition("-")[0]
        if name in ("[heap]", "[stack]"):
            found.setdefault(name, start)
        elif "/python" in name and "x" in fields[1]:
            found.setdefault("text", start)
    return found


def test_parent_nursery_and_the_six_show_their_titles(daemon):
    titles = daemon.pids()
    assert {title.split()[0] for title in titles} >= {*ROLES, "nursery"}
    assert daemon.process.pid in titles.values()


@pytest.mark.parametrize("role", ROLES)
def test_each_process_is_confined(daemon, role):
    facts = status(daemon.pids()[role])
    uid = pwd.getpwnam(USERS[role]).pw_uid
    assert facts["Uid"].split() == [str(uid)] * 4
    assert facts["Gid"].split() == [str(pwd.getpwnam(USERS[role]).pw_gid)] * 4
    assert facts["Groups"].split() in ([], [str(pwd.getpwnam(USERS[role]).pw_gid)])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[kind], 16) == 0, kind
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"


@pytest.mark.parametrize("role", ROLES)
def test_each_process_has_the_root_of_the_table(daemon, role):
    root = os.readlink(f"/proc/{daemon.pids()[role]}/root")
    expected = {"queue": daemon.state / "spool", "lookup": Path("/")}.get(role, daemon.state / "empty")
    assert Path(root) == expected


def test_every_process_has_a_user_of_its_own(daemon):
    titles = daemon.pids()
    assert len({status(titles[role])["Uid"] for role in ROLES}) == len(ROLES)


def test_no_two_processes_share_a_memory_layout(daemon):
    """Where the interpreter is position independent; where it is not, the log says so."""
    if "may share addresses" in daemon.log:
        pytest.skip("this interpreter, or this kernel, gives all processes the same addresses, and the log says so")
    layouts = [mappings(pid) for title, pid in daemon.pids().items() if not title.startswith("agent")]
    for what in ("text", "[heap]", "[stack]"):
        places = {layout[what] for layout in layouts}
        assert len(places) == len(layouts) == 8, what


ANONYMOUS = ("socket:", "pipe:", "anon_inode:", "/dev/null")


@pytest.mark.parametrize("role", [*ROLES, "nursery"])
def test_a_process_holds_no_descriptor_that_is_not_its_own(daemon, role):
    """Above all none of the parent's: the kernel's log, the sockets of others."""
    pid = daemon.pids()[role]
    held = descriptors(pid)
    assert held.pop(2) == str(daemon.log_path)
    named = {name for name in held.values() if not name.startswith(ANONYMOUS)}
    spool, offline = str(daemon.state / "spool"), str(daemon.state / "offline")
    if role == "queue":
        assert all(name.startswith(f"{spool}/") or name == spool for name in named), named
    else:
        assert named == ({offline} if role == "nursery" else set())


def test_parent_and_nursery_keep_few_capabilities(daemon):
    titles = daemon.pids()
    everything = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1
    for pid in (daemon.process.pid, titles["nursery"]):
        facts = status(pid)
        assert bin(int(facts["CapBnd"], 16)).count("1") < everything / 2
        assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"


def test_an_agent_is_its_user_and_nothing_else(daemon, users, alice):
    empty_maildir(users.home(alice))
    daemon.send(f"{alice}@here.test", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: mails(users.home(alice)), what="delivery")
    uid = str(pwd.getpwnam(alice).pw_uid)
    agents = [pid for pid in daemon.descendants() if status(pid)["Uid"].split() == [uid] * 4]
    assert agents, daemon.pids()
    for pid in agents:
        facts = status(pid)
        assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"
        assert facts["Groups"].split() in ([], [str(pwd.getpwnam(alice).pw_gid)])


def test_only_parent_and_nursery_run_as_root(daemon):
    titles = daemon.pids()
    allowed = {daemon.process.pid, titles["nursery"]}
    root = {pid for pid in [daemon.process.pid, *daemon.descendants()] if status(pid)["Uid"].split()[1] == "0"}
    assert root == allowed


def test_two_dispatchers_both_serve(make_daemon, users, alice):
    """The kernel spreads clients over them; the chance that one of two gets none of forty is 1 to 2**39."""
    empty_maildir(users.home(alice))
    daemon = make_daemon(
        "dispatchers 2\n" + 'listen on 127.0.0.1 port {port}\naction "local" maildir\n'
        'match from any for any action "local"\n'
    ).start()
    pids = [pid for title, pid in daemon.pids().items() if title.startswith("dispatcher")]
    before = [len(sockets(pid)) for pid in pids]
    assert len(pids) == 2
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(daemon.client()) for _ in range(40)]
        listening = 1  # each takes a socket more when it begins to listen
        assert all(len(sockets(pid)) > count + listening for pid, count in zip(pids, before, strict=True))
        for number, client in enumerate(clients):
            client.sendmail("amy@there.test", f"{alice}@here.test", f"Subject: {number}\r\n\r\nx\r\n".encode())
    until(lambda: len(mails(users.home(alice))) == 40, what="40 deliveries")
    assert daemon.stop() == 0


def test_a_HUP_that_comes_before_the_daemon_has_started_waits(make_daemon):
    impatient = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    daemon = make_daemon().start(prefix=(PYTHON, "-c", impatient))
    until(lambda: "HUP: there are no keys" in daemon.log, what="the answer to a HUP")
    assert status(daemon.process.pid)["SigBlk"].strip("0") == ""
    assert daemon.stop() == 0

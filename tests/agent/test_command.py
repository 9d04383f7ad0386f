"""The commands of an action, run by a real agent: what they get, and what becomes of the mail."""

import os
import re
import select
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from mail_local.command import CommandAbandoned
from smtpd.agent.command import (
    ENVIRONMENT_MAX,
    WORKERS_MAX,
    CommandRunner,
    OneMailExecutor,
    _with_output,
    environment_of,
)
from smtpd.agent.mail import defect
from smtpd.config.specifier import TemplateError
from smtpd.envelope import Outcome
from smtpd.errand import TEXT_MAX, AgentSpec, InProgress, Result, decode
from tests.agent.conftest import MAIL, TEST_TIMEOUT, UID, errand, own

TRACE = b"Return-Path: <amy@there.test>\nDelivered-To: bob@here.test\n"
READ = "cat > /dev/null; "
HOSTILE = "$(touch %{user.directory}/x);`id`'\"\\\n|&<>*~#!{}"


def command(start, line, **spec):
    return start("command", line, **spec)


def outcome(start, line, **more):
    result = command(start, line).deliver(errand(**more))
    return result.outcome, result.text


def wait_for(path):
    """What a command has written there by renaming it into place."""
    end = time.monotonic() + TEST_TIMEOUT
    while not path.exists():
        assert time.monotonic() < end
        select.select([], [], [], 0.01)
    return path.read_text()


# -- what it gets ----------------------------------------------------------------------------------


def test_it_gets_the_mail_with_its_trace(start, home):
    assert outcome(start, "cat > ~/mail") == (Outcome.DELIVERED, "Delivered")
    assert (home / "mail").read_bytes() == TRACE + MAIL


def test_it_gets_a_large_mail_by_descriptor(start, home):
    content = MAIL + b"x" * 3_000_000
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        told = errand(content=b"", size=len(content))
        result = command(start, "cat > ~/mail")
        result.send(told, file.fileno())
        assert result.receive().outcome is Outcome.DELIVERED
        assert (home / "mail").read_bytes() == TRACE + content


@pytest.mark.parametrize("defect", [None, TemplateError("no such address"), OSError(5, "Input/output error")])
def test_the_content_of_a_mail_is_closed_whatever_becomes_of_it(defect):
    def deliver(told, _descriptor):
        if defect:
            raise defect
        return Result(told.envelope, Outcome.DELIVERED, "")

    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as file, ours, theirs:
        file.write(MAIL)
        file.flush()
        descriptor = os.dup(file.fileno())
        OneMailExecutor(ours, deliver).execute([(errand(size=len(MAIL)), descriptor)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_spool_file_that_is_too_short_is_never_taken_for_a_whole_mail(start, home):
    agent = command(start, "cat > /dev/null; touch ~/taken")
    with tempfile.TemporaryFile() as file:
        file.write(MAIL)
        file.flush()
        agent.send(errand(content=b"", size=len(MAIL) + 1), file.fileno())
        assert agent.receive().outcome is Outcome.DEFERRED
    assert not (home / "taken").exists()


def test_its_environment_is_exactly_that_of_opensmtpd(start, home):
    agent = command(start, READ + "cat /proc/$$/environ > ~/environ")
    agent.deliver(errand(recipient="bob+work@here.test", extension="work"))
    told = dict(line.split("=", 1) for line in (home / "environ").read_text().split("\0")[:-1])
    assert told == {
        "PATH": os.confstr("CS_PATH"),
        "DOMAIN": "here.test",
        "HOME": str(home),
        "ORIGINAL_RECIPIENT": "bob+work@here.test",
        "RECIPIENT": "bob@here.test",
        "SHELL": "/bin/sh",
        "LOCAL": "bob+work",
        "LOGNAME": "bob",
        "USER": "bob",
        "SENDER": "amy@there.test",
        "EXTENSION": "work",
    }


def test_without_a_sub_address_and_a_sender():
    environment = environment_of(errand(sender=""), "bob", "/home/bob")
    assert environment["SENDER"] == "" and "EXTENSION" not in environment


def test_no_variable_holds_a_control_character_or_is_endless():
    assert environment_of(errand(sender="a\0b\nc"), "bob", "/")["SENDER"] == "a?b?c"
    with pytest.raises(TemplateError):
        environment_of(errand(sender="x" * 1025), "bob", "/")


def test_a_recipient_without_a_domain_is_all_local():
    environment = environment_of(errand(recipient="bob"), "bob", "/")
    assert (environment["LOCAL"], environment["DOMAIN"]) == ("bob", "")


def test_the_longest_variable():
    longest = "x" * ENVIRONMENT_MAX
    assert environment_of(errand(sender=longest), "bob", "/")["SENDER"] == longest
    with pytest.raises(TemplateError):
        environment_of(errand(sender=longest + "x"), "bob", "/")


def test_it_is_the_user_in_a_session_of_its_own_with_three_descriptors(start, home):
    line = "(ls /proc/$$/fd | cat; cat /proc/$$/stat; cat /proc/$$/status) > ~/told; cat > /dev/null"
    command(start, line).deliver(errand())
    told = (home / "told").read_text().split()
    assert told[:3] == ["0", "1", "2"]
    pid, _, _, _, group, session = told[3:9]
    assert pid == group == session
    status = (home / "told").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
    assert "Umask:\t0077\n" in status
    assert ignored(status) & ~ignored(Path("/proc/self/status").read_text()) == 0
    assert ignored(status) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0  # which an agent ignores


def ignored(status):
    """A bit for each signal, lowest first; without 32 and 33, which are the library's own."""
    return int(re.search(r"SigIgn:\t(\w+)\n", status)[1], 16) & ~(3 << 31)


def test_values_are_words_whatever_they_are(start, home):
    line = READ + "printf '%%s\\n' %{sender} '%{sender}' \"%{sender:raw}\" %{rcpt.user} > ~/words"
    assert command(start, line).deliver(errand(sender=HOSTILE, recipient="a b@here.test")).outcome is Outcome.DELIVERED
    one, two, raw, user = (home / "words").read_text().splitlines()
    assert one == two and not set(one) & set("$`;'\"\\|&<>*~#!{} ")
    assert raw == HOSTILE.replace("\n", ":")
    assert user == "a:b"
    assert not (home / "x").exists()


def test_a_sender_of_commands_is_a_sender(start, home):
    """MAIL FROM:<;for i in a b c;do read r;done;sh;exit 0;>, CVE-2020-7247."""
    line = READ + 'printf %%s %{mbox.from} "%{sender}" > ~/words; eval echo %{sender} > ~/again'
    command(start, line).deliver(errand(sender=";touch x;touch${IFS}x;"))
    assert set(home.iterdir()) == {home / "words", home / "again"}


def test_the_wrapper_wraps(start, home):
    agent = command(
        start, "cat > ~/mail # quietly", wrapper="umask 022; echo %{user.username} > ~/who; %{mda}; exit 75"
    )
    assert agent.deliver(errand()).outcome is Outcome.DEFERRED
    assert (home / "who").read_text() == "bob\n" and (home / "mail").read_bytes() == TRACE + MAIL


def test_mail_of_several_users_by_one_agent(start, home):
    agent = command(start, READ + "echo %{user.username} %{user.directory} $USER > ~/who", shared=True)
    told = errand()
    agent.deliver(replace(told, user="carol", home=f"{home}/carol"))
    assert (home / "who").read_text() == f"carol {home}/carol bob\n"


@pytest.mark.parametrize("outside", ["/etc", "{home}/../carol", "{home}-2"])
def test_a_home_outside_of_the_homes_is_no_value_for_a_command(start, home, outside):
    agent = command(start, READ + "echo %{user.directory} > ~/who", shared=True)
    result = agent.deliver(replace(errand(), user="carol", home=outside.format(home=home)))
    assert result.outcome is Outcome.DEFERRED and "not below" in result.text
    assert not (home / "who").exists()


def test_the_recipient_that_queue_names_counts_only_where_the_action_names_the_user(start, home):
    agent = command(start, READ + "echo %{user.username} %{user.directory} > ~/who")
    agent.deliver(replace(errand(), user="carol", home="/etc"))
    assert (home / "who").read_text() == f"bob {home}\n"


# -- what becomes of the mail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, expected",
    [
        ("exit 75", (Outcome.DEFERRED, "temporary failure")),
        ("exit 67", (Outcome.FAILED, "user unknown")),
        ("echo no such folder; exit 1", (Outcome.FAILED, "exited abnormally: no such folder")),
        ("echo a; echo b >&2; echo c; echo d >&2; exit 75", (Outcome.DEFERRED, "temporary failure: b / d")),
        ("printf 'no \\377older\\n'; exit 1", (Outcome.FAILED, "exited abnormally: no \ufffdolder")),
        ("echo done", (Outcome.DELIVERED, "Delivered")),
        ("kill -9 $$", (Outcome.DEFERRED, "terminated; signal 9")),
    ],
)
def test_exit_status_and_last_output_of_a_command_are_the_result(start, line, expected):
    assert outcome(start, READ + line) == expected


def test_a_command_that_exits_before_it_has_read_a_small_mail(start):
    assert outcome(start, "exit 0") == (Outcome.DELIVERED, "Delivered")


def test_the_output_of_a_command_is_one_bounded_line_of_the_log(start):
    _, text = outcome(start, READ + "printf '\\033[1m\\r\\0%s' x; exit 1")
    assert text.isprintable() and text.endswith("\\015\\000x")
    _, text = outcome(start, READ + "head -c 5000 /dev/zero | tr '\\0' '\\001'; exit 1")
    assert len(text) == TEXT_MAX


def test_of_much_output_the_last_lines_are_in_the_result(start):
    _, text = outcome(start, READ + "seq -f '%0100.f' 100 >&2; exit 1")
    numbers = [f"{number:0100d}" for number in range(97, 101)]
    assert text == f"exited abnormally: {' / '.join(numbers)}"
    _, text = outcome(start, READ + "seq -f 'ä%090.f' 100 >&2; exit 1")
    assert text.endswith("100") and len(text.encode()) <= TEXT_MAX


def test_output_that_just_fits_is_not_cut():
    last = "y" * (TEXT_MAX - len("failed: x / "))
    assert _with_output("failed", f"x\n{last}".encode()) == f"failed: x / {last}"
    assert _with_output("failed", f"x\n{last}y".encode()) == f"failed: {last}y"


def test_a_mail_that_has_been_here_is_a_loop(start, home):
    agent = command(start, "touch ~/run; cat > /dev/null")
    result = agent.deliver(errand(content=b"Delivered-To: bob@here.test\n" + MAIL))
    assert result.outcome is Outcome.LOOP
    assert not (home / "run").exists()


@pytest.mark.parametrize("line", ["deliver %{sender[99]}", "deliver %{nobody}", "deliver '", "%{sender:lower}"])
def test_a_line_that_makes_no_command_fails(start, line):
    assert outcome(start, line)[0] is Outcome.FAILED


def test_a_very_long_specifier_fails_and_is_not_cut_short(start, home):
    agent = command(start, "echo %{sender} %{sender} > ~/run")
    assert agent.deliver(errand(sender="x" * 5000)).outcome is Outcome.FAILED
    assert command(start, "touch ~/run; " + "%{sender}" * 1000).deliver(errand()).outcome is Outcome.FAILED
    assert list(home.iterdir()) == []


def test_at_the_limit_of_processes_a_command_is_deferred(start):
    if os.geteuid() != 0:
        pytest.skip("needs root: a user of his own, whose processes can be counted")
    agent = command(start, "cat > /dev/null", limits=["RLIMIT_NPROC=0"])
    assert agent.deliver(errand()).outcome is Outcome.DEFERRED


def test_an_exception_in_our_code_defers_that_mail_and_names_the_place():
    def broken(mail, descriptor):
        raise ZeroDivisionError

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        (result,) = OneMailExecutor(ours, broken).execute([(errand(), -1)])
        assert decode(theirs.recv(100)) == InProgress(errand().envelope)
    assert result.outcome is Outcome.DEFERRED and "broken line" in result.text


def test_a_defect_without_a_place_is_named_all_the_same():
    assert defect(ZeroDivisionError("x")) == "defect in the agent: ?: ZeroDivisionError('x')"


def test_the_mail_of_a_command_that_ended_with_its_queue_is_not_answered():
    def abandoned(_mail, _descriptor):
        raise CommandAbandoned

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ConnectionAbortedError):
        OneMailExecutor(ours, abandoned).execute([(errand(), -1)])


def test_a_malformed_wrapper_is_refused():
    with pytest.raises(TemplateError):
        CommandRunner(AgentSpec("command", "x", "'%{mda}'"), "bob", "/").template("x")


# -- nobody waits for a command but its own mail --------------------------------------------------------


def test_seven_commands_run_at_once(start, home):
    """Each waits for all the others."""
    agent = command(start, f"{READ} touch ~/$SENDER; until [ $(ls ~ | wc -l) = {WORKERS_MAX} ]; do sleep 0.01; done")
    for number in range(WORKERS_MAX):
        agent.send(errand(number, sender=f"amy{number}@there.test"))
    assert {agent.receive().outcome for _ in range(WORKERS_MAX)} == {Outcome.DELIVERED}


def test_a_stuck_command_and_one_that_writes_a_gigabyte_delay_no_other(start, home):
    os.mkfifo(home / "stuck")
    own(home / "stuck")
    line = """cat > /dev/null; case $SENDER in
    stuck@*) read x < ~/stuck;; loud@*) head -c 1000000000 /dev/zero; echo; echo loud;; esac"""
    agent = command(start, " ".join(line.split()))
    agent.send(errand(1, sender="stuck@there.test"))
    agent.send(errand(2, sender="loud@there.test"))
    for number in range(3, 10):
        agent.send(errand(number))
    results = [agent.receive() for _ in range(8)]
    assert {result.outcome for result in results} == {Outcome.DELIVERED}
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 100 * 1024  # KiB
    (home / "stuck").write_text("go\n")
    assert agent.receive().envelope & 0xFFFFFFFF == 1


@pytest.mark.parametrize("how", ["queue parts", "SIGTERM"])
def test_commands_end_with_their_agent(start, home, how):
    agent = command(start, "echo $$ > ~/$SENDER.new; mv ~/$SENDER.new ~/$SENDER; sleep 100; touch ~/late")
    senders = [f"amy{number}@there.test" for number in range(WORKERS_MAX)]
    for number, sender in enumerate(senders):
        agent.send(errand(number, sender=sender))
    commands = [os.pidfd_open(int(wait_for(home / sender))) for sender in senders]
    if how == "SIGTERM":
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(TEST_TIMEOUT) == 0
    else:
        assert agent.end() == 0
    for descriptor in commands:
        assert select.select([descriptor], [], [], TEST_TIMEOUT)[0]
        os.close(descriptor)
    assert not (home / "late").exists()

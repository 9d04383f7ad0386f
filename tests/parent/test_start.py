"""A start that cannot succeed: what `smtpd` says to whoever typed it, and that nothing stays behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smtpd.parent.start.check import USERS
from smtpd.slice import LMTP_USER, PROGRAM_USER
from tests.ipc.test_signal_disposition import careless
from tests.trusted import OPTIONS, UNTRUSTED

ROOT = os.geteuid() == 0
GOOD = 'action "local" maildir\nmatch from any for local action "local"\n'


def run(*words, timeout=30, before=()):
    command = [sys.executable, *before, "-m", "smtpd", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd="/")


@pytest.fixture
def ground(tmp_path):
    """A directory that everybody may enter, and root trusts."""
    if not ROOT:
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="smtpd-start-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def conf(ground):
    """Writes a configuration; returns the words of a start with it."""

    def write(text):
        (ground / "smtpd.conf").write_text(text)
        return ["-d", "--state", str(ground / "state"), "-f", str(ground / "smtpd.conf"), *OPTIONS]

    return write


def left_behind(ground):
    state = ground / "state"
    made = ("spool", "empty", "offline")
    return sorted(path.name for path in state.iterdir() if path.name not in made) if state.exists() else []


needs_users = pytest.mark.skipif(
    ROOT and subprocess.run(["getent", "passwd", *USERS], capture_output=True).returncode != 0,
    reason="the daemon's users are missing: sh etc/setup.sh users",
)


@needs_users
def test_every_error_of_the_configuration_is_said_with_its_place(conf, ground):
    done = run(*conf('listen on 127.0.0.1 prt 25\naction "local" maildir\nmatch form any action "lcal"\n'))
    assert done.returncode == 1
    assert re.search(r"smtpd\.conf:1:\d+: .*prt", done.stderr)
    assert re.search(r"smtpd\.conf:3:\d+: ", done.stderr)
    assert left_behind(ground) == []


@needs_users
def test_a_configuration_that_is_not_there_is_said(conf, ground):
    words = conf("")
    (ground / "smtpd.conf").unlink()
    done = run(*words)
    assert done.returncode == 1 and "smtpd.conf" in done.stderr and "No such file" in done.stderr


TAKEN = "listen on 127.0.0.1 port 1"  # what stands behind it is looked at before anything is bound


@needs_users
@pytest.mark.parametrize(
    "text, said",
    [
        (f'{TAKEN} tag "a\tb"\n{GOOD}', ":1:32: "),
        (f'mda wrapper w "{"a" * 3000} %{{mda}}"\naction b mda "{"b" * 2000}" wrapper w\n{GOOD}', ":2:8: "),
    ],
)
def test_what_no_imsg_can_carry_is_said_by_n_and_by_the_start(conf, text, said):
    """The first RCPT would have ended the daemon, after each restart again."""
    words = conf(text)
    checked, started = run("-n", *words), run(*words)
    assert checked.returncode == started.returncode == 1
    (line,) = [line for line in checked.stderr.splitlines() if said in line]
    assert line in started.stderr


@needs_users
def test_files_of_a_pki_that_no_listener_has_are_not_opened(conf, ground):
    """Neither by -n nor by the start, which say so."""
    address = str(ground / "notify")
    words = conf(f'pki "x.test" cert "/nowhere/c" key "/nowhere/k"\n{GOOD}')
    checked = run("-n", *words)
    warning = 'unused pki "x.test": no listener and no action names it'
    assert checked.returncode == 0 and warning in checked.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, open(ground / "log", "w+") as log:
        notify.bind(address)
        notify.settimeout(20)
        command = [sys.executable, "-m", "smtpd", *words]
        with subprocess.Popen(command, stderr=log, cwd="/", env={**os.environ, "NOTIFY_SOCKET": address}) as process:
            try:
                assert b"READY=1" in notify.recv(100)
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        log.seek(0)
        assert warning in log.read()


@needs_users
def test_a_port_that_is_taken_is_said(conf, ground):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(*conf(f"listen on 127.0.0.1 port {port}\n{GOOD}"))
    assert done.returncode == 1 and f"127.0.0.1 port {port} is in use" in done.stderr
    assert left_behind(ground) == []


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "smtpd", *sys.argv[2:]])
"""


@needs_users
def test_a_socket_of_the_service_manager_that_is_in_the_way_is_named(conf):
    with socket.create_server(("0.0.0.0", 0)) as wide:
        number, port = wide.fileno(), wide.getsockname()[1]
        command = [sys.executable, "-c", ACTIVATE, str(number), *conf(f"listen on 127.0.0.1 port {port}\n{GOOD}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/", pass_fds=[number])
    assert done.returncode == 1 and f"127.0.0.1 port {port} is in use" in done.stderr
    assert f"socket 0.0.0.0 port {port} of the service manager is not used" in done.stderr


@pytest.mark.skipif(not ROOT, reason="needs root: an ordinary user parses as itself")
@needs_users
def test_what_the_parser_s_user_may_not_read_is_said_so(conf, ground):
    (ground / "secret.conf").write_text("queue ttl 1d\n")
    (ground / "secret.conf").chmod(0o600)
    done = run(*conf(f'include "{ground}/secret.conf"\n{GOOD}'))
    assert done.returncode == 1 and "smtpd.conf:1:9: " in done.stderr and "user _smtpl" in done.stderr


@needs_users
def test_an_empty_directory_that_is_not_empty_is_refused(conf, ground):
    words = conf(GOOD)
    (ground / "state" / "empty").mkdir(parents=True)
    (ground / "state" / "empty" / "left").write_text("")
    done = run(*words)
    assert done.returncode == 1 and "is not empty" in done.stderr


@pytest.mark.skipif(not ROOT, reason="needs root: only root is careful about others")
@pytest.mark.skipif(bool(UNTRUSTED), reason="root could not start from this checkout at all: others may write to it")
@needs_users
@pytest.mark.parametrize("what", ["smtpd.conf", "included.conf", "table", "."])
def test_root_reads_nothing_that_others_may_write(conf, ground, what):
    rule = "match from src <t> for any reject\n"
    words = conf(f'include "{ground}/included.conf"\ntable t file:{ground}/table\n{GOOD}{rule}')
    (ground / "included.conf").write_text("queue ttl 1d\n")
    (ground / "table").write_text("192.0.2.1\n")
    for name in ("included.conf", "table"):
        (ground / name).chmod(0o644)
    (ground / what).chmod(0o777)
    done = run(*words)
    assert done.returncode == 1 and "writable by others" in done.stderr, done.stderr
    assert left_behind(ground) == []


@pytest.mark.skipif(ROOT, reason="root has a default place")
def test_an_ordinary_user_has_to_say_where():
    done = run("-d")
    assert done.returncode == 1 and "--state" in done.stderr


def test_check_only_says_OK_on_stderr_and_prints_the_canonical_form_when_asked(conf):
    words = conf(f"listen on 127.0.0.1 port 2525\n{GOOD}")[3:]
    done = run("-n", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "configuration OK\n")
    canonical = run("-nv", *words)
    assert canonical.returncode == 0 and 'action "local" maildir' in canonical.stdout


def test_check_only_says_what_is_wrong(conf):
    done = run("-n", *conf("listen on nowhere.invalid port 99999999\n")[3:])
    assert done.returncode == 1 and "smtpd.conf:1:" in done.stderr and "OK" not in done.stderr


def test_a_wrong_word_shows_the_right_ones():
    done = run("-q")
    assert done.returncode == 1 and "usage: smtpd" in done.stderr
    assert run("--help").stdout.startswith("smtpd ")


@pytest.mark.parametrize("role", ["queue", "nursery", "config"])
def test_a_process_that_is_started_by_hand_ends(role):
    done = run("-x", role, "-f", "/dev/null") if role == "config" else run("-x", role)
    assert done.returncode != 0


FORBIDDEN = {"asyncio", "uvloop", "lark", "yaml", "ssl", "sqlite3", "dns", "cryptography", "pam"}
FORBIDDEN |= {"smtpd.header", "smtpd.smtp"}
PROCESSES = {"dispatcher", "lookup", "queue", "scheduler", "crypto", "control"}


def loaded(stderr):
    """The modules in the output of -X importtime."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


@needs_users
def test_a_caller_that_ignores_and_blocks_signals_gets_a_daemon_like_any_other(conf, ground):
    """It hears of its children's end, also of the one that parses the configuration, and stops when it is told."""
    address = str(ground / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(address)
        notify.settimeout(20)
        command = [sys.executable, "-m", "smtpd", *conf(GOOD)]
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, cwd="/", env=environment, text=True, preexec_fn=careless
        ) as process:
            try:
                assert b"READY=1" in notify.recv(100)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()
            assert "Traceback" not in process.stderr.read()


@needs_users
def test_a_parent_that_ran_has_loaded_no_parser_no_event_loop_and_no_other_process(conf, ground):
    address = str(ground / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, open(ground / "log", "w+") as log:
        notify.bind(address)
        notify.settimeout(20)
        command = [sys.executable, "-X", "importtime", "-m", "smtpd", *conf(GOOD)]
        with subprocess.Popen(command, stderr=log, cwd="/", env={**os.environ, "NOTIFY_SOCKET": address}) as process:
            try:
                assert b"READY=1" in notify.recv(100)
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        log.seek(0)
        modules = loaded(log.read())
    assert "smtpd.parent.privileged_request" in modules
    assert not modules & FORBIDDEN
    assert {module for module in modules if module.startswith("mail_local.")} == {
        "mail_local.mailbox",
        "mail_local.openat2",
    }
    assert not {module for module in modules if module.startswith("smtpd.config.")} - {
        "smtpd.config.host",
        "smtpd.config.macro",
        "smtpd.config.file_permission",
        "smtpd.config.trust",
    }
    assert not {f"smtpd.{process}" for process in (*PROCESSES, "agent", "nursery")} & modules


def test_a_nursery_has_loaded_no_parser_no_event_loop_and_no_process_but_the_agent():
    program = "from smtpd.agent import process; from smtpd.nursery import process; import sys; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert "smtpd.nursery.children" in modules
    assert not modules & (FORBIDDEN - {"smtpd.smtp"})
    assert not {f"smtpd.{process}" for process in (*PROCESSES, "parent")} & modules
    of_agents = {
        "config.file_permission",
        "config.shell_line",
        "config.specifier",
        "config.trust",
        "smtp.address",
        "smtp.client_action",
        "smtp.client_content",
        "smtp.client_extension",
        "smtp.client_greeting",
        "smtp.client_input",
        "smtp.client_lmtp",
        "smtp.client_mail",
        "smtp.client_session",
        "smtp.client_state",
        "smtp.client_transaction",
        "smtp.xtext",
        "smtp.response",
        "smtp.line_ending",
        "smtp.dot_stuffing",
        "smtp.idna",
    }
    of_those = {"config", "smtp", "smtp.action", "smtp.line", "smtp.question", "smtp.reply"}
    rooms = {module.removeprefix("smtpd.") for module in modules if module.startswith(("smtpd.config", "smtpd.smtp"))}
    assert rooms <= of_agents | of_those


def test_the_users_are_those_of_the_processes():
    folder = Path(__file__).parent.parent.parent / "smtpd"
    named = {
        re.search(r'^USER, CHROOT = "(\w+)"', (folder / role / "process.py").read_text(), re.MULTILINE)[1]
        for role in PROCESSES
    }
    assert named | {LMTP_USER, PROGRAM_USER} == set(USERS)

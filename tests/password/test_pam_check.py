"""What PAM is asked, and what its answers mean.  As root also of a real user, by the process and the machine's PAM."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time

import pytest

from smtpd.imsg import TABLE, PasswordTried, TryPassword
from smtpd.ipc.channel import Channel
from smtpd.password.pam_check import find_objection, try_password
from smtpd.sandbox import landlock
from smtpd.sandbox.privilege import CAPABILITIES
from tests.unique import MARK

ROOT = os.geteuid() == 0
USER = f"smtpd-try-{MARK}"

needs_users = pytest.mark.skipif(not ROOT or not shutil.which("chpasswd"), reason="needs root: it makes a user")


def entry(name="alice", uid=1000):
    return pwd.struct_passwd((name, "x", uid, 1000, "", "/home/alice", "/bin/sh"))


def test_an_ordinary_user_may_be_asked_about():
    assert find_objection("alice", entry()) is None


@pytest.mark.parametrize(
    "name, found",
    [
        ("root", entry("root", 0)),
        ("toor", entry("toor", 0)),
        ("bin", entry("bin", 2)),
        ("nobody", entry("nobody", 65534)),
        ("_smtpq", entry("_smtpq", 995)),
        ("Alice", entry("alice")),
    ],
)
def test_root_and_the_system_s_own_users_never_log_in(name, found):
    assert find_objection(name, found)


class Library:
    """A PAM that says what it is told to: what stands in for it is a C library, and not ours."""

    def __init__(self, code):
        self.code, self.reason = code, "as told"
        self.items, self.flags = {}, None
        self.pam_set_item = lambda _handle, item, value: self.items.update({item: value})
        self.pam_authenticate = self.note

    def note(self, _handle, flags):
        self.flags = flags
        return self.code

    def authenticate(self, username, password, *, service, resetcreds):
        self.asked = (username, password, service, resetcreds)
        return self.pam_authenticate(object(), 0) == 0


@pytest.mark.parametrize("code, verdict", [(7, "no"), (10, "no"), (12, "no"), (13, "no"), (3, "later"), (9, "later")])
def test_a_refusal_is_no_and_trouble_is_later(code, verdict):
    expected = verdict if ROOT else "later"  # who is not root is told "wrong" of what PAM cannot check
    assert try_password(TryPassword("no-such-user", "x", ""), Library(code)).verdict == expected


def test_an_unknown_user_is_refused_though_PAM_knows_a_password():
    assert try_password(TryPassword("no-such-user", "x", ""), Library(0)).verdict == "no"


def test_an_empty_password_is_always_wrong():
    library = Library(0)
    assert try_password(TryPassword("no-such-user", "", ""), library).verdict == "no" and library.flags is None


def test_PAM_is_told_of_the_client_and_that_having_no_password_is_no_password():
    library = Library(7)
    try_password(TryPassword("no-such-user", "x", "192.0.2.1"), library)
    assert library.asked == ("no-such-user", "x", "smtpd", False)
    assert library.flags == 1 and library.items[4] == b"192.0.2.1"


@pytest.mark.parametrize("address", ["local", "", "192.0.2.1 user=root", "host.test"])
def test_PAM_is_told_no_client_that_is_no_address(address):
    library = Library(7)
    try_password(TryPassword("no-such-user", "x", address), library)
    assert library.items[4] == b""


@pytest.mark.skipif(landlock.abi() < 6, reason="this kernel scopes no signals")
@pytest.mark.parametrize(
    "attempt", ["os.kill(os.getppid(), 0)", "open('/tmp/by-a-password-process', 'w')", "os.mkdir('/tmp/by-a-process')"]
)
def test_a_password_process_that_was_taken_over_can_send_no_signal_and_write_no_file(attempt):
    code = f"import os\nfrom smtpd.password.process import confine\nconfine()\n{attempt}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "PermissionError" in done.stderr


# -- the process itself, and the PAM of this machine ----------------------------------------


@pytest.fixture(scope="module")
def user():
    subprocess.run(["useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", USER], check=True)
    set_password("secret")
    yield USER
    subprocess.run(["userdel", USER], check=True, capture_output=True)


def set_password(password):
    subprocess.run(["chpasswd"], input=f"{USER}:{password}", text=True, check=True)


def ask(user, password):
    """A process as the nursery starts it."""
    ours, theirs = socket.socketpair()
    program = (
        "import os, sys; from smtpd.nursery.child_main import run_password\n"
        f"os.dup2({theirs.fileno()}, 3); run_password(3, 2, 1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as child:
        theirs.close()
        channel = Channel(ours, TABLE, "parent", "password")
        channel.send(TryPassword(user, password, "192.0.2.1"))
        channel.flush()
        ours.settimeout(20)
        (answer, _), *more = channel.receive()
        assert not more and isinstance(answer, PasswordTried)
        child.wait(20)
        channel.close()
    return answer


@needs_users
def test_a_user_s_password_is_right_and_another_is_not(user):
    assert ask(user, "secret") == PasswordTried("yes", "")
    assert ask(user, "Secret").verdict == "no"
    assert ask(user, "secret ").verdict == "no"


@needs_users
def test_a_wrong_password_does_not_keep_a_process_busy(user):
    """pam_unix would take 1.5 to 2.5 s longer for it than for the right one."""
    right, wrong = (min(seconds(user, password) for _ in range(3)) for password in ("secret", "wrong"))
    assert wrong - right < 1


def seconds(user, password):
    """On a busy machine each attempt takes its own time."""
    began = time.monotonic()
    ask(user, password)
    return time.monotonic() - began


@needs_users
def test_a_user_without_a_password_does_not_log_in_with_any(user):
    """As the system's list of modules may say `nullok`."""
    subprocess.run(["passwd", "--quiet", "--delete", user], check=True, capture_output=True)
    try:
        assert [ask(user, password).verdict for password in ("", "x")] == ["no", "no"]
    finally:
        set_password("secret")


@needs_users
def test_a_locked_and_an_expired_user_do_not_log_in(user):
    subprocess.run(["usermod", "--lock", user], check=True)
    assert ask(user, "secret").verdict == "no"
    subprocess.run(["usermod", "--unlock", "--expiredate", "2001-01-01", user], check=True)
    assert ask(user, "secret").verdict == "no"
    subprocess.run(["usermod", "--expiredate", "", user], check=True)
    assert ask(user, "secret").verdict == "yes"


@needs_users
def test_root_s_password_is_not_even_asked_for():
    assert ask("root", "x") == PasswordTried("no", "uid 0")


def test_the_process_ends_with_its_parent_s_interest():
    ours, theirs = socket.socketpair()
    program = f"import os; os.dup2({theirs.fileno()}, 3); from smtpd.password import process; os._exit(process.main())"
    with subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        ours.close()
        assert child.wait(20) == 1


@pytest.mark.parametrize("noise", [b"\xff" * 64, b"\0\1\0\0\0\0\0\x10" + bytes(8)])
def test_what_is_no_question_of_ours_ends_it(noise):
    ours, theirs = socket.socketpair()
    program = f"import os; os.dup2({theirs.fileno()}, 3); from smtpd.password import process; os._exit(process.main())"
    with ours, subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()]) as child:
        theirs.close()
        ours.send(noise)
        assert child.wait(20) == 1


@needs_users
def test_it_has_two_capabilities_and_writes_to_no_file(user, tmp_path):
    program = (
        "import os, sys; from smtpd.sandbox import limit_capabilities, deny; from smtpd.password import process\n"
        "from smtpd.nursery.child_main import PASSWORD_CAPABILITIES\n"
        "deny(); limit_capabilities(PASSWORD_CAPABILITIES)\n"
        "process.confine(); print(open('/proc/self/status').read())\n"
        f"open('{tmp_path}/written', 'w')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    bits = sum(1 << CAPABILITIES.index(name) for name in ("dac_read_search", "audit_write"))
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == bits and status["NoNewPrivs"] == "1"
    assert "PermissionError" in done.stderr

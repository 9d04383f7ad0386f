"""Tests whose result does not depend on the user: `make test` of root runs them once, as an ordinary user.

    a file of ONCE     once, and each of its tests is watched: it fails when it runs code of this project that asks who
                       the user is, or does what the kernel allows one user and not another
    any other file     as both, as root and as an ordinary user

So no file has to be thought of: a new one runs as both, and one of ONCE that becomes dependent on the user says so.
"""

import functools
import sys
from pathlib import Path

TESTS = Path(__file__).parent
# Files that are not watched.  os_error.py asks for the uid only to name a refusal of the system, and any error, such as
# that of a closed port, gets there.
EXEMPT = {TESTS / "conftest.py", TESTS / "once.py", TESTS.parent / "smtpd/ipc/os_error.py"}
# Room -> its files, without "test_" and ".py".
ONCE = {
    "": "envelope house",
    "config": "common_mistakes parser printer syntax userbase",
    "corpus": "corpus",
    "fuzz": "seeds",
    "header": "address_list editor mime received report",
    "ipc": "channel",
    "lookup": "alias client_name expansion imsg_limits listener_tables login",
    "queue": "agent_pool agent_state delivery expiry forward listing lmtp_features mailbox_lock process reexpansion"
    " reservation slow_agents store suspect_envelopes",
    "dispatcher/outbound": "kept_tls policies policy_fetch",
    "relay": "http_answer mta_sts tls_memory",
    "scheduler": "clock concurrency_limit envelope_table policy priority_queue process removed retry",
    "smtp": "address auth binary_mime chunk command data dot_stuffing idna ip_address line proxy reply response"
    " server talk xclient xtext",
    "smtpctl": "command_parser encoding raw_mail",
    "tables": "credential crypt file matching",
    "tls": "signing",
}
FILES = {TESTS / room / f"test_{name}.py" for room, names in ONCE.items() for name in names.split()}

# Names in code: of the user, of owners and permissions, of processes and what only root gives them.
NAMES = """
getuid geteuid getresuid getgid getegid getresgid getgroups getgrouplist getlogin getuser expanduser
getpwnam getpwuid getpwall getgrnam getgrgid getgrall
st_uid st_gid access SO_PEERCRED SCM_CREDENTIALS
chown fchown lchown chmod fchmod lchmod umask mknod setxattr getxattr
PermissionError EACCES EPERM
setuid seteuid setreuid setresuid setgid setegid setregid setresgid setgroups initgroups
fork forkpty subprocess Popen posix_spawn posix_spawnp execv execve execvp execvpe system multiprocessing
kill killpg pidfd_open pidfd_send_signal sched_setscheduler setpriority nice
setrlimit prlimit prctl capset ptrace unshare setns mount chroot pivot_root
CDLL PyDLL seccomp_load landlock_restrict_self
"""
WORDS = frozenset(NAMES.split())
PLACES = ("/dev/", "/proc/", "/root/", "/sys/")  # where files may be for some users only
OPEN_TO_ALL = ("/dev/null/", "/proc/self/")
LIBRARY = {Path.owner.__code__, Path.group.__code__}  # their names are words of ours, too
TOOL = 4  # of sys.monitoring; debuggers, coverage and hypothesis have others


@functools.cache
def words_of(code):
    """What in this code may depend on the user; nothing of code that is not of this project."""
    if code in LIBRARY:
        return (f"pathlib: {code.co_name}",)
    path = Path(code.co_filename)
    if not path.is_relative_to(TESTS.parent) or "site-packages" in path.parts or path in EXEMPT:
        return ()
    texts = (text for text in code.co_consts if isinstance(text, str) and not f"{text}/".startswith(OPEN_TO_ALL))
    places = (text for text in texts if f"{text}/".startswith(PLACES))
    words = [*WORDS.intersection(code.co_names), *places]
    return tuple(f"{path.relative_to(TESTS.parent)}, {code.co_name}: {word}" for word in sorted(words))


class Watch:
    """`with Watch() as watch: …`; then `watch.found` has the places that may depend on the user, of all threads."""

    def __enter__(self):
        self.found = set()
        sys.monitoring.use_tool_id(TOOL, "tests/once.py")
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, self._starts)
        sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
        sys.monitoring.restart_events()
        return self

    def __exit__(self, *_):
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, None)
        sys.monitoring.free_tool_id(TOOL)

    def _starts(self, code, _offset):
        if code.co_name != "<module>":  # it may be imported now or earlier
            self.found.update(words_of(code))
        return sys.monitoring.DISABLE  # once for each test is enough


@functools.cache
def words_of_module(path):
    """What in a module, outside of its functions, may depend on the user: constants, decorators."""
    return words_of(compile(path.read_text(), str(path), "exec"))

"""enter: what it refuses, what it says, and that what it says is so."""

import os
import subprocess
import sys

import pytest

from smtpd import sandbox
from smtpd.sandbox import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is looked at is Linux's")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")

STANDING = """
    import os, signal, sys
    from smtpd import sandbox
    sandbox.deny()
    print(*sandbox.enter({user}, {root!r}, {promises!r}, required=True), sep="\\n")
    print("standing", flush=True)
    sys.stdin.read()
"""


def start(user: str, root: str | None, promises: str = "stdio") -> tuple[subprocess.Popen, list[str]]:
    """A process in its sandbox, waiting for the end of its stdin, and what it says that holds."""
    code = STANDING.format(user=user, root=root, promises=promises)
    process = subprocess.Popen(
        [sys.executable, "-I", "-P", "-c", "\n".join(line[4:] for line in code.splitlines())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held = []
    while (line := process.stdout.readline().rstrip("\n")) not in ("standing", ""):
        held.append(line)
    return process, held


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as status:
        fields = (line.partition(":") for line in status)
        return {name: value.strip() for name, _, value in fields}


@needs_root
def test_what_it_says_that_holds_is_what_the_kernel_says(tmp_path):
    process, held = start("sandbox.Ids(64001, 64002)", str(tmp_path))
    with process:
        status = status_of(process.pid)
        assert status["Uid"].split() == ["64001"] * 4
        assert status["Gid"].split() == ["64002"] * 4
        assert status["Groups"].split() == ["64002"]
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2")
        assert status["Umask"] == "0077"
        assert os.readlink(f"/proc/{process.pid}/root") == str(tmp_path)
        assert os.readlink(f"/proc/{process.pid}/cwd") == str(tmp_path)
        assert os.stat(f"/proc/{process.pid}/environ").st_uid == 0  # not dumpable
        with open(f"/proc/{process.pid}/limits") as limits:
            assert next(line for line in limits if "core file" in line).split()[4:6] == ["0", "0"]
        process.communicate()
    assert process.returncode == 0
    landlock = next(line for line in held if line.startswith("landlock abi "))
    assert held == [
        *(f"chroot {tmp_path}", "uid 64001", "gid 64002", "capabilities none", "no_new_privs"),
        *("not dumpable", "dies with its parent", landlock, "seccomp stdio"),
    ]


def test_without_root_it_says_what_only_root_could_give(fresh_python, tmp_path):
    assert fresh_python(
        """
        import os, sys
        from smtpd import sandbox
        sandbox.compile("stdio")  # somebody else may not reach the interpreter's files
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(64001, 64001, 64001)
            os.setresuid(64001, 64001, 64001)
        held = sandbox.enter("nobody-at-all", sys.argv[1], "stdio", required=True)
        print(*[line for line in held if line.startswith("missing: ")], sep="\\n")
        print(sandbox.inside(sys.argv[1]))
        """,
        str(tmp_path),
    ) == ["missing: chroot (not root)", "missing: own uid (not root)", str(tmp_path)]


@needs_root
def test_after_a_chroot_the_inside_of_the_root_is_the_root(fresh_python, tmp_path):
    assert fresh_python(
        """
        import sys
        from smtpd import sandbox
        print(sandbox.inside(sys.argv[1]))
        sandbox.enter(sandbox.Ids(64001, 64001), sys.argv[1], "stdio")
        print(sandbox.inside(sys.argv[1]))
        """,
        str(tmp_path),
    ) == ["/", "/"]


@pytest.mark.parametrize(
    "call, error",
    [
        ("sandbox.enter(None, None, 'stdio fly')", "ValueError no such promise: fly"),
        ("sandbox.enter(None, None, 'stdio', unveil=[('/', 'q')])", 'ValueError unveil knows r, w, x and c, not "q"'),
        ("sandbox.enter(None, None, 'stdio', unveil=[('/', '')])", 'ValueError unveil knows r, w, x and c, not ""'),
        ("sandbox.enter(None, None, 'stdio', unveil=[('/no/such', 'r')])", "FileNotFoundError"),
        pytest.param(
            "sandbox.enter(sandbox.Ids(0, 0), None, 'stdio')", "ValueError refusing to become root", marks=needs_root
        ),
        pytest.param(
            "sandbox.enter('nobody-at-all', None, 'stdio')",
            "SandboxUnavailable user nobody-at-all (no such user)",
            marks=needs_root,
        ),
    ],
)
def test_a_wrong_word_raises(fresh_python, call, error):
    (said,) = fresh_python(
        f"""
        from smtpd import sandbox
        try:
            {call}
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    assert said.startswith(error)


def test_a_process_with_a_second_thread_is_refused(fresh_python):
    (said,) = fresh_python(
        """
        import threading
        from smtpd import sandbox
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        try:
            sandbox.enter(None, None, "stdio")
        except RuntimeError as error:
            print(error)
        stop.set()
        """
    )
    assert said == "2 threads: a sandbox is entered by a process that has one"


def test_a_process_with_an_io_uring_is_refused(fresh_python):
    """libuv makes one for its loop unless deny() came first; what goes through it no filter sees."""
    (said,) = fresh_python(
        """
        import ctypes, os
        from smtpd import sandbox
        if ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) == -1:
            print("an io_uring is not to be had")
            os._exit(0)
        try:
            sandbox.enter(None, None, "stdio")
        except RuntimeError as error:
            print(error)
        """
    )
    assert said.startswith("an io_uring is ")


def test_memory_that_stays_writable_and_executable_is_said_or_fatal(fresh_python):
    code = """
        import mmap
        from smtpd import sandbox
        page = mmap.mmap(-1, 4096, prot=7)  # shared, so none of libffi's
        try:
            held = sandbox.enter(None, None, "stdio", required={required})
        except sandbox.SandboxUnavailable as error:
            print(error)
        else:
            print(*[line for line in held if "memory" in line], sep="\\n")
        """
    (said,) = fresh_python(code.format(required=False))
    assert said.startswith("missing: memory either writable or executable (")
    (fatal,) = fresh_python(code.format(required=True))
    assert fatal.startswith("memory either writable or executable (")


PAGE = "page = mmap.mmap(-1, 4096, prot=7)"


@pytest.mark.parametrize(
    "before, between, said",
    [
        ("", "", False),
        (PAGE, "", True),
        ("", f"ctypes.CDLL('libanl.so.1'); {PAGE}", True),  # as a module of the name service may
        ("", PAGE, False),  # what the docstring of memory says goes unnoticed
    ],
    ids=["none", "inherited", "by a library", "by hand"],
)
def test_a_child_knows_the_mappings_of_its_parent_and_looks_again_when_a_library_has_come(
    fresh_python, before, between, said
):
    (lines,) = fresh_python(
        f"""
        import ctypes, mmap, os
        from smtpd import sandbox
        {before}
        sandbox.check_memory()
        if os.fork() == 0:
            {between}
            held = sandbox.enter(None, None, "stdio")
            print([line for line in held if "memory" in line], flush=True)
            os._exit(0)
        os.wait()
        """
    )
    assert lines.startswith("['missing: memory either writable or executable (") is said


def test_a_program_made_elsewhere_needs_no_libseccomp_and_takes_the_own_pid(fresh_python, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(sandbox.compile("stdio"))
    os.chmod(program, 0o644)
    assert fresh_python(
        """
        import os, signal, sys
        from smtpd import sandbox
        with open(sys.argv[1], "rb") as file:
            program = file.read()
        maps = open("/proc/self/maps")
        held = sandbox.enter(None, None, "stdio", program=program)
        print(held[-1], "libseccomp" in maps.read())
        print(sorted({"uvloop", "msgspec", "asyncio"} & sys.modules.keys()))
        signal.signal(signal.SIGUSR1, lambda *_: print("signalled"))
        os.kill(os.getpid(), signal.SIGUSR1)
        """,
        str(program),
    ) == ["seccomp stdio False", "[]", "signalled"]


def test_what_compiles_the_filter_is_loaded_while_the_disk_is_still_there(fresh_python, tmp_path):
    """Nobody has compiled or denied anything before, and behind the root directory there is nothing to import."""
    said = fresh_python(
        """
        import sys
        from smtpd import sandbox
        print(*sandbox.enter(sandbox.Ids(64001, 64001), sys.argv[1], "stdio", required=True), sep="\\n")
        """,
        str(tmp_path),
    )
    assert said[-1] == "seccomp stdio"


def test_a_filter_without_libseccomp_is_missing_not_forgotten(fresh_python):
    assert fresh_python(
        """
        from smtpd import sandbox
        sandbox.libseccomp.SONAME = "libseccomp.so.0"
        print(*[line for line in sandbox.enter(None, None, "stdio") if "seccomp" in line])
        """
    ) == ["missing: seccomp (libseccomp.so.0: cannot open shared object file: No such file or directory)"]


def test_a_child_ends_with_its_parent():
    """Nothing is left over when the parent is killed: the write end of the pipe closes."""
    reading, writing = os.pipe()
    code = f"""
import os, signal
from smtpd import sandbox
one, other = os.pipe()
if os.fork() == 0:
    sandbox.enter(None, None, "stdio")
    os.write(other, b"x")
    signal.sigwait([signal.SIGUSR1])
os.read(one, 1)
os.close({writing})
print("standing", flush=True)
signal.pause()
"""
    process = subprocess.Popen(
        [sys.executable, "-I", "-P", "-c", code], stdout=subprocess.PIPE, pass_fds=[writing], text=True
    )
    os.close(writing)
    with process, os.fdopen(reading, "rb") as end:
        assert process.stdout is not None
        assert process.stdout.readline() == "standing\n"
        process.kill()
        assert end.read() == b""


def test_only_the_named_ports_may_be_connected_to_and_none_be_chosen_to_listen(fresh_python):
    if landlock.abi() < 4:
        pytest.skip("Landlock of this kernel knows no ports")
    assert fresh_python(
        """
        import socket
        from smtpd import sandbox
        here, there, gone = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
        free = gone.getsockname()
        gone.close()
        sandbox.enter(None, None, "stdio inet", ports=[here.getsockname()[1]])
        for call, address in (("connect", here), ("connect", there), ("bind", None), ("bind", free)):
            address = address.getsockname() if isinstance(address, socket.socket) else address or ("127.0.0.1", 0)
            try:
                getattr(socket.socket(), call)(address)
                print("done")
            except OSError as error:
                print(error.strerror)
        """
    ) == ["done", "Permission denied", "done", "Permission denied"]


def test_without_any_port_there_is_no_connection_at_all(fresh_python):
    if landlock.abi() < 4:
        pytest.skip("Landlock of this kernel knows no ports")
    assert fresh_python(
        """
        import socket
        from smtpd import sandbox
        there = socket.create_server(("127.0.0.1", 0))
        sandbox.enter(None, None, "stdio inet", ports=())
        print(socket.socket().connect_ex(there.getsockname()))
        """
    ) == ["13"]


@pytest.mark.parametrize("required", [False, True])
def test_a_kernel_that_knows_no_ports_lets_the_process_go_on_and_says_so(fresh_python, required):
    held = fresh_python(
        f"""
        import os, socket
        from smtpd import sandbox
        from smtpd.sandbox import landlock
        landlock.abi = lambda: 3
        there = socket.create_server(("127.0.0.1", 0))
        ids = sandbox.Ids(64001, 64002) if os.geteuid() == 0 else None
        held = sandbox.enter(ids, None, "stdio inet", ports=[25], required={required})
        print(socket.socket().connect_ex(there.getsockname()), *held, sep="\\n")
        """
    )
    assert held[0] == "0" and "missing: limit to TCP ports (landlock abi 3)" in held


def test_the_room_can_be_imported_where_names_of_linux_are_unknown(fresh_python):
    assert fresh_python(
        """
        import fcntl, os, socket, sys, termios
        of_linux = ("TCP_K", "TCP_U", "TCP_C", "TCP_Q", "TCP_D", "F_OFD", "TCGETS", "TIOCSTI", "O_TMPFILE", "O_PATH")
        for module in (fcntl, os, socket, termios):
            for name in dir(module):
                if name.startswith(of_linux):
                    delattr(module, name)
        sys.platform = "openbsd7"
        from smtpd import sandbox
        print(sandbox.limit_capabilities(["kill"]))
        """
    ) == ["['missing: capabilities (not Linux)']"]

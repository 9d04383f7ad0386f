"""What stays root: its capabilities, and the deny filter that all its descendants have."""

import os
import platform
import sys

import pytest

from smtpd.sandbox import privilege

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers and machine code of x86_64")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which has capabilities to lose")


@needs_root
def test_capabilities_are_cut_for_this_process_and_all_that_it_starts(fresh_python):
    said = fresh_python(
        """
        import subprocess
        from smtpd import sandbox
        print(sandbox.limit_capabilities(["setuid", "setgid", "kill"]))
        for line in open("/proc/self/status"):
            if line.startswith("Cap"):
                print(line.split()[0], int(line.split()[1], 16), flush=True)
        subprocess.run(["/bin/grep", "CapEff", "/proc/self/status"])
        """
    )
    kept = 1 << 5 | 1 << 6 | 1 << 7
    assert said == [
        "['capabilities kill setgid setuid']",
        *("CapInh: 0", f"CapPrm: {kept}", f"CapEff: {kept}", f"CapBnd: {kept}", "CapAmb: 0"),
        f"CapEff:\t{kept:016x}",
    ]


def test_a_capability_that_does_not_exist_raises():
    if os.geteuid() != 0:
        pytest.skip("only root is asked")
    with pytest.raises(ValueError):
        privilege.limit_capabilities(["fly"])


def test_the_names_of_capabilities_are_the_kernels():
    """The last one this kernel knows is on our list, or newer than it."""
    with open("/proc/sys/kernel/cap_last_cap") as last:
        assert int(last.read()) <= len(privilege.CAPABILITIES) - 1 or len(privilege.CAPABILITIES) == 41
    assert privilege.CAPABILITIES.index("sys_admin") == 21
    assert privilege.CAPABILITIES.index("checkpoint_restore") == 40


@needs_root
def test_another_user_can_be_entered_with_the_reduced_capabilities_of_the_nursery(fresh_python):
    said = fresh_python(
        """
        from smtpd import sandbox
        sandbox.deny()
        sandbox.limit_capabilities(["setuid", "setgid", "kill", "setpcap"])
        print(*sandbox.enter(sandbox.Ids(64001, 64001), None, "stdio", required=True), sep="\\n")
        """
    )
    assert "uid 64001" in said
    assert not [line for line in said if line.startswith("missing")]


@needs_root
def test_without_setpcap_the_bounding_set_stays_and_that_is_said(fresh_python):
    said = fresh_python(
        """
        from smtpd import sandbox
        sandbox.limit_capabilities(["setuid", "setgid"])
        print(*sandbox.enter(sandbox.Ids(64001, 64001), None, "stdio"), sep="\\n")
        """
    )
    assert "missing: empty bounding set (prctl: Operation not permitted)" in said


ATTEMPTS = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def attempt(number, *arguments):
    return libc.syscall(number, *arguments) == -1 and errno.errorcode[ctypes.get_errno()]
for number, *arguments in (
    (165, b"none", b"/", b"tmpfs", 0, 0),  # mount
    (101, 0, 0, 0, 0),  # ptrace: be traced
    (321, 0, 0, 0),  # bpf
    (272, 0x10000000),  # unshare: a user namespace
    (425, 8, ctypes.create_string_buffer(120)),  # io_uring_setup
    (435, 0, 0),  # clone3
):
    print(attempt(number, *arguments), flush=True)
"""


@x86_64
def test_the_deny_filter_refuses_what_attacks_begin_with_and_survives_exec(fresh_python):
    refused = ["EPERM", "EPERM", "EPERM", "EPERM", "ENOSYS", "ENOSYS"]
    assert fresh_python(
        """
        import subprocess, sys, threading
        from smtpd import sandbox
        print(sandbox.deny())
        exec(sys.argv[1])
        subprocess.run([sys.executable, "-I", "-c", sys.argv[1]], check=True)
        thread = threading.Thread(target=lambda: print("threads work"))
        thread.start()
        thread.join()
        """,
        ATTEMPTS,
    ) == ["['no_new_privs', 'deny filter']", *refused, *refused, "threads work"]


@x86_64
def test_a_32_bit_program_is_refused_and_not_killed_by_the_deny_filter(fresh_python):
    """mov eax, 21 (mount of i386); int 0x80; ret"""
    assert fresh_python(
        """
        import ctypes, mmap
        from smtpd import sandbox
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes.fromhex("b815000000cd80c3"))
        sandbox.deny()
        print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
        """
    ) == ["-1"]

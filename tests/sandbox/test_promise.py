"""The table of promises, and that the programs made from it say what it says."""

import errno
import importlib.util
import os
import pathlib
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.sandbox import compile, libseccomp, promise, seccomp
from smtpd.sandbox.promise import Rule

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")

_spec = importlib.util.spec_from_file_location("bpf", pathlib.Path(__file__).with_name("bpf.py"))
assert _spec is not None and _spec.loader is not None
bpf = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bpf)

ARCHITECTURE = libseccomp.native_architecture()
X86_64 = pytest.mark.skipif(ARCHITECTURE != bpf.X86_64, reason="numbers of x86_64")

SETS = (
    "stdio",
    "stdio rpath",
    "stdio inet recvfd",
    "stdio inet recvfd sendfd",
    "stdio rpath inet dns",
    "stdio unix recvfd",
    "stdio recvfd sendfd",
    "stdio rpath wpath cpath flock recvfd sendfd",
    "stdio wpath cpath",
    "stdio rpath cpath",
    "stdio rpath wpath",
    "stdio rpath proc exec",
)
WORDS = st.sampled_from(SETS)


def holds(rule: Rule, arguments: list[int]) -> bool:
    return all(arguments[w.argument] & w.mask == w.value for w in rule.where)


def verdict(promises: str, call: str, arguments: list[int]) -> set[int]:
    """What the table says: one answer, or there is something wrong with the table."""
    answers = {r.errno for r in promise.rules(promises) if r.call == call and holds(r, arguments)}
    return {bpf.ERRNO | answer if answer else bpf.ALLOW for answer in answers} or {bpf.KILL_PROCESS}


CALLS = sorted({rule.call for words in SETS for rule in promise.rules(words)} | {"execve", "ptrace", "openat"})
VALUES = sorted(
    {w.value | extra for words in SETS for r in promise.rules(words) for w in r.where for extra in (0, 1 << 33)}
)
# values that the table speaks of, next to them, combined, and any
ARGUMENT = st.one_of(
    st.sampled_from(VALUES),
    st.builds(lambda a, b: a | b, st.sampled_from(VALUES), st.sampled_from(VALUES)),
    st.builds(lambda a, b: a ^ 1 << b, st.sampled_from(VALUES), st.integers(0, 35)),
    st.integers(0, 2**64 - 1),
)


@X86_64
@settings(max_examples=200, deadline=None)
@given(WORDS, st.sampled_from(CALLS), st.lists(ARGUMENT, min_size=6, max_size=6))
def test_a_program_answers_as_the_table_says_and_the_table_gives_one_answer(promises, call, arguments):
    said = verdict(promises, call, arguments)
    assert len(said) == 1
    assert {bpf.run(compile(promises), libseccomp.number_of(call), arguments)} == said


@X86_64
@pytest.mark.parametrize("promises", SETS)
def test_every_system_call_that_is_not_named_is_death(promises):
    program = compile(promises)
    named = {libseccomp.number_of(rule.call) for rule in promise.rules(promises)}
    for number in range(promise.LAST_KNOWN + 1):
        if number not in named:
            assert bpf.run(program, number) == bpf.KILL_PROCESS


def test_the_own_pid_stands_where_something_is_compared_with_it_and_nowhere_else():
    instruction, mark = seccomp._INSTRUCTION, promise.SELF
    equal, load, half_a_mark = (0x15, 1, 2), (0x20, 0, 0), (0x15, 0x1F, 0x5E)
    program = [(*equal, mark), (*load, mark), (*equal, 7), (*half_a_mark, mark), (*equal, mark)]
    mine = [(*head, 4711 if head[0] == 0x15 and value == mark else value) for *head, value in program]
    before, after = (b"".join(instruction.pack(*one) for one in some) for some in (program, mine))
    assert seccomp.with_pid(before, 4711) == after


@X86_64
def test_what_is_newer_than_the_list_does_not_exist():
    for number in (promise.LAST_KNOWN + 1, 463, 511, 547, 99999, 0x3FFFFFFF):
        assert bpf.run(compile("stdio"), number) == bpf.ERRNO | errno.ENOSYS


@X86_64
def test_the_calls_of_other_abis_are_death():
    program = compile("stdio rpath")
    assert bpf.run(program, 20, architecture=bpf.I386) == bpf.KILL_PROCESS
    assert bpf.run(program, 9999, architecture=bpf.I386) == bpf.KILL_PROCESS
    for number in (0x40000000, 0x40000000 | 39, 0x40000000 | 9999, 0xFFFFFFFF):
        assert bpf.run(program, number) == bpf.KILL_PROCESS


@X86_64
def test_every_name_in_the_table_is_one_of_a_system_call():
    """A name that is misspelt would be left out in silence."""
    # names that this architecture never had or has given up
    elsewhere = {"create_module", "get_kernel_syms", "query_module", "nfsservctl", "stime", "vm86", "vm86old"}
    elsewhere |= {"clock_settime64", "clock_adjtime64", "umount", "uselib", "_sysctl"}
    rules = [rule for words in (*SETS, "unix") for rule in promise.rules(words)] + promise.denials()
    assert {rule.call for rule in rules if libseccomp.number_of(rule.call) < 0} <= elsewhere
    assert all(libseccomp.number_of(rule.call) != -1 for rule in rules)


def test_a_word_that_is_no_promise_is_refused():
    with pytest.raises(ValueError, match="no such promise: prot_exec"):
        compile("stdio prot_exec")


@pytest.mark.parametrize("promises", SETS)
def test_the_order_of_promises_does_not_matter(promises):
    assert compile(" ".join(reversed(promises.split()))) == compile(promises)


@X86_64
@pytest.mark.parametrize(
    "promises, flags, answer",
    [
        ("stdio", os.O_RDONLY, errno.EACCES),
        ("stdio", os.O_WRONLY, None),
        ("stdio", os.O_RDONLY | os.O_CREAT, None),
        ("stdio rpath", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY, 0),
        ("stdio rpath", os.O_RDONLY | os.O_TRUNC, None),
        ("stdio rpath", os.O_RDWR, None),
        ("stdio rpath", os.O_ACCMODE, None),
        ("stdio rpath wpath", os.O_RDWR | os.O_TRUNC | os.O_APPEND, 0),
        ("stdio rpath wpath", os.O_RDWR | os.O_CREAT, None),
        ("stdio rpath wpath", os.O_RDONLY | os.O_TRUNC, None),
        ("stdio wpath cpath", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_TRUNC, 0),
        ("stdio wpath cpath", os.O_RDWR | os.O_CREAT, None),
        ("stdio rpath cpath", os.O_RDONLY | os.O_CREAT, 0),
        ("stdio rpath cpath", os.O_WRONLY | os.O_CREAT, None),
        ("stdio rpath wpath cpath", os.O_RDWR | os.O_CREAT, 0),
        ("stdio rpath wpath cpath", os.O_RDWR | os.O_TMPFILE, None),
    ],
)
def test_opening_needs_the_promises_that_its_flags_tell_of(promises, flags, answer):
    expected = {None: bpf.KILL_PROCESS, 0: bpf.ALLOW, errno.EACCES: bpf.ERRNO | errno.EACCES}[answer]
    assert bpf.run(compile(promises), libseccomp.number_of("openat"), [0, 0, flags]) == expected


@X86_64
def test_the_denials_hold_for_every_abi():
    program = seccomp.compile_denials()
    mount = {bpf.X86_64: (165, 0x40000000 | 165), bpf.I386: (21,)}
    io_uring_setup = {bpf.X86_64: (425, 0x40000000 | 425), bpf.I386: (425,)}
    clone = {bpf.X86_64: (56, 0x40000000 | 56), bpf.I386: (120,)}
    for architecture in (bpf.X86_64, bpf.I386):
        for number in mount[architecture]:
            assert bpf.run(program, number, architecture=architecture) == bpf.ERRNO | errno.EPERM
        for number in io_uring_setup[architecture]:
            assert bpf.run(program, number, architecture=architecture) == bpf.ERRNO | errno.ENOSYS
        for number in clone[architecture]:
            # CLONE_NEWUSER, also with something in the half that the kernel does not read
            for flags in (0x10000000, 0x10000011, 0x10000000 | 1 << 40):
                assert bpf.run(program, number, [flags], architecture) == bpf.ERRNO | errno.EPERM
            assert bpf.run(program, number, [0x11], architecture) == bpf.ALLOW
    assert bpf.run(program, libseccomp.number_of("openat")) == bpf.ALLOW
    assert bpf.run(program, libseccomp.number_of("seccomp")) == bpf.ALLOW
    assert bpf.run(program, libseccomp.number_of("execve")) == bpf.ALLOW

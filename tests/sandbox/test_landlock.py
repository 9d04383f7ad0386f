"""unveil by Landlock: what each letter allows, on every version of it."""

import os

import pytest

from smtpd.sandbox import landlock

pytestmark = pytest.mark.skipif(landlock.abi() < 2, reason="this kernel has no Landlock, or one that cannot rename")

# What is tried, and the letters that it needs.
ATTEMPTS = {
    "read": ("open(f'{d}/one/file').read()", "r"),
    "list": ("os.listdir(f'{d}/one')", "r"),
    "write": ("os.close(os.open(f'{d}/one/file', os.O_WRONLY))", "w"),
    "cut": ("os.close(os.open(f'{d}/one/file', os.O_WRONLY | os.O_TRUNC))", "w"),
    "make": ("os.close(os.open(f'{d}/one/new', os.O_WRONLY | os.O_CREAT, 0o600))", "wc"),
    "mkdir": ("os.mkdir(f'{d}/one/directory')", "c"),
    "move": ("os.rename(f'{d}/one/file', f'{d}/two/file')", "c"),
    "link": ("os.link(f'{d}/one/file', f'{d}/two/link')", "c"),
    "unlink": ("os.unlink(f'{d}/one/file')", "c"),
    "rmdir": ("os.rmdir(f'{d}/one/empty')", "c"),
    "execute": ("os.execv(f'{d}/one/program', ['program'])", "x"),
    "symlink": ("os.symlink('file', f'{d}/one/symlink')", None),
    "fifo": ("os.mkfifo(f'{d}/one/fifo')", None),
}


def attempt(code: str, directory: str, letters: str, version: int) -> bool:
    """In a child that may `letters` there: did it work?"""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 2)
            for name in ("one", "two", "one/empty"):
                os.makedirs(f"{directory}/{name}", exist_ok=True)
            with open(f"{directory}/one/file", "w") as file:
                file.write("x")
            with open(f"{directory}/one/program", "w") as file:
                file.write("#!/bin/true\n")
            os.chmod(f"{directory}/one/program", 0o700)
            landlock.call("prctl", 38, 1, 0, 0, 0)  # no_new_privs, which Landlock insists on
            programs = [(path, "x") for path in ("/bin", "/lib", "/lib64")]
            landlock.restrict([(directory, letters), *programs], version=version)
            exec(code, {"os": os, "d": directory})
        except PermissionError:
            os._exit(13)
        except BaseException as error:
            print(repr(error))
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 13)
    return status == 0


@pytest.mark.parametrize("letters", ["r", "w", "c", "rw", "wc", "rwc", "x", "rwxc"])
@pytest.mark.parametrize("what", ATTEMPTS)
def test_each_letter_allows_what_it_says_and_no_more(what, letters, tmp_path):
    code, needed = ATTEMPTS[what]
    expected = needed is not None and set(needed) <= set(letters)
    if what == "read":
        expected = bool(set(letters) & {"r", "x"})  # who may run a file may read it
    assert attempt(code, str(tmp_path), letters, landlock.abi()) == expected


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_on_an_older_version_files_are_still_kept_and_mail_can_be_moved(version, tmp_path):
    if version > landlock.abi():
        pytest.skip(f"this kernel has version {landlock.abi()}")
    for what, letters, expected in (("move", "rwc", True), ("read", "wc", False), ("write", "r", False)):
        assert attempt(ATTEMPTS[what][0], str(tmp_path), letters, version) == expected


@pytest.mark.parametrize(
    "version, arguments, said",
    [
        (0, {}, ["missing: landlock (not in this kernel)"]),
        (1, {}, ["missing: landlock (abi 1 forbids every rename between directories)"]),
        (2, {}, ["landlock abi 2"]),
        (3, {"ports": [25]}, ["landlock abi 3", "missing: limit to TCP ports (landlock abi 3)"]),
        (4, {"ports": [25]}, ["landlock abi 4"]),
        (5, {"sockets": True}, ["landlock abi 5", "missing: landlock of abstract sockets (abi 5)"]),
        (6, {"sockets": True}, ["landlock abi 6"]),
    ],
)
def test_what_a_version_lacks_is_said_where_the_filter_does_not_make_up_for_it(version, arguments, said):
    if version > landlock.abi():
        pytest.skip(f"this kernel has version {landlock.abi()}")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        landlock.call("prctl", 38, 1, 0, 0, 0)
        os.write(writing, repr(landlock.restrict([("/tmp", "rwc")], version=version, **arguments)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        assert eval(result.read()) == said
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("alone, expected", [(False, 0), (True, 13)])
def test_a_process_without_signal_scope_may_signal_older_children(alone, expected):
    if landlock.abi() < 6:
        pytest.skip("Landlock of this kernel knows no signals")
    child = os.fork()
    if child == 0:
        end, hold = os.pipe()
        older = os.fork()
        if older == 0:
            os.close(hold)
            os.read(end, 1)  # until the parent is gone
            os._exit(0)
        landlock.call("prctl", 38, 1, 0, 0, 0)
        landlock.restrict([], alone=alone)
        code = 0
        try:
            os.kill(older, 0)
        except PermissionError:
            code = 13
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected

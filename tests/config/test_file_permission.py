"""Who besides its owner may write a file."""

import grp
import os
import pwd
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.config.file_permission import has_private_group, is_private_group, others_who_write
from tests.unique import MARK

BOB, AMY = 5001, 5002


def account(name, uid, gid):
    return pwd.struct_passwd((name, "x", uid, gid, "", f"/home/{name}", "/bin/sh"))


def group(name, gid, *members):
    return grp.struct_group((name, "x", gid, list(members)))


@pytest.fixture
def database(monkeypatch):
    """The user database: what it lists, and what it knows besides."""

    def change(accounts, groups, hidden=()):
        def first(entries, field, number):
            return next((entry for entry in entries if getattr(entry, field, None) == number), None) or {}[number]

        monkeypatch.setattr(pwd, "getpwall", lambda: list(accounts))
        monkeypatch.setattr(grp, "getgrall", lambda: list(groups))
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: first([*accounts, *hidden], "pw_uid", uid))
        monkeypatch.setattr(grp, "getgrgid", lambda gid: first([*groups, *hidden], "gr_gid", gid))

    return change


ROOT = account("root", 0, 0)
BOBS = account("bob", BOB, BOB)
PRIVATE = {
    "as useradd makes it": ([ROOT, BOBS], [group("root", 0), group("bob", BOB)]),
    "another number": ([account("bob", BOB, 77)], [group("bob", 77)]),
    "bob in it by name, too": ([BOBS], [group("bob", BOB, "bob")]),
    "a second name of the same user": ([BOBS, account("robert", BOB, BOB)], [group("bob", BOB, "robert")]),
    "others in other groups": ([BOBS, account("amy", AMY, AMY)], [group("bob", BOB), group("amy", AMY, "bob")]),
}
SHARED = {
    "another name": ([BOBS], [group("users", BOB)]),
    "not the primary one": ([account("bob", BOB, 100)], [group("users", 100), group("bob", BOB)]),
    "another member": ([BOBS], [group("bob", BOB, "amy")]),
    "another member beside bob": ([BOBS], [group("bob", BOB, "bob", "amy")]),
    "somebody's primary one": ([BOBS, account("amy", AMY, BOB)], [group("bob", BOB)]),
    "a second entry with a member": ([BOBS], [group("bob", BOB), group("staff", BOB, "amy")]),
    "the same entry again, with a member": ([BOBS], [group("bob", BOB), group("bob", BOB, "amy")]),
    "no such group": ([BOBS], []),
    "no such user": ([], [group("bob", BOB)]),
    "root's primary one": ([BOBS, account("root", 0, BOB)], [group("bob", BOB)]),
}


@pytest.mark.parametrize("accounts, groups", PRIVATE.values(), ids=PRIVATE)
def test_a_group_of_the_users_own(database, accounts, groups):
    database(accounts, groups)
    (gid,) = {entry.pw_gid for entry in accounts if entry.pw_name == "bob"}
    assert is_private_group(BOB, gid)


@pytest.mark.parametrize("accounts, groups", SHARED.values(), ids=SHARED)
def test_a_group_that_is_more_than_the_users_own(database, accounts, groups):
    database(accounts, groups)
    assert not is_private_group(BOB, BOB)


def test_a_name_service_may_know_a_user_and_list_none(database):
    database([], [], hidden=[BOBS, group("bob", BOB)])
    assert is_private_group(BOB, BOB)
    database([account("amy", AMY, BOB)], [], hidden=[BOBS, group("bob", BOB)])
    assert not is_private_group(BOB, BOB)


def test_the_group_of_root_is_never_private(database):
    database([ROOT], [group("root", 0)])
    assert not is_private_group(0, 0)
    database([account("toor", BOB, 0)], [group("toor", 0)])
    assert not is_private_group(BOB, 0)


@given(st.integers(0, 0o7777), st.booleans())
def test_the_classes_that_may_write(mode, private):
    status = os.stat_result((0o100000 | mode, *[0] * 9))
    expected = "g" * bool(mode & 0o020 and not private) + "o" * bool(mode & 0o002)
    assert others_who_write("/nowhere", status, lambda *_: private) == expected


def test_the_name_service_is_not_asked_about_a_group_that_may_not_write():
    status = os.stat_result((0o100757, *[0] * 9))
    assert others_who_write("/nowhere", status, lambda *_: pytest.fail("asked")) == "o"


def test_an_access_list_may_name_others(database, tmp_path):
    """The mode of the group is then what any of them may have: acl(5)."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o664)
    own = os.getuid() or BOB, os.getgid() or BOB
    if os.getuid() == 0:
        os.chown(path, *own)
    database([account("bob", *own)], [group("bob", own[1])])
    assert has_private_group(str(path), path.stat())
    entries = [(0x01, 6, -1), (0x02, 6, AMY), (0x04, 6, -1), (0x10, 6, -1), (0x20, 4, -1)]
    packed = b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    except OSError as error:
        pytest.skip(f"no access lists here: {error.strerror}")
    assert path.stat().st_mode & 0o777 == 0o664
    assert not has_private_group(str(path), path.stat())
    with open(path) as opened:
        assert not has_private_group(opened.fileno(), path.stat())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: useradd")
def test_real_users():
    bob, amy = f"smtpd-perm-{MARK}", f"smtpd-perm2-{MARK}"
    try:
        subprocess.run(["useradd", "--user-group", bob], check=True)
        subprocess.run(["useradd", "--gid", bob, amy], check=True)
        ids = pwd.getpwnam(bob)[2:4]
        assert not is_private_group(*ids)
        subprocess.run(["usermod", "--gid", "nogroup", amy], check=True)
        assert is_private_group(*ids)
        subprocess.run(["usermod", "--append", "--groups", bob, amy], check=True)
        assert not is_private_group(*ids)
        assert not is_private_group(*pwd.getpwnam(amy)[2:4])
    finally:
        for name in (amy, bob):
            subprocess.run(["userdel", name], check=True)

"""Which users may receive mail."""

import os
import pwd

import pytest

from smtpd.nursery.account import Account, check_entry, check_ids, find_account, find_service_account, find_with_verdict

ALICE = Account("alice", 1000, 1000, "/home/alice")


def read_passwd(text):
    """A user database of our own: name -> entry, the format of passwd(5)."""
    entries = (line.split(":") for line in text.split())
    return {name: Account(name, int(uid), int(gid), home) for name, _, uid, gid, _, home, _ in entries}


SYSTEM = read_passwd("""
root:x:0:0:root:/root:/bin/sh
toor:x:0:0:root:/root:/bin/sh
mail:x:8:8:mail:/var/mail:/bin/sh
last:x:99:99::/:/bin/sh
alice:x:1000:1000:Alice:/home/alice:/bin/sh
git:x:100:100::/srv/git:/bin/sh
wheel:x:1001:0::/home/wheel:/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/sh
_smtpq:x:994:993::/nonexistent:/bin/sh
_smtp:x:993:993::/nonexistent:/bin/sh
""")


@pytest.mark.parametrize(
    "name, verdict",
    [
        ("alice", "user"),
        ("git", "user"),
        ("root", "root"),
        ("toor", "root"),  # uid 0 under another name
        ("mail", "daemon"),
        ("last", "daemon"),
        ("nobody", "daemon"),
        ("_smtpq", "daemon"),
        ("_smtp", "daemon"),
        ("wheel", "daemon"),  # root's group would come along
        ("bob", "unknown"),
    ],
)
def test_the_users_who_may_receive_when_we_are_root(name, verdict):
    assert check_entry(name, SYSTEM.get(name), me=0) == verdict


def test_a_database_that_folds_case_does_not_make_one_user_of_two_names():
    assert check_entry("Alice", ALICE, me=0) == "unknown"


def test_when_we_are_not_root_there_is_only_one_user():
    assert check_entry("alice", ALICE, me=1000) == "user"
    assert check_entry("alice", ALICE, me=1001) == "unknown"
    assert check_entry("root", SYSTEM["root"], me=1000) == "root"
    assert check_entry("mail", SYSTEM["mail"], me=8) == "user"


def test_what_nss_says_is_what_the_system_s_own_module_says():
    for entry in pwd.getpwall()[:20]:
        assert find_account(entry.pw_name) == Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


@pytest.mark.parametrize("name", ["", "no-such-user-here", "../root", "root:x", "a" * 5000])
def test_an_unknown_account(name):
    assert find_account(name) is None


def test_this_process_has_a_user():
    me = pwd.getpwuid(os.geteuid())
    assert find_account(me.pw_name).ids == (me.pw_uid, me.pw_gid)


@pytest.mark.parametrize(
    "uid, gid, verdict",
    [(1000, 1000, "user"), (0, 0, "root"), (99, 1000, "daemon"), (65534, 1000, "daemon"), (1000, 0, "daemon")],
)
def test_ids_of_a_userbase_get_the_verdict_that_the_system_s_get(uid, gid, verdict):
    assert check_ids(Account("alice", uid, gid, "/home/alice"), 0) == verdict


def test_a_user_with_the_uid_of_one_of_ours_is_a_daemon_under_any_name():
    alice = Account("alice", 994, 1000, "/home/alice")
    assert (check_ids(alice, 0, {994}), check_entry("alice", alice, 0, {994})) == ("daemon", "daemon")
    assert check_ids(alice, 0, {995}) == "user"


def test_not_root_only_the_own_uid_is_a_user():
    alice = Account("alice", 1000, 1000, "/home/alice")
    assert (check_ids(alice, 1000), check_ids(alice, 1001)) == ("user", "unknown")


def test_a_service_account_is_found_for_its_own_service_only():
    assert find_with_verdict("_smtpm", 1000, service_account="_smtpm")[0] == "user"
    assert find_with_verdict("_smtpm", 1000)[0] == "unknown"
    assert find_service_account("_smtp-no-such-user", 0) is None

"""userbase: whose uid counts, and whose does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.resolve.userbase import USERBASE_MAX
from smtpd.slice import Account, Service
from smtpd.tables.passwd import Accounts, parse
from tests.config.machine import errors_of, sliced, slices

SQLITE = "dbpath /x\nquery_userinfo SELECT 1, 2, 3\n"
NO_UID = "no uid or no gid: add them, or add the user to the action, as in: user vmail"
BOB = Account(2000, 2001, "/home/bob")


def accounts(text: str, **files):
    return slices(text, **files).parent.actions[0].accounts


@pytest.mark.parametrize(
    "table, files",
    [
        ("{ Bob = '2000:2001:/home/bob' }", {}),
        ("file:/users", {"_users": "# ours\nBob: 2000:2001:/home/bob\n"}),
        ("passwd:/users", {"_users": "Bob:x:2000:2001:Bob,,,:/home/bob:/bin/sh\n"}),
    ],
)
def test_uids_come_from_what_root_wrote(table, files):
    assert accounts(f"table t {table}\naction b maildir userbase <t>", **files) == {"bob": BOB}


def test_a_userbase_may_be_inline_in_the_action():
    assert accounts("action b maildir userbase { bob = '2000:2001:/home/bob' }") == {"bob": BOB}


@pytest.mark.parametrize("table", ["db:/t", "sqlite:/t", "x", "{ bob = nonsense }"])
def test_where_the_action_names_the_user_no_uid_of_the_table_counts(table, tmp_path):
    (tmp_path / "table-x").touch(0o755)
    text = f"table t {table}\naction b maildir userbase <t> user vmail"
    assert accounts(text, libexec=(str(tmp_path),), _t=SQLITE) is None


@pytest.mark.parametrize("table", ["db:/t", "sqlite:/t", "x"])
def test_a_database_or_program_does_not_decide_which_user_root_becomes(table, tmp_path):
    (tmp_path / "table-x").touch(0o755)
    (error,) = errors_of(f"table t {table}\naction b maildir userbase <t>", libexec=(str(tmp_path),), _t=SQLITE)
    assert error.startswith(f'f:2:27: table "t" ({table.partition(":")[0]}) cannot name the uid that delivers')
    assert "user vmail" in error


@pytest.mark.parametrize("method", ["mbox", "expand-only", "forward-only"])
def test_an_action_without_users_is_not_given_one(method):
    (error,) = errors_of(f"table t db:/t\naction b {method} userbase <t>")
    assert "user vmail" not in error


@pytest.mark.parametrize(
    "line, error",
    [
        ("bob 0:2000:/home/bob", 'user "bob": uid 0, expected 100 or more'),
        ("bob 99:2000:/home/bob", 'user "bob": uid 99, expected 100 or more'),
        ("bob 65534:2000:/home/bob", 'user "bob": uid 65534 is nobody'),
        ("bob 2000:0:/home/bob", 'user "bob": gid 0 is the group of root'),
        ("bob 2000:2000", 'user "bob": not uid:gid:/home'),
        ("bob 4294967295:2000:/", 'user "bob": the uid or gid is too large'),
        ("bob 2000:2000:/home/../root", 'user "bob": a . or .. in the home directory'),
        ("b/b 2000:2000:/b", 'user "b/b": invalid user name'),
        ("bob", "key without a value"),
    ],
)
def test_an_account_that_cannot_receive_is_an_error_at_its_line(line, error):
    text = f"amy 2000:2000:/home/amy\n{line}\n"
    assert errors_of("action b maildir userbase <t>\ntable t file:/users", _users=text) == [f"/users:2:1: {error}"]


def test_all_errors_of_a_userbase_are_reported_at_once():
    text = "a 0:1:/a\nb 2000:2000:/b\nc 1:1:/c\n"
    assert len(errors_of("action b maildir userbase <t>\ntable t file:/users", _users=text)) == 2


def test_an_invalid_inline_entry_is_an_error_at_its_position():
    assert errors_of("action b maildir userbase { amy = x,\n bob = '1:1:/' }") == [
        'f:1:29: user "amy": not uid:gid:/home',
        'f:2:2: user "bob": uid 1, expected 100 or more',
    ]


def test_a_copy_of_the_systems_passwd_does_for_its_people():
    system = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    text = f"{system}bob:x:2000:2001::/home/bob:/bin/sh\namy:secret\n"
    assert accounts("table t passwd:/p\naction b mbox userbase <t>", _p=text) == {"bob": BOB}


def test_the_lowest_uid_that_may_receive():
    text = "low:x:99:100::/low:\nbob:x:100:100::/bob:\n"
    assert accounts("table t passwd:/p\naction b mbox userbase <t>", _p=text) == {"bob": Account(100, 100, "/bob")}
    assert accounts("action b mbox userbase { bob = '100:100:/bob' }") == {"bob": Account(100, 100, "/bob")}


@pytest.mark.parametrize(
    "first, found, known",
    [
        ("bob:x:2000:2001::/home/bob:/bin/sh", {"bob": BOB}, "2000:2001:/home/bob"),
        ("Bob:x:0:0::/root:/bin/sh", {}, "0:0:/root"),
        ("bob:secret", {}, None),
    ],
)
def test_of_two_lines_of_passwd_with_one_name_the_first_counts_and_for_lookup_too(first, found, known):
    text = f"{first}\nBOB:x:3000:3001::/home/else:/bin/sh\n"
    assert accounts("table t passwd:/p\naction b mbox userbase <t>", _p=text) == found
    assert Accounts("t", parse(text), "+").find(Service.USERINFO, "bob") == known


@pytest.mark.parametrize(
    "kind, text, error",
    [
        ("file", None, 'f:2:7: cannot read "/users": No such file or directory'),
        ("file", "# @list\nbob 2000:2000:/home/bob\n", "/users:2:1: the file is a list, expected a mapping"),
        ("passwd", "bob\n", "/users:1:1: expected name:password, with or without the other fields of passwd(5)"),
        ("passwd", "bob:x::::/home/bob\n", f'/users:1:1: user "bob": {NO_UID}'),
    ],
)
def test_a_userbase_that_cannot_be_read_is_an_error(kind, text, error):
    files = {} if text is None else {"_users": text}
    assert errors_of(f"action b maildir userbase <t>\ntable t {kind}:/users", **files) == [error]


def test_a_userbase_without_end_is_an_error():
    text = "".join(f"u{number} 2000:2000:/home\n" for number in range(USERBASE_MAX + 1))
    (error,) = errors_of("action b maildir userbase <t>\ntable t file:/users", _users=text)
    assert "more than" in error


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["file", "passwd"]), st.text(st.sampled_from("bob:/2019\n x#@.\0é,")))
def test_any_userbase_is_read_or_is_wrong_at_a_place(kind, text):
    for error in errors_of(f"action b maildir userbase <t>\ntable t {kind}:/users", _users=text):
        assert error.isprintable()
        assert error.startswith("/users:")


def test_a_file_without_users_has_none():
    assert (
        sliced("action b maildir userbase <t>\ntable t file:/users", _users="").slices.parent.actions[0].accounts == {}
    )

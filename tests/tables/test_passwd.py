"""Tables in files like passwd(5)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service, TableSlice
from smtpd.tables.passwd import Accounts, parse, read
from smtpd.tables.table import TableUnavailable
from smtpd.tables.text_file import TextFileError

TEXT = """\
# people
bob:$6$x$y:1001:1002:Bob:/home/bob:/bin/sh

Amy:$6$z
kim::1003:1003::/home/kim:
bob:other:0:0::/root:
half:x:1004:::/home/half:
six:x:1006:1006::/home/six
more:x:1007:1007::/home/more::quota=1G mail=maildir:~/M
virtual:x::::/home/virtual
latin:x:1008:1008:M\udcfcller:/home/latin:/bin/\udcfc
home:x:1004:1004:::
short:x:1004
  \x20
crlf:$6$y:1005:1005::/home/crlf:/bin/sh\r
two:$6$w\r
"""


@pytest.fixture
def accounts():
    return Accounts("people", parse(TEXT), "+")


@pytest.mark.parametrize(
    "name, userinfo, credentials",
    [
        ("bob", "1001:1002:/home/bob", "$6$x$y"),
        ("BOB", "1001:1002:/home/bob", "$6$x$y"),
        ("amy", None, "$6$z"),
        ("half", "1004::/home/half", "x"),
        ("six", "1006:1006:/home/six", "x"),
        ("more", "1007:1007:/home/more", "x"),
        ("virtual", "::/home/virtual", "x"),
        ("latin", "1008:1008:/home/latin", "x"),
        ("short", None, "x"),
        ("home", None, "x"),
        ("crlf", "1005:1005:/home/crlf", "$6$y"),
        ("two", None, "$6$w"),
        ("nobody", None, None),
    ],
)
def test_what_is_known_of_an_account(accounts, name, userinfo, credentials):
    assert accounts.find(Service.USERINFO, name) == userinfo
    assert accounts.find(Service.CREDENTIALS, name) == credentials
    assert accounts.check(Service.USERINFO, name) is (userinfo is not None)


def test_a_name_is_found_whatever_way_its_domain_is_written():
    accounts = Accounts("people", parse("amy@xn--mller-kva.test:x\n"), "+")
    assert accounts.find(Service.CREDENTIALS, "Amy@MÜLLER.test") == "x"


def test_an_empty_password_field_locks_the_user_out(accounts):
    assert accounts.find(Service.CREDENTIALS, "kim") is None
    assert accounts.check(Service.CREDENTIALS, "kim") is False


def test_a_duplicate_name_does_not_become_root(accounts):
    assert accounts.find(Service.USERINFO, "bob") == "1001:1002:/home/bob"


def test_names_are_a_list_and_no_aliases(accounts):
    assert accounts.check(Service.STRING, "Kim") is True
    assert accounts.check(Service.MAILADDR, "kim+x@here.test") is True
    assert isinstance(accounts.find(Service.ALIAS, "kim"), TableUnavailable)


@pytest.mark.parametrize(
    "line", ["bob", ":x", "bob:\0", " :x", "bob:x:::\0", "b\udcfcb:x", "bob:\udcfc", "a:b::::\udcfc"]
)
def test_a_line_that_is_no_account_is_a_fault_with_its_number(line):
    with pytest.raises(TextFileError, match="^line 2: "):
        parse(f"# one\n{line}\n")


def test_all_faults_are_reported_and_valid_lines_are_kept():
    accounts, faults = read("bob\namy:x\n:\n")
    assert [account.name for account in accounts] == ["amy"]
    assert [line for line, _ in faults] == [1, 3]


@settings(max_examples=200, deadline=None)
@given(st.text("ab:/09 #\r\n\0\udcfc", max_size=40))
def test_any_text_is_accounts_or_malformed(text):
    try:
        accounts = parse(text)
    except TextFileError:
        return
    for account in accounts:
        assert account.name and ":" not in account.name + account.password
        assert not any(char in account.name + account.password + account.userinfo for char in "\0\r\n\udcfc")


def test_an_invalid_file_leaves_the_old_content_in_force(tmp_path):
    path = tmp_path / "people"
    path.write_bytes(TEXT.encode(errors="surrogateescape"))
    table = open_table(TableSlice("people", path=str(path), backend="passwd"), "+")
    assert table.update() is None
    path.write_text("bob\n")
    assert isinstance(table.update(), TableUnavailable)
    assert table.find(Service.CREDENTIALS, "bob") == "$6$x$y"

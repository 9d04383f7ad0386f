"""Tables in files, and in the configuration."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.slice import TableSlice
from smtpd.tables.file import Content, FileTable, Malformed, parse
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.opening import open_table
from smtpd.tables.table import Service, Unavailable

MAPPINGS = [
    ("a: b", [("a", "b")]),
    ("a b", [("a", "b")]),
    ("a\tb", [("a", "b")]),
    ("a : b", [("a", "b")]),
    ("  a:b  ", [("a", "b")]),
    ("a: b\nc: d\n", [("a", "b"), ("c", "d")]),
    ("a: b\r\nc: d\r\n", [("a", "b"), ("c", "d")]),
    ("# first\n\na: b # second\n", [("a", "b")]),
    ("a: b#c", [("a", "b#c")]),
    ('a: "|do # this", c # that', [("a", '"|do # this", c')]),
    ("a: one, two three", [("a", "one, two three")]),
    ("[::1]: a.example", [("[::1]", "a.example")]),
    ("bob@[IPv6:::1]: amy", [("bob@[IPv6:::1]", "amy")]),
    ("[a: b", [("[a", "b")]),
    ("a: b \\\nc: d", [("a", "b \\"), ("c", "d")]),
    ("a:: b", [("a", ": b")]),
    ("", []),
    ("# nothing\n\n", []),
]


@pytest.mark.parametrize("text, pairs", MAPPINGS)
def test_a_mapping(text, pairs):
    assert parse(text) == Content(pairs=tuple(pairs))


LISTS = [
    ("a", ["a"]),
    ("a\nb c\n", ["a", "b c"]),
    ("192.0.2.0/24 # the office", ["192.0.2.0/24"]),
    ("# @list\na: b\n", ["a: b"]),
    ("#@list\n::1\n", ["::1"]),
    ("# @list", []),
]


@pytest.mark.parametrize("text, entries", LISTS)
def test_a_list(text, entries):
    assert parse(text) == Content(entries=tuple(entries))


@pytest.mark.parametrize("text, line", [("a: b\nc\n", 2), ("a: b\n\n:c\n", 3), ("a: b\0\n", 1), ("a: b\nc: # d\n", 2)])
def test_a_line_that_does_not_fit_is_an_error_with_its_number(text, line):
    with pytest.raises(Malformed, match=f"^line {line}: "):
        parse(text)


def test_a_comment_that_asks_for_a_list_behind_an_entry_is_a_comment():
    assert parse("a: b\n# @list\n") == Content(pairs=(("a", "b"),))


@settings(max_examples=200, deadline=None)
@given(st.text('ab:# \t"[]@list\n\0', max_size=40))
def test_any_text_is_a_table_or_malformed(text):
    try:
        parse(text)
    except Malformed:
        pass


def test_a_file_is_served_once_it_was_read(tmp_path):
    path = tmp_path / "domains"
    path.write_text("*.here.test\n")
    table = open_table(TableSlice("domains", path=str(path), backend="file"), "+")
    assert isinstance(table.check(Service.DOMAIN, "a.here.test"), Unavailable)
    assert table.update() is None
    assert table.check(Service.DOMAIN, "a.here.test") is True


def test_a_file_that_went_wrong_leaves_what_was_served(tmp_path):
    path = tmp_path / "aliases"
    path.write_text("Root: bob\n")
    table = FileTable("aliases", str(path))
    table.update()
    path.write_text("root: amy\nwrong\n")
    assert table.update() == Unavailable(f"table aliases: {path}: line 2: a value is expected behind the key")
    assert table.find(Service.ALIAS, "ROOT") == "bob"


def test_a_file_that_is_not_there_is_unavailable(tmp_path):
    table = FileTable("gone", str(tmp_path / "gone"))
    assert (
        table.update()
        == table.check(Service.STRING, "x")
        == Unavailable(f"table gone: {tmp_path}/gone: No such file or directory")
    )


def test_a_file_that_is_no_text_is_unavailable(tmp_path):
    (tmp_path / "t").write_bytes(b"\xff\xfe")
    assert isinstance(FileTable("t", str(tmp_path / "t")).update(), Unavailable)


def test_a_mapping_is_checked_by_its_keys_and_the_later_value_holds():
    table = MappingTable("m", [("Bob", "one"), ("bob", "two")])
    assert table.check(Service.STRING, "BOB") is True
    assert table.find(Service.ALIAS, "bob") == "two"
    assert table.find(Service.ALIAS, "amy") is None


def test_expressions_that_are_the_keys_of_a_mapping_keep_their_case():
    table = MappingTable("m", [("^[A-Z]+$", "one")])
    assert table.check(Service.REGEX, "BOB") is True
    assert table.check(Service.REGEX, "bob") is False


def test_a_list_has_no_values():
    assert isinstance(ListTable("l", ["a"]).find(Service.ALIAS, "a"), Unavailable)


def test_an_entry_that_means_nothing_makes_the_table_unavailable_for_that_service_alone():
    table = open_table(TableSlice("t", entries=("(",)), "+")
    assert isinstance(table.check(Service.REGEX, "x"), Unavailable)
    assert table.check(Service.STRING, "(") is True
    assert table.update() is None

"""Tables in files, and in the configuration."""

import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service, TableSlice
from smtpd.tables.file import FileTable, parse, read
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.table import TableUnavailable
from smtpd.tables.text_file import FILE_SIZE_MAX, TextFileError, decode, read_file

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
    ("\ufeffa: b", [("\ufeffa", "b")]),  # decode() takes the mark away
    ("a: b\rc: d\r", [("a", "b"), ("c", "d")]),
    ("# M\udcfcller\na: b # M\udcfcller\n", [("a", "b")]),
    ("a:: b", [("a", ": b")]),
    ("", []),
    ("# nothing\n\n", []),
]


@pytest.mark.parametrize("text, pairs", MAPPINGS)
def test_a_mapping(text, pairs):
    content = parse(text)
    assert not content.is_list
    assert list(content.pairs()) == pairs


CONTINUED = [
    ("staff:\n  amy,\n\tbob, eve\nroot: amy", [("staff", "amy, bob, eve"), ("root", "amy")]),
    ("staff\n amy", [("staff", "amy")], "root: x\n"),
    ("staff: amy, # she\n\n# and\n  bob # he", [("staff", "amy, bob")]),
    ("staff: amy\n , bob", [("staff", "amy , bob")]),
    ("staff: amy,\n root: bob", [("staff", "amy, root: bob")]),
    ('log: amy,\n "|cat -n >> x"', [("log", 'amy, "|cat -n >> x"')]),
    ("staff: amy,\nroot: bob", [("staff", "amy,"), ("root", "bob")]),
    ("staff: amy\n root: bob\n  eve: bob", [("staff", "amy"), ("root", "bob"), ("eve", "bob")]),
]


@pytest.mark.parametrize("text, pairs, before", [(*case, "")[:3] for case in CONTINUED])
def test_a_line_that_begins_with_a_blank_continues_an_entry_that_is_not_complete(text, pairs, before):
    content = parse(before + text)
    assert not content.is_list
    assert [pair for pair in content.pairs() if pair != ("root", "x")] == pairs


def test_an_entry_has_the_line_number_of_its_beginning():
    assert [entry.line for entry in parse("\nstaff:\n  amy,\n  bob\nroot: amy").entries] == [2, 5]


LISTS = [
    ("a", ["a"]),
    ("a\nb c\n", ["a", "b c"]),
    ("192.0.2.0/24 # the office", ["192.0.2.0/24"]),
    ("# @list\na: b\n", ["a: b"]),
    ("#@list\n::1\n", ["::1"]),
    ("# @list", []),
    ("smtps://amy@a.test\nb.test:25\n", ["smtps://amy@a.test", "b.test:25"]),
    ("2001:db8::1\n192.0.2.1\n", ["2001:db8::1", "192.0.2.1"]),
    ("2001:db8::/32\n", ["2001:db8::/32"]),
    ("::1\n", ["::1"]),
]


@pytest.mark.parametrize("text, entries", LISTS)
def test_a_list(text, entries):
    content = parse(text)
    assert content.is_list
    assert [entry.key for entry in content.entries] == entries


NO_VALUE = "key without a value"
FAULTS = [
    ("a: b\nc\n", 2, NO_VALUE),
    ("a: b\n\n:c\n", 3, NO_VALUE),
    ("a: b\0\n", 1, "a NUL character"),
    ("a: b\nc: # d\n", 2, NO_VALUE),
    ("abuse:\nroot: bob\n", 1, NO_VALUE),
    ("abuse:\n", 1, NO_VALUE),
    ("root: bob\nabuse:\n", 2, NO_VALUE),
    ("root: bob\n  abuse:\n", 2, NO_VALUE),
    ("staff: amy\n  bob\n", 2, NO_VALUE),
    ("a: b\nm\udcfcller: c\n", 2, "not UTF-8"),
    ("# @list\nm\udcfcller.test\n", 2, "not UTF-8"),
]


@pytest.mark.parametrize("text, line, reason", FAULTS)
def test_a_line_that_does_not_fit_is_a_fault_with_its_number(text, line, reason):
    with pytest.raises(TextFileError) as malformed:
        parse(text)
    assert malformed.value.faults == ((line, reason),)
    assert str(malformed.value) == f"line {line}: {reason}"


def test_brackets_without_their_other_half_cost_time_in_proportion():
    begun = time.process_time()
    assert read("[" * 100_000 + ": x").entries[0].value == "x"
    assert time.process_time() - begun < 5


def test_all_faults_are_reported_and_valid_lines_are_kept():
    content = read("a: b\nc\nd: e\nf\ng: \0\n")
    assert [line for line, _ in content.faults] == [2, 4, 5]
    assert list(content.pairs()) == [("a", "b"), ("d", "e")]
    with pytest.raises(TextFileError, match="^line 2: .* \\(and 2 more\\)$"):
        parse("a: b\nc\nd: e\nf\ng: \0\n")


def test_the_caller_may_decide_between_list_and_mapping():
    assert [entry.key for entry in parse("a: b\n", is_list=True).entries] == ["a: b"]
    assert read("a\n", is_list=False).faults == ((1, NO_VALUE),)


def test_a_comment_that_asks_for_a_list_behind_an_entry_is_a_comment():
    assert list(parse("a: b\n# @list\n").pairs()) == [("a", "b")]


@settings(max_examples=300, deadline=None)
@given(st.text('ab:,# \t"[]@list\n\r\0\udcfc', max_size=40), st.sampled_from([None, True, False]))
def test_any_text_has_entries_and_faults_and_no_line_is_both(text, is_list):
    content = read(text, is_list=is_list)
    entries, faults = [entry.line for entry in content.entries], [line for line, _ in content.faults]
    assert not set(entries) & set(faults)
    assert entries == sorted(set(entries)) and faults == sorted(set(faults))
    assert all(entry.key and (content.is_list or entry.value) for entry in content.entries)
    assert not any(char in entry.key + entry.value for entry in content.entries for char in "\0\r\n\udcfc")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.from_regex("[a-z]{1,4}", fullmatch=True), st.from_regex("[a-z]{1,4}(, [a-z]{1,4}){0,3}", fullmatch=True)
        )
    )
)
def test_a_value_may_go_on_in_the_next_line_behind_any_of_its_commas(pairs):
    whole = "".join(f"{key}: {value}\n" for key, value in pairs)
    folded = "".join(f"{key}:\n\t{value.replace(', ', ',\n  ')}\n" for key, value in pairs)
    assert list(parse(whole).pairs()) == list(parse(folded).pairs()) == pairs


# -- the bytes of a file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, text",
    [
        (b"\xef\xbb\xbfroot: bob", "root: bob"),
        (b"# M\xfcller", "# M\udcfcller"),
        ("müller".encode(), "müller"),
        (b"\xff\xfer\0", "\udcff\udcfer\0"),
    ],
)
def test_bytes_become_text(content, text):
    assert decode(content) == text


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_table_or_malformed(content):
    try:
        assert not any("\ud800" <= char <= "\udfff" for entry in parse(decode(content)).entries for char in entry.key)
    except TextFileError as malformed:
        assert malformed.faults


def test_a_file_is_read_as_it_is_up_to_a_size(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(b"a\r\nb\n")
    assert read_file(str(path)) == "a\r\nb\n"
    with path.open("wb") as file:
        file.truncate(FILE_SIZE_MAX + 1)
    with pytest.raises(OSError, match="too large"):
        read_file(str(path))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert FileTable("t", str(tmp_path / "fifo")).update() == TableUnavailable(
        f"table t: {tmp_path}/fifo: not a regular file"
    )


# -- tables -------------------------------------------------------------------------------------


def test_a_file_is_served_once_it_was_read(tmp_path):
    path = tmp_path / "domains"
    path.write_text("*.here.test\n")
    table = open_table(TableSlice("domains", path=str(path), backend="file"), "+")
    assert isinstance(table.check(Service.DOMAIN, "a.here.test"), TableUnavailable)
    assert table.update() is None
    assert table.check(Service.DOMAIN, "a.here.test") is True


def test_an_invalid_file_leaves_the_old_content_in_force(tmp_path):
    path = tmp_path / "aliases"
    path.write_text("Root: bob\n")
    table = FileTable("aliases", str(path))
    table.update()
    path.write_text("root: amy\nwrong\n")
    assert table.update() == TableUnavailable(f"table aliases: {path}: line 2: key without a value")
    assert table.find(Service.ALIAS, "ROOT") == "bob"


GOOD_AND_BAD = [
    (Service.NETADDR, "192.0.2.0/24\n", "192.0.2.0/24\n\n192.0.2.0/33\n", "line 3: invalid network", "192.0.2.7"),
    (Service.REGEX, "^bob@\n", "^bob@\n(\n", "line 2: invalid regular expression", "bob@here.test"),
    (Service.DOMAIN, "here.test\n", "here.test\nthere.t\udcfcst\n", "line 2: not UTF-8", "here.test"),
]


@pytest.mark.parametrize("service, good, bad, reason, key", GOOD_AND_BAD)
def test_an_entry_that_would_make_the_table_useless_leaves_what_was_served(tmp_path, service, good, bad, reason, key):
    path = tmp_path / "t"
    path.write_text(good)
    table = open_table(TableSlice("t", path=str(path), backend="file", services=(service,)), "+")
    assert table.update() is None
    path.write_bytes(bad.encode(errors="surrogateescape"))
    trouble = table.update()
    assert isinstance(trouble, TableUnavailable) and re.search(f"table t: {path}: {reason}", trouble.reason)
    assert table.check(service, key) is True
    path.write_text(good + good.replace("192", "193"))
    assert table.update() is None


def test_a_list_takes_no_place_of_a_mapping(tmp_path):
    path = tmp_path / "aliases"
    path.write_text("root: bob\n")
    table = open_table(TableSlice("aliases", path=str(path), backend="file", services=(Service.ALIAS,)), "+")
    table.update()
    path.write_text("root\n")
    assert table.update() == TableUnavailable(f"table aliases: {path}: line 1: the file is a list, expected a mapping")
    assert table.find(Service.ALIAS, "root") == "bob"


def test_a_file_that_is_not_there_is_unavailable(tmp_path):
    table = FileTable("gone", str(tmp_path / "gone"))
    assert (
        table.update()
        == table.check(Service.STRING, "x")
        == TableUnavailable(f"table gone: {tmp_path}/gone: No such file or directory")
    )


def test_a_file_that_is_no_text_is_unavailable(tmp_path):
    (tmp_path / "t").write_bytes(b"\xff\xfe")
    assert isinstance(FileTable("t", str(tmp_path / "t")).update(), TableUnavailable)


def test_a_mapping_is_checked_by_its_keys_and_the_later_value_holds():
    table = MappingTable("m", [("Bob", "one"), ("bob", "two")])
    assert table.check(Service.STRING, "BOB") is True
    assert table.find(Service.ALIAS, "bob") == "two"
    assert table.find(Service.ALIAS, "amy") is None


def test_keys_are_found_whatever_way_their_domain_is_written():
    table = MappingTable("m", [("@müller.test", "one"), ("amy@xn--mller-kva.test.", "two")])
    assert table.find(Service.ALIAS, "@XN--MLLER-KVA.test") == "one"
    assert table.find(Service.ALIAS, "amy@müller.test") == "two"


def test_expressions_that_are_the_keys_of_a_mapping_keep_their_case():
    table = MappingTable("m", [("^[A-Z]+$", "one")])
    assert table.check(Service.REGEX, "BOB") is True
    assert table.check(Service.REGEX, "bob") is False


def test_a_list_has_no_values():
    assert isinstance(ListTable("l", ["a"]).find(Service.ALIAS, "a"), TableUnavailable)


def test_an_entry_that_means_nothing_makes_the_table_unavailable_for_that_service_alone():
    table = open_table(TableSlice("t", entries=("(",)), "+")
    assert isinstance(table.check(Service.REGEX, "x"), TableUnavailable)
    assert table.check(Service.STRING, "(") is True
    assert table.update() is None

"""What alias files lead to, as far as the daemon knows at its start."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.config.machine import errors_of, sliced, slices

ALIASES = "table aliases file:/etc/aliases\naction b maildir alias <aliases>\n"


def warnings(text: str, **files: str) -> tuple[str, ...]:
    return sliced(text, **files).warnings


def test_what_is_included_is_a_file_that_lookup_reads():
    made = slices(ALIASES, _etc_aliases="staff: :include:/etc/staff, bob\n", _etc_staff="amy\n")
    assert made.lookup.files == made.parent.files == ("/etc/aliases", "/etc/staff")


def test_an_include_of_a_virtual_table_in_the_configuration_counts():
    text = 'action b maildir virtual { "staff" = "include:/etc/staff" }'
    assert slices(text, _etc_staff="").lookup.files == ("/etc/staff",)


def test_an_unreadable_include_is_a_warning():
    assert warnings(ALIASES, _etc_aliases="a: b\nstaff: :include:/etc/staff\n") == (
        '/etc/aliases:2:1: alias "staff": include: cannot read "/etc/staff": No such file or directory',
    )


@pytest.mark.parametrize("value", ["|cat", '"|cat"', "/var/log/mail", "bob, |cat"])
def test_a_command_or_file_that_is_not_allowed_is_a_warning_at_its_line(value):
    (warning,) = warnings(ALIASES, _etc_aliases=f"# x\nlist: {value}\n")
    assert warning.startswith('/etc/aliases:2:1: alias "list" is refused: ')
    assert "alias-commands" in warning


def test_no_warning_where_commands_are_allowed():
    text = ALIASES + "alias-commands user lists"
    assert warnings(text, _etc_aliases="list: |cat\n") == ()
    made = slices(text, _etc_aliases="list: |cat\n")
    assert made.parent.alias_commands == made.lookup.alias_commands == made.queue.alias_commands == "lists"


def test_commands_come_out_of_text_files_only():
    (warning,) = warnings('alias-commands user lists\naction b maildir alias { list = "|cat" }')
    assert warning.startswith('f:2:26: alias "list" is refused')


def test_the_files_that_may_name_commands_are_known_only_when_they_may():
    text = ALIASES + "table other file:/other\ntable d db:/d\naction c maildir virtual <d>\n"
    files = {"_etc_aliases": "a: b\n", "_other": "a: |b\n"}
    assert slices(text, **files).parent.alias_files == ()
    assert slices(text + "alias-commands user lists", **files).parent.alias_files == ("/etc/aliases",)


def test_dev_null_is_no_file():
    assert warnings(ALIASES, _etc_aliases="nobody: /dev/null\n") == ()


def test_an_invalid_alias_is_reported_at_its_line():
    text = "a: b\nc: ?\nd: 'x\n"
    assert [warning.partition(": alias")[0] for warning in warnings(ALIASES, _etc_aliases=text)] == [
        "/etc/aliases:2:1",
        "/etc/aliases:3:1",
    ]


def test_an_alias_file_that_is_not_there_is_an_error():
    assert errors_of(ALIASES) == ['f:1:7: cannot read "/etc/aliases": No such file or directory']


@pytest.mark.parametrize(
    "text, errors",
    [
        ("a: b\nc\nd\n", [f"/etc/aliases:{n}:1: key without a value" for n in (2, 3)]),
        ("abuse:\nroot: bob\n", ["/etc/aliases:1:1: key without a value"]),
        ("a\n", ["/etc/aliases:1:1: the file is a list, expected a mapping"]),
        ("a: m\udcfcller\n", ["/etc/aliases:1:1: not UTF-8"]),
    ],
)
def test_an_alias_file_that_cannot_be_used_is_an_error(text, errors):
    assert errors_of(ALIASES, _etc_aliases=text) == errors


def test_comments_may_hold_any_bytes():
    assert slices(ALIASES, _etc_aliases="# M\udcfcller\na: b # \udcff\n")


def test_databases_and_programs_are_not_read():
    assert warnings("table t db:/t\naction b maildir alias <t>", _t="") == ()
    assert slices("table t db:/t\naction b maildir alias <t>").lookup.files == ("/t",)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab:|/,\"'\\\n #@?\0é\x1b") | st.characters(), max_size=60))
def test_reports_about_any_alias_file_are_printable(text):
    errors = errors_of(ALIASES, _etc_aliases=text)
    told = errors or warnings(ALIASES, _etc_aliases=text)
    assert all(line.isprintable() and line.startswith("/etc/aliases:") for line in told)

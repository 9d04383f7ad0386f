"""What the configuration names and the machine does not have."""

import pytest

from smtpd.config.host import find_uid, has_file
from tests.config.machine import errors_of, sliced


@pytest.mark.parametrize("backend", ["file", "passwd", "sqlite"])
def test_a_file_of_a_table_that_is_not_there_is_an_error(backend):
    text = f"table t {backend}:/t\naction b maildir userbase <t> user vmail"
    assert errors_of(text)[0] == 'f:1:7: cannot read "/t": No such file or directory'


def test_a_database_that_makemap_has_not_made_yet():
    text = "table t db:/t\naction b maildir alias <t>"
    assert sliced(text).warnings == (
        'f:1:7: cannot read "/t": No such file or directory; it is used as soon as makemap has made it',
    )


def test_a_missing_alias_file_is_reported_once():
    assert len(errors_of("table t file:/t\naction b maildir alias <t>")) == 1


@pytest.mark.parametrize(
    "text, where",
    [("action b maildir user {}", "f:1:23"), ("alias-commands user {}", "f:1:21")],
)
def test_a_user_that_the_system_does_not_have(text, where):
    said = f'{where}: unknown user "vmial"; it may be added later'
    assert sliced(text.format("vmial")).warnings == (said,)
    assert sliced(text.format("vmail")).warnings == ()


@pytest.mark.parametrize("name, uid", [("mail", 8), ("nobody", 65534)])
def test_a_user_that_nothing_is_delivered_as(name, uid):
    said = f'user "{name}" is a system user (uid {uid}) and receives no mail, expected another user'
    assert sliced(f"action b maildir user {name}").warnings == (f"f:1:23: {said}",)


@pytest.mark.parametrize("group", ["all", "egress"])
def test_groups_of_interfaces_are_not_known(group):
    said = f'f:1:11: interface groups are not supported: "{group}", expected one interface, or "*" for all'
    assert errors_of(f"listen on {group}") == [said]


def test_the_machine_is_asked_by_name(tmp_path):
    assert find_uid("root") == 0
    assert find_uid("no-such-user-here") is None
    assert has_file(str(tmp_path))
    assert not has_file(str(tmp_path / "nothing"))

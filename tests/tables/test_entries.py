"""The entries of lists, of each kind of table."""

import pytest

from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service, TableSlice
from smtpd.tables.db import encode
from smtpd.tables.table import TableUnavailable


def opened(table: TableSlice):
    made = open_table(table, "+")
    made.update()
    return made


def test_a_list_in_the_configuration_has_its_order():
    assert opened(TableSlice("t", ("b.test", "A.test", "b.test"))).entries() == ("b.test", "A.test", "b.test")


def test_a_list_in_a_text_file_has_its_order_until_an_update_changes_it(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("smtps://amy@b.test\na.test:25\n")
    table = opened(TableSlice("t", path=str(path), backend="file", services=(Service.RELAYHOST,)))
    assert table.entries() == ("smtps://amy@b.test", "a.test:25")
    path.write_text("c.test\n")
    table.update()
    assert table.entries() == ("c.test",)


def test_a_file_with_an_invalid_host_leaves_the_old_ones_in_force(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("a.test\n")
    table = opened(TableSlice("t", path=str(path), backend="file", services=(Service.RELAYHOST,)))
    path.write_text("a.test\nsmtp://user:password@b.test\n")
    trouble = table.update()
    assert isinstance(trouble, TableUnavailable)
    assert "password@" not in trouble.reason
    assert table.entries() == ("a.test",)


@pytest.mark.parametrize(
    "text, service, fault",
    [
        ("there.test smtp://[::1\n", Service.RELAYHOST, "invalid host"),
        ("192.0.2.1\neth0\n", Service.SOURCE, "invalid address"),
        ("# @list\n2001:db8::/32\n", Service.SOURCE, "invalid address"),
    ],
)
def test_what_a_service_cannot_use_is_no_entry_of_a_file(tmp_path, text, service, fault):
    path = tmp_path / "t"
    path.write_text(text)
    table = open_table(TableSlice("t", path=str(path), backend="file", services=(service,)), "+")
    trouble = table.update()
    assert isinstance(trouble, TableUnavailable)
    assert fault in trouble.reason
    assert table.entries() == trouble


def test_a_set_of_makemap_has_its_keys_as_they_were_written(tmp_path):
    path = tmp_path / "hosts.db"
    path.write_bytes(encode([("smtp://B.test", None), ("a.test", None)]))
    table = opened(TableSlice("t", path=str(path), backend="db", services=(Service.RELAYHOST,)))
    assert sorted(table.entries()) == ["a.test", "smtp://B.test"]


def test_the_names_in_a_passwd_file(tmp_path):
    path = tmp_path / "passwd"
    path.write_text("amy:x\nbob:x\n")
    assert opened(TableSlice("t", path=str(path), backend="passwd")).entries() == ("amy", "bob")


@pytest.mark.parametrize(
    "table",
    [
        TableSlice("t", pairs=(("a", "b"),)),
        TableSlice("t", path="/nowhere", backend="file"),
        TableSlice("t", path="/nowhere", backend="db"),
        TableSlice("t", path="/nowhere", backend="sqlite"),
        TableSlice("t", backend="weather"),
    ],
    ids=["mapping", "missing file", "missing db", "sqlite", "program"],
)
def test_other_tables_have_none(table):
    assert isinstance(opened(table).entries(), TableUnavailable)

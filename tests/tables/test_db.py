"""Tables that makemap made."""

import os
import sqlite3
from contextlib import closing

import pytest

from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service, TableSlice
from smtpd.tables import db
from smtpd.tables.db import DbTable, encode
from smtpd.tables.table import TableUnavailable


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def make(tmp_path, warnings):
    path = tmp_path / "what? 100%#.db"

    def made(entries, services=()):
        """As makemap does: another file in its place."""
        (tmp_path / "new").write_bytes(encode(entries))
        os.rename(tmp_path / "new", path)
        return open_table(TableSlice("map", path=str(path), backend="db", services=services), "+", warnings.append)

    return made


def test_a_map_has_values(make):
    table = make([("Root", "bob, amy"), ("@here.test", "joe")])
    assert table.update() is None
    assert table.find(Service.ALIAS, "ROOT") == "bob, amy"
    assert table.find(Service.ALIAS, "@here.test") == "joe"
    assert table.find(Service.ALIAS, "' OR 1=1 --") is None
    assert table.check(Service.STRING, "root") is True
    assert table.check(Service.STRING, "bob") is False


@pytest.mark.parametrize("key", ["@müller.test", "@XN--mller-kva.test", "@müller.test."])
@pytest.mark.parametrize("written", ["@MÜLLER.test", "@xn--mller-kva.test"])
def test_a_key_is_found_whatever_way_its_domain_is_written(make, written, key):
    table = make([(written, "x")])
    assert table.find(Service.ALIAS, key) == "x"
    assert table.check(Service.STRING, key) is True


def test_a_file_from_before_keys_had_a_normal_form_is_found_in(make):
    table = make([("a", "one")])
    with closing(sqlite3.connect(table.path)) as connection, connection:
        connection.execute("INSERT INTO map VALUES ('@xn--mller-kva.test', '@xn--mller-kva.test', 'two')")
    assert table.find(Service.ALIAS, "@müller.test") == "two"


def test_a_set_has_keys_only(make):
    table = make([("a", None)])
    table.update()
    assert table.check(Service.STRING, "A") is True
    assert isinstance(table.find(Service.ALIAS, "a"), TableUnavailable)


@pytest.mark.parametrize(
    "service, entry, key, matches",
    [
        (Service.DOMAIN, "*.Here.test", "a.here.test", True),
        (Service.NETADDR, "192.0.2.0/24", "192.0.2.7", True),
        (Service.NETADDR, "192.0.2.0/24", "192.0.3.7", False),
        (Service.MAILADDR, "bob", "bob+x@here.test", True),
        (Service.REGEX, "^[A-Z]+$", "ABC", True),
        (Service.REGEX, "^[A-Z]+$", "abc", False),
    ],
)
def test_keys_that_match_are_compared_as_they_were_written(make, service, entry, key, matches):
    table = make([(entry, None), ("other.test", None)])
    table.update()
    assert table.check(service, key) is matches


def test_another_file_in_its_place_is_noticed(make):
    table = make([("a", "one"), ("x.test", "")])
    table.update()
    assert table.check(Service.DOMAIN, "x.test") is True
    make([("a", "two"), ("b", "three")])
    assert table.find(Service.ALIAS, "a") == "two"
    assert table.check(Service.DOMAIN, "x.test") is False


def test_nothing_or_nonsense_in_its_place_leaves_what_was_served(make):
    table = make([("a", "one")])
    table.update()
    os.unlink(table.path)
    assert table.find(Service.ALIAS, "a") == "one"
    for content in (b"", b"SQLite format 3\0" * 100, encode([("a", "x")])[:5000]):
        with open(table.path, "wb") as file:
            file.write(content)
        assert table.find(Service.ALIAS, "a") == "one"
        assert isinstance(table.update(), TableUnavailable)
    make([("a", "two")])
    assert table.find(Service.ALIAS, "a") == "two"


def test_an_unusable_replacement_is_logged_once(make, warnings):
    table = make([("a", "one")])
    table.update()
    with open(table.path, "wb") as file:
        file.write(b"nonsense")
    assert table.find(Service.ALIAS, "a") == table.find(Service.ALIAS, "A") == "one"
    os.unlink(table.path)
    assert table.find(Service.ALIAS, "a") == table.find(Service.ALIAS, "A") == "one"
    stays = "the table stays as it was"
    assert warnings == [
        f"table map: {table.path}: not made by makemap: {stays}",
        f"table map: {table.path}: No such file or directory: {stays}",
    ]
    make([("a", "two")])
    assert table.find(Service.ALIAS, "a") == "two"
    assert len(warnings) == 2


@pytest.mark.parametrize(
    "service, good, bad, key",
    [
        (Service.NETADDR, ("192.0.2.0/24", None), ("192.0.2.0/33", None), "192.0.2.1"),
        (Service.REGEX, ("^a", None), ("(", None), "abc"),
        (Service.ALIAS, ("abc", "x"), ("abd", None), "abc"),
    ],
)
def test_an_entry_that_would_make_it_useless_leaves_what_was_served(make, warnings, service, good, bad, key):
    table = make([good], (service,))
    assert table.update() is None
    make([good, bad])
    assert table.check(service, key) is True
    assert isinstance(table.update(), TableUnavailable)
    assert table.check(service, key) is True
    assert len(warnings) == 1
    assert db.fault_at_start(table.path, (service,))
    assert not db.fault_at_start(table.path, (Service.STRING,))
    assert not db.fault_at_start(table.path + ".gone", (service,))


def test_a_file_that_makemap_did_not_make_is_refused(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute(db.SCHEMA)
    connection.close()
    assert DbTable("map", str(path)).update() == TableUnavailable(f"table map: {path}: not made by makemap")
    path.write_bytes(b"\0\0\0\0\0\0\0\1\0\0\0\0\x61\x15\x06\0")  # Berkeley DB's
    assert DbTable("map", str(path)).update() == TableUnavailable(f"table map: {path}: not made by makemap")


def test_a_file_that_is_not_there_is_unavailable_until_it_is(make, tmp_path):
    table = make([("a", "one")])
    os.rename(table.path, tmp_path / "away")
    assert table.update() == TableUnavailable(f"table map: {table.path}: No such file or directory")
    assert isinstance(table.check(Service.STRING, "a"), TableUnavailable)
    os.rename(tmp_path / "away", table.path)
    assert table.find(Service.ALIAS, "a") == "one"


def test_more_keys_than_can_be_compared_with_are_not_compared_with(make, monkeypatch):
    monkeypatch.setattr(db, "KEYS_MAX", 3)
    table = make([(f"d{number}.test", None) for number in range(4)])
    table.update()
    assert isinstance(table.check(Service.DOMAIN, "d1.test"), TableUnavailable)
    assert table.check(Service.STRING, "d1.test") is True


def test_a_duplicate_key_is_an_error():
    with pytest.raises(sqlite3.IntegrityError):
        encode([("bob", "x"), ("Bob", "y")])


def test_what_is_dumped_is_what_went_in(make):
    entries = [("A b", "x"), ("c", None), ("é", "ü")]
    assert list(db.read(make(entries).path)) == entries


def test_a_link_is_followed_once_and_seen_when_it_is_bent(make, tmp_path, monkeypatch):
    """The header that was read is that of the file that is served."""
    table = make([("a", "one")])
    os.rename(table.path, tmp_path / "one.db")
    (tmp_path / "two.db").write_bytes(encode([("a", "two")]))
    os.symlink("one.db", table.path)
    connect = db.connect

    def bend_and_connect(path):
        monkeypatch.setattr(db, "connect", connect)
        os.symlink("two.db", tmp_path / "new")
        os.rename(tmp_path / "new", table.path)
        assert path == str(tmp_path / "one.db")
        return connect(path)

    monkeypatch.setattr(db, "connect", bend_and_connect)
    assert table.update() is None
    assert table.find(Service.ALIAS, "a") == "two"


def test_a_file_that_never_stays_is_trouble_and_no_endless_loop(make, monkeypatch):
    table = make([("a", "b")])
    stamps = iter(range(100))
    monkeypatch.setattr(db, "_stamp", lambda path: (0, next(stamps), 0, 0))
    trouble = table.update()
    assert isinstance(trouble, TableUnavailable) and trouble.reason.endswith("it is being replaced all the time")

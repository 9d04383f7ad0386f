"""Tables in somebody's database."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service, TableSlice
from smtpd.tables import sqlite
from smtpd.tables.db import encode
from smtpd.tables.sqlite import Settings, parse_settings
from smtpd.tables.table import TableUnavailable
from smtpd.tables.text_file import TextFileError

DESCRIPTION = """\
# people
dbpath             {path}
query_alias        SELECT target FROM aliases WHERE name = ?;
query_userinfo:    SELECT uid, gid, home FROM users WHERE name = ?1 AND ?1 <> ''
query_credentials  SELECT name, hash FROM users WHERE name = ?
query_domain       SELECT 1 FROM users WHERE home LIKE '%#' || ?
query_mailaddrmap  SELECT target FROM aliases WHERE name = ?
fetch_source       SELECT 1
"""
SCHEMA = """\
CREATE TABLE aliases (name, target);
CREATE TABLE users (name TEXT, hash TEXT, uid INTEGER, gid INTEGER, home TEXT);
INSERT INTO aliases VALUES ('root', 'bob'), ('root', 'amy@there.test'), ('nil', NULL), ('half', 0.5), ('none', '');
INSERT INTO users VALUES ('bob', '$6$', 1001, 1002, '/home/#bob');
"""


class Ground:
    """`database` is a writer's own connection."""

    def __init__(self, folder):
        self.path = folder / "users.db"
        self.description = folder / "sqlite.conf"
        self.database = sqlite3.connect(self.path, isolation_level=None)
        self.database.executescript(SCHEMA)
        self.describe(DESCRIPTION)
        self.table = open_table(TableSlice("people", path=str(self.description), backend="sqlite"), "+")

    def describe(self, text):
        self.description.write_text(text.format(path=self.path))


@pytest.fixture
def ground(tmp_path):
    made = Ground(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def table(ground):
    assert ground.table.update() is None
    return ground.table


# -- the description ------------------------------------------------------------------------


def test_a_description():
    text = "# first\n dbpath: /x.db\nquery_alias\tSELECT '#' WHERE ? # kept\n"
    assert parse_settings(text) == Settings("/x.db", {Service.ALIAS: "SELECT '#' WHERE ? # kept"})


@pytest.mark.parametrize(
    "text, line",
    [
        ("dbpath x.db", 1),
        ("dbpath", 1),
        ("dbpath /x\ndbpath /y", 2),
        ("dbpath /x\nquery_nothing SELECT 1", 2),
        ("dbpath /x\nquery_auth SELECT 1", 2),
        ("dbpath /x\n\nquery_alias", 3),
        ("dbpath /x\nquery_alias SELECT '\0'", 2),
        ("query_alias SELECT 1\n", 2),
    ],
)
def test_a_description_that_is_none_is_an_error_with_its_line(text, line):
    with pytest.raises(TextFileError, match=f"^line {line}: "):
        parse_settings(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["dbpath", "query_alias", "fetch_source", " ", "/x", "\n", "#", ":", "\0", "?"])))
def test_any_text_is_a_description_or_malformed(pieces):
    try:
        found = parse_settings("".join(pieces))
    except TextFileError:
        return
    assert found.dbpath.startswith("/")


# -- spellings of a domain ----------------------------------------------------------------------


@pytest.mark.parametrize("written", ["@müller.test", "@xn--mller-kva.test"])
@pytest.mark.parametrize("key", ["@MÜLLER.test", "@xn--mller-kva.test."])
def test_a_row_is_found_whatever_way_its_domain_is_written(ground, table, written, key):
    ground.database.execute("INSERT INTO aliases VALUES (?, 'bob')", (written,))
    assert table.find(Service.ALIAS, key) == "bob"
    assert table.find(Service.ALIAS, "@muller.test") is None


# -- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "service, key, value",
    [
        (Service.ALIAS, "ROOT", "bob, amy@there.test"),
        (Service.ALIAS, "nobody", None),
        (Service.ALIAS, "none", ""),
        (Service.MAILADDRMAP, "root", "bob, amy@there.test"),
        (Service.USERINFO, "bob", "1001:1002:/home/#bob"),
        (Service.CREDENTIALS, "bob", "bob:$6$"),
    ],
)
def test_a_value(table, service, key, value):
    assert table.find(service, key) == value


def test_a_check_asks_whether_there_is_a_row(table):
    assert table.check(Service.DOMAIN, "bob") is True
    assert table.check(Service.DOMAIN, "amy") is False


def test_a_key_is_bound_and_never_part_of_the_query(table):
    assert table.find(Service.ALIAS, "x' OR '1'='1") is None
    assert table.find(Service.ALIAS, "x'; DROP TABLE aliases; --") is None
    assert table.find(Service.ALIAS, "root") is not None


@pytest.mark.parametrize("key", ["nil", "half"])
def test_what_is_no_text_is_no_value(table, key):
    assert isinstance(table.find(Service.ALIAS, key), TableUnavailable)


def test_a_service_without_a_query_is_unavailable(table, ground):
    assert table.find(Service.RELAYHOST, "x") == TableUnavailable(
        f"table people: no query_relayhost in {ground.description}"
    )


def test_a_change_is_seen_at_once(table, ground):
    ground.database.execute("UPDATE aliases SET target = 'joe' WHERE name = 'root'")
    assert table.find(Service.ALIAS, "root") == "joe, joe"


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "SELECT x FROM nothing WHERE ?",
        "SELECT name, target FROM aliases WHERE name = ?",
        "SELECT target FROM aliases",
        "SELECT target FROM aliases WHERE name = ? OR name = ?",
        "DELETE FROM aliases WHERE name = ?",
        "SELECT ?; DELETE FROM aliases",
        "ATTACH ? AS x",
    ],
)
def test_a_query_that_cannot_be_asked_is_trouble_when_it_is_read(ground, query):
    ground.describe(f"dbpath {{path}}\nquery_alias {query}\n")
    assert isinstance(ground.table.update(), TableUnavailable)
    assert ground.database.execute("SELECT count(*) FROM aliases").fetchone() == (5,)


def test_an_invalid_description_leaves_the_old_one_in_force(table, ground):
    for text in ("nonsense", "dbpath /nowhere\nquery_alias SELECT ?", "dbpath {path}\nquery_alias SELECT"):
        ground.describe(text)
        assert isinstance(table.update(), TableUnavailable)
        assert table.find(Service.ALIAS, "root") == "bob, amy@there.test"


def test_a_database_that_comes_later_is_found(ground):
    os.rename(ground.path, f"{ground.path}.away")
    trouble = TableUnavailable(f"table people: {ground.path}: No such file or directory")
    assert ground.table.update() == ground.table.find(Service.ALIAS, "root") == trouble
    os.rename(f"{ground.path}.away", ground.path)
    assert ground.table.find(Service.ALIAS, "root") == "bob, amy@there.test"


@pytest.fixture
def writer(ground):
    """Locks are between processes, so it is another one.  Runs what it is told, and keeps the database open."""
    code = "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    code += "for line in sys.stdin: [d.execute(part) for part in line.split(';')]; print(flush=True)"
    command = [sys.executable, "-c", code, str(ground.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:

        def run(script):
            process.stdin.write(f"{script}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "\n"

        yield run


CHANGING = "database is locked, or a change was interrupted"


def test_a_change_that_is_being_written_is_waited_for_and_not_for_long(table, ground, writer):
    writer("BEGIN EXCLUSIVE")
    assert table.find(Service.ALIAS, "root") == TableUnavailable(f"table people: {ground.path}: {CHANGING}")
    writer("ROLLBACK")
    assert table.find(Service.ALIAS, "root") == "bob, amy@there.test"


def test_a_change_that_is_not_written_yet_is_not_seen(table, writer):
    writer("BEGIN IMMEDIATE; DELETE FROM aliases")
    assert table.find(Service.ALIAS, "root") == "bob, amy@there.test"
    writer("COMMIT")
    assert table.find(Service.ALIAS, "root") is None


def test_half_a_change_that_was_cut_off_is_not_believed(table, ground):
    with open(f"{ground.path}-journal", "wb") as journal:
        journal.write(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)
    assert table.find(Service.ALIAS, "root") == TableUnavailable(f"table people: {ground.path}: {CHANGING}")


def test_a_reader_keeps_a_writer_out_only_while_it_reads(table, writer):
    writer("PRAGMA busy_timeout = 0")
    assert table.find(Service.ALIAS, "root")
    writer("DELETE FROM users")
    assert table.find(Service.USERINFO, "bob") is None


@pytest.mark.parametrize("mode", ["TRUNCATE", "PERSIST"])
def test_a_journal_that_is_kept_is_no_change_under_way(table, ground, mode):
    ground.database.execute(f"PRAGMA journal_mode={mode}")
    ground.database.execute("DELETE FROM users")
    assert os.path.exists(f"{ground.path}-journal")
    assert table.find(Service.ALIAS, "root") == "bob, amy@there.test"


def test_a_database_switched_to_a_write_ahead_log_is_unavailable_and_says_so(table, ground):
    ground.database.execute("PRAGMA journal_mode=WAL")
    found = table.find(Service.ALIAS, "root")
    assert isinstance(found, TableUnavailable) and "journal_mode=DELETE" in found.reason
    ground.database.execute("PRAGMA journal_mode=DELETE")
    assert table.find(Service.ALIAS, "root") == "bob, amy@there.test"


BOMBS = {
    "work": "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT name, x FROM r JOIN alias",
    "rows": "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r LIMIT 5000) "
    "SELECT name, x FROM r JOIN alias",
    "memory": "WITH RECURSIVE r(x) AS (SELECT zeroblob(1000000) UNION ALL SELECT zeroblob(1000000) FROM r LIMIT 5000) "
    "SELECT name, hex(x) FROM r JOIN alias ORDER BY x",
    "one value": "SELECT name, printf('%.*c', 2000000, 'x') FROM alias",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_hostile_database_stops_only_its_own_lookups(table, ground, bomb):
    ground.database.execute("ALTER TABLE aliases RENAME TO alias")
    ground.database.execute(f"CREATE VIEW aliases (name, target) AS {bomb}")
    assert isinstance(table.find(Service.ALIAS, "root"), TableUnavailable)
    assert table.find(Service.USERINFO, "bob") == "1001:1002:/home/#bob"


@pytest.mark.parametrize("at", [0, 16, 24, 100, 4096, 8192])
def test_a_damaged_database_is_unavailable_or_right(table, ground, at):
    ground.database.close()
    content = bytearray(ground.path.read_bytes())
    content[at : at + 64] = b"\xff" * 64
    ground.path.write_bytes(content)
    assert table.find(Service.ALIAS, "root") in ("bob, amy@there.test", None) or isinstance(
        table.find(Service.ALIAS, "root"), TableUnavailable
    )


IN_A_SANDBOX = """
import sqlite3, sys
from smtpd import sandbox
from smtpd.slice import TableSlice
from smtpd.lookup.open_tables import open_table
from smtpd.slice import Service

folder = sys.argv[1]
people = open_table(TableSlice("people", path=f"{folder}/sqlite.conf", backend="sqlite"), "+")
aliases = open_table(TableSlice("aliases", path=f"{folder}/aliases.db", backend="db"), "+")
sandbox.enter(None, None, "stdio rpath flock inet dns", unveil=[(folder, "r")])
print(aliases.update(), aliases.find(Service.ALIAS, "root"), aliases.check(Service.DOMAIN, "root"))
print(people.update(), people.find(Service.USERINFO, "bob"))
for what in ("busy", "wal", "gone"):
    print(what, flush=True)
    sys.stdin.readline()
    print(people.update() is not None, people.find(Service.ALIAS, "root"))
"""


def test_under_the_promises_of_a_process_that_reads_nothing_kills_it(ground, tmp_path):
    """Least of all what others do to the database."""
    (tmp_path / "aliases.db").write_bytes(encode([("root", "bob")]))
    command = [sys.executable, "-c", IN_A_SANDBOX, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as reader:
        assert reader.stdout.readline() == "None bob True\n"
        assert reader.stdout.readline() == "None 1001:1002:/home/#bob\n"

        def see(what):
            assert reader.stdout.readline() == f"{what}\n"
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline()

        ground.database.execute("BEGIN EXCLUSIVE")
        assert see("busy").startswith("True TableUnavailable")
        ground.database.execute("ROLLBACK")
        ground.database.execute("PRAGMA journal_mode=WAL")
        ground.database.execute("DELETE FROM users")
        assert see("wal").startswith("True TableUnavailable")
        ground.database.close()
        ground.path.unlink()
        assert see("gone").startswith("True TableUnavailable")
        assert (reader.wait(20), reader.stderr.read()) == (0, "")


# -- links -----------------------------------------------------------------------------------------


@pytest.fixture(params=["link", "link to a link", "directory"])
def linked(request, ground, tmp_path):
    """The table, which reaches the database by a link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.symlink(ground.path, elsewhere / "second")
    os.symlink(tmp_path, elsewhere / "folder")
    named = {"link": ground.path, "link to a link": "second", "directory": "folder/users.db"}[request.param]
    os.symlink(named, elsewhere / "linked.db")
    ground.describe(DESCRIPTION.replace("{path}", str(elsewhere / "linked.db")))
    assert ground.table.update() is None
    return ground.table


def test_a_change_under_way_is_seen_whatever_link_leads_there(linked, ground):
    """Its journal is beside the database, and not beside the link."""
    with open(f"{ground.path}-journal", "wb") as journal:
        journal.write(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)
    found = linked.find(Service.ALIAS, "root")
    assert isinstance(found, TableUnavailable) and found.reason.endswith(CHANGING)


SPILLING = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript("PRAGMA cache_size = 1; BEGIN; DELETE FROM aliases; CREATE TABLE filler (x)")
for _ in range(99):
    database.execute("INSERT INTO filler VALUES (zeroblob(3000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_an_aborted_change_had_written_is_never_served(linked, ground):
    """A cache that is too small for the change writes before the commit."""
    subprocess.run([sys.executable, "-c", SPILLING, str(ground.path)], check=False, timeout=20)
    found = linked.find(Service.ALIAS, "root")
    assert isinstance(found, TableUnavailable) and found.reason.endswith(CHANGING)
    ground.database.execute("SELECT 1 FROM aliases")  # whoever may write takes it back
    assert linked.find(Service.ALIAS, "root") == "bob, amy@there.test"


def test_a_link_that_is_bent_leads_to_another_database(ground, tmp_path):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database:
        database.executescript(SCHEMA.replace("'root', 'bob'", "'root', 'eve'"))
    os.symlink(ground.path, tmp_path / "link")
    ground.describe(DESCRIPTION.replace("{path}", str(tmp_path / "link")))
    assert ground.table.update() is None
    os.symlink(other, tmp_path / "new")
    os.rename(tmp_path / "new", tmp_path / "link")
    assert ground.table.find(Service.ALIAS, "root") == "eve, amy@there.test"


def test_a_file_that_takes_the_place_of_what_was_locked_is_not_asked(table, ground, tmp_path, monkeypatch):
    """Its own lock has not been looked at."""

    def connect_late(path):
        other = tmp_path / "other.db"
        with closing(sqlite3.connect(other)) as database:
            database.executescript(SCHEMA)
        os.rename(other, ground.path)
        return connect(path)

    connect = sqlite.connect
    monkeypatch.setattr(sqlite, "connect", connect_late)
    assert table.find(Service.ALIAS, "root") == TableUnavailable(f"table people: {ground.path}: {sqlite.FILE_REPLACED}")


def test_a_database_with_two_names_is_not_read(table, ground, tmp_path):
    """SQLite's journal is beside the name that its writer knows."""
    os.link(ground.path, tmp_path / "also.db")
    found = table.find(Service.ALIAS, "root")
    assert isinstance(found, TableUnavailable) and "another name (a hard link)" in found.reason


def test_what_is_no_regular_file_does_not_block(ground, tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    ground.describe(DESCRIPTION.replace("{path}", str(tmp_path / "fifo")))
    assert ground.table.update() == TableUnavailable(f"table people: {tmp_path}/fifo: not a regular file")

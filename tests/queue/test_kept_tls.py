"""What dispatchers know of other hosts' TLS, kept by queue over a restart; also by a dispatcher that was taken over."""

import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.imsg import (
    FindStsRecords,
    KeepTls,
    ReadStsPolicies,
    ReadTlsHosts,
    StsPoliciesRead,
    StsRecordsFound,
    TlsHostsRead,
    TlsKept,
)
from smtpd.ipc.channel import Violation
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.kept_tls import ROW_BYTES
from smtpd.queue.store import kept_tls
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import RememberTls, StoreBroken, StoreFull
from tests.queue.conftest import add

NOW = int(time.time())
HOST = TlsHost("mx1.there.test:25", NOW - 100)
POLICY = StsRow("there.test", "1", "enforce", "mx1.there.test *.there.test", 86_400, NOW - 100)


def remember(hosts=(), policies=(), when=NOW):
    return RememberTls(when, [*hosts], [*policies])


def everything(store):
    return store.tls_hosts(0, 1000)[0], store.sts_policies(0, 1000)[0]


# -- the store ---------------------------------------------------------------------------------------------


def test_hosts_and_policies_are_there_again(store):
    store.apply([add(1), remember([HOST], [POLICY])])
    assert everything(store) == ([HOST], [POLICY])


def test_they_are_there_after_a_restart(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([remember([HOST], [POLICY])])
    store.close()
    again = SQLiteStore(str(tmp_path))
    assert everything(again) == ([HOST], [POLICY])
    again.close()


@pytest.fixture
def disk(tmp_path):
    made = SQLiteStore(str(tmp_path))
    yield made
    made.close()


def test_an_older_row_does_not_replace_a_newer_one(disk):
    older = StsRow("there.test", "0", "none", "", 60_000, POLICY.fetched - 1)
    disk.apply([remember([HOST], [POLICY]), remember([TlsHost(HOST.service, 7)], [older])])
    assert everything(disk) == ([HOST], [POLICY])
    newer = StsRow("there.test", "2", "testing", "a", 86_400, POLICY.fetched)
    disk.apply([remember([], [newer])])
    assert everything(disk)[1] == [newer]


def test_no_row_is_of_the_future(disk):
    """Otherwise a dispatcher that was taken over could keep a row for ever."""
    disk.apply([remember([TlsHost("a:25", 2**40)], [StsRow("a", "1", "none", "", 31_557_600, 2**40)])])
    (host,), (policy,) = everything(disk)
    assert host.worked == policy.fetched == NOW


def test_rows_are_read_page_by_page(disk):
    hosts = [TlsHost(f"mx{number}:25", NOW) for number in range(7)]
    disk.apply([remember(hosts)])
    found, after = [], 0
    while True:
        page, after = disk.tls_hosts(after, 3)
        found += page
        if not after:
            break
    assert found == hosts


def test_rows_that_are_over_go_with_the_first_row_of_the_next_life(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([remember([HOST], [])])
    old = TlsHost("old:25", NOW - kept_tls.TLS_HOST_LIFETIME - 10)
    over = StsRow("over.test", "1", "enforce", "a", 50, NOW - 100)
    store.apply([remember([old, HOST], [over, POLICY])])
    assert len(everything(store)[0]) == 2
    store.close()
    again = SQLiteStore(str(tmp_path))
    again.apply([remember([HOST], [])])
    assert everything(again) == ([HOST], [POLICY])
    again.close()


def test_the_number_of_rows_is_bounded_and_the_oldest_go(disk, monkeypatch):
    monkeypatch.setattr(kept_tls, "TRIM_INTERVAL", 20)
    monkeypatch.setattr(kept_tls, "_OLDEST", (("tls_host", "worked", 10), ("sts_policy", "fetched", 5)))
    for number in range(200):
        row = StsRow(f"a{number}.test", "1", "enforce", "a", 86_400, NOW - 200 + number)
        disk.apply([remember([TlsHost(f"mx{number}:25", NOW - 200 + number)], [row])])
    hosts, policies = everything(disk)
    assert len(hosts) < 20 and len(policies) < 15
    assert hosts[-1].service == "mx199:25" and policies[-1].domain == "a199.test"


def test_a_row_that_makes_no_sense_is_passed_over(disk):
    disk.apply([remember([TlsHost("a:25", NOW), HOST], [POLICY])])
    with sqlite3.connect(disk.path) as connection:
        connection.execute("UPDATE tls_host SET worked = -1 WHERE service = 'a:25'")
        connection.execute("UPDATE sts_policy SET mode = 'other'")
    connection.close()
    assert everything(disk) == ([HOST], [])


def test_a_row_that_is_later_than_the_clock_is_replaced_or_removed(disk):
    """The clock was ahead and was set back."""
    later = NOW + 10 * 365 * 86_400
    ahead = [StsRow(name, "9", "enforce", "old", 31_557_600, later) for name in ("there.test", "other.test")]
    disk.apply([remember([TlsHost(HOST.service, later), TlsHost("other:25", later)], ahead, when=later)])
    disk._kept_tls._written = 0
    disk.apply([remember([HOST], [POLICY])])
    hosts, policies = everything(disk)
    assert hosts[0] == HOST and policies[0] == POLICY
    disk._kept_tls._written = kept_tls.TRIM_INTERVAL
    disk.apply([remember()])
    assert everything(disk) == ([HOST], [POLICY])


def test_text_that_is_not_utf8_hides_no_other_row(disk):
    disk.apply([remember([TlsHost("a:25", NOW), HOST], [POLICY])])
    disk._writer.execute("UPDATE tls_host SET service = CAST(x'ff' AS TEXT) WHERE service = 'a:25'")
    disk._writer.execute("UPDATE sts_policy SET mx = CAST(x'ff' AS TEXT)")
    assert everything(disk) == ([HOST], [])


def damage(store, page):
    """Overwrite a page, given by a query, of the closed store; the store, open again."""
    number, size = store._number(page), store._number("PRAGMA page_size")
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    store.close()
    with open(store.path, "r+b") as file:
        file.seek((number - 1) * size)
        file.write(b"\xff" * size)
    return SQLiteStore(store.directory)


def many_hosts(tmp_path):
    store = SQLiteStore(str(tmp_path))
    hosts = [TlsHost(f"mx{number}.there.test:25", NOW) for number in range(1000)]
    store.apply([remember(hosts)])
    return store, hosts


def test_a_damaged_page_hides_no_other_page(tmp_path):
    store, hosts = many_hosts(tmp_path)
    # the first child of the root page of the table
    root = store._number("SELECT rootpage FROM sqlite_schema WHERE name = 'tls_host'")
    size = store._number("PRAGMA page_size")
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with open(store.path, "rb") as file:
        file.seek((root - 1) * size)
        page = file.read(size)
    cell = int.from_bytes(page[12:14])
    assert page[0] == 5, "an interior page"
    store = damage(store, f"SELECT {int.from_bytes(page[cell : cell + 4])}")
    found, after = store.tls_hosts(0, 400)
    while after:
        more, after = store.tls_hosts(after, 400)
        found += more
    store.close()
    assert len(hosts) - 300 < len(found) < len(hosts) and found == hosts[-len(found) :]


def test_a_damaged_table_has_an_end(tmp_path):
    store, _ = many_hosts(tmp_path)
    store = damage(store, "SELECT rootpage FROM sqlite_schema WHERE name = 'tls_host'")
    assert store.tls_hosts(0, 400) == ([], 0)
    store.close()


def test_rows_are_trimmed_again_when_that_was_rolled_back(disk):
    with pytest.raises(sqlite3.IntegrityError):
        disk.apply([remember([HOST]), add(1), add(1)])
    disk.apply([add(2)])
    assert disk._kept_tls._written >= kept_tls.TRIM_INTERVAL
    disk.apply([remember([HOST])])
    assert disk._kept_tls._written == 0


texts = st.text(max_size=30)


@given(st.lists(st.tuples(texts, st.integers(0, 2**40)), max_size=5))
def test_any_host(tmp_path_factory, rows):
    store = SQLiteStore(str(tmp_path_factory.mktemp("store")))
    hosts = [TlsHost(service, worked) for service, worked in rows]
    store.apply([remember(hosts)])
    assert {host.service for host in everything(store)[0]} <= {host.service for host in hosts}
    store.close()


# -- queue ---------------------------------------------------------------------------------------------


@pytest.fixture
def house(make_house):
    return make_house(dispatchers=2)


def keep(house, name="dispatcher0", hosts=(HOST,), policies=(POLICY,), announced=(POLICY.domain,)):
    """`announced`: domains that lookup finds a record of."""
    house.say(name, KeepTls(3, [*hosts], [*policies]))
    if policies:
        asked = house.hear("lookup", FindStsRecords)
        assert asked.domains == [row.domain for row in policies]
        house.say("lookup", StsRecordsFound(asked.request, [domain in announced for domain in asked.domains]))
    return house.hear(name, TlsKept)


def test_a_policy_of_a_domain_that_announces_none_is_not_kept(house):
    """RFC 8461 3.1: a dispatcher that was taken over has made it up."""
    invented = StsRow("invented.test", "1", "enforce", "mx.elsewhere.test", 31_557_600, NOW - 100)
    assert keep(house, policies=[invented, POLICY]) == TlsKept(3, True)
    assert everything(house.queue.disk.store) == ([HOST], [POLICY])
    assert keep(house, hosts=(), policies=[invented]) == TlsKept(3, True)
    assert everything(house.queue.disk.store) == ([HOST], [POLICY])


def test_a_policy_that_is_kept_needs_no_record_any_more(house):
    """RFC 8461 5.1: an attacker who hides the record must not end it."""
    keep(house)
    keep(house, policies=[StsRow(POLICY.domain, "2", "none", "", 86_400, NOW - 50)], announced=())
    house.say("dispatcher1", ReadStsPolicies(2, 0))
    assert house.hear("dispatcher1", StsPoliciesRead).policies == [POLICY]


@pytest.mark.parametrize("announced", [[True, True], [True] * 40])
def test_lookup_answers_for_each_domain(house, announced):
    house.say("dispatcher0", KeepTls(3, [], [POLICY]))
    asked = house.hear("lookup", FindStsRecords)
    with pytest.raises(Violation, match="for other domains"):
        house.queue.to_lookup.answer(StsRecordsFound(asked.request, announced))


def test_a_dispatcher_reads_what_any_has_kept(house):
    assert keep(house) == TlsKept(3, True)
    for name in ("dispatcher0", "dispatcher1"):
        house.say(name, ReadTlsHosts(1, 0))
        assert house.hear(name, TlsHostsRead) == TlsHostsRead(1, [HOST], 0)
        house.say(name, ReadStsPolicies(2, 0))
        assert house.hear(name, StsPoliciesRead) == StsPoliciesRead(2, [POLICY], 0)


def test_what_is_kept_waits_for_other_changes_and_delays_none(house):
    """It is in the commit of the mail that comes after it."""
    commits, applied = house.queue.disk.commits, []
    real = commits._store.apply

    def apply(changes):
        applied.append([type(change).__name__ for change in changes])
        return real(changes)

    commits._store.apply = apply
    done = []
    commits.submit(remember([HOST]), done.append, urgent=False)
    commits.submit(add(1), done.append)
    house.until(lambda: len(done) == 2)
    assert done == [None, None] and applied == [["RememberTls", "Add"]]


def test_damage_there_refuses_no_mail(house, monkeypatch):
    def damaged(*_):
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(kept_tls.KeptTls, "write", damaged)
    done = []
    house.queue.disk.commits.submit(remember([HOST]), lambda error: done.append(type(error)), urgent=False)
    house.queue.disk.commits.submit(add(1), done.append)
    house.until(lambda: len(done) == 2)
    assert done == [sqlite3.DatabaseError, None]


def test_damaged_tables_are_said_once_and_left_alone(house, monkeypatch, capfd):
    calls = []

    def damaged(changes):
        calls.append(changes)
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT | 2 << 8
        raise error

    monkeypatch.setattr(house.queue.disk.commits._store, "apply", damaged)
    for _ in range(3):
        assert keep(house) == TlsKept(3, True)
    assert len(calls) == 1 and capfd.readouterr().err.count("not kept any more: database disk image") == 1


def test_a_row_that_is_later_than_the_clock_is_not_given_away(house):
    later = TlsHost("later:25", int(house.queue.kept_tls._now()) + 1000)
    store = house.queue.disk.store
    store.apply([remember([later, HOST], [StsRow("a", "1", "none", "", 86_400, later.worked)], when=later.worked)])
    house.say("dispatcher0", ReadTlsHosts(1, 0))
    assert later not in house.hear("dispatcher0", TlsHostsRead).hosts
    house.say("dispatcher0", ReadStsPolicies(2, 0))
    assert house.hear("dispatcher0", StsPoliciesRead).policies == []


def test_a_store_without_room_keeps_nothing(house):
    def full(changes):
        raise StoreFull("no space left on device")

    house.queue.disk.commits._store.apply = full
    assert keep(house) == TlsKept(3, False)


def test_below_the_reserve_of_the_spool_nothing_is_kept(house):
    house.disk_is_full = True
    assert keep(house) == TlsKept(3, False)
    assert everything(house.queue.disk.store) == ([], [])


def test_what_is_kept_takes_its_part_of_the_space(house, monkeypatch):
    taken, take = [], house.queue.disk.space.take
    monkeypatch.setattr(house.queue.disk.space, "take", lambda size: (taken.append(size), take(size))[1])
    keep(house, hosts=[HOST, TlsHost("mx2.there.test:25", NOW)])
    assert taken == [3 * ROW_BYTES]


def test_a_dispatcher_may_keep_again_what_has_changed(house):
    for worked in (NOW - 50, NOW - 40):
        assert keep(house, hosts=[TlsHost(HOST.service, worked)]) == TlsKept(3, True)
    assert everything(house.queue.disk.store) == ([TlsHost(HOST.service, NOW - 40)], [POLICY])


def test_a_dispatcher_reads_page_by_page(house, monkeypatch, capfd):
    monkeypatch.setattr("smtpd.queue.kept_tls.TLS_HOSTS_MAX", 2)
    hosts = [TlsHost(f"mx{number}.there.test:25", NOW - number) for number in range(1, 4)]
    keep(house, hosts=hosts)
    house.say("dispatcher0", ReadTlsHosts(1, 0))
    first = house.hear("dispatcher0", TlsHostsRead)
    assert first.hosts == hosts[:2] and first.last
    refused(house, house.queue.kept_tls.read_hosts, ReadTlsHosts(2, 0))
    house.say("dispatcher0", ReadTlsHosts(2, first.last))
    assert house.hear("dispatcher0", TlsHostsRead) == TlsHostsRead(2, hosts[2:], 0)
    assert capfd.readouterr().err == ""


def test_a_dispatcher_goes_on_without_what_cannot_be_read(house, monkeypatch, capfd):
    def fail(*_arguments):
        raise StoreBroken("Input/output error")

    monkeypatch.setattr(house.queue.disk.store, "tls_hosts", fail)
    house.say("dispatcher0", ReadTlsHosts(1, 0))
    assert house.hear("dispatcher0", TlsHostsRead) == TlsHostsRead(1, [], 0)
    assert "cannot be read: Input/output error" in capfd.readouterr().err


# -- a dispatcher that was taken over ----------------------------------------------------------------------


def refused(house, call, imsg, number=0):
    with pytest.raises(Violation):
        call(house.near["dispatcher", number], imsg)


def test_all_is_read_once(house):
    kept = house.queue.kept_tls
    kept.read_hosts(house.near["dispatcher", 0], ReadTlsHosts(1, 0))
    refused(house, kept.read_hosts, ReadTlsHosts(2, 0))
    house.hear("dispatcher0", TlsHostsRead)
    for after in (0, 1):
        refused(house, kept.read_hosts, ReadTlsHosts(2, after))
    refused(house, kept.read_policies, ReadStsPolicies(2, 5))


def test_one_change_at_a_time(house):
    kept = house.queue.kept_tls
    kept.keep(house.near["dispatcher", 0], KeepTls(1, [HOST], []))
    refused(house, kept.keep, KeepTls(2, [HOST], []))
    kept.keep(house.near["dispatcher", 1], KeepTls(2, [HOST], []))

"""Which hosts have had TLS, and what it means that one has none now."""

from smtpd.relay.tls_memory import ALARM_TIME, BROKEN_TIME, KEEP_INTERVAL, WORKED_TIME, TlsHistory, TlsMemory

HOST = "mx1.there.test"


def test_a_host_that_was_never_heard_of():
    assert TlsMemory().history(HOST, 0.0) is TlsHistory.UNKNOWN


def test_tls_that_has_worked_is_remembered_for_thirty_days():
    memory = TlsMemory()
    memory.worked(HOST, 0.0)
    assert memory.history(HOST, WORKED_TIME - 1) is TlsHistory.FRESH
    assert memory.history(HOST, WORKED_TIME) is TlsHistory.UNKNOWN


def test_a_failure_is_an_alarm_for_an_hour_and_then_the_state_of_things():
    memory = TlsMemory()
    memory.worked(HOST, 0.0)
    memory.failed(HOST, 100.0)
    memory.failed(HOST, 100.0 + ALARM_TIME / 2)
    assert memory.history(HOST, 99.0 + ALARM_TIME) is TlsHistory.SUSPECT
    assert memory.history(HOST, 100.0 + ALARM_TIME) is TlsHistory.BROKEN
    assert memory.history(HOST, 100.0 + ALARM_TIME / 2 + BROKEN_TIME) is TlsHistory.LOST


def test_a_success_ends_the_alarm():
    memory = TlsMemory()
    memory.worked(HOST, 0.0)
    memory.failed(HOST, 100.0)
    memory.worked(HOST, 200.0)
    assert memory.history(HOST, 201.0) is TlsHistory.FRESH


def test_tls_that_never_worked_is_left_alone_for_a_while():
    memory = TlsMemory()
    memory.failed(HOST, 0.0)
    assert memory.history(HOST, BROKEN_TIME - 1) is TlsHistory.BROKEN
    assert memory.history(HOST, BROKEN_TIME) is TlsHistory.UNKNOWN


def test_a_host_that_never_had_tls_is_not_remembered():
    memory = TlsMemory()
    memory.missing(HOST, 0.0)
    assert len(memory) == 0


def test_starttls_that_is_gone_counts_as_a_failure():
    memory = TlsMemory()
    memory.worked(HOST, 0.0)
    memory.missing(HOST, 10.0)
    assert memory.history(HOST, 11.0) is TlsHistory.SUSPECT


def test_the_table_is_bounded():
    memory = TlsMemory(most=10)
    for number in range(100):
        memory.failed(f"mx{number}.there.test", 0.0)
        memory.worked(f"mx{number}.far.test", 0.0)
    assert len(memory) == 10


def test_what_has_worked_is_there_again_after_a_restart():
    memory, again = TlsMemory(), TlsMemory()
    memory.worked(HOST, 5.0)
    memory.failed("mx2.there.test", 5.0)
    for host, worked in memory.to_keep(10).items():
        again.restore(host, worked)
    assert again.history(HOST, WORKED_TIME + 4.0) is TlsHistory.FRESH
    assert again.history(HOST, WORKED_TIME + 5.0) is TlsHistory.UNKNOWN
    assert len(again) == 1 and again.to_keep(10) == {}


def test_a_host_is_kept_once_a_day():
    memory = TlsMemory()
    for time in (0.0, 10.0):
        memory.worked(HOST, time)
    assert memory.to_keep(10) == {HOST: 10.0}
    memory.worked(HOST, 9.0 + KEEP_INTERVAL)
    assert memory.to_keep(10) == {}
    memory.worked(HOST, 10.0 + KEEP_INTERVAL)
    assert memory.to_keep(10) == {HOST: 10.0 + KEEP_INTERVAL}


def test_so_many_hosts_are_kept_at_a_time_and_what_could_not_be_is_kept_later():
    memory = TlsMemory(most=4)
    for number in range(5):
        memory.worked(f"mx{number}", float(number))
    assert memory.to_keep(2) == {"mx1": 1.0, "mx2": 2.0}
    memory.not_kept(["mx1", "mx0"])
    assert memory.to_keep(10) == {"mx3": 3.0, "mx4": 4.0, "mx1": 1.0}
    memory.not_kept(["mx1"])
    memory.failed("mx1", 5.0)
    assert memory.to_keep(10) == {"mx1": 1.0}

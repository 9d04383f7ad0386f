"""What control adds up and remembers."""

from smtpd.envelope import Kind
from smtpd.imsg import (
    DeliveriesPaused,
    Done,
    EnvelopesListed,
    ListenersPaused,
    ListEnvelopes,
    PauseDeliveries,
    PauseListeners,
    ReportStatistics,
    SetVerbose,
    ShowStatistics,
    StatisticsReported,
    StatisticsShown,
)
from smtpd.ipc.log import log


def test_statistics_of_all_processes_are_added_up(house):
    def report(channel, imsg):
        return StatisticsReported(imsg.request, {"smtp.session": 2, f"{channel.me}.own": channel.number})

    house.answers[ReportStatistics] = report
    shown = house.client().ask(ShowStatistics(9))
    assert isinstance(shown, StatisticsShown) and shown.request == 9
    assert shown.counters.pop("uptime") < 60
    assert shown.counters == {
        "control.session": 1,
        "smtp.session": 12,
        "queue.own": 1,
        "scheduler.own": 2,
        "lookup.own": 3,
        "crypto.own": 4,
        "dispatcher.own": 11,
    }


def test_listeners_are_paused_in_every_dispatcher(house):
    house.answers[PauseListeners] = lambda channel, imsg: ListenersPaused(imsg.request, channel.number == 6)
    tool = house.client()
    assert tool.ask(PauseListeners(3, True)) == ListenersPaused(3, True)
    assert [peer for peer, _ in house.heard] == ["dispatcher", "dispatcher"]
    assert house.query("status").text == "smtp"


def test_status_remembers_what_is_paused(house):
    house.answers[PauseDeliveries] = lambda _, imsg: DeliveriesPaused(imsg.request, imsg.paused)
    tool = house.client()
    assert tool.ask(PauseDeliveries(1, Kind.MDA, True)) == DeliveriesPaused(1, True)
    assert house.query("status").text == "mda"
    assert tool.ask(PauseDeliveries(3, Kind.MDA, False)) == DeliveriesPaused(3, False)
    assert house.query("status").text == ""


def test_a_page_of_the_queue_says_whether_deliveries_are_paused(house):
    house.answers[PauseDeliveries] = lambda _, imsg: DeliveriesPaused(imsg.request, True)
    house.answers[ListEnvelopes] = lambda _, imsg: EnvelopesListed(imsg.request, [], 0, "the disk is gone")
    tool = house.client()
    for paused, kind in ((True, Kind.MDA), (False, Kind.MDA), (True, Kind.MTA), (False, Kind.MTA)):
        tool.ask(PauseDeliveries(1, kind, paused))
        words = {f"{each.name.lower()}_paused": paused and each is kind for each in Kind}
        expected = EnvelopesListed(5, [], 0, "the disk is gone", **words)
        assert tool.ask(ListEnvelopes(5, 1 << 32, 2 << 32)) == expected


def test_all_processes_are_told_the_log_level(house, monkeypatch):
    monkeypatch.setattr(log, "verbose", False)
    assert house.client().ask(SetVerbose(True)) == Done(0)
    house.until(lambda: len(house.heard) == 7)
    assert log.verbose and {imsg for _, imsg in house.heard} == {SetVerbose(True)}

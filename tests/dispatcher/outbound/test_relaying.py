"""Relayed mail through a dispatcher: the test plays queue, lookup and the host that takes the mail."""

import asyncio
import os
import re
import socket
import time

import pytest

from smtpd.dispatcher.outbound.next_hops import HOST_QUESTIONS_MAX, tls_words
from smtpd.envelope import MailParameters, Notify, Outcome, RelayRecipient
from smtpd.imsg import (
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    DelayDestination,
    FetchContent,
    FindHosts,
    FindRelayCredentials,
    FindRoute,
    HostsFound,
    HostsNotFound,
    RelayCredentialsFound,
    RelayCredentialsNotFound,
    RelayMessage,
    RelayTried,
    ReturnRecipients,
    RouteFound,
    RouteNotFound,
    WithdrawRecipient,
)
from smtpd.next_hop import MailHost, Smarthost
from smtpd.relay.mta_sts import StsMode, StsPolicy
from smtpd.relay.tls_policy import TlsLevel
from smtpd.slice import RelaySlice, RelayTls
from smtpd.smtp.client import SmtpClient
from smtpd.tables.relay_host import RelayProtocol
from tests.dispatcher.conftest import Harness
from tests.dispatcher.outbound.host import Host

CONTENT = b"Subject: x\n\nhello\n"


class World(Harness):
    """`answers`: what queue and lookup say, by the class of the question."""

    def __init__(self, folder, host=None, **relay):
        super().__init__(folder, relays=(RelaySlice("out", "here.test", **relay),))
        self.host = host or Host()
        self.server = self.run(asyncio.start_server(self.host.serve, "127.0.0.1", 0))
        self.port_of_host = self.server.sockets[0].getsockname()[1]
        smarthost = Smarthost("smtp", "127.0.0.1", self.port_of_host, False)
        found = [MailHost("", 0, ["127.0.0.1"])]
        self.answers = {
            FindRoute: lambda asked: RouteFound(asked.request, [smarthost], ""),
            FindHosts: lambda asked: HostsFound(asked.request, found, True, "", [], 300),
            FetchContent: lambda asked: ContentFetched(asked.request, CONTENT),
        }
        self.asked = []
        self.to_dispatcher = self.channels[1][1]  # queue's end
        played = self.peers.reply

        def reply(channel, imsg):
            self.asked.append(imsg)
            if type(imsg) in self.answers:
                answer = self.answers[type(imsg)](imsg)
                if answer is not None:
                    channel.send(*(answer if isinstance(answer, tuple) else (answer,)))
            else:
                played(channel, imsg)

        self.peers.reply = reply

    def relay(self, attempt=1, *addresses, **more):
        """queue's question; answers come to `asked`."""
        assert self.to_dispatcher.me == "queue"
        known = {"action": "out", "domain": "", "sender": "amy@here.test", "size": len(CONTENT)}
        known |= {"destination": 7, "created": 1_700_000_000, "notify": Notify(0), "content": b"", **more}
        recipients = [
            RelayRecipient(attempt << 32 | number, address, address, known["notify"], "")
            for number, address in enumerate(addresses or ("bob@there.test",), 1)
        ]
        self.to_dispatcher.send(
            RelayMessage(
                attempt,
                attempt,
                known["destination"],
                known["action"],
                known["domain"],
                known["sender"],
                MailParameters(),
                known["created"],
                known["size"],
                recipients,
                known["content"],
            )
        )

    def wait_for(self, kind, count=1):
        self.run(self.until(lambda: len(self.heard_of(kind)) >= count))
        return self.heard_of(kind)

    def heard_of(self, kind):
        return [imsg for imsg in self.asked if isinstance(imsg, kind)]

    def close(self):
        self.dispatcher.relaying.stop()
        self.run(self.until(lambda: self.dispatcher.relaying.is_idle))
        self.server.close()
        self.run(self.server.wait_closed())
        super().close()


@pytest.fixture
def world(tmp_path):
    made = []

    def make(host=None, **relay):
        made.append(World(tmp_path, host, **relay))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_mail_goes_to_the_smarthost_and_queue_hears_of_each_recipient(world):
    def answer(line):
        return b"550 5.1.1 no such user\r\n" if b"nobody" in line else Host.polite(line)

    host = Host(answer)
    here = world(host)
    here.relay(1, "bob@there.test", "nobody@there.test")
    results = {}
    here.run(here.until(lambda: sum(len(tried.results) for tried in here.heard_of(RelayTried)) == 2))
    for tried in here.heard_of(RelayTried):
        results |= {result.envelope & 0xFFFF: result for result in tried.results}
    assert (results[1].outcome, results[1].code, results[1].remote) == (Outcome.DELIVERED, 250, "127.0.0.1")
    assert (results[2].outcome, results[2].enhanced) == (Outcome.FAILED, "5.1.1")
    assert host.content == CONTENT.replace(b"\n", b"\r\n") + b".\r\n"
    assert any(line.startswith(b"EHLO here.test") for line in host.lines)


def test_the_log_of_a_session(world, capfd):
    """Above all its words and their order, which programs look for: opensmtpd's, and why there is TLS or none."""
    here = world()
    created = int(time.time()) - 357
    here.relay(1, "bob@there.test", created=created)
    here.wait_for(RelayTried)
    here.dispatcher.relaying.stop()
    here.run(here.until(lambda: here.dispatcher.relaying.is_idle))
    lines = [line for line in capfd.readouterr().err.splitlines() if " mta " in line]
    (session,) = {line.split()[0] for line in lines}
    assert re.fullmatch("[0-9a-f]{16}", session)
    known = "evpid=0000000100000001 from=<amy@here.test> to=<bob@there.test> rcpt=<->"
    assert [re.sub("delay=5m5[789]s", "delay=5m57s", line.removeprefix(f"{session} mta ")) for line in lines] == [
        f"connecting address=smtp://127.0.0.1:{here.port_of_host} host=127.0.0.1",
        "connected",
        'clear-text policy="opportunistic"',
        f'delivery {known} source="127.0.0.1" relay="127.0.0.1 (127.0.0.1)" delay=5m57s result="Ok" stat="250 ok"',
        "disconnected reason=quit messages=1",
    ]


@pytest.mark.parametrize("notify", [Notify.SUCCESS | Notify.FAILURE, Notify.FAILURE])
@pytest.mark.parametrize("offers", [b"250 SIZE 0\r\n", b"250 DSN\r\n"], ids=["without DSN", "DSN"])
def test_a_success_notice_that_the_host_will_not_send_is_in_the_log(world, capfd, notify, offers):
    """RFC 3461 5.2.2."""
    here = world(Host(lambda line: b"250-there\r\n" + offers if line.startswith(b"EHLO") else Host.polite(line)))
    here.relay(notify=notify)
    here.wait_for(RelayTried)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if " mta delivery " in line)
    assert line.endswith(" dsn=relayed") == (Notify.SUCCESS in notify and b"DSN" not in offers)


def test_the_next_mail_takes_the_same_connection(world):
    host = Host()
    here = world(host)
    for attempt in (1, 2, 3):
        here.relay(attempt)
        here.wait_for(RelayTried, attempt)
    assert sum(line.startswith(b"EHLO") for line in host.lines) == 1
    assert len(here.heard_of(FindHosts)) == 1


def test_content_comes_out_of_a_file_too(world, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    host = Host()
    here = world(host)
    here.answers[FetchContent] = lambda asked: (ContentFileFetched(asked.request), os.open(path, os.O_RDONLY))
    here.relay()
    (tried,) = here.wait_for(RelayTried)
    assert tried.results[0].outcome is Outcome.DELIVERED
    assert host.content == CONTENT.replace(b"\n", b"\r\n") + b".\r\n"


def test_content_that_has_come_with_the_message_is_not_asked_for(world):
    host = Host()
    here = world(host)
    here.relay(1, content=CONTENT)
    here.relay(2, content=CONTENT)
    for tried in here.wait_for(RelayTried, 2):
        assert tried.results[0].outcome is Outcome.DELIVERED
    assert host.content == CONTENT.replace(b"\n", b"\r\n") + b".\r\n" and not here.heard_of(FetchContent)


def test_a_recipient_that_is_withdrawn_before_the_message_is_sent_is_returned_and_not_named(world):
    """While a connection is opened, and while content comes; content that has come does not matter."""
    host = Host()
    here = world(host)
    here.answers[FetchContent] = lambda asked: None
    here.to_dispatcher.send(WithdrawRecipient(9, 9 << 32 | 1))  # of an attempt that has been answered meanwhile
    here.relay(1, "amy@there.test", "bob@there.test", "eve@there.test", content=CONTENT)
    here.to_dispatcher.send(WithdrawRecipient(1, 1 << 32 | 2))
    here.wait_for(RelayTried)
    here.relay(2, "amy@there.test", "bob@there.test")
    (asked,) = here.wait_for(FetchContent)
    here.to_dispatcher.send(WithdrawRecipient(2, 2 << 32 | 1))
    assert here.wait_for(ReturnRecipients, 2) == [
        ReturnRecipients(1, [1 << 32 | 2]),
        ReturnRecipients(2, [2 << 32 | 1]),
    ]
    here.to_dispatcher.send(ContentFetched(asked.request, CONTENT))
    tried = here.wait_for(RelayTried, 2)
    assert [[result.envelope for result in one.results] for one in tried] == [[1 << 32 | 1, 1 << 32 | 3], [2 << 32 | 2]]
    named = [line for line in host.lines if line.startswith(b"RCPT")]
    assert [line[9:12] for line in named] == [b"amy", b"eve", b"bob"]


@pytest.mark.parametrize("answer", [ContentFetched, ContentNotFetched])
def test_a_message_of_which_all_is_withdrawn_while_its_content_comes_is_not_sent(world, answer):
    """And its connection takes the next one."""
    host = Host()
    here = world(host)
    here.answers[FetchContent] = lambda asked: None
    here.relay(1)
    (asked,) = here.wait_for(FetchContent)
    here.to_dispatcher.send(WithdrawRecipient(1, 1 << 32 | 1))
    here.wait_for(ReturnRecipients)
    here.relay(2, content=CONTENT)
    here.to_dispatcher.send(answer(asked.request, CONTENT) if answer is ContentFetched else answer(asked.request))
    (tried,) = here.wait_for(RelayTried)
    assert tried.attempt == 2 and sum(line.startswith(b"MAIL") for line in host.lines) == 1
    assert not here.dispatcher.relaying.gauges().get("mta.task")


def test_a_recipient_that_is_withdrawn_while_the_message_is_sent_has_its_result(world):
    withdrawn = []

    def answer(line):
        if line.startswith(b"RCPT") and not withdrawn:
            withdrawn.append(here.to_dispatcher.send(WithdrawRecipient(1, 1 << 32 | 1)))
        return Host.polite(line)

    here = world(Host(answer))
    here.relay(1, content=CONTENT)
    (tried,) = here.wait_for(RelayTried)
    assert withdrawn and tried.results[0].outcome is Outcome.DELIVERED and not here.heard_of(ReturnRecipients)


@pytest.mark.parametrize("reply", [b"421 4.3.2 later\r\n", None])
def test_a_recipient_that_is_withdrawn_while_the_message_is_sent_is_not_named_over_another_connection(world, reply):
    """The connection ends before its turn to be named has come."""
    orders = []

    def answer(line):
        if b"amy@there" in line and not orders:
            orders.append("lost")
            return reply
        if line.startswith(b"MAIL") and len(here.heard_of(RelayTried)) == 1 and not orders:
            here.to_dispatcher.send(WithdrawRecipient(2, 2 << 32 | 2))
        return Host.polite(line)

    host = Host(answer)
    here = world(host)
    here.relay(1, content=CONTENT)
    here.wait_for(RelayTried)
    here.relay(2, "amy@there.test", "bob@there.test", content=CONTENT)
    here.wait_for(RelayTried, 2)
    assert [[result.envelope for result in one.results] for one in here.heard_of(RelayTried)[1:]] == [[2 << 32 | 1]]
    assert here.wait_for(ReturnRecipients) == [ReturnRecipients(2, [2 << 32 | 2])]
    named = [line[9:12] for line in host.lines if line.startswith(b"RCPT")]
    assert named == [b"bob", b"amy", b"amy"]  # the first one is of the first message
    assert not here.dispatcher.relaying.gauges().get("mta.task")


def test_a_host_that_says_more_than_it_was_asked_behind_a_mail_gets_the_next_one_over_another_connection(world):
    answers = iter([b"250 ok\r\n250 and more\r\n"])
    host = Host(lambda line: next(answers, b"250 ok\r\n") if line == b"." else Host.polite(line))
    here = world(host)
    for attempt in (1, 2, 3):
        here.relay(attempt, content=CONTENT)
    for tried in here.wait_for(RelayTried, 3):
        assert tried.results[0].outcome is Outcome.DELIVERED
    assert sum(line.startswith(b"MAIL") for line in host.lines) == 3


def test_a_mail_that_queue_has_concluded_meanwhile_is_not_sent(world):
    host = Host()
    here = world(host)
    here.answers[FetchContent] = lambda asked: ContentNotFetched(asked.request)
    here.relay(1)
    here.wait_for(FetchContent)
    here.answers[FetchContent] = lambda asked: ContentFetched(asked.request, CONTENT)
    here.relay(2)
    (tried,) = here.wait_for(RelayTried)
    assert tried.attempt == 2
    assert sum(line.startswith(b"MAIL") for line in host.lines) == 1


def test_a_host_that_cannot_be_reached_delays_the_destination(world):
    here = world()
    here.server.close()
    here.relay()
    (returned,) = here.wait_for(ReturnRecipients)
    (delay,) = here.heard_of(DelayDestination)
    assert here.asked.index(delay) < here.asked.index(returned)
    assert (delay.destination, returned.attempt, returned.envelopes) == (7, 1, [1 << 32 | 1])
    assert "Connection refused" in delay.reason
    assert 10 < delay.seconds < 20


def test_the_log_has_one_line_of_a_delay_whatever_crosses_it(world, capfd):
    here = world()
    here.server.close()
    here.relay(1)
    here.wait_for(ReturnRecipients)
    here.relay(2)
    here.wait_for(ReturnRecipients, 2)
    assert capfd.readouterr().err.count(" delayed for ") == 1


def test_no_host_for_good_is_the_result_of_each_recipient(world):
    here = world()
    here.answers[FindHosts] = lambda asked: HostsNotFound(asked.request, 556, "5.1.10", "there.test takes no mail", 60)
    here.relay(1, "bob@there.test", "eve@there.test")
    (tried,) = here.wait_for(RelayTried)
    assert [(result.outcome, result.code) for result in tried.results] == [(Outcome.FAILED, 556)] * 2


def test_a_route_that_cannot_be_found_delays(world):
    here = world()
    here.answers[FindRoute] = lambda asked: RouteNotFound(asked.request, "table hosts: permission denied")
    here.relay()
    (delay,) = here.wait_for(DelayDestination)
    assert delay.reason == "table hosts: permission denied"


def test_a_domain_without_a_smarthost_is_asked_for_its_mx(world):
    here = world()
    here.answers[FindRoute] = lambda asked: RouteFound(asked.request, [], "backup.test")
    here.answers[FindHosts] = lambda asked: HostsNotFound(asked.request, 451, "4.4.3", "timed out", 30)
    here.relay(domain="there.test")
    here.wait_for(DelayDestination)
    (asked,) = here.heard_of(FindHosts)
    assert (asked.name, asked.mx, asked.port, asked.policy, asked.own_name) == (
        "there.test",
        True,
        25,
        True,
        "backup.test",
    )


@pytest.mark.parametrize("smarthost", [False, True])
def test_an_mta_sts_policy_holds_for_the_hosts_that_lookup_finds(world, smarthost):
    """RFC 8461 4.2; 3.4: of a smarthost, its own."""
    here = world()
    found = [Smarthost("smtp", "mx1.there.test", 25, False)] if smarthost else []
    here.answers[FindRoute] = lambda asked: RouteFound(asked.request, found, "")
    here.answers[FindHosts] = lambda asked: HostsFound(
        asked.request, [MailHost("mx1.there.test", 10, ["127.0.0.9"])], False, "1", [], 300
    )
    domain = "mx1.there.test" if smarthost else "there.test"
    policy = StsPolicy(StsMode.ENFORCE, ("mx2.there.test",), 86400)
    here.dispatcher.relaying.policies.kept.fetched(domain, "1", policy, time.time())
    here.relay(domain="" if smarthost else "there.test")
    (delay,) = here.wait_for(DelayDestination)
    assert delay.reason == f"MTA-STS policy of {domain} does not name mx1.there.test"


def test_destinations_whose_hosts_take_long_to_be_found_keep_no_client_waiting(world):
    """A local user may send to thousands of domains whose name servers are silent."""
    here = world()
    here.answers[FindRoute] = lambda asked: RouteFound(asked.request, [], "")
    here.answers[FindHosts] = lambda asked: None
    count = 1100  # more than clients' questions have places
    for number in range(1, count + 1):
        here.relay(number, domain=f"d{number}.test", destination=number)
    here.run(here.until(lambda: len(here.heard_of(FindRoute)) == count))
    assert len(here.heard_of(FindHosts)) == HOST_QUESTIONS_MAX
    assert not here.dispatcher.resources.to_lookup.full
    assert not here.dispatcher.resources.relay_to_lookup.full  # nor do smarthosts and credentials wait behind them


def test_a_clock_that_is_set_back_makes_no_delay_longer(world, monkeypatch):
    here = world()
    relaying, set_to = here.dispatcher.relaying, time.time() - 86_400
    before = relaying._clock()
    monkeypatch.setattr(time, "time", lambda: set_to)
    assert 0 <= relaying._clock() - before < 60


def test_a_destination_with_mail_is_not_forgotten_for_many_others(world, monkeypatch):
    """A local user may send to so many domains while its name server is slow."""
    monkeypatch.setattr("smtpd.dispatcher.outbound.relaying.DESTINATIONS_MAX", 3)
    here = world()
    here.answers[FindRoute] = lambda asked: None if asked.domain == "slow.test" else RouteNotFound(asked.request, "no")
    here.relay(1, domain="slow.test", destination=1)
    for number in range(2, 20):
        here.relay(number, domain=f"d{number}.test", destination=number)
    here.run(here.until(lambda: len(here.heard_of(FindRoute)) == 19))
    relaying = here.dispatcher.relaying
    assert relaying._known[1] == ("out", "slow.test")


def test_mail_of_an_action_that_is_gone_waits(world):
    here = world()
    here.relay(action="gone")
    (tried,) = here.wait_for(RelayTried)
    assert tried.results[0].outcome is Outcome.DEFERRED


@pytest.mark.parametrize("found", [True, False])
def test_a_password_is_asked_for_at_connect_and_never_sent_in_the_clear(world, found):
    host = Host()
    here = world(host)
    smarthost = Smarthost("smtp+tls", "127.0.0.1", here.port_of_host, True)
    here.answers[FindRoute] = lambda asked: RouteFound(asked.request, [smarthost], "")
    here.answers[FindRelayCredentials] = lambda asked: (
        RelayCredentialsFound(asked.request, "amy", "secret")
        if found
        else RelayCredentialsNotFound(asked.request, "table secrets has no credentials for 127.0.0.1")
    )
    here.relay()
    here.wait_for(ReturnRecipients)
    (asked,) = here.heard_of(FindRelayCredentials)
    assert (asked.action, asked.host, asked.port) == ("out", "127.0.0.1", here.port_of_host)
    assert not any(line.startswith((b"AUTH", b"MAIL")) for line in host.lines)


def test_the_sender_is_rewritten_as_the_action_says(world):
    host = Host()
    here = world(host, mail_from="@elsewhere.test")
    here.relay()
    here.wait_for(RelayTried)
    assert b"MAIL FROM:<amy@elsewhere.test>" in b"".join(host.lines)


def test_a_stop_waits_for_the_mail_that_is_under_way(world):
    here = world()
    here.relay()
    here.wait_for(FetchContent)
    here.dispatcher.relaying.stop()
    (tried,) = here.wait_for(RelayTried)
    assert tried.results[0].outcome is Outcome.DELIVERED
    here.run(here.until(lambda: here.dispatcher.relaying.is_idle))


@pytest.mark.parametrize("state", ["connecting", "greeting", "quitting"])
def test_a_stop_does_not_wait_for_a_host_that_is_silent(world, monkeypatch, capfd, state):
    """Where no mail is under way; QUIT is waited for a moment."""
    monkeypatch.setattr("smtpd.dispatcher.outbound.relaying.STOP_QUIT_TIMEOUT", 0.05)
    host = Host(greeting=b"" if state == "greeting" else b"220 there\r\n")
    host.answer = lambda line: b"" if line.startswith(b"QUIT") else Host.polite(line)
    here = world(host)
    if state == "connecting":
        here.answers[FindHosts] = lambda asked: HostsFound(
            asked.request, [MailHost("", 0, ["192.0.2.1"])], True, "", [], 300
        )

        async def never(*_):
            await asyncio.sleep(3600)

        monkeypatch.setattr("smtpd.dispatcher.outbound.connection.OutgoingConnection._open", never)
    here.relay()
    relaying = here.dispatcher.relaying
    if state == "quitting":
        here.wait_for(RelayTried)
    else:
        here.wait_for(FindHosts)
        here.run(here.until(lambda: relaying._sessions))
    if state == "greeting":
        here.run(here.until(lambda: any("connected" in line for line in capfd.readouterr().err.splitlines())))
    begun = time.monotonic()
    relaying.stop()
    here.run(here.until(lambda: relaying.is_idle))
    assert time.monotonic() - begun < 5.0
    reason = '"no answer to QUIT"' if state == "quitting" else "stopped"
    assert f"mta disconnected reason={reason} messages={int(state == 'quitting')}" in capfd.readouterr().err
    if state != "quitting":
        assert here.wait_for(ReturnRecipients)


@pytest.mark.parametrize("offers", [b"250 SIZE", b"250 STARTTLS"], ids=["not offered", "refused"])
@pytest.mark.parametrize("relay", [{}, {"tls": RelayTls.VERIFIED}], ids=["opportunistic", "verified"])
def test_results_of_tls_are_counted(world, offers, relay):
    """In the words of RFC 8460 4.3, once a connection."""

    def answer(line):
        if line.startswith(b"EHLO"):
            return b"250-there\r\n" + offers + b"\r\n"
        return b"454 4.7.0 not now\r\n" if line.startswith(b"STARTTLS") else Host.polite(line)

    here = world(Host(answer), **relay)
    here.relay()
    here.wait_for(DelayDestination if relay else RelayTried)
    statistics = here.dispatcher.resources.statistics
    counted = {name: count for name, count in statistics.items() if name.startswith("mta.tls.")}
    assert counted == {"mta.tls.no-policy-found.starttls-not-supported": 1}


@pytest.mark.parametrize("raises", ["receive", "lost"])
def test_a_defect_in_the_client_costs_one_try_of_one_mail(world, monkeypatch, capfd, raises):
    """Whatever a host sends."""
    host = Host()
    here = world(host)
    receive = SmtpClient.receive

    def fail(*_):
        raise RuntimeError("a defect")

    def receive_or_fail(client, data, now):
        return fail() if b"defect" in data else receive(client, data, now)

    monkeypatch.setattr(SmtpClient, "receive", receive_or_fail)
    if raises == "lost":
        monkeypatch.setattr(SmtpClient, "lost", fail)
    host.answer = lambda line: b"250 defect\r\n" if line == b"." else Host.polite(line)
    here.relay()
    (tried,) = here.wait_for(RelayTried)
    (result,) = tried.results
    assert (result.outcome, result.uncertain) == (Outcome.DEFERRED, True)
    assert "internal error" in result.text
    assert "connection to 127.0.0.1: RuntimeError: a defect" in capfd.readouterr().err
    host.answer = Host.polite
    here.relay(2)
    assert here.wait_for(RelayTried, 2)[1].results[0].outcome is Outcome.DELIVERED


BY_FAMILY = [MailHost("there.test", 0, ["::1", "127.0.0.1"])]


def test_the_log_says_of_mail_that_is_tried_over_the_other_family_what_became_of_it(world, capfd):
    """One recipient is refused over both families, the other one over the first only."""
    refused = []

    def answer(line):
        if not line.startswith(b"RCPT") or b"amy" in line:
            return Host.polite(line)
        refused.append(line)
        return b"550 5.7.25 no name\r\n" if b"bob" in line or len(refused) <= 2 else b"250 ok\r\n"

    here = world(Host(answer))
    six = here.run(asyncio.start_server(here.host.serve, "::1", here.port_of_host))
    here.answers[FindHosts] = lambda asked: HostsFound(asked.request, BY_FAMILY, True, "", [], 300)
    here.relay(1, "bob@there.test", "dan@there.test", "amy@there.test")
    here.run(here.until(lambda: sum(len(tried.results) for tried in here.heard_of(RelayTried)) == 3))
    found = re.findall(r'to=<(\w+)@there.test>.* relay="(\S+) .*result="(\w+)"', capfd.readouterr().err)
    assert sorted(found) == [
        ("amy", "::1", "Ok"),
        ("bob", "127.0.0.1", "PermFail"),
        ("bob", "::1", "TempFail"),
        ("dan", "127.0.0.1", "Ok"),
        ("dan", "::1", "TempFail"),
    ]
    six.close()


def test_a_connection_from_a_source_address_takes_its_port_when_it_connects(world, monkeypatch):
    """So that an address is not used up by 28 000 connections to all hosts together."""
    here = world(sources=("127.0.0.1",))
    options = []

    class Socket(socket.socket):
        def bind(self, address):
            options.append(self.getsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT))
            super().bind(address)
            options.append(self.getsockname())

    monkeypatch.setattr("smtpd.dispatcher.outbound.connection.socket.socket", Socket)
    here.relay()
    here.wait_for(RelayTried)
    assert options == [1, ("127.0.0.1", 0)]


@pytest.mark.parametrize(
    "protocol, action, level, at_connect",
    [
        (RelayProtocol.SMTP, RelayTls.OPPORTUNISTIC, TlsLevel.OPPORTUNISTIC, False),
        (RelayProtocol.SMTP, RelayTls.VERIFIED, TlsLevel.VERIFIED, False),
        (RelayProtocol.SMTP, RelayTls.UNVERIFIED, TlsLevel.UNVERIFIED, False),
        (RelayProtocol.SMTP_TLS, RelayTls.OPPORTUNISTIC, TlsLevel.VERIFIED, False),
        (RelayProtocol.SMTP_TLS, RelayTls.UNVERIFIED, TlsLevel.UNVERIFIED, False),
        (RelayProtocol.SMTPS, RelayTls.OPPORTUNISTIC, TlsLevel.VERIFIED, True),
        (RelayProtocol.SMTPS, RelayTls.UNVERIFIED, TlsLevel.UNVERIFIED, True),
        (RelayProtocol.SMTP_NOTLS, RelayTls.OPPORTUNISTIC, TlsLevel.NEVER, False),
        (RelayProtocol.LMTP, RelayTls.OPPORTUNISTIC, TlsLevel.NEVER, False),
    ],
)
def test_what_protocol_and_action_say_of_tls(protocol, action, level, at_connect):
    words = tls_words(protocol, action)
    assert (words.level, words.at_connect) == (level, at_connect)

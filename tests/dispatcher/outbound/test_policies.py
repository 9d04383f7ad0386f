"""Which MTA-STS policy holds for mail, and when mail waits for one: the test plays lookup, a host and the clock."""

import asyncio
import contextlib
import errno
import math
from collections import Counter

import pytest

from smtpd.dispatcher.outbound import policies as module
from smtpd.dispatcher.outbound.policies import FETCHES_MAX, REFRESHES_MAX, Policies
from smtpd.imsg import FindHosts, HostsFound, HostsNotFound
from smtpd.next_hop import MailHost
from smtpd.relay.mta_sts import FETCH_RETRY_DELAY, REFRESH_INTERVAL, Fetch, KeptPolicy, StsMode, StsPolicy
from smtpd.tls.certificate import Authorities
from smtpd.tls.client_context import ClientContext
from tests.dispatcher.outbound.policy_host import POLICY, PolicyHost, ok, run_on_uvloop, tls
from tests.tls.world import authority, pem

ENFORCED = StsPolicy(StsMode.ENFORCE, ("mx1.there.test",), 86400)
OTHER = ok(POLICY.replace(b"mx1", b"mx2"))


class Lookup:
    """The window to lookup; `host`: where the policy host is, None: nowhere."""

    def __init__(self, host):
        self.host, self.asked = host, []

    def ask(self, make, answered):
        asked = make(len(self.asked))
        self.asked.append(asked)
        if self.host is None:
            answered(HostsNotFound(asked.request, 451, "4.4.3", f"smarthost {asked.name}: no such host", 60))
        else:
            answered(HostsFound(asked.request, [MailHost(asked.name, 0, ["127.0.0.1"])], True, "", [], 60))


class World:
    def __init__(self, host):
        self.now = 0.0
        self.counted = Counter()
        self.host, self.lookup = host, Lookup(host)
        context = ClientContext(Authorities.read(pem(authority()[0])))
        self.policies = Policies(
            asyncio.get_running_loop(), self.lookup, lambda: context, lambda: self.now, self.counted
        )
        self.policies.port = host.port

    def ask(self, domain="there.test", id="1"):
        """A future of what mail is told."""
        found = asyncio.get_running_loop().create_future()

        def answer(policy, seconds):
            self.seconds = seconds
            found.set_result(policy)

        self.policies.find(domain, id, answer)
        return found


def play(story, *pieces, **more):
    async def run():
        async with PolicyHost(*pieces, **more) as host:
            world = World(host)
            try:
                await story(world)
            finally:
                world.policies.stop()

    run_on_uvloop(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_mail_waits_for_the_first_policy_and_shares_one_fetch():
    async def story(world):
        asked = [world.ask(), world.ask("There.Test."), world.ask()]
        assert not any(one.done() for one in asked)
        assert [await one for one in asked] == [ENFORCED] * 3
        assert len(world.host.asked) == 1
        assert world.lookup.asked == [FindHosts(0, "mta-sts.there.test", False, world.host.port, False)]
        assert world.ask().result() == ENFORCED
        world.now = 1.0
        assert world.ask(id="").result() == ENFORCED
        assert world.seconds == ENFORCED.max_age - 1

    play(story)


def test_mail_that_raises_when_it_gets_its_policy_costs_the_other_mail_nothing(capfd):
    async def story(world):
        def raises(policy, seconds):
            raise RuntimeError("a defect")

        world.policies.find("there.test", "1", raises)
        assert await world.ask() == ENFORCED
        world.policies.find("there.test", "1", raises)  # at once, as it is there
        assert "policy of there.test: RuntimeError: a defect" in capfd.readouterr().err

    play(story)


def test_a_domain_without_a_record_costs_nothing():
    async def story(world):
        assert world.ask(id="").result() is None
        assert world.seconds == math.inf
        assert world.lookup.asked == []

    play(story)


@pytest.mark.parametrize("where", [None, "host"])
def test_mail_goes_without_a_policy_that_cannot_be_fetched(where):
    """RFC 8461 3.3: and it is tried again no sooner than five minutes later."""

    async def story(world):
        if where is None:
            world.lookup.host = None
        assert await world.ask() is None
        assert world.ask().result() is None
        assert world.seconds == FETCH_RETRY_DELAY
        assert world.counted == {"mta.tls.sts.sts-policy-fetch-error": 1}
        world.now = FETCH_RETRY_DELAY
        assert not world.ask().done()

    play(story, b"HTTP/1.1 404 Not Found\r\n\r\n")


def test_mail_waits_for_a_policy_with_a_new_id_and_keeps_the_old_one_if_that_fails():
    """RFC 8461 5.1"""

    async def story(world):
        assert await world.ask() == ENFORCED
        world.host.pieces = (b"HTTP/1.1 500 x\r\n\r\n",)
        waits = world.ask(id="2")
        assert not waits.done() and await waits == ENFORCED
        world.now, world.host.pieces = FETCH_RETRY_DELAY, (OTHER,)
        assert (await world.ask(id="2")).mx == ("mx2.there.test",)

    play(story)


def test_a_policy_is_refreshed_beside_the_mail():
    async def story(world):
        assert await world.ask() == ENFORCED
        world.now, world.host.pieces = 50_000.0, (OTHER,)
        assert world.ask().result() == ENFORCED
        await until(lambda: len(world.host.asked) == 2)
        await until(lambda: world.ask().result() != ENFORCED)

    play(story)


def refreshed(policies):
    return [kept.fetched for kept in policies.to_keep(10).values()]


def test_policies_that_no_mail_asks_for_are_refreshed(monkeypatch):
    monkeypatch.setattr(module, "REFRESH_SWEEP_INTERVAL", 0.01)

    async def story(world):
        week = StsPolicy(StsMode.ENFORCE, ("mx1.there.test",), 604800)
        world.policies.kept.restore("there.test", KeptPolicy(week, "1", 0.0))
        world.policies.begin()
        world.now = REFRESH_INTERVAL
        await until(lambda: refreshed(world.policies.kept) == [REFRESH_INTERVAL])
        assert len(world.host.asked) == 1

    play(story)


def test_mail_does_not_wait_for_the_turn_of_a_refresh(monkeypatch):
    """Those that no mail waits for have few places: the last of a sweep has its turn after twenty minutes."""
    names = [f"a{number}.test" for number in range(REFRESHES_MAX)]

    async def story(world):
        world.host.wait = asyncio.Event()
        for name in (*names, "there.test"):
            world.policies.kept.restore(name, KeptPolicy(ENFORCED, "1", 0.0))
        world.now = REFRESH_INTERVAL / 2
        world.policies._sweep()
        await until(lambda: world.host.open == REFRESHES_MAX)
        waits = world.ask(id="2")
        await until(lambda: len(world.host.asked) + len(world.lookup.asked) > 2 * REFRESHES_MAX)
        assert len(world.policies._fetching) == REFRESHES_MAX + 1
        world.host.wait.set()
        await waits
        assert world.policies.kept.fetch("there.test", "2", world.now) is Fetch.NONE  # it was fetched for the new id
        await until(lambda: not world.policies._fetching)
        assert len(world.lookup.asked) == REFRESHES_MAX + 1

    play(story, context=tls("*.test", "mta-sts.there.test", *(f"mta-sts.{name}" for name in names)))


def test_that_lookup_has_not_answered_says_nothing_of_a_policy(monkeypatch):
    monkeypatch.setattr(module, "HOST_TIMEOUT", 0.05)

    async def story(world):
        world.lookup.ask = lambda make, answered: None
        refusal = await world.ask()
        assert refusal.code == 451 and refusal.local
        assert world.counted == {}

    play(story)


def test_mail_waits_no_longer_than_the_time_limit(monkeypatch):
    """Also when all places are taken by hosts that do not answer."""
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.3)

    async def story(world):
        world.host.wait = asyncio.Event()
        asked = [world.ask(f"a{number}.test") for number in range(FETCHES_MAX + 20)]
        await asyncio.sleep(0.1)
        assert world.host.open <= FETCHES_MAX
        assert [await one for one in asked] == [None] * len(asked)
        world.host.wait.set()

    play(story, context=tls("*.test", *(f"mta-sts.a{number}.test" for number in range(FETCHES_MAX + 20))))


def test_mail_waits_where_no_policy_could_be_asked_for(monkeypatch):
    """Slow policy hosts of one domain must not have mail to another go without its policy."""
    monkeypatch.setattr(module, "TURN_TIMEOUT", 0.1)

    async def story(world):
        world.host.wait = asyncio.Event()
        slow = [world.ask(f"a{number}.test") for number in range(FETCHES_MAX)]
        refused = await world.ask()
        assert (refused.code, world.seconds) == (451, module.LOCAL_RETRY_DELAY)
        assert "too many policies" in refused.text
        assert not world.ask().done()  # it is asked for anew
        world.policies.stop()
        assert not any(one.done() for one in slow)
        world.host.wait.set()

    play(story, context=tls("*.test", *(f"mta-sts.a{number}.test" for number in range(FETCHES_MAX))))


def test_no_more_domains_wait_for_their_turn_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "FETCHING_MAX", 3)

    async def story(world):
        world.host.wait = asyncio.Event()
        slow = [world.ask(f"a{number}.test") for number in range(3)]
        refused = await world.ask()
        assert refused.local and world.seconds == module.LOCAL_RETRY_DELAY
        assert not any(one.done() for one in slow) and len(world.policies._fetching) == 3
        world.host.wait.set()

    play(story, context=tls("*.test", *(f"mta-sts.a{number}.test" for number in range(3))))


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "x"), RuntimeError("a defect")])
def test_what_this_host_cannot_do_says_nothing_of_a_policy(monkeypatch, fault):
    async def story(world):
        def fail(*arguments):
            raise fault

        monkeypatch.setattr("smtpd.dispatcher.outbound.policy_fetch._connect_to", fail)
        assert (await world.ask()).code == 451
        monkeypatch.undo()
        assert await world.ask() == ENFORCED
        world.now = REFRESH_INTERVAL / 2
        monkeypatch.setattr("smtpd.dispatcher.outbound.policy_fetch._connect_to", fail)
        assert await world.ask(id="2") == ENFORCED  # the one that is kept
        assert world.seconds == module.LOCAL_RETRY_DELAY

    play(story)


def test_mail_waits_where_lookup_has_too_many_questions():
    async def story(world):
        full = HostsNotFound(0, 451, "4.3.2", "too many destinations are looked up at the same time", 30)
        world.lookup.ask = lambda make, answered: answered(full)
        assert (await world.ask()).code == 451

    play(story)


def test_a_policy_host_whose_name_no_question_carries_is_not_asked_for():
    """Of a policy that a taken-over dispatcher had kept."""

    async def story(world):
        assert await world.ask("a" * 250) is None
        assert world.lookup.asked == []

    play(story)


def test_a_stop_ends_what_is_under_way():
    async def story(world):
        world.host.wait = asyncio.Event()
        waits = world.ask()
        await until(lambda: world.host.asked)
        world.policies.stop()
        with contextlib.suppress(OSError):
            world.host.wait.set()
        await until(lambda: not world.host.open)
        assert not waits.done() and not world.policies._fetching

    play(story)

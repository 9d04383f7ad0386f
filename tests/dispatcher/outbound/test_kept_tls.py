"""What a dispatcher knows of other hosts' TLS, read from queue at its start and kept there as it changes."""

import asyncio

from smtpd.dispatcher.outbound import kept_tls as module
from smtpd.dispatcher.outbound.kept_tls import KeptTls
from smtpd.imsg import (
    TLS_HOSTS_MAX,
    KeepTls,
    ReadStsPolicies,
    ReadTlsHosts,
    StsPoliciesRead,
    TlsHostsRead,
    TlsKept,
)
from smtpd.next_hop import MX_TEXT_MAX, StsRow, TlsHost
from smtpd.relay.mta_sts import Fetch, StsMode, StsPolicies, StsPolicy
from smtpd.relay.tls_memory import TlsHistory, TlsMemory

ENFORCED = StsPolicy(StsMode.ENFORCE, ("mx1.there.test", "*.there.test"), 86_400)
ROW = StsRow("there.test", "1", "enforce", "mx1.there.test *.there.test", 86_400, 1000)


class Queue:
    """The window to queue: `hosts`, `policies`: pages that are kept; answers wait for `turn`."""

    def __init__(self, hosts=([],), policies=([],)):
        self.pages = {ReadTlsHosts: (TlsHostsRead, hosts), ReadStsPolicies: (StsPoliciesRead, policies)}
        self.asked, self.waiting = [], []
        self.room = True

    def ask(self, make, answered):
        asked = make(len(self.asked))
        self.asked.append(asked)
        if isinstance(asked, KeepTls):
            answer = TlsKept(asked.request, self.room)
        else:
            kind, pages = self.pages[type(asked)]
            last = asked.after + 1 if asked.after + 1 < len(pages) else 0
            answer = kind(asked.request, pages[asked.after], last)
        self.waiting.append(lambda: answered(answer))

    def turn(self):
        while self.waiting:
            self.waiting.pop(0)()


class World:
    def __init__(self, queue=None):
        self.queue = queue or Queue()
        self.memory, self.policies = TlsMemory(), StsPolicies()
        self.loop = asyncio.new_event_loop()
        self.kept = KeptTls(self.loop, self.queue, self.memory, self.policies)

    def started(self):
        self.kept.begin()
        self.queue.turn()
        return self

    def keeps(self):
        return [asked for asked in self.queue.asked if isinstance(asked, KeepTls)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kept.stop()
        self.loop.close()


def test_all_pages_are_read_before_mail_goes_out():
    pages = [[TlsHost("a:25", 1000)], [TlsHost("b:25", 1000)]], [[ROW], []]
    with World(Queue(*pages)) as world:
        gone = []
        world.kept.begin()
        world.kept.when_read(lambda: gone.append("early"))
        assert gone == []
        world.queue.turn()
        world.kept.when_read(lambda: gone.append("late"))
        assert gone == ["early", "late"]
        assert {world.memory.history(host, 1001.0) for host in ("a:25", "b:25")} == {TlsHistory.FRESH}
        assert world.policies.find("there.test", 1001.0) == ENFORCED
        assert world.policies.fetch("there.test", "1", 1001.0) is Fetch.BESIDE
        world.kept._keep()
        assert world.keeps() == []


def test_what_is_new_is_kept_after_an_interval(monkeypatch):
    monkeypatch.setattr(module, "KEEP_INTERVAL", 0.01)
    with World().started() as world:
        world.memory.worked("a:25", 1000.5)
        world.policies.fetched("there.test", "1", ENFORCED, 1000.5)

        async def kept():
            while not world.keeps():
                await asyncio.sleep(0)

        world.loop.run_until_complete(asyncio.wait_for(kept(), 20))
        (asked,) = world.keeps()
        assert (asked.hosts, asked.policies) == ([TlsHost("a:25", 1000)], [ROW])


def test_many_are_kept_one_imsg_after_the_other():
    with World().started() as world:
        for number in range(2 * TLS_HOSTS_MAX + 1):
            world.memory.worked(f"mx{number}:25", 1000.0)
        world.kept._keep()
        world.kept._keep()
        assert len(world.keeps()) == 1
        world.queue.turn()
        assert [len(asked.hosts) for asked in world.keeps()] == [TLS_HOSTS_MAX, TLS_HOSTS_MAX, 1]


def test_what_queue_has_no_room_for_is_kept_later():
    with World().started() as world:
        world.queue.room = False
        world.memory.worked("a:25", 1000.0)
        world.policies.fetched("there.test", "1", ENFORCED, 1000.0)
        world.kept._keep()
        world.queue.turn()
        world.queue.room = True
        world.kept._keep()
        first, second = world.keeps()
        assert (first.hosts, first.policies) == (second.hosts, second.policies) == ([TlsHost("a:25", 1000)], [ROW])


def test_the_end_keeps_what_is_new():
    with World().started() as world:
        world.memory.worked("a:25", 1000.0)
        world.kept._keep()
        world.memory.worked("b:25", 1000.0)
        world.kept.stop()
        world.queue.turn()
        assert [host.service for asked in world.keeps() for host in asked.hosts] == ["a:25", "b:25"]


def test_a_long_policy_is_fetched_again_after_a_restart():
    with World().started() as world:
        long = StsPolicy(StsMode.ENFORCE, tuple(f"{'x' * 60}{number}.test" for number in range(100)), 60)
        assert len(" ".join(long.mx)) > MX_TEXT_MAX
        world.policies.fetched("there.test", "1", long, 1000.0)
        world.memory.worked("x" * 300, 1000.0)
        world.kept._keep()
        (asked,) = world.keeps()
        assert (asked.hosts, asked.policies) == ([], [])


def test_a_row_that_is_not_ascii_is_not_kept():
    """Queue counts its bytes by its characters."""
    with World().started() as world:
        policy = StsPolicy(StsMode.ENFORCE, ("mx.there.test",), 60)
        world.policies.fetched("th\xe9re.test", "1", policy, 1000.0)
        world.policies.fetched("there.test", "\xe9", policy, 1000.0)
        world.policies.fetched("there2.test", "1", StsPolicy(StsMode.ENFORCE, ("m\xe9.test",), 60), 1000.0)
        world.memory.worked("m\xe9.there.test:25", 1000.0)
        world.kept._keep()
        (asked,) = world.keeps()
        assert (asked.hosts, asked.policies) == ([], [])

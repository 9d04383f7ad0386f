"""The hosts of a destination, asked of lookup: the MX hosts of a domain, or the smarthosts of an action, one by one.

    FindRoute --> no smarthost    FindHosts(domain, mx)            --> hosts, ranked by preference
              --> smarthosts      FindHosts(host) for each of them --> hosts of one rank each, or all of one
              --> MTA-STS policy of the domain, or of each smarthost (RFC 8461 3.4): policies.py

One smarthost that cannot be found is left out while another can.

A name server that is silent keeps its question for half a minute, and HOST_QUESTIONS_MAX of them are under way at a
time; the others wait here, where no clock of theirs runs.  Questions of destinations whose last try failed have places
of their own: hundreds of silent ones delay the others once, and not each time that they are tried again.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from smtpd.dispatcher.outbound.policies import LOOKUP_IS_FULL, Policies
from smtpd.imsg import FindHosts, FindRoute, HostsFound, HostsNotFound, RouteFound, RouteNotFound
from smtpd.ipc.request_window import RequestWindow
from smtpd.next_hop import MailHost, Smarthost
from smtpd.relay.destination import NextHop
from smtpd.relay.mta_sts import StsPolicy
from smtpd.relay.tls_policy import HostRefused, TlsLevel, TlsWords
from smtpd.slice import RelaySlice, RelayTls
from smtpd.tables.relay_host import RelayProtocol

MX_PORT = 25  # RFC 5321 4.5.4.2
HOST_QUESTIONS_MAX = 100  # at a time
FAILED_QUESTIONS_MAX = 50  # more, for destinations whose last try failed
SMARTHOST_TTL_MAX = 60  # seconds that an answer with smarthosts holds, as their table may be changed

Found = Callable[[Sequence[NextHop] | HostRefused, int], None]
HostsAnswered = Callable[[HostsFound | HostsNotFound], None]

_LEVELS = {
    RelayTls.OPPORTUNISTIC: TlsLevel.OPPORTUNISTIC,
    RelayTls.VERIFIED: TlsLevel.VERIFIED,
    RelayTls.UNVERIFIED: TlsLevel.UNVERIFIED,
}


def tls_words(protocol: RelayProtocol, action: RelayTls) -> TlsWords:
    """What a smarthost's protocol and its action say about TLS."""
    if protocol in (RelayProtocol.SMTP_NOTLS, RelayProtocol.LMTP):
        return TlsWords(TlsLevel.NEVER)
    at_connect = protocol is RelayProtocol.SMTPS
    if (at_connect or protocol is RelayProtocol.SMTP_TLS) and action is RelayTls.OPPORTUNISTIC:
        return TlsWords(TlsLevel.VERIFIED, at_connect)
    return TlsWords(_LEVELS[action], at_connect)


class _Turns:
    """Questions that take their time: so many are under way, the others wait in their order."""

    def __init__(self, to_lookup: RequestWindow, most: int):
        self._to_lookup, self._free = to_lookup, most
        self._waiting: deque[tuple[Callable[[int], FindHosts], HostsAnswered]] = deque()

    def ask(self, make: Callable[[int], FindHosts], answered: HostsAnswered) -> None:
        self._waiting.append((make, answered))
        self._proceed()

    def _proceed(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            make, answered = self._waiting.popleft()
            self._to_lookup.ask(make, partial(self._answer, answered))

    def _answer(self, answered: HostsAnswered, imsg: HostsFound | HostsNotFound) -> None:
        self._free += 1
        self._proceed()
        answered(imsg)


@dataclass
class _Search:
    relay: RelaySlice
    domain: str
    found: Found
    turns: _Turns
    left: int = 0  # answers that have not come
    hops: list[NextHop] = field(default_factory=list)
    refusal: HostRefused | None = None
    seconds: int = 3600


class NextHops:
    def __init__(self, to_lookup: RequestWindow, policies: Policies):
        self._to_lookup, self._policies = to_lookup, policies
        self._turns = _Turns(to_lookup, HOST_QUESTIONS_MAX)
        self._failed_turns = _Turns(to_lookup, FAILED_QUESTIONS_MAX)

    def find(self, relay: RelaySlice, domain: str, found: Found, failed: bool = False) -> None:
        """`found` is called once: with hosts, or why there are none; and for how many seconds that holds.

        `failed`: the last try of the destination failed."""
        search = _Search(relay, domain, found, self._failed_turns if failed else self._turns)
        self._to_lookup.ask(
            lambda request: FindRoute(request, relay.name, domain), lambda imsg: self._route(search, imsg)
        )

    def _route(self, search: _Search, imsg: RouteFound | RouteNotFound) -> None:
        if isinstance(imsg, RouteNotFound):
            search.found(HostRefused(451, "4.3.5", imsg.reason), 60)
        elif not imsg.smarthosts:
            search.left = 1
            words = TlsWords(_LEVELS[search.relay.tls])
            policy = words.level in (TlsLevel.OPPORTUNISTIC, TlsLevel.VERIFIED)
            search.turns.ask(
                lambda request: FindHosts(request, search.domain, True, MX_PORT, policy, imsg.own_name),
                lambda answer: self._mx_hosts(search, words, answer),
            )
        else:
            search.left = len(imsg.smarthosts)
            search.seconds = SMARTHOST_TTL_MAX
            for place, smarthost in enumerate(imsg.smarthosts):
                self._find_smarthost(search, smarthost, place if search.relay.failover else 0)

    def _mx_hosts(self, search: _Search, words: TlsWords, answer: HostsFound | HostsNotFound) -> None:
        def hop(host: MailHost, sts: StsPolicy | None) -> NextHop:
            return NextHop(host, host.preference, MX_PORT, words, trusted=answer_secure, domain=search.domain, sts=sts)

        answer_secure = isinstance(answer, HostsFound) and answer.secure
        self._answered(search, answer, search.domain, hop)

    def _find_smarthost(self, search: _Search, smarthost: Smarthost, rank: int) -> None:
        words = tls_words(RelayProtocol(smarthost.protocol), search.relay.tls)
        policy = words.level in (TlsLevel.OPPORTUNISTIC, TlsLevel.VERIFIED)

        def hop(host: MailHost, sts: StsPolicy | None) -> NextHop:
            lmtp = smarthost.protocol == RelayProtocol.LMTP
            return NextHop(host, rank, smarthost.port, words, lmtp, smarthost.authenticate, True, smarthost.host, sts)

        search.turns.ask(
            lambda request: FindHosts(request, smarthost.host, False, smarthost.port, policy),
            lambda answer: self._answered(search, answer, smarthost.host, hop),
        )

    def _answered(
        self,
        search: _Search,
        answer: HostsFound | HostsNotFound,
        policy_domain: str,
        hop: Callable[[MailHost, StsPolicy | None], NextHop],
    ) -> None:
        if isinstance(answer, HostsNotFound):
            full = answer.enhanced == LOOKUP_IS_FULL
            self._proceed(search, answer.seconds, HostRefused(answer.code, answer.enhanced, answer.text, full))
            return

        def policy_found(sts: StsPolicy | HostRefused | None, seconds: float) -> None:
            holds = int(min(answer.seconds, max(1.0, seconds)))
            if isinstance(sts, HostRefused):
                self._proceed(search, holds, sts)
            else:
                search.hops += [hop(host, sts) for host in answer.hosts]
                self._proceed(search, holds)

        self._policies.find(policy_domain, answer.sts_id, policy_found)

    def _proceed(self, search: _Search, seconds: int, refusal: HostRefused | None = None) -> None:
        """One more host or domain has its answer, which holds for so many seconds."""
        search.left -= 1
        search.seconds = min(search.seconds, seconds)
        search.refusal = refusal or search.refusal
        if search.left:
            return
        random.shuffle(search.hops)  # among equals; the relay sorts by rank
        if search.hops:
            search.found(search.hops, search.seconds)
        elif search.refusal is not None:
            search.found(search.refusal, search.seconds)

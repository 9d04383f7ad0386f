"""The MTA-STS policies of domains: which one holds, and what has to be fetched for that.  RFC 8461 3.3, 5.1, 10.2.

    find(domain, id) --policy is kept--> found
                     --none, or another id--> FindHosts mta-sts.DOMAIN, HTTPS (policy_fetch.py) --> found
    every REFRESH_SWEEP_INTERVAL: policies that have to be fetched again, so that none ends unnoticed

Mail waits for a policy FETCH_TIMEOUT at most; when it cannot be fetched, mail goes by the policy that is kept, or by
none, and it is tried again no sooner than five minutes later (RFC 8461 3.3).  There is one fetch for a domain at a
time, however much mail waits for it, and FETCHES_MAX connections.  A refresh that waits for its turn when mail needs
the policy is begun anew, as a fetch for mail.  Where this host is the reason that there is no answer (its connections
are all taken for TURN_TIMEOUT, lookup has not answered, it has no descriptor), nothing is known of the policy: unless
one is kept, mail waits, as slow policy hosts of one domain must not have mail to another go without its policy.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from smtpd.dispatcher.outbound.policy_fetch import LocalFetchError, PolicyFetchError, fetch_policy
from smtpd.domain_name import ascii_form
from smtpd.envelope import Word
from smtpd.imsg import FindHosts, HostsFound, HostsNotFound
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.ipc.text_limit import text_error
from smtpd.relay.mta_sts import HTTPS_PORT, Fetch, StsPolicies, StsPolicy
from smtpd.relay.tls_policy import HostRefused
from smtpd.relay.tls_result import TlsResult, counter
from smtpd.tls.client_context import ClientContext

FETCH_TIMEOUT = 60.0  # seconds until the policy is there, RFC 8461 3.3 suggests one minute
HOST_TIMEOUT = 45.0  # seconds of these for its host; lookup answers sooner unless its questions wait for each other
TURN_TIMEOUT = 60.0  # seconds that a fetch which mail waits for waits for one of
FETCHES_MAX = 50  # connections for mail at a time
FETCHING_MAX = 1000  # domains at a time, also those whose turn has not come
REFRESHES_MAX = 10  # connections for policies that no mail waits for at a time
REFRESH_SWEEP_INTERVAL = 600.0  # seconds
REFRESHES_PER_SWEEP = 200

TOO_MANY = "too many policies are being fetched"
LOOKUP_IS_FULL = "4.3.2"  # what lookup answers when it has too many questions
LOCAL_RETRY_DELAY = 30.0  # seconds after a fetch that this host could not make

Found = Callable[[StsPolicy | HostRefused | None, float], None]


@dataclass(eq=False)
class _Fetching:
    """`begun`: it has its place among the connections."""

    slots: asyncio.Semaphore
    waiting: list[Found] = field(default_factory=list)
    begun: bool = False
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Policies:
    """`now`: seconds since 1970."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        to_lookup: RequestWindow,
        context: Callable[[], ClientContext],
        now: Callable[[], float],
        statistics: Counter[str],
    ):
        self._statistics = statistics
        self._loop, self._to_lookup, self._context, self._now = loop, to_lookup, context, now
        self.kept = StsPolicies()
        self._fetching: dict[str, _Fetching] = {}
        self._slots, self._refresh_slots = asyncio.Semaphore(FETCHES_MAX), asyncio.Semaphore(REFRESHES_MAX)
        self._timer: asyncio.TimerHandle | None = None
        self.port = HTTPS_PORT

    def begin(self) -> None:
        self._timer = self._loop.call_later(REFRESH_SWEEP_INTERVAL, self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for fetching in self._fetching.values():
            fetching.cancel()

    def find(self, domain: str, record_id: str, found: Found) -> None:
        """`found(policy or None, seconds)` is called once: at once, or when the policy was fetched, or could not be.
        The seconds are those for which that holds.

        `record_id`: of the domain's TXT record, empty without one."""
        domain = ascii_form(domain)
        fetch = self.kept.fetch(domain, record_id, self._now())
        if fetch is Fetch.FIRST:
            self._cancel_waiting_refresh(domain)
        if fetch is not Fetch.NONE and domain not in self._fetching:
            if len(self._fetching) >= FETCHING_MAX:
                self._answer(domain, record_id, [found], self._refuse(domain, TOO_MANY))
                return
            self._begin(domain, record_id, self._slots)
        if fetch is Fetch.FIRST:
            self._fetching[domain].waiting.append(found)
        else:
            self._answer(domain, record_id, [found])

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(REFRESH_SWEEP_INTERVAL, self._sweep)
        for domain, record_id in self.kept.to_refresh(REFRESHES_PER_SWEEP, self._now()):
            if domain not in self._fetching:
                self._begin(domain, record_id, self._refresh_slots)

    # -- one fetch -------------------------------------------------------------------------------------

    def _begin(self, domain: str, record_id: str, slots: asyncio.Semaphore) -> None:
        fetching = self._fetching[domain] = _Fetching(slots)
        fetching.task = self._loop.create_task(self._fetch(domain, record_id, fetching))

    def _cancel_waiting_refresh(self, domain: str) -> None:
        """Its turn may come many minutes later, and the record may have another id by now."""
        fetching = self._fetching.get(domain)
        if fetching is not None and fetching.slots is self._refresh_slots and not fetching.begun:
            del self._fetching[domain]
            fetching.cancel()

    async def _fetch(self, domain: str, record_id: str, fetching: _Fetching) -> None:
        refusal: HostRefused | None = None
        slots = fetching.slots
        try:
            await self._wait_for_turn(slots)
            fetching.begun = True
            try:
                async with asyncio.timeout(FETCH_TIMEOUT):
                    policy = await self._fetch_policy(domain)
            finally:
                slots.release()
            self._keep(domain, record_id, policy)
        except LocalFetchError as failed:
            refusal = self._refuse(domain, str(failed))
        except PolicyFetchError as failed:
            self._fail(domain, str(failed), failed.result)
        except TimeoutError:
            self._fail(domain, "timed out", TlsResult.STS_POLICY_FETCH_ERROR)
        except Exception as error:  # rule R8: a defect costs this fetch
            log.trouble(f"MTA-STS policy of {domain}", error)
            refusal = self._refuse(domain, "internal error")
        finally:
            if self._fetching.get(domain) is fetching:  # no other one has taken its place
                del self._fetching[domain]
        self._answer(domain, record_id, fetching.waiting, refusal)

    async def _wait_for_turn(self, slots: asyncio.Semaphore) -> None:
        """Mail may wait for what uses `_slots`.  Raises LocalFetchError."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT if slots is self._slots else None):
                await slots.acquire()
        except TimeoutError:
            raise LocalFetchError(TOO_MANY) from None

    def _answer(
        self, domain: str, record_id: str, waiting: Iterable[Found], refusal: HostRefused | None = None
    ) -> None:
        """`refusal`: why nothing is known of a policy; one that is kept holds all the same, until it is asked again."""
        now = self._now()
        policy, seconds = self.kept.find(domain, now), self.kept.time_left(domain, record_id, now)
        if refusal is not None:
            seconds = LOCAL_RETRY_DELAY
        for found in waiting:
            try:
                found(policy or refusal, seconds)
            except Exception as error:  # rule R8: a defect costs the mail of one action
                log.trouble(f"mail that asked for the MTA-STS policy of {domain}", error)

    async def _fetch_policy(self, domain: str) -> StsPolicy:
        answered: asyncio.Future[HostsFound | HostsNotFound] = self._loop.create_future()

        def answer(imsg: HostsFound | HostsNotFound) -> None:
            if not answered.done():  # the fetch may have timed out
                answered.set_result(imsg)

        name = f"mta-sts.{domain}"  # RFC 8461 3.3
        if text_error(Word, name):  # of a policy that was kept: no record announces one of so long a name
            raise PolicyFetchError("no host has a name of this length")
        self._to_lookup.ask(lambda request: FindHosts(request, name, False, self.port, False), answer)
        try:
            async with asyncio.timeout(HOST_TIMEOUT):
                imsg = await answered
        except TimeoutError:
            raise LocalFetchError("lookup has many questions") from None
        if isinstance(imsg, HostsNotFound) and imsg.enhanced == LOOKUP_IS_FULL:
            raise LocalFetchError(imsg.text)
        if isinstance(imsg, HostsNotFound):
            raise PolicyFetchError(imsg.text.removeprefix("smarthost "))  # lookup takes it for one
        host = imsg.hosts[0]
        return await fetch_policy(self._loop, host.name, host.addresses, self._context(), self.port)

    def _keep(self, domain: str, record_id: str, policy: StsPolicy) -> None:
        self.kept.fetched(domain, record_id, policy, self._now())
        hosts = f" mx={','.join(policy.mx)}" if policy.mx else ""
        log.info(f"relay: MTA-STS policy of {domain}: mode={policy.mode.value}{hosts} max_age={policy.max_age}")

    def _refuse(self, domain: str, reason: str) -> HostRefused:
        text = f"MTA-STS policy of {domain} was not asked for: {reason}"
        log.info(f"relay: {text}")
        return HostRefused(451, "4.3.0", text, local=True)

    def _fail(self, domain: str, reason: str, result: TlsResult) -> None:
        """RFC 8461 10.2: the administrator is told."""
        self._statistics[counter("sts", result)] += 1
        now = self._now()
        self.kept.fetch_failed(domain, now)
        kept = self.kept.find(domain, now)
        meanwhile = "the one that was fetched before holds" if kept is not None else "none holds"
        log.info(f"relay: MTA-STS policy of {domain} cannot be fetched: {reason}; {meanwhile}")

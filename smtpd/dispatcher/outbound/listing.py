"""Answers to control's questions about the relay: a page of relays, routes, hosts, or of each domain's last status."""

from collections.abc import Callable, Iterable

from smtpd.domain_name import normal
from smtpd.envelope import RelayResult, Text, Word
from smtpd.imsg import (
    DomainsListed,
    HostsListed,
    ListDomains,
    ListHosts,
    ListRelays,
    ListRoutes,
    RelayMessage,
    RelaysListed,
    RoutesListed,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.text_limit import fit_text
from smtpd.relay.domain_status import DomainStatuses
from smtpd.relay.listing import RelayListing


class Listing:
    """`clock`: seconds since 1970."""

    def __init__(self, relay: RelayListing, clock: Callable[[], float]):
        self._relay, self._clock = relay, clock
        self._domains = DomainStatuses()

    def note_results(self, message: RelayMessage, results: Iterable[RelayResult]) -> None:
        """What has become of its recipients."""
        addresses = {to.envelope: to.address for to in message.recipients}
        for result in results:
            if address := addresses.get(result.envelope):
                self._note(address.rpartition("@")[2], result.text)

    def note_delay(self, destination: str, reason: str) -> None:
        """Why mail for it is not tried."""
        self._note(destination, reason)

    def _note(self, domain: str, status: str) -> None:
        self._domains.note(fit_text(Word, normal(domain)), fit_text(Text, status), self._clock())

    def list(self, channel: Channel, imsg: ListRelays | ListRoutes | ListHosts | ListDomains) -> None:
        now = self._clock()
        match imsg:
            case ListRelays():
                channel.send(RelaysListed(imsg.request, *self._relay.relays(imsg.after, now)))
            case ListRoutes():
                channel.send(RoutesListed(imsg.request, *self._relay.routes(imsg.after, now)))
            case ListHosts():
                channel.send(HostsListed(imsg.request, *self._relay.hosts(imsg.after, now)))
            case ListDomains():
                channel.send(DomainsListed(imsg.request, *self._domains.page(imsg.after, now)))

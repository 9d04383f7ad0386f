"""The order in which the addresses of one host are tried, and from which of our addresses (RFC 8305 4).

    addresses  2001:db8::1  2001:db8::2  192.0.2.1      ->   2001:db8::1   192.0.2.1   2001:db8::2
    sources    198.51.100.7                             ->   192.0.2.1 from 198.51.100.7, nothing else
    broken     6                                        ->   192.0.2.1   2001:db8::1   2001:db8::2

Families take turns, that of the first address first; a family that has not worked for this host lately comes last, but
it comes.  A source is of the family of the address: without one, that family is left out.
"""

from collections.abc import Collection, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

ADDRESSES_TRIED_MAX = 5  # of one host
RACE_DELAY = 0.25  # seconds until the next address is tried beside the one before, RFC 8305 5
FAMILIES = (4, 6)


class Path(NamedTuple):
    """A host's address, and ours: `source` is empty where the system chooses it."""

    address: str
    source: str


def family_of(address: str) -> int:
    return 6 if ":" in address else 4


def address_order(
    addresses: Sequence[str],
    sources: Sequence[str] = (),
    families: Collection[int] = FAMILIES,
    broken: Collection[int] = (),
    start: int = 0,
) -> list[Path]:
    """The paths to one host, best first, at most ADDRESSES_TRIED_MAX addresses and each of their sources.

    `start` says which source is the first, of each family: the same number gives the same one, so that what is tried
    again leaves from the same address, as greylisting wants it."""
    by_family = {family: [each for each in addresses if family_of(each) == family] for family in FAMILIES}
    first = family_of(addresses[0]) if addresses else 4
    allowed = [family for family in sorted(FAMILIES, key=lambda family: family != first) if family in families]
    order = [
        *_by_turns([by_family[family] for family in allowed if family not in broken]),
        *_by_turns([by_family[family] for family in allowed if family in broken]),
    ]
    paths = []
    tried = 0
    for address in order:
        found = _sources_for(address, sources, start)
        paths += [Path(address, source) for source in found]
        tried += bool(found)
        if tried == ADDRESSES_TRIED_MAX:
            break
    return paths


def _by_turns(lists: list[list[str]]) -> list[str]:
    return [each for each in chain.from_iterable(zip_longest(*lists)) if each is not None]


def _sources_for(address: str, sources: Sequence[str], start: int) -> list[str]:
    if not sources:
        return [""]
    of_family = [source for source in sources if family_of(source) == family_of(address)]
    if not of_family:
        return []
    at = start % len(of_family)
    return of_family[at:] + of_family[:at]

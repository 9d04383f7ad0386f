"""Tables in the configuration itself: `{ "a", "b" }` and `{ a = x, b = y }`."""

from collections.abc import Iterable

from smtpd.domain_name import normal_address
from smtpd.slice import Service
from smtpd.tables.matching import Matcher, make_matcher
from smtpd.tables.table import TableUnavailable


class ListTable:
    """Keys without values."""

    def __init__(self, name: str, entries: Iterable[str], delimiter: str = "+"):
        self.name = name
        self._entries = tuple(entries)
        self._delimiter = delimiter
        self._matchers: dict[Service, Matcher | TableUnavailable] = {}

    def check(self, service: Service, key: str) -> bool | TableUnavailable:
        try:
            found = self._matchers[service]
        except KeyError:
            found = self._matchers[service] = self._matcher(service)
        return found if isinstance(found, TableUnavailable) else found.check(key)

    def _matcher(self, service: Service) -> Matcher | TableUnavailable:
        try:
            return make_matcher(service, self._entries, self._delimiter)
        except ValueError as error:
            return TableUnavailable(f"table {self.name}: {error}")

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        return TableUnavailable(f"table {self.name}: a list has no values")

    def entries(self) -> tuple[str, ...] | TableUnavailable:
        return self._entries

    def update(self) -> TableUnavailable | None:
        return None


class MappingTable(ListTable):
    """Keys with values.  Keys are compared without case, and domains after an @ in any spelling, unless they are
    regular expressions; of duplicate keys the last one counts."""

    def __init__(self, name: str, pairs: Iterable[tuple[str, str]], delimiter: str = "+"):
        pairs = tuple(pairs)
        self._values = {normal_address(key): value for key, value in pairs}
        super().__init__(name, (key for key, _ in pairs), delimiter)

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        return self._values.get(normal_address(key))

    def entries(self) -> TableUnavailable:
        return TableUnavailable(f"table {self.name}: a mapping is no list")

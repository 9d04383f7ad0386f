"""Tables in files like passwd(5).

    bob:$y$...:1001:1001:Bob:/home/bob:/bin/sh      userinfo      bob -> 1001:1001:/home/bob
    amy:$y$...                                      credentials   amy -> $y$...; nothing else is known of her

Of two lines with the same name the first one counts, as in the system's own file.  Case does not count in names.  Empty
lines and those that begin with # are skipped; a line without a name and a password is an error.  An empty password is
none, and lets nobody in.
"""

from dataclasses import dataclass

from smtpd.tables.file import Malformed
from smtpd.tables.inline import ListTable
from smtpd.tables.table import Service, Unavailable

FIELDS = 7


@dataclass(frozen=True)
class Account:
    """What one line says.  `userinfo` is uid:gid:home, not checked yet, or empty."""

    line: int
    name: str
    password: str
    userinfo: str


def parse(text: str) -> list[Account]:
    """Raises Malformed."""
    lines = enumerate(text.split("\n"), 1)
    return [_account(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _account(number: int, line: str) -> Account:
    fields = line.rstrip("\r").split(":")
    name = fields[0].strip()
    if "\0" in line:
        raise Malformed(number, "a NUL character")
    if not name or len(fields) not in (2, FIELDS):
        raise Malformed(number, f"expected name:password, or the {FIELDS} fields of passwd(5)")
    known = len(fields) == FIELDS and fields[2] and fields[3] and fields[5]
    return Account(number, name, fields[1], ":".join((fields[2], fields[3], fields[5])) if known else "")


def by_name(accounts: list[Account]) -> dict[str, Account]:
    """Those that count, by their names in lower case, in the order of their lines."""
    found: dict[str, Account] = {}
    for account in accounts:
        found.setdefault(account.name.lower(), account)
    return found


class Accounts:
    """What a file of accounts answers."""

    def __init__(self, name: str, accounts: list[Account], delimiter: str):
        self._name = name
        self._accounts = by_name(accounts)
        self._names = ListTable(name, self._accounts, delimiter)

    def check(self, service: Service, key: str) -> bool | Unavailable:
        if service in (Service.CREDENTIALS, Service.USERINFO):
            found = self.find(service, key)
            return found if isinstance(found, Unavailable) else found is not None
        return self._names.check(service, key)

    def find(self, service: Service, key: str) -> str | None | Unavailable:
        account = self._accounts.get(key.lower())
        if service is Service.USERINFO:
            return (account and account.userinfo) or None
        if service is Service.CREDENTIALS:
            return (account and account.password) or None
        return Unavailable(f"table {self._name}: accounts have no {service}")


def understand(name: str, text: str, delimiter: str) -> Accounts:
    """Raises Malformed."""
    return Accounts(name, parse(text), delimiter)

"""Tables in files like passwd(5), or like a passwd-file of Dovecot.

    bob:$y$...:1001:1001:Bob:/home/bob:/bin/sh      userinfo      bob -> 1001:1001:/home/bob
    kim:$y$...:1003:1003::/home/kim::quota=1G       the same; fields after the seventh are ignored
    eve:$y$...::::/home/eve                         userinfo      eve -> ::/home/eve, for an action that names the user
    amy:$y$...                                      credentials   amy -> $y$...; no other fields

All fields but the first two may be missing at the end.  The comment field may hold any bytes; the fields used are
UTF-8.  Of duplicate names the first one counts, as in /etc/passwd.  Names are compared without case, and domains in any
spelling.  Empty lines and lines that begin with # are skipped; a line without a name and a password is a fault.  With
an empty password the user cannot log in.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from smtpd.domain_name import normal_address
from smtpd.slice import Service
from smtpd.tables.inline import ListTable
from smtpd.tables.table import TableUnavailable
from smtpd.tables.text_file import LineFault, line_fault, lines, raise_faults

UID, GID, HOME = 2, 3, 5  # field numbers, from 0


@dataclass(frozen=True)
class Account:
    """One line.  `userinfo` is uid:gid:home, not checked yet, or empty without a home."""

    line: int
    name: str
    password: str
    userinfo: str

    @property
    def key(self) -> str:
        """The name in its normal form."""
        return normal_address(self.name)


def read(text: str) -> tuple[list[Account], list[LineFault]]:
    """The valid lines, and the faults of the others."""
    accounts: list[Account] = []
    faults: list[LineFault] = []
    for number, line in lines(text):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [*line.split(":", HOME + 1), *[""] * HOME]
        used = [field for index, field in enumerate(fields[: HOME + 1]) if index != HOME - 1]
        if fault := _fault(line, used):
            faults.append((number, fault))
            continue
        userinfo = f"{fields[UID]}:{fields[GID]}:{fields[HOME]}" if fields[HOME] else ""
        accounts.append(Account(number, fields[0].strip(), fields[1], userinfo))
    return accounts, faults


def _fault(line: str, used: list[str]) -> str:
    if "\0" in line or not used[0].strip() or ":" not in line:
        return line_fault(line) or "expected name:password, with or without the other fields of passwd(5)"
    return line_fault("".join(used))


def parse(text: str) -> list[Account]:
    """The accounts in a file without faults.  Raises text_file.TextFileError."""
    accounts, faults = read(text)
    raise_faults(faults)
    return accounts


def by_name(accounts: Iterable[Account]) -> dict[str, Account]:
    """The accounts by their keys, in the order of their lines, without duplicates."""
    found: dict[str, Account] = {}
    for account in accounts:
        found.setdefault(account.key, account)
    return found


class Accounts:
    """A table of accounts: credentials, userinfo, and the list of their names."""

    def __init__(self, name: str, accounts: Iterable[Account], delimiter: str):
        self._name = name
        self._accounts = by_name(accounts)
        self._names = ListTable(name, self._accounts, delimiter)

    def check(self, service: Service, key: str) -> bool | TableUnavailable:
        if service in (Service.CREDENTIALS, Service.USERINFO):
            found = self.find(service, key)
            return found if isinstance(found, TableUnavailable) else found is not None
        return self._names.check(service, key)

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        account = self._accounts.get(normal_address(key))
        if service is Service.USERINFO:
            return (account and account.userinfo) or None
        if service is Service.CREDENTIALS:
            return (account and account.password) or None
        return TableUnavailable(f"table {self._name}: a passwd file has no {service}")

    def entries(self) -> tuple[str, ...] | TableUnavailable:
        return self._names.entries()


def make_table(name: str, text: str, delimiter: str, services: Collection[Service] = ()) -> Accounts:
    """The table in the text of a file.  Raises text_file.TextFileError."""
    return Accounts(name, parse(text), delimiter)

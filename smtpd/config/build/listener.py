"""listen on WHERE OPTIONS -> a listener of the model; which options require or exclude others."""

from typing import Any

from lark import Token, Tree

from smtpd.config.build import tls_options, value
from smtpd.config.build.diagnostics import Diagnostics, parts, value_of, word
from smtpd.config.build.names import Names, TableContent, TableUse
from smtpd.config.build.table_operand import TableBuilder
from smtpd.config.errors import quoted
from smtpd.config.model import Listen, ListenSocket
from smtpd.slice import Auth, Proxy, Service, Tls

PKI_MAX = 32
FAMILIES = {"inet4": 4, "inet6": 6}
MODES = {"tls": Tls, "auth": Auth, "proxy": Proxy}
FLAGS = ("mask_src", "no_dsn", "received_auth", "scram")

# Option -> the property it sets; options that set the same property exclude each other.
OPTIONS = dict.fromkeys(FAMILIES, "family")
OPTIONS |= {member.value.replace("-", "_"): says for says, mode in MODES.items() for member in mode}
OPTIONS |= {option: option for option in ("port", "hostname", "tag", "ca", "ciphers", "protocols", *FLAGS)}
OPTIONS |= {option: option for option in ("senders", "hostnames", "xclient")}

SOCKET_OPTIONS = {option: option for option in ("tag", "mask_src", "no_dsn")}

# Option -> the parser of its word.
WORDS = {
    "port": value.port,
    "hostname": value.host_name,
    "tag": value.tag,
    "ciphers": tls_options.ciphers,
    "protocols": tls_options.protocols,
}

# Field -> the content of its table, and the service it is asked for.  Inline tables are numbered in this order, which
# is the printer's.
TABLES = {
    "credentials": (TableContent.PASSWORDS, Service.CREDENTIALS),
    "senders": (TableContent.SENDERS, Service.MAILADDRMAP),
    "hostnames": (TableContent.HOST_NAMES, Service.ADDRNAME),
    "xclient": (TableContent.LIST, Service.NETADDR),
}

# Property -> the property that it requires, and what to write.
REQUIRED_OPTIONS = {
    "auth": ("tls", "tls, tls-require or smtps: passwords are not accepted in the clear"),
    "ca": ("tls", "tls-require or smtps"),
    "ciphers": ("tls", "tls, tls-require or smtps"),
    "protocols": ("tls", "tls, tls-require or smtps"),
    "senders": ("auth", "auth or auth-optional"),
    "received_auth": ("auth", "auth or auth-optional"),
    "scram": ("auth", "auth or auth-optional with a table"),
}


class ListenerBuilder:
    def __init__(self, diagnostics: Diagnostics, names: Names, tables: TableBuilder) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self._tables = tables

    def build(self, operand: Token, *options: Tree) -> Listen:
        pki = [option for option in options if option.data == "pki"]
        others = [option for option in options if option.data != "pki"]
        given = self._diagnostics.available(others, OPTIONS, "listen on")
        fields: dict[str, Any] = {"pki": self._pki(pki)} if pki else {}
        self._check(given, pki)
        for says, option in given.items():
            fields |= self._option(says, option)
        fields |= self._operands(given)
        return Listen(self._diagnostics.value(value.name, operand, ""), **fields)

    def build_socket(self, *options: Tree) -> ListenSocket:
        fields: dict[str, Any] = {}
        for says, option in self._diagnostics.available(options, SOCKET_OPTIONS, "listen on socket").items():
            fields |= self._option(says, option)
        return ListenSocket(**fields)

    def _pki(self, options: list[Tree]) -> tuple[str, ...]:
        names: list[str] = []
        for option in options:
            name = self._name("pki", value_of(option))
            if name in names:
                self._diagnostics.error(option, f"duplicate pki {quoted(name)}")
            names.append(name)
        if len(options) > PKI_MAX:
            self._diagnostics.error(options[PKI_MAX], f"more than {PKI_MAX} pki of one listener")
        return tuple(names)

    def _name(self, kind: str, token: Token) -> str:
        name = self._diagnostics.value(value.pki_name, token, "")
        if name:
            self._names.use(kind, name, self._diagnostics.position(token))
        return name

    def _check(self, given: dict[str, Tree], pki: list[Tree]) -> None:
        for says, (needed, expected) in REQUIRED_OPTIONS.items():
            if says in given and needed not in given:
                self._diagnostics.error(given[says], f"{quoted(word(given[says].data))} requires {expected}")
        if pki and "tls" not in given:
            self._diagnostics.error(pki[0], f"{quoted('pki')} requires tls, tls-require or smtps")
        if "tls" in given:
            mode = given["tls"]
            if not pki:
                self._diagnostics.error(mode, f"{quoted(word(mode.data))} requires a pki")
            if _has(mode, "verify") and "ca" not in given:
                text = f"{quoted('verify')} requires a ca, which signs the certificates of clients"
                self._diagnostics.error(mode, text)
        if "scram" in given and "auth" in given and not parts(given["auth"]):
            text = f"{quoted('scram')} requires a table: the system's password files have no SCRAM verifiers"
            self._diagnostics.error(given["scram"], text)

    def _option(self, says: str, option: Tree) -> dict[str, Any]:
        """The fields that an option sets, and their values; tables are left to `_operands`."""
        if says in MODES:
            return {says: MODES[says](word(option.data))} | ({"verify": True} if _has(option, "verify") else {})
        if says == "family":
            return {"family": FAMILIES[option.data]}
        if says in FLAGS:
            return {says: True}
        if says == "ca":
            return {"ca": self._name("ca", value_of(option))}
        if says in WORDS:
            return {says: self._diagnostics.value(WORDS[says], value_of(option), None)}
        return {"masquerade": True} if _has(option, "masquerade") else {}

    def _operands(self, given: dict[str, Tree]) -> dict[str, str]:
        found = {}
        for field, (wanted, service) in TABLES.items():
            option = given.get("auth" if field == "credentials" else field)
            operands = [part for part in parts(option) if part.data in ("one", "list", "reference")] if option else []
            for operand in operands:
                found[field] = self._tables.operand(operand)
                self._names.use_table(TableUse(self._diagnostics.position(operand), found[field], wanted, service))
        return found


def _has(option: Tree, flag: str) -> bool:
    return any(isinstance(part, Tree) and part.data == flag for part in option.children)

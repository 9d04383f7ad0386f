"""action NAME METHOD OPTIONS [ttl D] -> an action of the model.  The options of `relay` are built in relay.py."""

from typing import Any

from lark import Token, Tree

from smtpd.config.build import delivery_target, value
from smtpd.config.build.diagnostics import Diagnostics, parts, value_of, word
from smtpd.config.build.names import Names, TableContent, TableUse
from smtpd.config.build.relay import OPTIONS as RELAY_OPTIONS
from smtpd.config.build.relay import RelayBuilder
from smtpd.config.build.table_operand import TableBuilder
from smtpd.config.errors import quoted
from smtpd.config.model import Action
from smtpd.slice import Method, Service

# Option -> the property it sets.  Inline tables are numbered in this order, which is the printer's.
OPTIONS = {"alias": "names", "virtual": "names", "userbase": "userbase", "user": "user", "wrapper": "wrapper"}
TABLES = {
    "alias": (TableContent.ALIASES, Service.ALIAS),
    "virtual": (TableContent.ALIASES, Service.ALIAS),
    "userbase": (TableContent.USERS, Service.USERINFO),
}

# Method -> option that it cannot have -> the reason.
EXCLUDED = {
    Method.MBOX: {
        "user": "a mailbox belongs to its user",
        "wrapper": "it runs no command",
    },
    Method.EXPAND_ONLY: {"user": "nothing is delivered"},
    Method.FORWARD_ONLY: {"user": "nothing is delivered"},
}


class ActionBuilder:
    def __init__(self, diagnostics: Diagnostics, names: Names, tables: TableBuilder) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self._tables = tables
        self._relays = RelayBuilder(diagnostics, names, tables)

    def build(self, name: Token, method: Tree, *options: Tree) -> Action:
        self._diagnostics.value(value.name, name, "")
        known = RELAY_OPTIONS if method.data == Method.RELAY else OPTIONS
        given = self._diagnostics.available(options, known | {"ttl": "ttl"}, "action")
        if method.data == Method.RELAY:
            self._names.note_relay(str(name), self._diagnostics.position(method))
            fields: dict[str, Any] = {"method": Method.RELAY, "relay": self._relays.build(given)}
        else:
            fields = self._local(str(name), method, given)
        if "ttl" in given:
            fields["ttl"] = self._diagnostics.value(value.interval, value_of(given["ttl"]), 1)
        return Action(str(name), **fields)

    def _local(self, name: str, method: Tree, given: dict[str, Tree]) -> dict[str, Any]:
        fields = self._method(method)
        self._check_excluded(fields["method"], given)
        for what in dict.fromkeys(OPTIONS.values()):
            if what in given:
                fields |= self._option(name, given[what])
        return fields

    def _method(self, method: Tree) -> dict[str, Any]:
        words = [child for child in method.children if isinstance(child, Token)]
        flags = {child.data for child in method.children if isinstance(child, Tree)}
        fields: dict[str, Any] = {"method": Method(word(method.data))}
        match fields["method"]:
            case Method.MAILDIR:
                path = (
                    self._diagnostics.value(delivery_target.maildir_path, words[0], "")
                    if words
                    else delivery_target.MAILDIR
                )
                if doubt := delivery_target.foreign_specifier_warning(path):
                    self._diagnostics.warn(words[0], doubt)
                fields |= {"target": path, "junk": "junk" in flags}
            case Method.LMTP:
                destination = self._diagnostics.value(delivery_target.lmtp_destination, words[0], "")
                fields |= {"target": destination, "rcpt_to": "by_rcpt_to" in flags}
            case Method.MDA:
                fields["target"] = self._diagnostics.value(delivery_target.command, words[0], "")
        return fields

    def _check_excluded(self, method: Method, given: dict[str, Tree]) -> None:
        for option, reason in EXCLUDED.get(method, {}).items():
            if option in given:
                self._diagnostics.error(given[option], f"{quoted(option)} is not allowed with {method.value}: {reason}")

    def _option(self, action: str, option: Tree) -> dict[str, str]:
        """The field that an option sets, and its value."""
        (operand,) = parts(option)
        position = self._diagnostics.position(operand)
        if option.data in TABLES:
            name = self._tables.operand(operand)
            self._names.use_table(TableUse(position, name, *TABLES[option.data]))
            if option.data == "userbase":
                self._names.note_userbase(action, position)
        elif option.data == "wrapper":
            name = str(operand)
            self._names.use("wrapper", name, position)
        else:
            name = self._diagnostics.value(value.user, operand, "")
            if name:
                self._names.note_user(name, position)
        return {str(option.data): name}

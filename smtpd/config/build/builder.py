"""The trees of all sentences -> the model.

What the grammar has and the builders do not is refused by name ("not available yet"): nothing is accepted and then
ignored.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from lark import Token, Tree

from smtpd.config.build import delivery_target, tls_options, value
from smtpd.config.build.action import ActionBuilder
from smtpd.config.build.diagnostics import Diagnostics, Node, parts, value_of, word
from smtpd.config.build.listener import ListenerBuilder
from smtpd.config.build.names import BUILTIN_TABLES, Names
from smtpd.config.build.pki import PkiBuilder
from smtpd.config.build.relay_limit import RelayLimitBuilder, SrsBuilder
from smtpd.config.build.rule import RuleBuilder
from smtpd.config.build.table_operand import TableBuilder
from smtpd.config.errors import Report, SourcePosition, quoted
from smtpd.config.model import Action, Config, Listen, Relay, Table, Wrapper
from smtpd.slice import DeliveryLimits, Limits, Match, Method

LIMITS = {field.replace("_", "-"): field for field in Limits.__struct_fields__}
DELIVERY_LIMITS = {field.replace("_", "-"): field for field in DeliveryLimits.__struct_fields__}
UNAVAILABLE_DELIVERY_LIMITS = {"task-hiwat", "task-lowat", "task-release"}
SINGLE_SETTINGS = {
    "alias_commands": "alias-commands",
    "dispatchers": "dispatchers",
    "sandbox_required": "sandbox",
    "socket": "listen on socket",
}
SRS_WITHOUT_KEY = '"srs" requires a key, as in: srs key "a long secret"'
KEY_WITHOUT_FILE = '"queue encryption" takes its keys from a file, as in: queue encryption key "/etc/mail/queue.key"'
SANDBOX = {"required": True, "optional": False}


class Builder:
    """`add` each sentence, then `finish`.  Errors go to the report; building continues with a default value."""

    def __init__(self, report: Report, names: Names) -> None:
        self.listeners: list[tuple[Listen, SourcePosition]] = []
        self.invalid_listeners: list[tuple[Listen, SourcePosition]] = []
        self.matches: list[tuple[Match, SourcePosition]] = []
        self._report = report
        self._names = names
        self._diagnostics = Diagnostics(report)
        self._tables = TableBuilder(self._diagnostics, names)
        self._actions: list[tuple[str, Tree]] = []
        self._rules: list[tuple[str, Tree]] = []
        self._listeners: list[tuple[str, Tree]] = []
        self._listener_builder = ListenerBuilder(self._diagnostics, names, self._tables)
        self._certificates = PkiBuilder(report, self._diagnostics, names)
        self._relay_limits = RelayLimitBuilder(self._diagnostics, names)
        self._srs = SrsBuilder(self._diagnostics)
        self._wrappers: list[Wrapper] = []
        self._settings: dict[str, Any] = {}
        self._limits: dict[str, int] = {}
        self._delivery_limits: dict[str, int] = {}

    def add(self, file: str, sentence: Tree) -> None:
        self._diagnostics.file = file
        match sentence.data:
            case "table":
                self._diagnostics.fits(sentence, self._tables.maybe_declare(*parts(sentence)))
            case "action":
                self._actions.append((file, sentence))
            case "match":
                self._rules.append((file, sentence))
            case "listen":
                self._listeners.append((file, sentence))
            case "pki":
                self._certificates.add_pki(*parts(sentence))
            case "ca":
                self._certificates.add_ca(*parts(sentence))
            case "mda":
                self._mda(*parts(sentence))
            case "mta":
                self._relay_limits.add(*parts(sentence))
            case "srs":
                self._srs.add(*parts(sentence))
            case "queue":
                self._queue(*parts(sentence))
            case "smtp":
                self._smtp(*parts(sentence))
            case "alias_commands":
                self._alias_commands(sentence, value_of(sentence))
            case "sandbox":
                self._sandbox(*parts(sentence))
            case "dispatchers":
                number = self._diagnostics.value(value.dispatchers, value_of(sentence), 1)
                self._set_once("dispatchers", number, sentence)
            case "listen_socket":
                self._set_once("socket", self._listener_builder.build_socket(*parts(sentence)), sentence)
            case other:
                self._diagnostics.not_yet(sentence, word(other))

    def finish(self) -> Config:
        """Build actions, listeners and rules in the order of the printer: their inline tables share one numbering.

        Sentences with errors are left out, and so are those that name something with errors."""
        actions = ActionBuilder(self._diagnostics, self._names, self._tables)
        rules = RuleBuilder(self._diagnostics, self._names, self._tables)
        built = [self._maybe_right(partial(self._action, actions), action) for action in self._again(self._actions)]
        for sentence in self._again(self._listeners):
            self._listen(sentence, *parts(sentence))
        srs = self._srs.settings()
        if srs.key is None:
            for position in self._names.srs_positions:
                self._report.add(position, SRS_WITHOUT_KEY)
        for sentence in self._again(self._rules):
            if match := self._maybe_right(rules.build, sentence):
                self.matches.append((match, self._diagnostics.position(sentence)))
        usable = UsableNames(self._tables.by_name, self._wrappers)
        listeners, self.listeners = self.listeners, []
        for listen, position in listeners:
            (self.listeners if usable.has(*tables_of_listener(listen)) else self.invalid_listeners).append(
                (listen, position)
            )
        return Config(
            listeners=tuple(listen for listen, _ in self.listeners),
            tables=self._tables.all,
            actions=tuple(action for action in built if action and usable.is_right(action)),
            matches=tuple(match for match, _ in self.matches),
            wrappers=tuple(self._wrappers),
            limits=Limits(**self._limits),
            delivery_limits=DeliveryLimits(**self._delivery_limits),
            relay_limits=self._relay_limits.limits,
            domain_limits=self._relay_limits.domain_limits,
            max_deferred=self._relay_limits.max_deferred,
            srs=srs,
            pki=tuple(pki for pki in self._certificates.pki() if pki.name and pki.cert and pki.key),
            ca=tuple(ca for ca in self._certificates.ca() if ca.name and ca.cert),
            **self._settings,
        )

    def _maybe_right[T](self, build: Callable[..., T], sentence: Tree) -> T | None:
        """What `build` makes of the sentence; None if it has an error."""
        before = self._report.count
        made = build(*parts(sentence))
        self._names.check(self._tables.by_name)
        return made if self._diagnostics.fits(sentence, made) and self._report.count == before else None

    def _action(self, actions: ActionBuilder, name: Token, method: Tree, *options: Tree) -> Action:
        action = actions.build(name, method, *options)
        wrapper = next((wrapper for wrapper in self._wrappers if wrapper.name == action.wrapper), None)
        if wrapper and action.method is Method.MDA and action.target and wrapper.command:
            self._diagnostics.value(partial(delivery_target.wrapped, wrapper.command), name, "", text=action.target)
        return action

    def _listen(self, sentence: Tree, operand: Token, *options: Tree) -> None:
        """Build a listener.  The address of one with errors is kept, to be checked later."""
        position = self._diagnostics.position(operand)
        if listen := self._maybe_right(self._listener_builder.build, sentence):
            self.listeners.append((listen, position))
        elif operand:
            families = {"inet4": 4, "inet6": 6}
            family = next((families[option.data] for option in options if option.data in families), None)
            self.invalid_listeners.append((Listen(str(operand), family=family), position))

    def _again(self, sentences: list[tuple[str, Tree]]) -> Iterator[Tree]:
        for file, sentence in sentences:
            self._diagnostics.file = file
            yield sentence

    # -- settings: of duplicates the last one counts, as in OpenSMTPD; a duplicate of a setting of ours is an error

    def _mda(self, setting: Tree) -> None:
        if setting.data == "wrapper":
            if wrapper := self._maybe_right(self._wrapper, setting):
                self._wrappers.append(wrapper)
            return
        for key, number in map(parts, parts(setting)):
            if key in UNAVAILABLE_DELIVERY_LIMITS:
                self._diagnostics.not_yet(key, f"mda limit {key}")
            else:
                self._limit(self._delivery_limits, DELIVERY_LIMITS, key, number)

    def _wrapper(self, name: Token, command: Token) -> Wrapper:
        self._diagnostics.value(value.name, name, "")
        return Wrapper(str(name), self._diagnostics.value(delivery_target.wrapper, command, ""))

    def _queue(self, setting: Tree) -> None:
        match setting.data:
            case "ttl":
                self._settings["queue_ttl"] = self._diagnostics.value(value.interval, value_of(setting), 1)
            case "compression":
                self._settings["queue_compression"] = True
                self._names.queue_positions.append(self._diagnostics.position(setting))
            case "encryption":
                path = self._diagnostics.value(value.absolute_path, value_of(setting), "")
                self._names.note_file("queue", path, self._diagnostics.position(value_of(setting)))
                self._settings["queue_key"] = path
                self._names.queue_positions.append(self._diagnostics.position(setting))
            case _:
                self._report.add(self._diagnostics.position(setting), KEY_WITHOUT_FILE)

    def _smtp(self, setting: Tree) -> None:
        match setting.data:
            case "max_message_size":
                self._settings["max_message_size"] = self._diagnostics.value(value.size, value_of(setting), 1)
            case "sub_addr_delim":
                self._settings["sub_addr_delim"] = self._diagnostics.value(value.sub_addr_delim, value_of(setting), "+")
            case "ciphers":
                self._settings["ciphers"] = self._diagnostics.value(tls_options.ciphers, value_of(setting), "")
            case "limit":
                for key, number in map(parts, parts(setting)):
                    self._limit(self._limits, LIMITS, key, number)
                    self._names.limit_positions["smtp", "", LIMITS.get(key, "")] = self._diagnostics.position(number)

    def _limit(self, limits: dict[str, int], known: dict[str, str], key: Token, number: Token) -> None:
        if self._diagnostics.check_known(key, known):
            limits[known[key]] = self._diagnostics.value(partial(value.limit, key=known[key]), number, 1)

    def _sandbox(self, required: Token) -> None:
        if self._diagnostics.check_known(required, SANDBOX):
            self._set_once("sandbox_required", SANDBOX[required], required)

    def _alias_commands(self, sentence: Tree, token: Token) -> None:
        user = self._diagnostics.value(value.user, token, "")
        if user:
            self._names.note_user(user, self._diagnostics.position(token))
        self._set_once("alias_commands", user, sentence)

    def _set_once(self, setting: str, content: object, node: Node) -> None:
        if setting in self._settings:
            self._diagnostics.error(node, f"duplicate {quoted(SINGLE_SETTINGS[setting])}")
        self._settings[setting] = content


class UsableNames:
    """The tables and wrappers without errors.  What names any other is correct by itself, but cannot be used."""

    def __init__(self, tables: Mapping[str, Table], wrappers: Iterable[Wrapper]) -> None:
        self._tables = {*BUILTIN_TABLES, *tables}
        self._wrappers = {wrapper.name for wrapper in wrappers}

    def has(self, *tables: str | None) -> bool:
        return all(table is None or table in self._tables for table in tables)

    def is_right(self, action: Action) -> bool:
        tables = self.has(action.alias, action.virtual, action.userbase, *tables_of_relay(action.relay))
        return tables and (action.wrapper is None or action.wrapper in self._wrappers)


def tables_of_relay(relay: Relay | None) -> tuple[str | None, ...]:
    if relay is None:
        return ()
    return relay.hosts, relay.domains, relay.credentials, relay.helo_names, relay.sources


def tables_of_listener(listen: Listen) -> tuple[str | None, ...]:
    return listen.credentials, listen.senders, listen.hostnames, listen.xclient

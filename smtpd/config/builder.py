"""Sentences -> the model.

What the grammar has and this module does not know is refused by name ("not available yet"): nothing is accepted and
then ignored.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from lark import Token, Tree

from smtpd.config import protocol, target, value
from smtpd.config.action import Actions
from smtpd.config.certificate import Certificates
from smtpd.config.error import Place, Report, quoted
from smtpd.config.listener import Listeners
from smtpd.config.mistake import Mistakes, Node, parts, value_of, word
from smtpd.config.model import Config, DeliveryLimits, Limits, Wrapper
from smtpd.config.names import Names
from smtpd.config.operand import Tables
from smtpd.config.rule import Rules

LIMITS = {field.replace("_", "-"): field for field in Limits.__dataclass_fields__}
DELIVERY_LIMITS = {field.replace("_", "-"): field for field in DeliveryLimits.__dataclass_fields__}
LATER_DELIVERY_LIMITS = {"task-hiwat", "task-lowat", "task-release"}
SAID_ONCE = {
    "alias_commands": "alias-commands",
    "dispatchers": "dispatchers",
    "sandbox_required": "sandbox",
    "socket": "listen on socket",
}
SANDBOX = {"required": True, "optional": False}


class Builder:
    """`add` each sentence, then `finish`.  Mistakes are reported, and something is put in their place."""

    def __init__(self, report: Report, names: Names) -> None:
        self.listener_places: list[Place] = []
        self._names = names
        self._mistakes = Mistakes(report)
        self._tables = Tables(self._mistakes, names)
        self._sentences_of_actions: list[tuple[str, Tree]] = []
        self._sentences_of_rules: list[tuple[str, Tree]] = []
        self._sentences_of_listeners: list[tuple[str, Tree]] = []
        self._doors = Listeners(self._mistakes, names, self._tables)
        self._certificates = Certificates(report, self._mistakes, names)
        self._wrappers: list[Wrapper] = []
        self._settings: dict[str, Any] = {}
        self._limits: dict[str, int] = {}
        self._delivery_limits: dict[str, int] = {}

    def add(self, file: str, sentence: Tree) -> None:
        self._mistakes.file = file
        match sentence.data:
            case "table":
                self._tables.declare(*parts(sentence))
            case "action":
                self._sentences_of_actions.append((file, sentence))
            case "match":
                self._sentences_of_rules.append((file, sentence))
            case "listen":
                self._sentences_of_listeners.append((file, sentence))
                self.listener_places.append(self._mistakes.place(parts(sentence)[0]))
            case "pki":
                self._certificates.add_pki(*parts(sentence))
            case "ca":
                self._certificates.add_ca(*parts(sentence))
            case "mda":
                self._mda(*parts(sentence))
            case "queue":
                self._queue(*parts(sentence))
            case "smtp":
                self._smtp(*parts(sentence))
            case "alias_commands":
                self._alias_commands(sentence, value_of(sentence))
            case "sandbox":
                self._sandbox(*parts(sentence))
            case "dispatchers":
                number = self._mistakes.value(value.dispatchers, value_of(sentence), 1)
                self._set_once("dispatchers", number, sentence)
            case "listen_socket":
                self._set_once("socket", self._doors.build_socket(*parts(sentence)), sentence)
            case other:
                self._mistakes.not_yet(sentence, word(other))

    def finish(self) -> Config:
        """Actions, listeners, rules, as they are printed: inline tables of all are numbered in one row."""
        actions = Actions(self._mistakes, self._names, self._tables)
        rules = Rules(self._mistakes, self._names, self._tables)
        built = [actions.maybe_build(*parts(sentence)) for sentence in self._again(self._sentences_of_actions)]
        listeners = [self._doors.build(*parts(sentence)) for sentence in self._again(self._sentences_of_listeners)]
        matches = [rules.build(*parts(sentence)) for sentence in self._again(self._sentences_of_rules)]
        tables = self._tables.all
        self._names.check({table.name: table for table in tables})
        return Config(
            listeners=tuple(listeners),
            tables=tables,
            actions=tuple(action for action in built if action),
            matches=tuple(matches),
            wrappers=tuple(self._wrappers),
            limits=Limits(**self._limits),
            delivery_limits=DeliveryLimits(**self._delivery_limits),
            pki=self._certificates.pki(),
            ca=self._certificates.ca(),
            **self._settings,
        )

    def _again(self, sentences: list[tuple[str, Tree]]) -> Iterator[Tree]:
        for file, sentence in sentences:
            self._mistakes.file = file
            yield sentence

    # -- settings: of one that is said twice, the last counts; of those that the language lacks, it is an error

    def _mda(self, setting: Tree) -> None:
        if setting.data == "wrapper":
            name, command = parts(setting)
            self._mistakes.value(value.name, name, "")
            self._wrappers.append(Wrapper(str(name), self._mistakes.value(target.wrapper, command, "")))
            return
        for key, number in map(parts, parts(setting)):
            if key in LATER_DELIVERY_LIMITS:
                self._mistakes.not_yet(key, f"mda limit {key}")
            else:
                self._limit(self._delivery_limits, DELIVERY_LIMITS, key, number)

    def _queue(self, setting: Tree) -> None:
        if setting.data != "ttl":
            return self._mistakes.not_yet(setting, f"queue {word(setting.data)}")
        self._settings["queue_ttl"] = self._mistakes.value(value.interval, value_of(setting), 1)
        return None

    def _smtp(self, setting: Tree) -> None:
        match setting.data:
            case "max_message_size":
                self._settings["max_message_size"] = self._mistakes.value(value.size, value_of(setting), 1)
            case "sub_addr_delim":
                self._settings["sub_addr_delim"] = self._mistakes.value(value.sub_addr_delim, value_of(setting), "+")
            case "ciphers":
                self._settings["ciphers"] = self._mistakes.value(protocol.ciphers, value_of(setting), "")
            case "limit":
                for key, number in map(parts, parts(setting)):
                    self._limit(self._limits, LIMITS, key, number)

    def _limit(self, limits: dict[str, int], known: dict[str, str], key: Token, number: Token) -> None:
        if self._mistakes.known(key, known):
            limits[known[key]] = self._mistakes.value(partial(value.limit, key=known[key]), number, 1)

    def _sandbox(self, required: Token) -> None:
        if self._mistakes.known(required, SANDBOX):
            self._set_once("sandbox_required", SANDBOX[required], required)

    def _alias_commands(self, sentence: Tree, token: Token) -> None:
        user = self._mistakes.value(value.user, token, "")
        self._names.place_user(user, self._mistakes.place(token))
        self._set_once("alias_commands", user, sentence)

    def _set_once(self, setting: str, content: object, node: Node) -> None:
        if setting in self._settings:
            self._mistakes.error(node, f"duplicate {quoted(SAID_ONCE[setting])}, expected it once")
        self._settings[setting] = content

"""Sentences -> the model.

What the grammar has and this module does not know is refused by name ("not available yet"): nothing is accepted and
then ignored.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lark import Token, Tree

from smtpd.config import value
from smtpd.config.error import Place, Report, Wrong, alternatives, quoted, suggestion
from smtpd.config.model import Action, Condition, Config, Limits, Listen, Match, Method, Operand, Table
from smtpd.config.names import Names, Use

# criterion of a match -> the field of Match.  In this order, which is the printer's, conditions are built: so the
# numbers of inline tables do not depend on the order in which the criteria were written.
FIELDS = {"from": "source", "for": "destination", "tag": "tag", "mail_from": "mail_from", "rcpt_to": "rcpt_to"}
WITHOUT_TABLE = {"any", "local", "socket"}
WITH_TABLE = {"src", "domain", "tag", "mail_from", "rcpt_to"}
WITH_MAPPING = {"mail_from", "rcpt_to"}

TABLE_FILES = {"file", "static"}  # two words for one thing
FAMILIES = {"inet4": 4, "inet6": 6}
LISTEN_OPTIONS = dict.fromkeys(FAMILIES, "family") | {option: option for option in ("port", "hostname", "tag")}
LIMITS = {field.replace("_", "-"): field for field in Limits.__dataclass_fields__}
SANDBOX = {"required": True, "optional": False}

type Node = Token | Tree


def parts(tree: Tree) -> list[Any]:
    """The children; the grammar says which are words and which are trees."""
    return tree.children


def value_of(tree: Tree) -> Token:
    """The one word behind the word of an option."""
    (token,) = parts(tree)
    return token


def word(rule: str) -> str:
    """mail_from -> mail-from"""
    return rule.replace("_", "-")


class Builder:
    """`add` each sentence, then `finish`.  Mistakes are reported, and something is put in their place."""

    def __init__(self, report: Report, names: Names) -> None:
        self.listener_places: list[Place] = []
        self._report = report
        self._names = names
        self._file = ""
        self._tables: dict[str, Table] = {}
        self._inline: list[Table] = []
        self._actions: list[Action] = []
        self._listeners: list[Listen] = []
        self._matches: list[Match] = []
        self._settings: dict[str, Any] = {}
        self._limits: dict[str, int] = {}

    def add(self, file: str, sentence: Tree) -> None:
        self._file = file
        match sentence.data:
            case "table":
                self._table(*parts(sentence))
            case "action":
                self._action(*parts(sentence))
            case "match":
                self._match(parts(sentence))
            case "listen":
                self._listen(*parts(sentence))
            case "queue":
                self._queue(*parts(sentence))
            case "smtp":
                self._smtp(*parts(sentence))
            case "sandbox":
                self._sandbox(*parts(sentence))
            case "dispatchers":
                self._set_once("dispatchers", self._value(value.dispatchers, value_of(sentence), 1), sentence)
            case "listen_socket":
                self._not_yet(sentence, "listen on socket")
            case other:
                self._not_yet(sentence, word(other))

    def finish(self) -> Config:
        tables = (*self._tables.values(), *self._inline)
        self._names.check({table.name: table for table in tables})
        return Config(
            listeners=tuple(self._listeners),
            tables=tables,
            actions=tuple(self._actions),
            matches=tuple(self._matches),
            limits=Limits(**self._limits),
            **self._settings,
        )

    # -- table NAME { … } | [file:]/path

    def _table(self, name: Token, content: Tree) -> None:
        self._value(value.name, name, "")
        if content.data == "list":
            table = self._listed(str(name), content)
        else:
            table = self._table_file(name, value_of(content))
        if table:
            self._tables.setdefault(table.name, table)

    def _table_file(self, name: Token, source: Token) -> Table | None:
        kind, colon, path = ("file", ":", str(source)) if source.startswith("/") else source.partition(":")
        if kind not in TABLE_FILES:
            self._not_yet(source, f"table … {kind}", TABLE_FILES)
        elif not colon:
            self._error(source, f"a table of kind {kind} needs a path, such as {kind}:/etc/mail/{name}")
        else:
            return Table(str(name), path=self._value(value.absolute_path, source, path, text=path))
        return None

    def _listed(self, name: str, content: Tree) -> Table | None:
        entries = [parts(entry) for entry in parts(content)]
        if len({len(entry) for entry in entries}) > 1:
            self._error(content, "a list and a mapping in one, expected a value for each entry or for none")
            return None
        if len(entries[0]) == 2:
            return Table(name, pairs=tuple((str(key), str(entry)) for key, entry in entries))
        self._names.place_entries(name, [self._place(entry) for (entry,) in entries])
        return Table(name, entries=tuple(str(entry) for (entry,) in entries))

    # -- action NAME maildir [PATH] [junk] [ttl D]

    def _action(self, name: Token, method: Tree, *options: Tree) -> None:
        self._value(value.name, name, "")
        given = self._available(options, {"ttl": "ttl"}, "action")
        ttl = self._value(value.interval, value_of(given["ttl"]), 1) if given else None
        if method.data != "maildir":
            return self._not_yet(method, f"action … {word(method.data)}")
        path = [child for child in method.children if isinstance(child, Token)]
        self._actions.append(
            Action(
                str(name),
                Method.MAILDIR,
                path=self._value(value.maildir_path, path[0], "") if path else Action.path,
                junk=len(path) < len(method.children),
                ttl=ttl,
            )
        )
        return None

    # -- match CRITERIA (action NAME | reject)

    def _match(self, children: list[Any]) -> None:
        *criteria, decision = children
        given: dict[str, tuple[bool, Tree]] = {}
        for criterion in criteria:
            self._criterion(given, *criterion.children)
        for field, (_, kind) in list(given.items()):
            if field in ("source", "destination") and kind.data in given:
                self._twice(given[kind.data][1], kind)
        conditions = {field: self._condition(*given[field]) for field in FIELDS.values() if field in given}
        action = None
        if decision.data == "deliver":
            action = str(decision.children[0])
            self._names.use_action(action, self._place(decision.children[0]))
        self._matches.append(Match(action, **conditions))

    def _criterion(self, given: dict[str, tuple[bool, Tree]], *children: Tree) -> None:
        criterion, negated = children[-1], len(children) == 2
        kind = criterion.children[0] if criterion.data in ("from", "for") else criterion
        field = FIELDS.get(criterion.data)
        if field is None:
            self._not_yet(criterion, f"match … {word(criterion.data)}")
        elif kind.data not in WITHOUT_TABLE | WITH_TABLE:
            self._not_yet(kind, f"match … {criterion.data} {word(kind.data)}")
        elif field in given:
            self._twice(criterion, criterion)
        else:
            given[field] = negated, kind

    def _condition(self, negated: bool, kind: Tree) -> Condition:
        if kind.data in WITHOUT_TABLE:
            return Condition(str(kind.data), negated)
        *regex, table = kind.children
        operand = Operand(self._operand(table), bool(regex))
        use = Use(self._place(table), operand.table, operand.regex, may_be_mapping=kind.data in WITH_MAPPING)
        self._names.use_table(use)
        return Condition(word(kind.data), negated, operand)

    def _operand(self, table: Tree) -> str:
        """The name of the table; of a new one, if it stands here itself."""
        name = f"<dynamic:{len(self._inline)}>"
        if table.data == "reference":
            return str(table.children[0])
        if table.data == "one":
            self._names.place_entries(name, [self._place(table)])
            new: Table | None = Table(name, entries=(str(table.children[0]),))
        else:
            new = self._listed(name, table)
        self._inline.append(new or Table(name))
        return name

    # -- listen on OPERAND OPTIONS

    def _listen(self, operand: Token, *options: Tree) -> None:
        given = self._available(options, LISTEN_OPTIONS, "listen on")
        fields: dict[str, Any] = {}
        for option in given.values():
            match option.data:
                case "inet4" | "inet6":
                    fields["family"] = FAMILIES[option.data]
                case "port":
                    fields["port"] = self._value(value.port, value_of(option), 1)
                case "hostname":
                    fields["hostname"] = self._value(value.host_name, value_of(option), "")
                case "tag":
                    fields["tag"] = self._value(value.tag, value_of(option), "")
        self._listeners.append(Listen(self._value(value.name, operand, ""), **fields))
        self.listener_places.append(self._place(operand))

    # -- settings: of one that is said twice, the last counts; of those that the language lacks, it is an error

    def _queue(self, setting: Tree) -> None:
        if setting.data != "ttl":
            return self._not_yet(setting, f"queue {word(setting.data)}")
        self._settings["queue_ttl"] = self._value(value.interval, value_of(setting), 1)
        return None

    def _smtp(self, setting: Tree) -> None:
        match setting.data:
            case "max_message_size":
                self._settings["max_message_size"] = self._value(value.size, value_of(setting), 1)
            case "sub_addr_delim":
                self._settings["sub_addr_delim"] = self._value(value.sub_addr_delim, value_of(setting), "+")
            case "limit":
                for limit in parts(setting):
                    self._limit(*parts(limit))
            case other:
                self._not_yet(setting, f"smtp {word(other)}")

    def _limit(self, key: Token, number: Token) -> None:
        if self._known(key, LIMITS):
            self._limits[LIMITS[key]] = self._value(value.count, number, 1)

    def _sandbox(self, required: Token) -> None:
        if self._known(required, SANDBOX):
            self._set_once("sandbox_required", SANDBOX[required], required)

    def _set_once(self, setting: str, content: object, node: Node) -> None:
        if setting in self._settings:
            self._error(node, f"{quoted(setting.partition('_')[0])} is said twice")
        self._settings[setting] = content

    # -- errors

    def _place(self, node: Node) -> Place:
        position = node.meta if isinstance(node, Tree) else node
        return Place(self._file, position.line or 0, position.column or 0)

    def _error(self, node: Node, text: str) -> None:
        self._report.add(self._place(node), text)

    def _value[T](self, read: Callable[[str], T], node: Token, otherwise: T, *, text: str | None = None) -> T:
        try:
            return read(str(node) if text is None else text)
        except Wrong as wrong:
            self._error(node, str(wrong))
            return otherwise

    def _known(self, token: Token, known: Iterable[str]) -> bool:
        if token in known:
            return True
        self._error(
            token, f"{quoted(token)} is not known here, expected {alternatives(known)}{suggestion(token, known)}"
        )
        return False

    def _available(self, options: Iterable[Tree], available: Mapping[str, str], where: str) -> dict[str, Tree]:
        """By what they say; `available` maps options to that, and those that say the same exclude each other."""
        given: dict[str, Tree] = {}
        for option in options:
            if option.data not in available:
                self._not_yet(option, f"{where} … {word(option.data)}")
            elif given.setdefault(available[option.data], option) is not option:
                self._twice(option, given[available[option.data]])
        return given

    def _twice(self, node: Tree, first: Tree) -> None:
        other = f", but {word(first.data)} is here already" if first.data != node.data else " is said twice"
        self._error(node, quoted(word(node.data)) + other)

    def _not_yet(self, node: Node, what: str, known: Iterable[str] = ()) -> None:
        self._error(node, f"{quoted(what)} is not available yet{suggestion(what.split()[-1], known)}")

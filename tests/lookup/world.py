"""A world for expansions: users, what their .forward says, tables, actions.  Everything answers at once, or slowly."""

import msgspec

from smtpd.envelope import Duty, MailParameters, Notify, Origin
from smtpd.lookup.expansion import Expanded, Expansion
from smtpd.lookup.expansion_config import ExpansionConfig
from smtpd.lookup.node import (
    ForwardAnswer,
    ForwardQuestion,
    IncludeQuestion,
    ServerAnswer,
    ServerQuestion,
    UserQuestion,
)
from smtpd.lookup.refusal import Refusal
from smtpd.lookup.rule import Rules
from smtpd.lookup.trace import NO_TRACE
from smtpd.slice import Condition, ExpansionSlice, Match, Method
from smtpd.tables.alias_syntax import AliasSyntaxError, parse_forward, parse_include
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.table import PendingAnswer

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)
NOW = 20_000.5 * 86400  # seconds since 1970
UNSAID = MailParameters(), Notify(0), ""  # of the message and the recipient: what a client may say and need not

LOCAL = {
    "localhost": ListTable("localhost", ["local", "127.0.0.1"]),
    "localnames": ListTable("localnames", ["mx.here.test", "here.test"]),
}
ANY = Condition("any")
IN = (Match("in", ANY, Condition("local")),)


class SlowTable:
    """Says what another one says, later."""

    def __init__(self, table):
        self.table = table

    def check(self, service, key):
        return self.later(self.table.check(service, key))

    def find(self, service, key):
        return self.later(self.table.find(service, key))

    def later(self, answer):
        return PendingAnswer(lambda answered: answered(answer))


class World:
    """`forwards`: user -> text, a Forward, or None for no such file.  `tables`: name -> mapping, or a table; those in
    `texts` are text files.  `action` has the fields of the action "in"."""

    def __init__(
        self,
        forwards=(),
        *,
        verdicts=(),
        matches=IN,
        tables=(),
        texts=("aliases",),
        includes=(),
        alias_commands="",
        delimiter="+",
        slow=False,
        actions=(),
        server="ascii",
        srs=None,
        now=lambda: NOW,
        srs_actions=(),
        **action,
    ):
        self.forwards, self.verdicts, self.includes = dict(forwards), dict(verdicts), dict(includes)
        made = {n: MappingTable(n, t.items()) if isinstance(t, dict) else t for n, t in dict(tables).items()}
        made = {name: SlowTable(table) for name, table in made.items()} if slow else made
        action.setdefault("method", Method.MAILDIR)
        every = {action.name: action for action in (ExpansionSlice(name="in", **action), *actions)}
        rules, made = Rules(matches, LOCAL | made), LOCAL | made
        more = "mx.here.test", alias_commands, {4711}
        self.config = ExpansionConfig(rules, every, made, frozenset(texts), delimiter, *more, srs, now, srs_actions)
        self.server = ServerAnswer(server, "because" if server == "later" else "")
        self.asked = []

    def expand(self, recipient, trace=NO_TRACE, sender=ORIGIN.sender, **said):
        origin = msgspec.structs.replace(ORIGIN, sender=sender)
        return self.drive(Expansion(self.config, origin, recipient, trace, **said).steps())

    def expand_again(self, user, extension="", destination="bob@here.test"):
        expansion = Expansion(self.config, ORIGIN, "bob@here.test")
        return self.drive(expansion.steps_from(user, extension, self.config.actions["in"], destination))

    def drive(self, steps):
        answer = None
        while True:
            try:
                question = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = self.answer(question)

    def answer(self, question):
        if not isinstance(question, PendingAnswer):
            self.asked.append(question)
        match question:
            case PendingAnswer():
                heard = []
                question.begin(heard.append)
                return heard[0]
            case UserQuestion(name):
                return self.verdicts.get(name, "user" if name in self.forwards else "unknown")
            case ForwardQuestion(user):
                return forward(self.forwards.get(user))
            case ServerQuestion():
                return self.server
            case IncludeQuestion(path):
                return tuple(parse_include(self.includes.get(path, "").encode()).targets)


def forward(said):
    if isinstance(said, ForwardAnswer):
        return said
    if said is None:
        return ForwardAnswer("none")
    try:
        return ForwardAnswer("text", tuple(parse_forward(said.encode()).targets))
    except AliasSyntaxError as error:
        return ForwardAnswer("malformed", reason=str(error))


def reached(world, recipient):
    """What a recipient comes to, in short."""
    expanded = world.expand(recipient)
    assert isinstance(expanded, Expanded), expanded
    return [short(to) for to in expanded.recipients]


def short(to):
    user = f"{to.user}+{to.extension}" if to.extension else to.user
    return user if to.duty is Duty.DELIVER else f"{to.duty.name} {user}"


def refused(world, recipient, code, enhanced, **said):
    refusal = world.expand(recipient, **said)
    assert isinstance(refusal, Refusal), refusal
    assert (refusal.code, refusal.enhanced) == (code, enhanced), refusal
    return refusal

"""match lines, and what they decide."""

import pytest

from smtpd.envelope import Origin
from smtpd.lookup.rule import Rejected, RuleInput, Rules
from smtpd.slice import Condition, Match, Operand
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.table import PendingAnswer, TableUnavailable


class Slow:
    """A table that somebody else answers for: what is asked is found out later, to be `said`."""

    name = "slow"

    def __init__(self, said):
        self.awaited = PendingAnswer(lambda answered: None)
        ANSWERS[self.awaited] = said

    def check(self, service, key):
        return self.awaited


ANSWERS = {}


class Silent:
    """A table that cannot be asked."""

    name = "silent"

    def check(self, service, key):
        return TableUnavailable("silent")

    find = check

    def update(self):
        return TableUnavailable("silent")


TABLES = {
    "localhost": ListTable("localhost", ["local", "127.0.0.1", "::1", "192.0.2.1"]),
    "localnames": ListTable("localnames", ["localhost", "mx.here.test", "here.test", "[192.0.2.1]"]),
    "office": ListTable("office", ["198.51.100.0/24"]),
    "friends": ListTable("friends", ["@friends.test", "amy@there.test"]),
    "users": MappingTable("users", [("bob@here.test", "x"), ("amy", "y")]),
    "domains": ListTable("domains", ["*.here.test", "other.test"]),
    "patterns": ListTable("patterns", ["^A.*@", "^198[.]51"]),
    "idn": ListTable("idn", ["xn--mller-kva.test."]),
    "letters": ListTable("letters", ["^(Bob@)?müller[.]test$"]),
    "codes": ListTable("codes", ["^xn--"]),
    "angles": ListTable("angles", ["<"]),
    "tags": ListTable("tags", ["Inside"]),
    "null": ListTable("null", ["^@$"]),
    "silent": Silent(),
    "slow yes": Slow(True),
    "slow no": Slow(False),
    "slow silence": Slow(TableUnavailable("slow")),
}

ANY = Condition("any")


def on(kind, table=None, negated=False, regex=False):
    return Condition(kind, negated, Operand(table, regex) if table else None)


def decide(
    *matches,
    address="203.0.113.9",
    sender="amy@there.test",
    to="bob@here.test",
    tag="",
    client="<unknown>",
    helo="client.test",
    tls=False,
    user="",
    internal=False,
):
    origin = Origin(sender, address, client, helo, "mx.here.test", tag, True, tls, user)
    steps = Rules(matches, TABLES).decide(RuleInput(origin, to, to.rpartition("@")[2].lower(), internal))
    answer = None
    while True:
        try:
            answer = ANSWERS[steps.send(answer)]
        except StopIteration as end:
            return end.value


CONDITIONS = [
    # source
    (dict(source=ANY), {}, True),
    (dict(source=on("local")), {}, False),
    (dict(source=on("local")), dict(address="127.0.0.1"), True),
    (dict(source=on("local")), dict(address="192.0.2.1"), True),
    (dict(source=on("local")), dict(address="::1"), True),
    (dict(source=on("local")), dict(address="local"), True),
    (dict(source=on("local")), dict(internal=True), True),
    (dict(source=on("local", negated=True)), dict(internal=True), False),
    (dict(source=on("local", negated=True)), {}, True),
    (dict(source=on("socket")), dict(address="local"), True),
    (dict(source=on("socket")), dict(address="127.0.0.1"), False),
    (dict(source=on("socket")), dict(address="local", internal=True), False),
    (dict(source=on("socket", negated=True)), dict(address="local", internal=True), False),
    (dict(source=on("socket", negated=True)), dict(address="127.0.0.1"), True),
    (dict(source=on("src", "office")), dict(address="198.51.100.7"), True),
    (dict(source=on("src", "office")), {}, False),
    (dict(source=on("src", "office")), dict(address="198.51.100.7", internal=True), False),
    (dict(source=on("src", "office", negated=True)), {}, True),
    (dict(source=on("src", "patterns", regex=True)), dict(address="198.51.100.7"), True),
    (dict(source=on("src", "localhost")), dict(address="local"), True),
    (dict(source=on("mail-from", "friends")), {}, True),
    (dict(source=on("mail-from", "friends")), dict(sender="x@friends.test"), True),
    (dict(source=on("mail-from", "friends")), dict(sender="x@there.test"), False),
    (dict(source=on("mail-from", "friends", negated=True)), dict(sender="x@there.test"), True),
    # destination
    (dict(destination=on("local")), {}, True),
    (dict(destination=on("local")), dict(to="bob@HERE.test"), True),
    (dict(destination=on("local")), dict(to="bob@[192.0.2.1]"), True),
    (dict(destination=on("local")), dict(to="bob@there.test"), False),
    (dict(destination=on("local", negated=True)), dict(to="bob@there.test"), True),
    (dict(destination=on("domain", "domains")), dict(to="bob@a.here.test"), True),
    (dict(destination=on("domain", "domains")), dict(to="bob@a.b.here.test"), False),
    (dict(destination=on("domain", "idn")), dict(to="bob@müller.test"), True),
    (dict(destination=on("domain", "idn")), dict(to="bob@XN--MLLER-KVA.test"), True),
    (dict(destination=on("domain", "idn")), dict(to="bob@muller.test"), False),
    (dict(destination=on("domain", "letters", regex=True)), dict(to="bob@xn--mller-kva.test"), True),
    (dict(destination=on("domain", "codes", regex=True)), dict(to="bob@müller.test"), True),
    (dict(destination=on("domain", "codes", regex=True, negated=True)), dict(to="bob@müller.test"), False),
    (dict(destination=on("rcpt-to", "letters", regex=True)), dict(to="Bob@xn--mller-kva.test"), True),
    (dict(destination=on("rcpt-to", "users")), {}, True),
    (dict(destination=on("rcpt-to", "users")), dict(to="bob+lists@here.test"), True),
    (dict(destination=on("rcpt-to", "users")), dict(to="eve@here.test"), False),
    # the others
    (dict(tag=on("tag", "tags")), dict(tag="inside"), True),
    (dict(tag=on("tag", "tags")), dict(tag=""), False),
    (dict(tag=on("tag", "tags", negated=True)), dict(tag=""), True),
    (dict(mail_from=on("mail-from", "patterns", regex=True)), dict(sender="Amy@there.test"), True),
    (dict(mail_from=on("mail-from", "patterns", regex=True)), dict(sender="amy@there.test"), False),
    (dict(mail_from=on("mail-from", "null", regex=True)), dict(sender=""), True),
    (dict(mail_from=on("mail-from", "friends")), dict(sender=""), False),
    (dict(rcpt_to=on("rcpt-to", "users")), dict(to="amy@there.test"), True),
    # the session
    (dict(helo=on("helo", "domains")), dict(helo="A.here.test"), True),
    (dict(helo=on("helo", "domains")), dict(helo="here.test"), False),
    (dict(helo=on("helo", "domains", negated=True)), dict(helo=""), True),
    (dict(helo=on("helo", "patterns", regex=True)), dict(helo="A@"), True),
    (dict(helo=on("helo", "domains")), dict(helo="a.here.test", internal=True), True),
    (dict(tls=on("tls")), dict(tls=True), True),
    (dict(tls=on("tls")), {}, False),
    (dict(tls=on("tls", negated=True)), {}, True),
    (dict(tls=on("tls", negated=True)), dict(tls=True), False),
    (dict(tls=on("tls")), dict(tls=True, internal=True), True),
    (dict(auth=on("auth")), dict(user="bob"), True),
    (dict(auth=on("auth")), dict(user="bob", internal=True), True),
    (dict(auth=on("auth")), {}, False),
    (dict(auth=on("auth")), dict(address="local"), True),
    (dict(auth=on("auth")), dict(address="127.0.0.1"), False),
    (dict(auth=on("auth", negated=True)), {}, True),
    (dict(auth=on("auth", negated=True)), dict(address="local"), False),
    (dict(auth=on("auth", "users")), dict(user="amy"), True),
    (dict(auth=on("auth", "users")), dict(user="eve"), False),
    (dict(auth=on("auth", "users")), dict(address="local"), False),
    (dict(auth=on("auth", "users", negated=True)), {}, True),
    (dict(auth=on("auth", "friends")), dict(user="eve@friends.test"), True),
    (dict(auth=on("auth", "friends")), dict(user="friends.test"), False),
    (dict(auth=on("auth", "patterns", regex=True)), dict(user="A@"), True),
    (dict(source=on("auth")), dict(user="bob"), True),
    (dict(source=on("auth")), {}, False),
    (dict(source=on("auth", negated=True)), {}, True),
    (dict(source=on("auth", "friends", negated=True)), dict(user="eve@friends.test"), False),
    # the name of the client
    (dict(source=on("rdns")), dict(client="mail.there.test"), True),
    (dict(source=on("rdns")), {}, False),
    (dict(source=on("rdns", negated=True)), {}, True),
    (dict(source=on("rdns", negated=True)), dict(client="mail.there.test"), False),
    (dict(source=on("rdns")), dict(client="mail.there.test", internal=True), False),
    (dict(source=on("rdns", negated=True)), dict(internal=True), False),
    (dict(source=on("rdns", "domains")), dict(client="mail.HERE.test"), True),
    (dict(source=on("rdns", "domains")), dict(client="mail.there.test"), False),
    (dict(source=on("rdns", "domains", negated=True)), dict(client="mail.there.test"), True),
    (dict(source=on("rdns", "domains", negated=True)), {}, False),
    (dict(source=on("rdns", "domains")), dict(client="mail.here.test", internal=True), False),
    (dict(source=on("rdns", "angles", regex=True)), {}, False),
]


@pytest.mark.parametrize("conditions, case, holds", CONDITIONS)
def test_a_condition(conditions, case, holds):
    match = Match("a", **{"source": ANY, "destination": ANY} | conditions)
    assert decide(match, **case) == ("a" if holds else Rejected())


def test_from_local_for_local_is_the_default():
    assert decide(Match("a"), address="127.0.0.1") == "a"
    assert decide(Match("a"), address="203.0.113.9") == Rejected()
    assert decide(Match("a"), address="127.0.0.1", to="x@there.test") == Rejected()


def test_the_first_line_that_matches_decides():
    lines = [Match("no", ANY, on("domain", "domains")), Match(None, ANY, on("local")), Match("late", ANY, ANY)]
    assert decide(*lines) == Rejected()
    assert decide(*lines, to="x@other.test") == "no"
    assert decide(*lines, to="x@else.test") == "late"


def test_no_line_is_a_refusal():
    assert decide() == Rejected()


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("field", ["tag", "helo", "mail_from", "rcpt_to"])
def test_a_silent_table_is_no_answer_even_turned_round(field, negated):
    match = Match("a", ANY, ANY, **{field: on(field.replace("_", "-"), "silent", negated)})
    assert decide(match, Match("b", ANY, ANY)) == TableUnavailable("silent")


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("table, holds", [("slow yes", True), ("slow no", False)])
def test_a_table_that_is_waited_for_answers_like_any_other(table, holds, negated):
    match = Match("a", on("src", table, negated), ANY)
    assert decide(match, Match("b", ANY, ANY)) == ("a" if holds is not negated else "b")


@pytest.mark.parametrize("negated", [False, True])
def test_a_silence_that_was_waited_for_is_no_answer_even_turned_round(negated):
    match = Match("a", on("src", "slow silence", negated), ANY)
    assert decide(match, Match("b", ANY, ANY)) == TableUnavailable("slow")


def test_a_silent_table_behind_a_condition_that_fails_is_not_asked():
    """The order is tag, from, for, helo, auth, tls, mail-from, rcpt-to, in whichever it was written."""
    assert decide(Match("a", on("auth", "silent"), ANY, helo=on("helo", "domains")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", on("auth"), ANY, mail_from=on("mail-from", "silent")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", ANY, ANY, tls=on("tls"), mail_from=on("mail-from", "silent")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", on("mail-from", "silent"), on("domain", "domains")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", on("src", "office"), on("domain", "silent")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", on("src", "silent"), ANY, on("tag", "tags")), Match("b", ANY, ANY)) == "b"
    assert decide(Match("a", ANY, on("rcpt-to", "silent"), None, on("mail-from", "tags"))) == Rejected()


@pytest.mark.parametrize("negated", [False, True])
def test_whether_a_user_is_in_a_silent_table_is_not_known(negated):
    match = Match("a", ANY, ANY, auth=on("auth", "silent", negated))
    assert decide(match, Match("b", ANY, ANY), user="bob") == TableUnavailable("silent")


def test_a_line_that_matched_is_not_reached_by_a_silent_one_behind_it():
    assert decide(Match("a", ANY, ANY), Match("b", on("src", "silent"), ANY)) == "a"


def test_a_missing_table_is_found_at_the_start():
    with pytest.raises(KeyError):
        Rules([Match("a", on("src", "nowhere"))], TABLES)

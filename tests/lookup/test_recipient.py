"""Expansions carried between dispatchers, parent and queue."""

import msgspec
import pytest

from smtpd.envelope import Body, Duty, Kind, MailParameters, Notify, Origin, Recipient
from smtpd.imsg import (
    TABLE,
    AddEnvelopes,
    AskServerForUtf8,
    EnvelopeExpanded,
    EnvelopeNotExpanded,
    ExpandEnvelope,
    ExpandRecipient,
    FindUser,
    ForwardRead,
    ReadForward,
    RecipientExpanded,
    RecipientRefused,
    ReportStatistics,
    SetVerbose,
    UserFound,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.lookup import recipient as recipient_module
from smtpd.lookup.expansion import Expansion
from smtpd.lookup.node import ForwardAnswer, ServerQuestion
from smtpd.lookup.recipient import pages, to_forward_answer
from smtpd.slice import Condition, ExpansionSlice, Match, Method, Operand, TableSlice
from smtpd.tables.alias_syntax import Command, digest
from tests.lookup.conftest import CONFIGURATION

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)
TERMS, UNSAID = MailParameters(), Notify(0)


def recipient(request, name="bob@here.test", message=77, terms=TERMS, notify=UNSAID, original=""):
    return ExpandRecipient(request, message, ORIGIN, name, terms, notify, original)


def test_the_envelopes_go_to_queue_and_their_number_to_the_dispatcher(house):
    house = house()
    house.users["bob"] = "user"
    assert house.ask(recipient(5)) == RecipientExpanded(5, 1)
    (added,) = house.sent(AddEnvelopes)
    assert (added.message, added.origin, [to.user for to in added.recipients]) == (77, ORIGIN, ["bob"])


def test_each_dispatcher_gets_its_own_answers(house):
    house = house()
    house.users["bob"] = "user"
    assert house.ask(recipient(1), "dispatcher2") == RecipientExpanded(1, 1)
    assert house.ask(recipient(1, "eve@here.test"), "dispatcher1").code == 550
    assert [peer for peer, imsg in house.heard if isinstance(imsg, RecipientExpanded)] == ["dispatcher2"]


def test_a_refused_recipient_adds_no_envelope(house):
    house = house()
    house.users["bob"] = "user"
    house.forwards["bob"] = ("text", b"bob, nobody\n")
    assert house.ask(recipient(1)) == RecipientRefused(1, 550, "5.1.1", "Invalid recipient: <bob@here.test>")
    assert house.sent(AddEnvelopes) == []


def test_a_cached_answer_is_not_asked_again(house):
    house = house()
    house.users["bob"] = "user"
    for request in range(1, 6):
        house.ask(recipient(request))
        house.ask(recipient(request, "eve@here.test"), "dispatcher2")
    assert [imsg.name for imsg in house.sent(FindUser)] == ["bob", "eve"]
    assert len(house.sent(ReadForward)) == 1


def test_simultaneous_questions_are_asked_once(house):
    house = house()
    house.users["bob"] = "user"
    house.silent = {FindUser}

    async def scenario():
        for request in range(1, 51):
            house.theirs["dispatcher1"].send(recipient(request))
        await house.until(lambda: house.sent(FindUser))
        house.release()
        await house.until(lambda: len(house.sent(RecipientExpanded)) == 50)

    house.run(scenario())
    assert len(house.sent(FindUser)) == len(house.sent(ReadForward)) == 1


def test_what_was_for_later_is_asked_again(house):
    house = house()
    house.users["bob"] = "later"
    assert house.ask(recipient(1)).code == 451
    house.users["bob"] = "user"
    house.forwards["bob"] = ("later", b"")
    assert house.ask(recipient(2)).code == 451
    house.forwards["bob"] = ("none", b"")
    assert house.ask(recipient(3)) == RecipientExpanded(3, 1)


def test_unknown_names_are_not_all_asked_for_at_once(house):
    """Each question is a process of the nursery."""
    house = house()
    house.silent = {FindUser}

    async def scenario():
        for request in range(1, 201):
            house.theirs["dispatcher1"].send(recipient(request, f"u{request}@here.test"))
        await house.until(lambda: len(house.sent(FindUser)) == recipient_module.USER_QUESTIONS_MAX)
        waiting = len(house.lookup.recipients.to_parent)
        house.release()
        await house.until(lambda: len(house.sent(RecipientRefused)) == 200)
        return waiting

    assert house.run(scenario()) == 200


def test_an_answer_without_a_question_is_a_violation(house):
    house = house()
    with pytest.raises(Violation):
        house.lookup.recipients.to_parent.answer(UserFound(9, "user"))
    with pytest.raises(Violation):
        house.lookup.recipients.to_queue.answer(ForwardRead(9, "none", b"", ""))


def test_an_exception_of_ours_costs_one_recipient(house, monkeypatch, capfd):
    house = house()
    house.users["bob"] = "user"

    def broken(self):
        raise ZeroDivisionError("ours")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(Expansion, "steps", broken)
        assert house.ask(recipient(1)) == RecipientRefused(1, 451, "4.3.0", "Temporary failure")
    assert house.ask(recipient(2)) == RecipientExpanded(2, 1)
    log.flush()
    assert "recipient of message 0000004d: ZeroDivisionError: ours" in capfd.readouterr().err


def test_an_exception_while_a_forward_is_read_costs_that_user(monkeypatch, capfd):
    def broken(content):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(recipient_module, "parse_forward", broken)
    assert to_forward_answer(ForwardRead(1, "text", b"x", "")).verdict == "later"


def test_envelopes_that_fit_no_imsg_cost_their_recipient(house):
    """A way to many users, each with a name of the greatest length in the widest letters."""
    house = house()
    house.users |= {f"u{n}": "user" for n in range(90)} | {"bob": "user"}
    house.forwards["bob"] = ("text", ", ".join(f"u{n}" for n in range(90)).encode())
    long = "bob+" + "\U0001f600" * 200 + "@here.test"
    assert house.ask(recipient(1, long)) == RecipientExpanded(1, 90)


def test_a_long_list_goes_to_queue_in_pages(house):
    names = [f"u{n}" for n in range(900)]
    aliases = TableSlice("aliases", pairs=(("all", ", ".join(names)),))
    action = ExpansionSlice("in", Method.MAILDIR, alias="aliases")
    house = house(tables=(*CONFIGURATION.tables, aliases), actions=(action,))
    house.users |= {name: "user" for name in names}
    asked = recipient(1, "all@here.test", original="rfc822;" + "x" * 493)
    assert house.ask(asked) == RecipientExpanded(1, len(names))
    house.run(house.until(lambda: len(house.sent(AddEnvelopes)) == 2))  # they have a longer way than the answer
    pages = [[to.user for to in imsg.recipients] for imsg in house.sent(AddEnvelopes)]
    assert sum(pages, []) == names


def test_the_longest_recipients_fit_into_their_imsgs():
    path, word = "\U0001f600" * 1024, "\U0001f600" * 256
    longest = Recipient(path, path, word, Kind.MDA, word, word, Duty.DELIVER, "0" * 64, path, Notify.NEVER, path)
    origin = Origin(path, word, word, word, word, word, True, True, word)
    for count in (1, 2, 100):
        for page in pages([longest] * count):
            imsg = AddEnvelopes(77, origin, page, MailParameters(envid=word, submitter=path))
            assert len(msgspec.msgpack.encode(imsg)) <= TABLE.by_class[AddEnvelopes].limit
            count -= len(page)
        assert count == 0


def test_notify_and_orcpt_of_the_client_are_kept(house):
    house = house()
    house.users |= {"bob": "user", "amy": "user"}
    house.forwards["bob"] = ("text", b"bob, amy\n")
    terms = MailParameters(body=Body.EIGHT_BIT, require_tls=True, ret="HDRS", envid="42")
    asked = recipient(1, terms=terms, notify=Notify.FAILURE | Notify.DELAY, original="rfc822;b@x.test")
    assert house.ask(asked) == RecipientExpanded(1, 2)
    (added,) = house.sent(AddEnvelopes)
    assert added.terms == terms
    assert {(to.notify, to.original) for to in added.recipients} == {(Notify.FAILURE | Notify.DELAY, "rfc822;b@x.test")}


def test_notify_and_orcpt_are_kept_when_a_recipient_is_expanded_again(house):
    house = house()
    house.users["bob"] = "user"
    was = Recipient("bob@here.test", "bob@here.test", "in", Kind.MDA, "bob", "", Duty.FORWARDED, "0" * 64)
    was = msgspec.structs.replace(was, notify=Notify.NEVER, original="rfc822;b@x.test")
    expanded = house.ask(ExpandEnvelope(9999, ORIGIN, was), "queue")
    assert [(to.notify, to.original) for to in expanded.recipients] == [(Notify.NEVER, "rfc822;b@x.test")]


def test_the_forward_of_a_user_of_a_userbase_is_asked_for_by_its_action(house):
    people = TableSlice("people", pairs=(("bob", "2001:2001:/srv/bob"),))
    action = ExpansionSlice("in", Method.MAILDIR, userbase="people")
    house = house(tables=(*CONFIGURATION.tables, people), actions=(action,))
    assert house.ask(recipient(1)) == RecipientExpanded(1, 1)
    assert house.sent(FindUser) == []
    assert [(imsg.user, imsg.action) for imsg in house.sent(ReadForward)] == [("bob", "in")]


# -- envelopes whose command is gone ------------------------------------------------------


def stale(request, line="old", duty=Duty.FORWARDED, action="in"):
    gone = digest(Command(line))
    to = Recipient("bob@here.test", "bob@here.test", action, Kind.MDA, "bob", "x", duty, gone)
    return ExpandEnvelope(request, ORIGIN, to)


def test_an_envelope_without_its_command_is_expanded_by_the_present_forward(house):
    house = house()
    house.users |= {"bob": "user", "amy": "user"}
    house.forwards["bob"] = ("text", b"|new, amy")
    expanded = house.ask(stale(103), "queue")
    assert isinstance(expanded, EnvelopeExpanded)
    assert [(to.user, to.digest) for to in expanded.recipients] == [("bob", digest(Command("new"))), ("amy", "")]
    assert house.sent(AddEnvelopes) == []


def test_a_cached_forward_is_read_again_for_a_missing_command(house):
    house = house()
    house.users["bob"] = "user"
    house.forwards["bob"] = ("text", b"|old")
    assert house.ask(recipient(1)) == RecipientExpanded(1, 1)
    house.forwards["bob"] = ("text", b"bob")
    assert [to.duty for to in house.ask(stale(102), "queue").recipients] == [Duty.DELIVER]


def test_a_command_reported_missing_and_present_is_a_temporary_failure(house):
    house = house()
    house.users["bob"] = "user"
    house.forwards["bob"] = ("text", b"bob, |old")
    answer = house.ask(stale(101), "queue")
    assert isinstance(answer, EnvelopeNotExpanded) and not answer.permanent


@pytest.mark.parametrize("verdict, permanent", [("unknown", True), ("later", False)])
def test_an_envelope_of_a_user_who_is_gone(house, verdict, permanent):
    house = house()
    house.users["bob"] = verdict
    answer = house.ask(stale(101), "queue")
    assert isinstance(answer, EnvelopeNotExpanded) and answer.permanent is permanent


@pytest.mark.parametrize(
    "asked", [stale(101, action="gone"), stale(101, duty=Duty.ALIASED), stale(101, duty=Duty.DELIVER)]
)
def test_an_envelope_that_is_not_of_a_forward_is_not_expanded(house, asked):
    house = house()
    house.users["bob"] = "user"
    answer = house.ask(asked, "queue")
    assert isinstance(answer, EnvelopeNotExpanded) and not answer.permanent
    assert house.sent(ReadForward) == []


def test_a_missing_table_file_is_logged_and_a_temporary_failure(house, tmp_path, capfd):
    match = Match("in", Condition("any"), Condition("domain", operand=Operand("domains")))
    house = house(matches=(match,), tables=(TableSlice("domains", path=str(tmp_path / "domains"), backend="file"),))
    assert house.ask(recipient(1)).code == 451
    log.flush()
    assert "table domains" in capfd.readouterr().err


def test_control_asks_for_counters_and_for_words(house):
    house = house()
    house.ask(recipient(1))
    house.theirs["control"].send(SetVerbose(True))
    reported = house.ask(ReportStatistics(4), "control")
    assert reported.counters == {"lookup.recipient.refused": 1}
    assert log.verbose
    house.theirs["control"].send(SetVerbose(False))
    house.ask(ReportStatistics(5), "control")
    assert not log.verbose


def test_an_invalid_line_of_a_forward_is_skipped_and_logged(house, capfd):
    house = house()
    house.users |= {"bob": "user", "amy": "user"}
    house.forwards["bob"] = ("text", b"o'@brien@there.test\namy\nb o b\n")
    assert house.ask(recipient(1)) == RecipientExpanded(1, 1)
    log.flush()
    said = capfd.readouterr().err
    assert "warn: .forward of bob: skipped line 1: not an address: not of the form" in said and "; line 3: " in said


@pytest.mark.parametrize("verdict", ["none", "unsafe", "refused", "later", "malformed"])
def test_answers_of_queue_about_a_forward(verdict):
    assert to_forward_answer(ForwardRead(1, verdict, b"ignored", "why")) == ForwardAnswer(verdict, reason="why")


# -- LMTP servers -----------------------------------------------------------------------------------


def to_server(request, sender="\u00e5my@there.test"):
    asked = recipient(request)
    return msgspec.structs.replace(asked, origin=msgspec.structs.replace(asked.origin, sender=sender))


def test_what_a_server_takes_is_remembered(house):
    house = house(actions=(ExpansionSlice("in", Method.LMTP),))
    house.users["bob"] = "user"
    for request in (1, 2):
        answer = house.ask(to_server(request))
        assert (answer.code, answer.enhanced) == (553, "5.6.7")
    assert [asked.action for asked in house.sent(AskServerForUtf8)] == ["in"]
    assert house.ask(to_server(3, "amy@m\u00fcller.test")) == RecipientExpanded(3, 1)


def test_a_server_that_takes_it_has_the_mail(house):
    house = house(actions=(ExpansionSlice("in", Method.LMTP),))
    house.users["bob"], house.server = "user", "utf8"
    assert house.ask(to_server(1)) == RecipientExpanded(1, 1)


def test_that_a_server_cannot_be_asked_is_remembered_shortly(house):
    house = house(actions=(ExpansionSlice("in", Method.LMTP),))
    house.users["bob"], house.server = "user", "later"
    assert house.ask(to_server(1)).code == house.ask(to_server(2)).code == 451
    assert len(house.sent(AskServerForUtf8)) == 1
    house.server, house.lookup.recipients._caches[ServerQuestion]._now = "utf8", lambda: house.loop.time() + 10
    assert house.ask(to_server(3)) == RecipientExpanded(3, 1)


# -- notices to senders ---------------------------------------------------------------------


def new_notice(request, to="bob@here.test"):
    origin = Origin("", "local", "<unknown>", "mx.here.test", "mx.here.test", "", True)
    recipient = Recipient(to, to, "", Kind.MDA, "", "", Duty.EXPAND, notify=Notify.NEVER)
    return ExpandEnvelope(request, origin, recipient)


def test_a_notice_is_expanded_by_the_rules_for_mail_of_this_host(house):
    local = Match("in", source=Condition("local"))
    house = house(matches=(local,))
    house.users["bob"] = "user"
    assert isinstance(house.ask(recipient(1)), RecipientRefused)  # of a remote client
    expanded = house.ask(new_notice(104), "queue")
    assert [(to.user, to.action, to.duty) for to in expanded.recipients] == [("bob", "in", Duty.DELIVER)]
    assert [(to.recipient, to.notify) for to in expanded.recipients] == [("bob@here.test", Notify.NEVER)]
    assert house.sent(AddEnvelopes) == []


def test_a_notice_goes_where_the_users_forward_says(house):
    house = house()
    house.users |= {"bob": "user", "amy": "user"}
    house.forwards["bob"] = ("text", b"amy, |new")
    expanded = house.ask(new_notice(105), "queue")
    assert [(to.user, to.digest) for to in expanded.recipients] == [("bob", digest(Command("new"))), ("amy", "")]


@pytest.mark.parametrize("verdict, permanent", [("unknown", True), ("later", False)])
def test_a_notice_that_cannot_be_expanded_is_refused_with_the_reason(house, verdict, permanent):
    house = house()
    house.users["bob"] = verdict
    refused = house.ask(new_notice(106), "queue")
    assert isinstance(refused, EnvelopeNotExpanded)
    assert refused.permanent is permanent and refused.reason[:3] == ("550" if permanent else "451")


def test_a_notice_that_no_rule_takes_is_refused_for_good(house):
    house = house(matches=())
    refused = house.ask(new_notice(107), "queue")
    assert isinstance(refused, EnvelopeNotExpanded) and refused.permanent and "5.7.1" in refused.reason

"""Expansions carried between dispatchers, parent and queue."""

import pytest

from smtpd.config.model import Condition, Match, Operand
from smtpd.config.slice import TableSlice
from smtpd.envelope import Origin
from smtpd.imsg import (
    AddEnvelopes,
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
from smtpd.lookup.node import Forward
from smtpd.lookup.recipient import understand

ORIGIN = Origin("amy@there.test", "203.0.113.9", "<unknown>", "client.test", "mx.here.test", "", True)


def recipient(request, name="bob@here.test", message=77):
    return ExpandRecipient(request, message, ORIGIN, name)


def test_the_envelopes_go_to_queue_and_their_number_to_who_asked(house):
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


def test_what_is_known_is_not_asked_again(house):
    house = house()
    house.users["bob"] = "user"
    for request in range(1, 6):
        house.ask(recipient(request))
        house.ask(recipient(request, "eve@here.test"), "dispatcher2")
    assert [imsg.name for imsg in house.sent(FindUser)] == ["bob", "eve"]
    assert len(house.sent(ReadForward)) == 1


def test_many_who_ask_at_once_cause_one_question(house):
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
        await house.until(lambda: len(house.sent(FindUser)) == recipient_module.USER_QUESTIONS)
        waiting = len(house.lookup.recipients.to_parent)
        house.release()
        await house.until(lambda: len(house.sent(RecipientRefused)) == 200)
        return waiting

    assert house.run(scenario()) == 200


def test_an_answer_that_nobody_asked_for_is_impossible(house):
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
    assert understand(ForwardRead(1, "text", b"x", "")).verdict == "later"


def test_envelopes_that_fit_no_imsg_cost_their_recipient(house):
    """A way to many users, each with a name of the greatest length in the widest letters."""
    house = house()
    house.users |= {f"u{n}": "user" for n in range(90)} | {"bob": "user"}
    house.forwards["bob"] = ("text", ", ".join(f"u{n}" for n in range(90)).encode())
    long = "bob+" + "\U0001f600" * 200 + "@here.test"
    assert house.ask(recipient(1, long)) == RecipientExpanded(1, 90)


def test_a_table_file_that_is_not_there_is_said_and_for_later(house, tmp_path, capfd):
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


@pytest.mark.parametrize("verdict", ["none", "refused", "later"])
def test_what_queue_says_of_a_forward(verdict):
    assert understand(ForwardRead(1, verdict, b"ignored", "why")) == Forward(verdict, reason="why")

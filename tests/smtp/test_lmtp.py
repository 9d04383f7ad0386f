"""Dialogues of the LMTP client, each played whole, byte by byte, and cut at each position of what the server says.

    C: what the session says          S: what the server answers          V: place, outcome and text of a verdict
    mail: sender recipient …          utf8: such a mail          lost: the connection ends, and why

Consecutive S: lines arrive together.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Outcome
from smtpd.smtp.action import Close, Say
from smtpd.smtp.address import AddressError, parse_path
from smtpd.smtp.dot_stuffing import dot_stuffed
from smtpd.smtp.lmtp import REPLY_TIMEOUT, TRANSITIONS, LmtpMail, LmtpSession, LmtpState, LmtpVerdict, SendContent

CONTENT = b"Subject: hello\n\n.dot\n"

HELLO = """
S: 220 mail.here.test
C: LHLO relay.test
S: 250-mail.here.test
S: 250-PIPELINING
S: 250-8bitmime
S: 250 SIZE 100000
"""
OLD = """
S: 220-mail.here.test
S: 220 it is an old one
C: LHLO relay.test
S: 250 mail.here.test
"""
MODERN = """
S: 220 mail.here.test
C: LHLO relay.test
S: 250-mail.here.test
S: 250-PIPELINING
S: 250 SMTPUTF8
"""


class Player:
    """A driver without a network."""

    def __init__(self, cut):
        self.session = LmtpSession("relay.test")
        self.cut = cut
        self.seen = []  # in the order it happened; what is said between two of these is one entry

    def obey(self, actions):
        for action in actions:
            match action:
                case Say(data):
                    self.note("C", data.decode())
                case SendContent():
                    self.note("C", b"".join(dot_stuffed([CONTENT])).decode())
                    self.obey(self.session.sent())
                case LmtpVerdict(place, outcome, text):
                    self.note("V", f"{place} {outcome.name.lower()} {text}\r\n")
                case Close(reason):
                    self.note("X", f"{reason}\r\n")

    def note(self, kind, text):
        self.seen += [(kind, line) for line in text.split("\r\n")[:-1]]

    def play(self, script):
        for kind, text in steps(script):
            match kind:
                case "S":
                    for piece in self.cut(text.encode()):
                        self.obey(self.session.receive(piece))
                case "mail" | "utf8":
                    sender, *recipients = text.split()
                    terms = {kind: True} if kind != "mail" else {}
                    self.obey(
                        self.session.begin(LmtpMail(sender.strip("<>"), tuple(recipients), len(CONTENT), **terms))
                    )
                case "lost":
                    self.obey(self.session.lost(text))
                case "quit":
                    self.obey(self.session.end())
        return self


def steps(script):
    """What the other side does, S: lines in one piece."""
    server = ""
    for line in [*script.strip().splitlines(), "end:"]:
        kind, _, text = line.partition(":")
        if kind == "S":
            server += text[1:] + "\r\n"
        elif server:
            yield "S", server
            server = ""
        if kind in ("mail", "utf8", "lost", "quit"):
            yield kind, text.strip()


def expected(script):
    return [
        (kind, text[1:])
        for kind, _, text in (line.partition(":") for line in script.strip().splitlines())
        if kind in ("C", "V", "X")
    ]


def talk(script):
    """As written, and the same however the server's bytes are cut."""
    player = Player(lambda data: [data]).play(script)
    assert player.seen == expected(script)
    assert Player(lambda data: [data[n : n + 1] for n in range(len(data))]).play(script).seen == player.seen
    for place in range(1, max(len(text) for kind, text in steps(script) if kind == "S")):
        assert Player(lambda data, at=place: [data[:at], data[at:]]).play(script).seen == player.seen
    return player.session


def test_one_mail_to_one():
    session = talk(
        HELLO
        + """
mail: amy@there.test bob@here.test
C: MAIL FROM:<amy@there.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob@here.test>
S: 250 2.1.0 ok
S: 250 2.1.5 ok
C: DATA
S: 354 go on
C: Subject: hello
C:
C: ..dot
C: .
S: 250 2.0.0 saved
V: 0 delivered 250 2.0.0 saved
quit:
C: QUIT
X: quit
"""
    )
    assert session.state is LmtpState.OVER


def test_each_recipient_has_its_own_answer():  # RFC 2033 4.2, its example
    session = talk(
        HELLO
        + """
mail: chris@bar.test pat@foo.test jones@foo.test green@foo.test
C: MAIL FROM:<chris@bar.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<pat@foo.test>
C: RCPT TO:<jones@foo.test>
C: RCPT TO:<green@foo.test>
S: 250 2.1.0 ok
S: 250 2.1.5 ok
S: 550 5.1.1 No such user here
S: 250 2.1.5 ok
V: 1 failed 550 5.1.1 No such user here
C: DATA
S: 354 Start mail input; end with <CRLF>.<CRLF>
C: Subject: hello
C:
C: ..dot
C: .
S: 250 2.0.0 ok
S: 452-4.2.2 green@foo.test
S: 452 4.2.2 is full
V: 0 delivered 250 2.0.0 ok
V: 2 deferred 452 4.2.2 green@foo.test is full
"""
    )
    assert session.state is LmtpState.READY


def test_a_server_without_pipelining_is_told_one_thing_at_a_time():
    talk(
        OLD
        + """
mail: <> bob carol
C: MAIL FROM:<>
S: 250 ok
C: RCPT TO:<bob>
S: 450 later
V: 0 deferred 450 later
C: RCPT TO:<carol>
S: 250 ok
C: DATA
S: 354 go
C: Subject: hello
C:
C: ..dot
C: .
S: 554 no
V: 1 failed 554 no
"""
    )


def test_a_refused_sender_refuses_the_mail_and_nothing_else():
    talk(
        HELLO
        + """
mail: amy@there.test bob carol
C: MAIL FROM:<amy@there.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
C: RCPT TO:<carol>
S: 552 5.3.4 too big
S: 503 5.5.1 no MAIL
S: 503 5.5.1 no MAIL
V: 0 failed 552 5.3.4 too big
V: 1 failed 552 5.3.4 too big
C: RSET
S: 250 ok
mail: eve@there.test bob
C: MAIL FROM:<eve@there.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
S: 250 ok
S: 250 ok
C: DATA
"""
    )


def test_a_recipient_accepted_after_a_refused_sender_is_not_believed():
    talk(
        HELLO
        + """
mail: amy@there.test bob
C: MAIL FROM:<amy@there.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
S: 451 4.3.0 later
S: 250 2.1.5 ok
V: 0 deferred 451 4.3.0 later
C: RSET
"""
    )


def test_a_refused_sender_where_there_is_no_pipelining():
    talk(
        OLD
        + """
mail: amy@there.test bob carol
C: MAIL FROM:<amy@there.test>
S: 550 not you
V: 0 failed 550 not you
V: 1 failed 550 not you
C: RSET
S: 250 ok
"""
    )


@pytest.mark.parametrize("hello", [HELLO, OLD], ids=["pipelining", "old"])
def test_without_a_recipient_there_is_no_data(hello):  # RFC 2033 4.2
    player = Player(lambda data: [data]).play(
        hello + "mail: amy bob\nS: 250 ok\nC:\nS: 550 5.1.1 no\nC:\nS: 250 reset\n"
    )
    assert player.seen[-2:] == [("V", "0 failed 550 5.1.1 no"), ("C", "RSET")]
    assert player.session.state is LmtpState.READY


def test_refused_data_refuses_the_accepted_recipients():
    talk(
        HELLO
        + """
mail: amy bob carol
C: MAIL FROM:<amy> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
C: RCPT TO:<carol>
S: 250 ok
S: 550 no bob
S: 250 ok
V: 0 failed 550 no bob
C: DATA
S: 451 4.3.0 disk full
V: 1 deferred 451 4.3.0 disk full
C: RSET
"""
    )


UNTIL_DOT = """
mail: amy bob carol
C: MAIL FROM:<amy> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
C: RCPT TO:<carol>
S: 250 ok
S: 250 ok
S: 250 ok
C: DATA
S: 354 go
C: Subject: hello
C:
C: ..dot
C: .
"""
TWICE = "; the mail had been sent and may arrive twice"


def test_an_answer_that_came_counts_though_the_next_one_never_does():
    talk(
        HELLO
        + UNTIL_DOT
        + f"""
S: 250 2.0.0 saved for bob
V: 0 delivered 250 2.0.0 saved for bob
lost: closed
V: 1 deferred closed{TWICE}
X: closed{TWICE}
""".strip()
    )


def test_421_after_the_dot_is_no_answer_for_the_next_recipient():
    talk(
        HELLO
        + UNTIL_DOT
        + f"""
S: 421 4.3.2 shutting down
V: 0 deferred the server ends the session: 421 4.3.2 shutting down{TWICE}
V: 1 deferred the server ends the session: 421 4.3.2 shutting down{TWICE}
X: the server ends the session: 421 4.3.2 shutting down{TWICE}
""".strip()
    )


def test_421_to_a_recipient_defers_all_that_are_open():
    talk(
        HELLO
        + """
mail: amy bob carol
C: MAIL FROM:<amy> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
C: RCPT TO:<carol>
S: 250 ok
S: 550 no bob
S: 421 bye
V: 0 failed 550 no bob
V: 1 deferred the server ends the session: 421 bye
X: the server ends the session: 421 bye
"""
    )


@pytest.mark.parametrize(
    "script, reason",
    [
        ("S: 554 no service here", "waiting for the greeting: unexpected 554 no service here"),
        ("S: 250 ok", "waiting for the greeting: unexpected 250 ok"),
        ("S: 421 busy", "the server ends the session: 421 busy"),
        ("S: SSH-2.0-OpenSSH_9.9", "the answer is not a reply: A line without a code"),
        (
            OLD.replace("250 mail", "502 5.5.2 what?"),
            "waiting for the answer to LHLO: unexpected 502 5.5.2 what?.here.test",
        ),
        (HELLO + "S: 250 unasked", "greeted, no mail begun: unexpected 250 unasked"),
        (HELLO + "S: 421 idle", "the server ends the session: 421 idle"),
        (HELLO + "mail: a b\nS: 354 go", "telling sender and recipients: unexpected 354 go"),
        (
            HELLO + "mail: a b\nS: 250 ok\nS: 250 ok\nC:\nS: 250 ok",
            "waiting for the answer to DATA: unexpected 250 ok",
        ),
        (
            HELLO + "mail: a b\nS: 250 ok\nS: 250 ok\nC:\nS: 334 ok",
            "waiting for the answer to DATA: unexpected 334 ok",
        ),
        (HELLO + "mail: a b\nS: 250 ok\nS: 250 ok\nS: 250 ok", "waiting for the answer to DATA: unexpected 250 ok"),
        (
            HELLO + "mail: a b\nS: 550 no\nS: 550 no\nC:\nS: 500 RSET?",
            "waiting for the answer to RSET: unexpected 500 RSET?",
        ),
    ],
)
def test_a_server_that_makes_no_sense_is_left(script, reason):
    player = Player(lambda data: [data]).play(script)
    assert player.session.state is LmtpState.OVER
    assert player.session.reason == reason
    assert player.seen[-1] == ("X", reason)
    assert player.session.receive(b"250 ok\r\n") == [] == player.session.lost("again")


def test_an_answer_while_the_mail_is_being_sent_ends_it():
    session = LmtpSession("relay.test")
    player = Player(lambda data: [data])
    player.session = session
    player.play(HELLO + "mail: a b\nS: 250 ok\nS: 250 ok\n")
    assert session.receive(b"354 go\r\n") == [SendContent()]
    verdict, close = session.receive(b"552 too big\r\n")
    assert verdict == LmtpVerdict(0, Outcome.DEFERRED, "sending the mail: unexpected 552 too big") and close
    assert session.sent() == []


def test_a_session_that_is_given_up_answers_for_its_mail():
    player = Player(lambda data: [data]).play(HELLO + "mail: a b\nquit:")
    assert player.seen[-2:] == [("V", "0 deferred given up"), ("X", "given up")]


# -- what not every server takes --------------------------------------------------------------------


def test_smtputf8_is_said_where_the_mail_needs_it():
    talk(
        MODERN
        + """
utf8: amy bob
C: MAIL FROM:<amy> SMTPUTF8
C: RCPT TO:<bob>
"""
    )


def test_a_mail_with_utf8_in_its_header_goes_to_a_server_that_does_not_know_of_it():
    """A store that takes 8-bit headers takes these: nothing of the envelope needs RFC 6531."""
    talk(
        HELLO
        + """
utf8: amy bob
C: MAIL FROM:<amy> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob>
"""
    )


def test_a_domain_beyond_ascii_is_said_in_ascii_where_smtputf8_is_not_known():
    talk(
        HELLO
        + """
mail: amy@m\u00fcller.test bob@b\u00fccher.test
C: MAIL FROM:<amy@xn--mller-kva.test> SIZE=21 BODY=8BITMIME
C: RCPT TO:<bob@xn--bcher-kva.test>
"""
    )


def test_a_sender_beyond_ascii_is_not_said_where_smtputf8_is_not_known():
    session = talk(
        HELLO
        + """
mail: \u00e5my@there.test bob
V: 0 failed 5.6.7 the server takes no address that is not ASCII: '\\xe5my@there.test'
"""
    )
    assert session.state is LmtpState.READY


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "bob> SIZE=1",
        "bob>\r\nRCPT TO:<eve",
        "a b",
        "<bob",
        "",
        '"a',
        'a"b',
        "a\0",
        "a\n",
        "bob@here test",
        "a\\b",
        "a@b@c",
        "\udcff",
    ],
)
def test_an_address_that_would_end_its_command_is_never_said(address):
    session = Player(lambda data: [data]).play(HELLO).session
    refused, said = session.begin(LmtpMail("amy@there.test", (address, "bob"), 1))
    assert isinstance(refused, LmtpVerdict) and (refused.recipient, refused.outcome) == (0, Outcome.FAILED)
    assert isinstance(said, Say) and said.data.endswith(b"BODY=8BITMIME\r\nRCPT TO:<bob>\r\n")


def test_a_sender_that_would_end_its_command_fails_the_mail():
    session = Player(lambda data: [data]).play(HELLO).session
    actions = session.begin(LmtpMail("amy>\r\nQUIT", ("bob", "carol"), 1))
    assert [action.outcome for action in actions] == [Outcome.FAILED] * 2
    assert session.state is LmtpState.READY


@pytest.mark.parametrize(
    "address", ["bob", "bob@here.test", '"a b>"@here.test', '"a\\"b"@here.test', "bob@[192.0.2.1]", "a/b+c=d"]
)
def test_an_address_as_it_is(address):
    session = Player(lambda data: [data]).play(HELLO).session
    (said,) = session.begin(LmtpMail(address, (address,), 1))
    assert said.data == f"MAIL FROM:<{address}> SIZE=1 BODY=8BITMIME\r\nRCPT TO:<{address}>\r\n".encode()


def test_an_address_that_is_not_ascii_needs_smtputf8():  # RFC 6531 3.4
    session = Player(lambda data: [data]).play(HELLO).session
    refused, said = session.begin(LmtpMail("amy", ("j\u00f6rg@here.test", "bob"), 1))
    assert (refused.recipient, refused.outcome) == (0, Outcome.FAILED)
    assert said.data == b"MAIL FROM:<amy> SIZE=1 BODY=8BITMIME\r\nRCPT TO:<bob>\r\n"
    session = Player(lambda data: [data]).play(OLD.replace("250 mail.here.test", "250-x\nS: 250 SMTPUTF8")).session
    (said,) = session.begin(LmtpMail("amy", ("j\u00f6rg@here.test",), 1))
    assert said.data == b"MAIL FROM:<amy> SMTPUTF8\r\n"


ADDRESS_PARTS = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), min_size=1, max_size=12)


@given(ADDRESS_PARTS | st.sampled_from(['"a b"', "o'brien", '"\\""', "a/b"]), ADDRESS_PARTS | st.just("[192.0.2.1]"))
@settings(max_examples=300)
def test_each_address_that_rcpt_takes_can_be_told_to_a_server_that_knows_smtputf8(local, domain):
    try:
        address, rest = parse_path(f"<{local}@{domain}>")
    except AddressError:
        return
    if rest or not address.local:
        return
    session = Player(lambda data: [data]).play(MODERN).session
    (said,) = session.begin(LmtpMail(str(address), (str(address),), 1))
    assert said.data.endswith(f"\r\nRCPT TO:<{address}>\r\n".encode())


@pytest.mark.parametrize("name", ["", "a b", "x\r\nQUIT", "-" * 300, "\u00e9"])
def test_a_name_of_ours_that_is_none(name):
    session = LmtpSession(name)
    assert session.receive(b"220 hi\r\n") == [Say(b"LHLO localhost\r\n")]


# -- the whole machine -----------------------------------------------------------------------------

replies = st.sampled_from(
    [b"220 hi\r\n", b"250 ok\r\n", b"250-x\r\n250 PIPELINING\r\n", b"354 go\r\n", b"451 later\r\n", b"550 5.1.1 no\r\n",
     b"421 bye\r\n", b"334 x\r\n", b"?\r\n", b"250-", b"\r\n"]
)  # fmt: skip
GOOD = [
    b"220 hi\r\n",
    b"250-x\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"354 go\r\n",
]


@given(st.integers(0, len(GOOD)), st.lists(replies, max_size=12), st.integers(1, 3), st.booleans())
@settings(max_examples=200)
def test_whatever_a_server_says_each_recipient_has_exactly_one_verdict(good, more, recipients, utf8):
    player, begun = Player(lambda data: [data]), 0
    for reply in [*GOOD[:good], *more]:
        player.obey(player.session.receive(reply))
        if player.session.state is LmtpState.READY:
            player.obey(player.session.begin(LmtpMail("amy", ("bob", "carol", "dave")[:recipients], 1, utf8)))
            begun += recipients
    player.obey(player.session.lost("closed"))
    assert len([kind for kind, _ in player.seen if kind == "V"]) == begun


def test_every_state_has_its_transitions_and_its_patience():
    assert set(TRANSITIONS) == set(LmtpState) == set(REPLY_TIMEOUT)

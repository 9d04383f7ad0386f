"""The client beyond its dialogues: attacks, limits, large mails, and its own server as its peer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import MailParameters, Outcome
from smtpd.smtp.action import Say
from smtpd.smtp.address import AddressError, parse_path
from smtpd.smtp.client import SmtpClient
from smtpd.smtp.client_action import ClientMail, ClientRecipient, ClientSettings, End, EndKind, StartTls, Starttls
from smtpd.smtp.client_content import CHUNK_MIN, CHUNKS_UNANSWERED_MAX
from smtpd.smtp.client_extension import Extensions
from smtpd.smtp.client_lmtp import LmtpClient
from smtpd.smtp.client_state import REPLY_TIMEOUT, ClientState
from smtpd.smtp.client_transaction import GROUP_MAX
from smtpd.smtp.response import MAX_LINES, RESPONSE_MAX, Response
from tests.smtp.client_player import CONTENT, FACTS, ClientDriver, greeted, play_refused_chunk
from tests.smtp.player import Conversation

MAIL = "mail amy@here.test bob@there.test carol@there.test eight=no"

# -- STARTTLS --------------------------------------------------------------------------------------------


def asked_for_tls(behind=b""):
    driver = ClientDriver({"starttls": "required"})
    driver.feed(b"220 mx\r\n")
    driver.feed(b"250-mx\r\n250 STARTTLS\r\n")
    driver.feed(b"220 go\r\n" + behind)
    return driver


@pytest.mark.parametrize("behind", [b"250-mx\r\n250 AUTH PLAIN\r\n", b"2", b"\n", b"\x16\x03"])
def test_injected_plaintext_behind_starttls_ends_the_session(behind):  # RFC 3207 6
    driver = asked_for_tls(behind)
    assert driver.ended.kind is EndKind.TLS and ("E", "StartTls") not in driver.seen
    driver = asked_for_tls()
    assert driver.seen[-1] == ("E", "StartTls")
    driver.feed(behind)
    assert driver.ended.kind is EndKind.TLS


def test_half_a_reply_behind_starttls_ends_the_session():
    driver = asked_for_tls(b"250-mx\r\n")
    assert driver.ended.kind is EndKind.TLS


def test_tls_that_nobody_asked_for_changes_nothing():
    driver = greeted()
    assert driver.client.tls_started(FACTS, driver.now) == [] and driver.client.facts is None


# -- a server that misbehaves ---------------------------------------------------------------------------

STEPS = [
    (b"220 mx\r\n", ClientState.GREETING),
    (b"250-mx\r\n250 PIPELINING\r\n", ClientState.HELLO),
    (b"", ClientState.READY),
    (b"250 ok\r\n", ClientState.ENVELOPE),
    (b"250 ok\r\n250 ok\r\n", ClientState.ENVELOPE),
    (b"354 go\r\n", ClientState.DATA),
    (b"", ClientState.CONTENT),
    (b"250 taken\r\n", ClientState.DOT),
]
ATTACKS = {
    "no reply": b"hello\r\n",
    "no code": b"\r\n",
    "a code of another protocol": b"150 ok\r\n",
    "a code of two digits": b"25 ok\r\n",
    "bare LF": b"250 ok\n",
    "NUL": b"250 o\0k\r\n",
    "bare CR": b"250 o\rk\r\n",
    "different codes": b"250-ok\r\n550 no\r\n",
    "an endless line": b"250 " + b"x" * 3000,
    "an endless reply": b"250-x\r\n" * (MAX_LINES + 1),
    "a large reply": (b"250-" + b"x" * 1996 + b"\r\n") * (RESPONSE_MAX // 2000 + 1),
    "a prompt": b"334 VXNlcm5hbWU6\r\n",
    "421": b"421 4.3.2 bye\r\n",
}


def at(step):
    """A driver, before this step of a good dialogue."""
    driver = ClientDriver(content=CONTENT)
    for said, state in STEPS[:step]:
        assert driver.client.state is state
        if state is ClientState.READY:
            driver.held = True
            driver.do(MAIL)
        elif state is ClientState.CONTENT:
            driver.do("go")
        driver.feed(said)
    assert driver.client.state is STEPS[step][1]
    return driver


def check_deferred(driver, step):
    """All recipients are deferred; uncertain only where the final dot had been sent."""
    begun = step > 2
    assert len(driver.results) == 2 * begun
    for result in driver.results:
        assert result.outcome is Outcome.DEFERRED and not result.local
        assert result.uncertain == (STEPS[step][1] is ClientState.DOT and driver.ended.kind is not EndKind.SHUTDOWN)
        assert result.text.isascii() and result.text.isprintable()
    assert isinstance(driver.ended, End)
    assert driver.client.receive(b"250 ok\r\n", driver.now) == [] == driver.client.lost("again", driver.now)
    assert driver.client.quit(driver.now) == [] == driver.client.content_failed("again", driver.now)


@pytest.mark.parametrize("step", range(len(STEPS)))
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_server_that_breaks_the_protocol_is_left_at_each_step(step, attack):
    driver = at(step)
    driver.feed(attack)
    assert driver.ended.kind is (EndKind.SHUTDOWN if attack.startswith(b"421") else EndKind.PROTOCOL)
    check_deferred(driver, step)


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_server_that_disconnects_at_each_step(step):
    driver = at(step)
    driver.feed(b"25")
    driver.do("lost closed")
    assert driver.ended.kind is EndKind.LOST
    check_deferred(driver, step)


@pytest.mark.parametrize("step", [step for step, (_, state) in enumerate(STEPS) if state is not ClientState.READY])
def test_a_server_that_falls_silent_at_each_step(step):
    driver = at(step)
    driver.do("wait")
    assert driver.ended.kind is EndKind.TIMEOUT
    check_deferred(driver, step)


def test_a_reply_that_drips_in_has_no_more_time_than_another():
    driver = at(3)
    deadline = driver.client.deadline
    for byte in b"250-and so on\r\n250-":
        driver.now += 10
        driver.feed(bytes([byte]))
    assert driver.client.deadline == deadline


def test_each_reply_of_a_group_has_its_own_time():
    driver = at(3)
    deadline = driver.client.deadline
    driver.now += 10
    driver.feed(b"250 ok\r\n")
    assert driver.client.deadline == deadline + 10


def test_each_piece_of_content_has_its_own_time():
    driver = at(6)
    driver.obey(driver.client.content(b"x\n", driver.now + 100))
    assert driver.client.deadline == driver.now + 100 + 180


def test_what_the_server_says_becomes_printable():
    driver = greeted("PIPELINING")
    driver.do(MAIL)
    driver.feed(b"550 \x1b[2J\xc3\xa4 no\r\n")
    assert {result.text for result in driver.results} == {"550 ?[2J?? no"}


def test_an_old_server_may_send_a_code_alone():
    driver = greeted("PIPELINING")
    driver.do(MAIL)
    driver.feed(b"250\r\n250\r\n550\r\n354\r\n")
    driver.feed(b"250\r\n")
    assert [result.outcome for result in driver.results] == [Outcome.FAILED, Outcome.DELIVERED]


# -- groups and chunks -----------------------------------------------------------------------------------


def test_many_recipients_are_told_in_groups():
    driver = greeted("PIPELINING")
    recipients = tuple(ClientRecipient(f"u{number}@there.test") for number in range(250))
    driver.begin(ClientMail("amy@here.test", recipients, len(CONTENT), eight_bit=False))
    sizes = []
    while driver.client.state is ClientState.ENVELOPE:
        sizes.append(driver.sent[-1].count(b"\r\n"))
        driver.feed(b"250 ok\r\n" * (sizes[-1] - driver.sent[-1].endswith(b"DATA\r\n")))
    assert sizes[:2] == [GROUP_MAX, GROUP_MAX] and b"".join(driver.sent).count(b"RCPT TO") == 250
    driver.feed(b"354 go\r\n")
    driver.feed(b"250 taken\r\n")
    assert [result.outcome for result in driver.results] == [Outcome.DELIVERED] * 250


def test_chunks_are_sent_as_the_server_answers():
    content = b"line\n" * 200_000
    driver = greeted("PIPELINING", "CHUNKING", content=content)
    driver.do("mail amy@here.test bob@there.test eight=no")
    driver.feed(b"250 ok\r\n" * 2)
    answered = 0
    while driver.client.state is ClientState.CHUNKS:
        said = b"".join(driver.sent).count(b"BDAT ")
        assert said - answered == CHUNKS_UNANSWERED_MAX
        answered += 1
        driver.feed(b"250 ok\r\n")
    read, given, chunks = b"".join(driver.sent).partition(b"BDAT ")[1:], b"", 0
    rest = b"".join(read)
    while rest:
        command, _, rest = rest.partition(b"\r\n")
        size = int(command.split()[1])
        assert size >= CHUNK_MIN or command.endswith(b" LAST")
        given, rest, chunks = given + rest[:size], rest[size:], chunks + 1
    assert given == content.replace(b"\n", b"\r\n")
    driver.feed(b"250 ok\r\n" * (chunks - answered))
    assert driver.results[0].outcome is Outcome.DELIVERED and driver.client.state is ClientState.READY


def test_without_pipelining_each_chunk_waits_for_its_answer():
    driver = greeted("CHUNKING", content=b"line\n" * 50_000)
    driver.do("mail amy@here.test bob@there.test eight=no")
    driver.feed(b"250 ok\r\n")
    driver.feed(b"250 ok\r\n")
    for number in range(1, 4):
        assert b"".join(driver.sent).count(b"BDAT ") == number
        driver.feed(b"250 ok\r\n")


def test_a_refused_chunk_is_the_answer_to_the_mail_and_ends_its_transfer():  # RFC 3030 2
    driver = play_refused_chunk(b"452 4.3.1 no space\r\n")
    assert [(result.outcome, result.command) for result in driver.results] == [(Outcome.DEFERRED, "BDAT")]
    assert driver.client.wants == 0 and driver.sent[-1] == b"RSET\r\n"
    assert driver.client.content(b"more\n", driver.now) == [] == driver.client.content_end(driver.now)
    driver.feed(b"503 no\r\n" * (CHUNKS_UNANSWERED_MAX - 1))  # to the chunks that were under way
    assert driver.client.state is ClientState.RESET
    driver.feed(b"250 reset\r\n")
    assert driver.client.state is ClientState.READY


def test_a_chunk_that_is_refused_after_the_last_one_was_sent():
    driver = greeted("PIPELINING", "CHUNKING", content=b"line\n" * 30_000)
    driver.do("mail amy@here.test bob@there.test eight=no")
    driver.feed(b"250 ok\r\n" * 2)
    assert driver.client.state is ClientState.DOT and driver.client.uncertain
    driver.feed(b"250 ok\r\n554 5.6.0 no\r\n")
    assert driver.results[0].outcome is Outcome.FAILED and not driver.client.uncertain
    driver.feed(b"503 5.5.1 no\r\n250 reset\r\n")
    assert driver.client.state is ClientState.READY and driver.ended is None


def test_the_final_dot_of_a_small_mail_leaves_with_it():
    """In a packet of its own it would wait for an acknowledgement, and break old firewalls between its bytes."""
    driver = greeted("PIPELINING")
    driver.do(MAIL)
    driver.feed(b"250 ok\r\n" * 3 + b"354 go\r\n")
    assert driver.sent[-1] == b"Subject: hello\r\n\r\n..dot\r\n.\r\n"


# -- what is never said -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["bob> SIZE=1", "bob>\r\nRCPT TO:<eve", "a b", "<bob", '"a', 'a"b', "a\0", "a\n", "bob@here test", "a\\b", "a@b@c",
     "\udcff", "bob@there.test\r\n"],
)  # fmt: skip
def test_an_address_that_would_end_its_command_is_never_said(address):
    driver = greeted("PIPELINING", "SMTPUTF8", "8BITMIME")
    recipients = (ClientRecipient(address), ClientRecipient("bob@there.test"))
    driver.begin(ClientMail("amy@here.test", recipients, 1, eight_bit=False))
    assert [(result.recipient, result.outcome, result.local) for result in driver.results] == [
        (0, Outcome.FAILED, True)
    ]
    assert driver.sent[-1] == b"MAIL FROM:<amy@here.test>\r\nRCPT TO:<bob@there.test>\r\nDATA\r\n"
    driver = greeted()
    driver.begin(ClientMail(address, recipients[1:], 1, eight_bit=False))
    assert driver.results[0].outcome is Outcome.FAILED and driver.client.state is ClientState.READY


@pytest.mark.parametrize("address", ["bob", '"a b>"@here.test', '"a\\"b"@here.test', "bob@[192.0.2.1]", "a/b+c=d"])
def test_an_address_as_it_is(address):
    driver = greeted("PIPELINING")
    driver.begin(ClientMail(address, (ClientRecipient(address),), 1, eight_bit=False))
    assert driver.sent[-1] == f"MAIL FROM:<{address}>\r\nRCPT TO:<{address}>\r\nDATA\r\n".encode()


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_parameter_ends_its_command(envid, original, submitter):
    driver = greeted("PIPELINING", "DSN")
    driver.client.user = "amy"
    terms = ClientMail("amy@here.test", (), 1).parameters
    terms = type(terms)(
        envid=envid.encode("utf-8", "replace").decode(), submitter=submitter.encode("utf-8", "replace").decode()
    )
    recipient = ClientRecipient("bob@there.test", original=f"rfc822;{original}".encode("utf-8", "replace").decode())
    driver.begin(ClientMail("amy@here.test", (recipient,), 1, terms, eight_bit=False))
    assert [line[:4] for line in driver.sent[-1].split(b"\r\n")] == [b"MAIL", b"RCPT", b"DATA", b""]
    assert b"\n" not in driver.sent[-1].replace(b"\r\n", b"") and driver.sent[-1].isascii()


ADDRESS_PARTS = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), min_size=1, max_size=12)


@given(ADDRESS_PARTS | st.sampled_from(['"a b"', "o'brien", '"\\""', "a/b"]), ADDRESS_PARTS | st.just("[192.0.2.1]"))
@settings(max_examples=200, deadline=None)
def test_each_address_that_our_server_takes_can_be_told_to_a_server_that_knows_smtputf8(local, domain):
    try:
        address, rest = parse_path(f"<{local}@{domain}>")
    except AddressError:
        return
    if rest or not address.local:
        return
    driver = greeted("SMTPUTF8", "PIPELINING", lmtp="")
    driver.begin(ClientMail(str(address), (ClientRecipient(str(address)),), 1))
    assert driver.sent[-1].endswith(f"\r\nRCPT TO:<{address}>\r\nDATA\r\n".encode())


@pytest.mark.parametrize("name", ["", "a b", "x\r\nQUIT", "-" * 300, "\u00e9"])
def test_a_name_of_ours_that_is_none(name):
    client = LmtpClient(name, 0.0, REPLY_TIMEOUT)
    assert client.receive(b"220 hi\r\n", 1.0) == [Say(b"LHLO localhost\r\n")]


def test_a_client_for_lmtp_alone_converts_nothing_and_looks_at_nothing():
    client = LmtpClient("relay.test", 0.0, REPLY_TIMEOUT)
    client.receive(b"220 hi\r\n", 1.0)
    client.receive(b"250-hi\r\n250-STARTTLS\r\n250 PIPELINING\r\n", 1.0)
    mail = ClientMail("amy", (ClientRecipient("bob"),), 1, MailParameters(utf8=True))
    assert client.begin(mail, 1.0, 0) == [Say(b"MAIL FROM:<amy>\r\nRCPT TO:<bob>\r\nDATA\r\n")]


# -- the whole machine --------------------------------------------------------------------------------------

GOOD = [
    b"220 hi\r\n",
    b"250-x\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"354 go\r\n",
]
replies = st.sampled_from(
    [b"220 hi\r\n", b"250 ok\r\n", b"250-x\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 STARTTLS\r\n", b"354 go\r\n",
     b"250-x\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1 MAILMAX=2\r\n", b"451 later\r\n", b"452 4.5.3 many\r\n",
     b"550 5.1.1 no\r\n", b"421 bye\r\n", b"334 x\r\n", b"235 ok\r\n", b"?\r\n", b"250-", b"\r\n", b"wait", b"tls"]
)  # fmt: skip


@given(
    st.integers(0, len(GOOD)),
    st.lists(replies, max_size=25),
    st.integers(1, 3),
    st.sampled_from([{}, {"lmtp": ""}, {"starttls": "required"}, {"starttls": "required", "login": "amy/secret"}]),
    st.binary(max_size=40),
)
@settings(max_examples=400, deadline=None)
def test_whatever_a_server_says_each_recipient_has_exactly_one_result(good, more, recipients, options, content):
    driver = ClientDriver(options, content.replace(b"\r", b"").replace(b"\0", b""))
    for reply in [*GOOD[:good], *more]:
        if driver.ended:
            break
        if reply == b"wait":
            if driver.client.deadline is not None:
                driver.do("wait")
        elif reply == b"tls":
            driver.do("tls")
        else:
            driver.feed(reply)
        if driver.client.state is ClientState.READY:
            names = ("bob@there.test", "carol@there.test", "dave@there.test")[:recipients]
            driver.begin(ClientMail("amy@here.test", tuple(map(ClientRecipient, names)), len(content)))
    if not driver.ended:
        driver.do("lost closed")
    assert len(driver.results) == recipients * len(driver.begun)
    ends = b"".join(driver.sent).count(b"\r\n.\r\n") + b"".join(driver.sent).count(b" LAST\r\n")
    if not ends:
        assert not [result for result in driver.results if result.outcome is Outcome.DELIVERED or result.uncertain]


def test_extensions_in_any_case_and_on_any_line():
    found = Extensions(
        Response(250, ("mx", "pipelining", "Size 100 x", "AUTH=PLAIN", "auth LOGIN", "LIMITS MAILMAX=x RCPTMAX=0"))
    )
    assert found.has("PIPELINING") and found.number("SIZE") == 100 and not found.has("MX")
    assert found.words("AUTH") == ["PLAIN", "LOGIN"]
    assert found.limits == {}
    assert not Extensions().has("SIZE") and Extensions().number("SIZE") == 0


def test_settings_are_those_of_a_relay_where_nothing_is_said():
    assert ClientSettings("relay.test").starttls is Starttls.IF_OFFERED
    client = SmtpClient(ClientSettings("relay.test"), 5.0)
    assert client.deadline == 305.0
    assert client.receive(b"220 a\r\n", 6.0) and client.receive(b"250-a\r\n250 STARTTLS\r\n", 7.0)
    assert client.receive(b"220 go\r\n", 8.0) == [StartTls()]


# -- our own server ---------------------------------------------------------------------------------------------


class ToServer(ClientDriver):
    """Each byte goes to a session of our server, and its replies come back."""

    def __init__(self, content, **options):
        self.server = Conversation()
        self.at_server = 0
        self.waiting = b""
        super().__init__({"starttls": "never", **options}, content, piece=1000)

    def hear(self, data):
        super().hear(data)
        self.waiting += data

    def run(self):
        said, self.at_server = self.server.said[self.at_server :], len(self.server.said)
        while said or self.waiting:
            self.feed(said)
            data, self.waiting = self.waiting, b""
            self.server.feed(data)
            self.server.answer_all()
            said, self.at_server = self.server.said[self.at_server :], len(self.server.said)


@given(
    st.lists(st.sampled_from([b"\n", b".", b"..", b"a", b" ", b"\n.\n", b"bc", b"-" * 30]), max_size=30), st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_our_own_server_gets_each_byte(pieces, chunks):
    content = b"A: b\n\n" + b"".join(pieces)
    driver = ToServer(content, **({} if chunks else {"nochunks": ""}))
    driver.run()
    driver.do("mail amy@there.test bob@here.test eight=no")
    driver.run()
    driver.do("quit")
    driver.run()
    assert driver.results[0].outcome is Outcome.DELIVERED and driver.ended.kind is EndKind.QUIT
    (stored,) = driver.server.stored.values()
    sent = content if content.endswith(b"\n") else content + b"\n"
    assert stored.partition(b" (UTC)\n")[2] == sent


# -- what a reply answers ----------------------------------------------------------------------------------------


def completed(*greeting, lmtp=False):
    """A client whose content is complete and not written yet."""
    driver = ClientDriver({"lmtp": ""} if lmtp else {}, CONTENT)
    driver.feed(b"220 here\r\n")
    driver.feed(b"250-here\r\n" + b"".join(b"250-%b\r\n" % name for name in greeting) + b"250 PIPELINING\r\n")
    driver.held = True
    driver.do(MAIL)
    driver.feed(b"250 ok\r\n" * 3 + (b"" if b"CHUNKING" in greeting else b"354 go\r\n"))
    for action in driver.client.content(CONTENT, driver.now) + driver.client.content_end(driver.now):
        assert isinstance(action, Say)
    assert driver.client.wants == 0
    return driver


@pytest.mark.parametrize("lmtp", [False, True])
def test_a_reply_before_the_end_of_the_mail_has_left_does_not_accept_it(lmtp):
    driver = completed(lmtp=lmtp)
    driver.feed(b"250 taken\r\n")
    assert driver.ended.kind is EndKind.PROTOCOL
    assert [(result.outcome, result.uncertain) for result in driver.results] == [(Outcome.DEFERRED, False)] * 2


def test_a_refusal_before_the_end_of_the_mail_has_left_counts():
    driver = completed()
    driver.feed(b"552 5.3.4 too large\r\n")
    assert [result.outcome for result in driver.results] == [Outcome.FAILED] * 2


def test_a_reply_before_the_last_chunk_has_left_does_not_accept_it():
    driver = completed(b"CHUNKING")
    driver.feed(b"250 taken\r\n")
    assert driver.ended.kind is EndKind.PROTOCOL
    assert [(result.outcome, result.uncertain) for result in driver.results] == [(Outcome.DEFERRED, False)] * 2


def test_a_connection_that_is_lost_before_the_end_of_the_mail_has_left_delivers_nothing():
    driver = completed()
    driver.do("lost Broken pipe")
    assert not any(result.uncertain for result in driver.results)
    assert {result.text for result in driver.results} == {"sending the mail: Broken pipe"}


def test_the_time_for_the_answer_to_the_mail_begins_when_its_end_has_left():
    driver = completed()
    driver.now += 170.0
    assert driver.client.tick(driver.now) == [] == driver.client.written(driver.now)
    deadline = driver.client.deadline
    assert driver.client.state is ClientState.DOT and deadline == driver.now + REPLY_TIMEOUT[ClientState.DOT]
    driver.now += 1.0
    assert driver.client.written(driver.now) == [] and driver.client.deadline == deadline


def test_the_end_of_the_mail_is_all_that_is_awaited_to_be_written():
    driver = greeted("PIPELINING")
    assert not driver.client.awaits_written
    driver.do(MAIL)
    assert not driver.client.awaits_written
    driver = completed()
    assert driver.client.awaits_written
    driver.client.written(driver.now)
    assert not driver.client.awaits_written


def test_a_reply_that_nothing_has_asked_for_does_not_answer_the_next_transaction():
    """Not that of the recipients beyond the server's limit: they would be refused for another one."""
    driver = greeted("PIPELINING", "LIMITS RCPTMAX=1")
    driver.do(MAIL)
    driver.feed(b"250 ok\r\n250 ok\r\n354 go\r\n")
    driver.feed(b"250 taken\r\n550 5.1.1 no such user\r\n")
    assert [result.outcome for result in driver.results] == [Outcome.DELIVERED, Outcome.DEFERRED]
    assert driver.ended.kind is EndKind.PROTOCOL


@pytest.mark.parametrize(
    "early, kind",
    [
        (b"250 ok\r\n", EndKind.PROTOCOL),
        (b"250 ", EndKind.PROTOCOL),
        (b"hello\r\n", EndKind.PROTOCOL),
        (b"421 4.3.2 bye\r\n", EndKind.SHUTDOWN),
    ],
)
@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_server_that_speaks_before_a_command_does_not_get_it(early, kind, step):
    driver = ClientDriver()
    for said in (b"220 here\r\n", b"250 here\r\n", b"250 ok\r\n", b"250 ok\r\n")[:step]:
        driver.feed(said)
        if driver.client.state is ClientState.READY:
            driver.do(MAIL)
    sent = len(driver.sent)
    driver.feed((b"220 here\r\n" if step == 0 else b"250 ok\r\n") + early)
    assert driver.ended.kind is kind and len(driver.sent) == sent


def test_a_piece_of_a_reply_that_nothing_has_asked_for_ends_the_session_with_the_next_mail():
    driver = at(2)
    driver.feed(b"250 ")
    driver.do(MAIL)
    assert driver.ended.kind is EndKind.PROTOCOL and [result.code for result in driver.results] == [0, 0]

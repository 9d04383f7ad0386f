"""Tables that a program answers for; the test is the program."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.slice import Service
from smtpd.tables.program import (
    ANSWER_TIMEOUT,
    KEY_MAX,
    LINE_MAX,
    QUESTIONS_MAX,
    ProgramError,
    ProgramTable,
    ServiceUnavailable,
)
from smtpd.tables.table import PendingAnswer, TableUnavailable

HANDSHAKE = b"config|smtpd-version|7.8.0-smtpd\nconfig|protocol|0.1\nconfig|tablename|people\nconfig|ready\n"
REGISTERED = b"register|alias\nregister|mailaddr\nregister|regex\nregister|auth\nregister|ready\n"


class Program:
    """`lines` is what it was sent since it was last looked at."""

    def __init__(self, registered=REGISTERED):
        self.sent = bytearray()
        self.answers = []
        self.table = ProgramTable("people", clock=lambda: 12.5)
        self.table.connect(self.sent.extend)
        assert self.lines() == HANDSHAKE
        if registered:
            self.table.received(registered)

    def lines(self):
        lines = bytes(self.sent)
        self.sent.clear()
        return lines

    def ask(self, awaited):
        assert isinstance(awaited, PendingAnswer), awaited
        awaited.begin(self.answers.append)

    def find(self, key, service=Service.ALIAS):
        self.ask(self.table.find(service, key))


def gone(reason):
    return TableUnavailable(f"table people: {reason}")


def unserved(service):
    return ServiceUnavailable(f"table people: its program does not answer for {service}")


def test_before_a_program_runs_the_table_is_unavailable():
    table = ProgramTable("people")
    assert table.find(Service.ALIAS, "bob") == table.update() == gone("its program does not run")


def test_a_lookup():
    program = Program()
    program.find("Bob")
    assert program.lines() == b"table|0.1|12.500000|people|lookup|alias|00000001|bob\n"
    assert program.answers == []
    program.table.received(b'lookup-result|00000001|found|amy, "|do"\n')
    assert program.answers == ['amy, "|do"']


@pytest.mark.parametrize(
    "said, answer", [("found", True), ("not-found", False), ("error", gone("its program says error"))]
)
def test_a_check(said, answer):
    program = Program()
    program.ask(program.table.check(Service.MAILADDR, "bob@here.test"))
    assert program.lines() == b"table|0.1|12.500000|people|check|mailaddr|00000001|bob@here.test\n"
    program.table.received(f"check-result|00000001|{said}\n".encode())
    assert program.answers == [answer]


def test_an_update_and_a_fetch():
    program = Program()
    program.ask(program.table.update())
    program.ask(program.table.fetch(Service.ALIAS))
    assert program.lines() == (
        b"table|0.1|12.500000|people|update|00000001\ntable|0.1|12.500000|people|fetch|alias|00000002\n"
    )
    program.table.received(b"fetch-result|00000002|not-found\nupdate-result|00000001|ok\n")
    program.ask(program.table.update())
    program.table.received(b"update-result|00000003|error|no database\n")
    assert program.answers == [None, None, gone("its program says no database")]


def test_a_program_that_repeats_a_password_in_an_error():
    program = Program()
    program.ask(program.table.check(Service.AUTH, "bob:secret"))
    assert "secret" not in repr(list(program.table._asked.values()))
    program.table.received(b"check-result|00000001|error|cannot bind as bob with secret\n")
    assert program.answers == [gone("its program says error")]


def test_case_is_kept_where_it_counts():
    """A password is no password in lower case."""
    program = Program()
    for service in (Service.AUTH, Service.REGEX, Service.MAILADDR):
        program.ask(program.table.check(service, "Bob:Secret"))
    assert [line.rpartition(b"|")[2] for line in program.lines().splitlines()] == [
        b"Bob:Secret",
        b"Bob:Secret",
        b"bob:secret",
    ]


LETTERS, CODE = "bob@müller.test", "bob@xn--mller-kva.test"


@pytest.mark.parametrize("key", [LETTERS, CODE])
def test_a_domain_that_is_not_found_is_asked_for_as_dns_has_it(key):
    program = Program()
    program.find(key)
    assert program.lines().endswith(f"|00000001|{LETTERS}\n".encode())
    program.table.received(b"lookup-result|00000001|not-found\n")
    assert program.answers == []
    assert program.lines().endswith(f"|00000002|{CODE}\n".encode())
    program.table.received(b"lookup-result|00000002|found|amy\n")
    assert program.answers == ["amy"]


@pytest.mark.parametrize("said, answer", [("found|amy", "amy"), ("error", gone("its program says error"))])
def test_a_domain_that_is_found_or_cannot_be_is_asked_for_once(said, answer):
    program = Program()
    program.find(CODE)
    program.lines()
    program.table.received(f"lookup-result|00000001|{said}\n".encode())
    assert program.answers == [answer]
    assert program.lines() == b""


def test_answers_come_in_any_order_and_in_any_pieces():
    program = Program()
    program.find("bob")
    program.find("amy")
    for byte in b"lookup-result|00000002|found|one\nlookup-result|00000001|found|two\n":
        program.table.received(bytes([byte]))
    assert program.answers == ["one", "two"]


def test_questions_to_a_starting_program_are_sent_when_it_is_ready():
    program = Program(registered=b"")
    program.find("bob")
    program.find("who", Service.USERINFO)
    assert program.lines() == b""
    program.table.received(REGISTERED)
    assert program.lines().endswith(b"|lookup|alias|00000001|bob\n")
    assert program.answers == [unserved("userinfo")]


def test_a_service_that_it_did_not_register_is_not_asked_for():
    assert Program().table.find(Service.USERINFO, "bob") == unserved("userinfo")


@pytest.mark.parametrize("key", ["bob\r", "bob\nconfig|ready", "bob\0", "b" * (KEY_MAX + 1), "bob\udc80"])
def test_a_key_that_would_not_be_one_field_of_one_line_is_never_sent(key):
    program = Program()
    assert isinstance(program.table.find(Service.ALIAS, key), TableUnavailable)
    assert isinstance(program.table.check(Service.AUTH, key), TableUnavailable)
    assert program.lines() == b""


def test_the_longest_key_and_one_more_byte():
    program = Program()
    program.find("b" * 1023)
    assert program.lines().endswith(b"|" + b"b" * 1023 + b"\n")
    assert program.table.find(Service.ALIAS, "b" * 1024) == gone("a key of more than 1023 bytes")


def test_a_bar_in_an_address_stays_in_the_last_field():
    program = Program()
    program.find("root|x@here.test")
    assert program.lines().split(b"|", 7)[7] == b"root|x@here.test\n"


NONSENSE = [
    b"hello\n",
    b"\n",
    b"lookup-result\n",
    b"lookup-result|00000009|found|x\n",
    b"check-result|00000001|found\n",
    b"lookup-result|00000001|maybe\n",
    b"lookup-result|00000001|found\n",
    b"lookup-result|00000001|not-found|x\n",
    b"register|alias\n",
    b"lookup-result|00000001|found|\xff\n",
    b"x" * (LINE_MAX + 1),
    b"lookup-result|00000001|found|" + b"x" * LINE_MAX + b"\n",
]


@pytest.mark.parametrize("said", NONSENSE)
def test_a_protocol_error_ends_the_connection_and_answers_all_questions(said):
    program = Program()
    program.find("bob")
    program.ask(program.table.update())
    with pytest.raises(ProgramError):
        program.table.received(said)
    assert [type(answer) for answer in program.answers] == [TableUnavailable, TableUnavailable]
    assert isinstance(program.table.find(Service.ALIAS, "bob"), TableUnavailable)
    program.table.received(b"lookup-result|00000001|found|late\n")
    assert len(program.answers) == 2


@pytest.mark.parametrize(
    "said",
    [
        b"register|ready\n",
        b"register|nothing\n",
        b"register|alias\nregister|alias\n",  # and so on, without end
        b"update-result|00000001|ok\n",
    ],
)
def test_nonsense_instead_of_a_registration(said):
    program = Program(registered=b"")
    with pytest.raises(ProgramError):
        program.table.received(said)


def test_another_program_takes_the_place_of_one_that_was_lost():
    program = Program()
    program.find("bob")
    program.table.lost("its program has ended")
    assert program.answers == [gone("its program has ended")]
    program.table.connect(program.sent.extend)
    program.table.received(REGISTERED)
    program.lines()
    program.find("bob")
    program.table.received(b"lookup-result|00000002|found|amy\n")
    assert program.answers[1:] == ["amy"]


def test_an_answered_question_is_not_asked_of_the_next_program():
    program = Program()
    program.table.lost("its program has ended")
    program.table.connect(program.sent.extend)
    program.table.received(b"register|userinfo\nregister|ready\n")
    assert program.table.find(Service.ALIAS, "bob") == unserved("alias")


def test_a_second_program_ends_the_questions_to_the_first():
    program = Program()
    program.find("bob")
    program.table.connect(program.sent.extend)
    assert program.answers == [gone("its program is replaced")]


def test_half_a_line_of_the_one_before_is_no_beginning_of_the_next():
    program = Program()
    program.table.received(b"lookup-res")
    program.table.lost("its program has ended")
    program.table.connect(program.sent.extend)
    program.table.received(REGISTERED)


def test_the_timeout_of_an_answer():
    program = Program()
    program.find("bob")
    program.table.tick(100)
    program.table.tick(100 + ANSWER_TIMEOUT - 1)
    assert program.answers == []
    program.table.tick(100 + ANSWER_TIMEOUT)
    assert program.answers == [gone("no answer within 10 seconds")]
    program.table.received(b"lookup-result|00000001|found|late\n")
    assert len(program.answers) == 1


def test_the_timeout_of_a_registration():
    program = Program(registered=b"")
    program.find("bob")
    program.table.tick(100)
    program.table.tick(100 + ANSWER_TIMEOUT)
    assert len(program.answers) == 1
    program.lines()
    program.table.received(REGISTERED)
    assert program.lines() == b""


def test_a_program_that_never_answers_is_not_asked_more_and_more():
    program = Program()
    for number in range(QUESTIONS_MAX + 1):
        program.find(f"user{number}")
    assert program.lines().count(b"\n") == QUESTIONS_MAX
    assert program.answers == []
    program.table.tick(100)
    assert program.answers == [gone("too many questions are under way")]
    program.table.received(b"lookup-result|00000001|not-found\n")
    program.find("amy")
    assert program.lines().endswith(b"|00000101|amy\n")


def test_a_program_that_goes_between_question_and_asking():
    program = Program()
    question = program.table.find(Service.ALIAS, "bob")
    program.table.lost("its program has ended")
    question.begin(program.answers.append)
    assert program.answers == []
    program.table.tick(100)
    assert program.answers == [gone("its program has ended")]


WORDS = st.sampled_from(
    ["lookup-result", "check-result", "register", "|", "00000001", "00000002", "found", "not-found", "error", "ready"]
    + ["alias", "\n", "x", "\0", "ok"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=20), st.booleans())
def test_whatever_a_program_writes_each_question_has_one_answer_or_the_program_is_broken(words, registered):
    program = Program(registered=REGISTERED if registered else b"")
    program.find("bob")
    program.ask(program.table.check(Service.MAILADDR, "amy"))
    try:
        program.table.received("".join(words).encode())
    except ProgramError:
        assert len(program.answers) == 2
    program.table.lost("its program has ended")
    assert len(program.answers) == 2

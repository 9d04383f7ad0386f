"""Who may log in, and what somebody who may not finds out."""

import base64
import hashlib
import hmac
import time

import pytest

from smtpd.imsg import (
    BeginScram,
    CheckCredentials,
    CheckPassword,
    CredentialsChecked,
    FinishScram,
    ReportStatistics,
    ScramBegun,
    ScramFinished,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.lookup import login, login_failures
from smtpd.slice import ListenerTablesSlice, TableSlice
from smtpd.tables import credential, scram
from smtpd.tables.program import ProgramTable
from tests.lookup.conftest import CONFIGURATION

HERE = "192.0.2.1"
SECRET = "s\u00e4cret"
VERIFIER = str(scram.make_verifier(SECRET.encode(), 4096, b"0123456789"))
ARGON2 = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$"
USERS = {
    "argon": credential.Argon2(64, 1, 1, b"saltsaltsalt", b""),
    "bob@here.test": VERIFIER,
    "named": f"named:{VERIFIER}",
    "other": str(scram.make_verifier(SECRET.encode(), 5000, b"01234567890123456789")),
    "locked": f"!{VERIFIER}",
    "clear": SECRET,
    "costly": "$argon2id$v=19$m=4194304,t=9,p=1$c2FsdHNhbHRzYWx0$" + "A" * 43,
}


def argon2():
    made = credential.hash_secret_raw(SECRET.encode(), b"saltsaltsalt", 1, 64, 1, 32, credential.Type.ID)
    return ARGON2 + base64.b64encode(made).decode().rstrip("=")


USERS["argon"] = argon2()
TABLES = (
    *CONFIGURATION.tables,
    TableSlice("users", pairs=tuple(USERS.items())),
    TableSlice("away", path="/nowhere/users", backend="file"),
    TableSlice("ldap", backend="ldap"),
)
DOORS = (
    ListenerTablesSlice(0, True),
    ListenerTablesSlice(1, True, "users"),
    ListenerTablesSlice(2, True, "away"),
    ListenerTablesSlice(3, True, "ldap"),
    ListenerTablesSlice(4, hostnames="away"),
)


@pytest.fixture
def short(monkeypatch):
    """A "no" takes no time worth waiting for."""
    monkeypatch.setattr(login_failures, "ANSWER_DELAY_MIN", 0.001)


@pytest.fixture
def open_house(house, short):
    return house(tables=TABLES, listener_tables=DOORS, auth_failure_rate=100)


def logged_in(house, user, password=SECRET, listener=1, request=5, address=HERE):
    answer = house.ask(CheckCredentials(request, listener, address, user, password))
    assert isinstance(answer, CredentialsChecked)
    return answer.verdict


# -- passwords in a table --------------------------------------------------------------------


@pytest.mark.parametrize("user", ["argon", "ARGON", "bob@here.test", "named"])
def test_the_password_lets_in_and_no_other(open_house, user):
    assert logged_in(open_house, user) == "yes"
    assert logged_in(open_house, user, SECRET.upper(), request=6) == "no"
    assert logged_in(open_house, user, SECRET + " ", request=7) == "no"


@pytest.mark.parametrize("user", ["locked", "clear", "costly", "nobody", ""])
def test_users_that_no_password_lets_in(open_house, user):
    assert logged_in(open_house, user) == "no"


@pytest.mark.parametrize("listener", [0, 1, 3])
def test_an_empty_password_is_always_refused(open_house, listener):
    assert logged_in(open_house, "argon", "", listener) == "no"
    assert open_house.sent(CheckPassword) == []


@pytest.mark.parametrize("listener", [2, 3])
def test_a_table_that_cannot_be_asked_is_for_later(open_house, listener):
    assert logged_in(open_house, "argon", listener=listener) == "later"


def test_an_unknown_user_costs_as_much_as_a_known_one(open_house):
    spent = []

    class Weighed:
        def check(self, password):
            spent.append(password)
            return True

    open_house.lookup.logins._decoys["users"] = Weighed()
    assert logged_in(open_house, "nobody") == "no"
    assert logged_in(open_house, "locked", request=6) == "no"
    assert spent == [SECRET.encode()] * 2
    logged_in(open_house, "argon", request=7)
    assert open_house.lookup.logins._decoys["users"] == credential.parse_credential(USERS["argon"])


def test_more_passwords_than_can_be_compared_are_for_later(open_house, monkeypatch):
    monkeypatch.setattr(login, "COMPARE_QUEUE_MAX", -login.COMPARE_THREADS)
    assert logged_in(open_house, "argon") == "later"


# -- users of the system ------------------------------------------------------------------------


def test_a_user_of_the_system_is_looked_up_by_the_parent(open_house):
    open_house.passwords["bob"] = SECRET
    assert logged_in(open_house, "bob", listener=0) == "yes"
    assert logged_in(open_house, "bob", "other", listener=0, request=6) == "no"
    asked = open_house.sent(CheckPassword)[0]
    assert (asked.user, asked.password, asked.address) == ("bob", SECRET, HERE)


@pytest.mark.parametrize("user", ["bob@here.test" * 9, "-x", "../bob", "bob smith", "b\u00f6b"])
def test_a_malformed_name_is_not_looked_up(open_house, user):
    assert logged_in(open_house, user, listener=0) == "no"
    assert open_house.sent(CheckPassword) == []


def test_the_parent_is_not_asked_about_more_than_it_can_do(open_house):
    open_house.silent = {CheckPassword}
    count = login.PARENT_QUESTIONS_MAX

    async def scenario():
        for n in range(count + 1):
            open_house.theirs["dispatcher1"].send(CheckCredentials(n + 1, 0, f"192.0.2.{n}", f"u{n}", SECRET))
        refused = await open_house.until(lambda: open_house.answers("dispatcher1", count + 1))
        assert refused.verdict == "later"

    open_house.run(scenario())


def test_places_are_reserved_for_known_pairs_and_programs_of_this_host(open_house):
    open_house.passwords["bob"] = SECRET
    assert logged_in(open_house, "bob", listener=0) == "yes"
    open_house.silent = {CheckPassword}
    count = login.PARENT_QUESTIONS_MAX

    async def scenario():
        send = open_house.theirs["dispatcher1"].send
        for n in range(count + 1):
            send(CheckCredentials(n + 10, 0, f"198.51.100.{n}", f"u{n}", SECRET))
        send(CheckCredentials(100, 0, HERE, "bob", SECRET))
        send(CheckCredentials(101, 0, "127.0.0.1", "amy", SECRET))
        await open_house.until(lambda: len(open_house.sent(CheckPassword)) == 1 + count + 2)

    open_house.run(scenario())
    assert [asked.user for asked in open_house.sent(CheckPassword)][-2:] == ["bob", "amy"]


def test_a_known_pair_is_checked_when_no_place_is_left_for_others(open_house, monkeypatch):
    assert logged_in(open_house, "argon") == "yes"
    monkeypatch.setattr(login, "COMPARE_QUEUE_MAX", -login.COMPARE_THREADS)
    assert logged_in(open_house, "argon", request=6) == "yes"
    assert logged_in(open_house, "argon", request=7, address="198.51.100.1") == "later"


# -- programs -----------------------------------------------------------------------------------


class Program:
    """Answers for the table `ldap`: `says` is what stands behind the id."""

    def __init__(self, house, services, says):
        self.table = house.lookup.logins._listeners.get(3).credentials
        assert isinstance(self.table, ProgramTable)
        self.house, self.says, self.lines = house, says, []
        self.table.connect(self.take)
        self.table.received("".join(f"register|{service}\n" for service in (*services, "ready")).encode())

    def take(self, data):
        if data.startswith(b"table|"):
            self.lines.append(data.decode())
            verb, _, id = data.decode().split("|")[4:7]
            answer = f"{verb}-result|{id}|{self.says}\n".encode()
            self.house.loop.call_soon(self.table.received, answer)


@pytest.mark.parametrize("says, verdict", [("found", "yes"), ("not-found", "no"), ("error|of S\u00e4cret", "later")])
def test_a_program_checks_passwords(open_house, says, verdict):
    program = Program(open_house, ["auth"], says)
    assert logged_in(open_house, "Bob", "S\u00e4|c:ret", listener=3) == verdict
    (line,) = program.lines
    assert line.endswith("|check|auth|00000001|Bob:S\u00e4|c:ret\n")


def test_a_user_name_with_a_colon_is_refused_by_a_program(open_house):
    program = Program(open_house, ["auth"], "found")
    assert logged_in(open_house, "bob:x", "y", listener=3) == "no"
    assert program.lines == []


def test_a_program_that_keeps_credentials(open_house):
    program = Program(open_house, ["credentials"], f"found|{USERS['argon']}")
    assert logged_in(open_house, "bob", listener=3) == "yes"
    assert logged_in(open_house, "bob", "other", listener=3, request=6) == "no"
    assert [line.split("|")[5] for line in program.lines] == ["credentials"] * 2


# -- SCRAM ------------------------------------------------------------------------------------------

MESSAGE = b"n=bob,r=x,r=xy,s=z,i=4096,c=biws,r=xy"


def proof(password, begun):
    """As a client makes it."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), begun.salt, begun.iterations)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), MESSAGE, "sha256")
    server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), MESSAGE, "sha256")
    return bytes(a ^ b for a, b in zip(key, signature, strict=True)), server


def begin(house, user, listener=1, request=50):
    answer = house.ask(BeginScram(request, listener, HERE, user))
    assert isinstance(answer, ScramBegun)
    return answer


def test_scram(open_house):
    begun = begin(open_house, "bob@here.test")
    assert begun == ScramBegun(50, "yes", b"0123456789", 4096)
    proved, signature = proof(SECRET, begun)
    finish = FinishScram(51, 1, HERE, "bob@here.test", MESSAGE, proved)
    assert open_house.ask(finish) == ScramFinished(51, "yes", signature)
    wrong = FinishScram(52, 1, HERE, "bob@here.test", MESSAGE, proof("other", begun)[0])
    assert open_house.ask(wrong) == ScramFinished(52, "no", b"")


def test_an_unknown_user_has_a_salt_like_a_known_one(open_house):
    known = begin(open_house, "bob@here.test", request=49)
    first, again, case, other = (
        begin(open_house, user, request=50 + n) for n, user in enumerate(["eve", "eve", "EVE", "argon"])
    )
    assert first.salt == again.salt == case.salt != other.salt
    assert {(b.verdict, b.iterations, len(b.salt)) for b in (known, first, other)} == {("yes", 4096, 10)}
    finish = FinishScram(90, 1, HERE, "eve", MESSAGE, proof(SECRET, first)[0])
    assert open_house.ask(finish) == ScramFinished(90, "no", b"")


def test_the_salt_of_an_unknown_user_never_changes(open_house):
    """Or whoever asks twice would know: of a user who is there the salt does not change."""
    begin(open_house, "bob@here.test", request=49)
    before = begin(open_house, "eve", request=50)
    assert begin(open_house, "other", request=51).iterations == 5000
    after = begin(open_house, "eve", request=50)
    assert before == after


def test_what_looks_like_a_user_is_of_no_use_after_a_restart(house, short):
    assert len({begin(house(tables=TABLES, listener_tables=DOORS), "eve").salt for _ in range(2)}) == 2


def test_scram_with_a_table_that_cannot_be_asked_is_for_later(open_house):
    assert begin(open_house, "bob", 2).verdict == "later"
    finish = FinishScram(51, 2, HERE, "bob", MESSAGE, bytes(32))
    assert open_house.ask(finish) == ScramFinished(51, "later", b"")


# -- what failed ----------------------------------------------------------------------------------------


def test_a_no_is_delayed_and_a_yes_is_not(house, monkeypatch):
    monkeypatch.setattr(login_failures, "ANSWER_DELAY_MIN", 0.2)
    house = house(tables=TABLES, listener_tables=DOORS)
    begun = time.monotonic()
    assert logged_in(house, "argon") == "yes"
    assert time.monotonic() - begun < 0.2
    begun = time.monotonic()
    assert logged_in(house, "argon", "x", request=6) == "no"
    assert time.monotonic() - begun >= 0.2


def test_a_delayed_answer_delays_no_other(house):
    house = house(tables=TABLES, listener_tables=DOORS)

    async def scenario():
        house.theirs["dispatcher1"].send(CheckCredentials(1, 1, HERE, "argon", "x"))
        house.theirs["dispatcher1"].send(CheckCredentials(2, 1, HERE, "argon", SECRET))
        await house.until(lambda: house.answers("dispatcher1", 2))
        assert house.answers("dispatcher1", 1) is None

    house.run(scenario())


def test_only_so_many_answers_are_kept_back(house, monkeypatch):
    """Each is a question of a dispatcher's, and it has a window of them."""
    monkeypatch.setattr(login_failures, "ANSWER_DELAY_MIN", 60)
    monkeypatch.setattr(login, "DELAYED_ANSWERS_MAX", 1)
    house = house(tables=TABLES, listener_tables=DOORS)

    async def scenario():
        for request in (1, 2):
            house.theirs["dispatcher1"].send(CheckCredentials(request, 1, HERE, "nobody", "x"))
        await house.until(lambda: house.answers("dispatcher1", 1) or house.answers("dispatcher1", 2))

    house.run(scenario())


def test_after_too_many_failures_passwords_are_not_checked(house, short, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "line", lines.append)
    house = house(tables=TABLES, listener_tables=DOORS, auth_failure_rate=3)
    verdicts = [logged_in(house, "argon", "x", request=n) for n in range(1, 5)]
    assert verdicts == ["no", "no", "no", "later"]
    assert logged_in(house, "bob@here.test", request=5) == "later"
    assert begin(house, "bob@here.test").verdict == "later"
    assert logged_in(house, "bob@here.test", request=6, address="198.51.100.1") == "yes"
    house.theirs["control"].send(ReportStatistics(7))
    counters = house.run(house.until(lambda: house.answers("control", 7))).counters
    assert (counters["lookup.login.no"], counters["lookup.login.counted-out"]) == (3, 3)
    assert any("too many failures" in line for line in lines)


# -- secrets --------------------------------------------------------------------------------------------


def test_no_password_and_no_hash_is_in_the_log(house, short, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "line", lines.append)
    log.verbose = True
    house = house(tables=TABLES, listener_tables=DOORS, auth_failure_rate=100)
    request = 0
    for listener in range(4):
        for user in (*USERS, "nobody"):
            request += 1
            logged_in(house, user, listener=listener, request=request)
    Program(house, ["auth"], f"error|no {SECRET}")
    logged_in(house, "bob", listener=3, request=900)
    log.verbose = False
    assert len(lines) > 5
    assert not any(word in line for line in lines for word in (SECRET, "c2FsdHNhbHRzYWx0", VERIFIER[30:60]))


def test_an_exception_costs_one_login_and_shows_no_password(house, short, monkeypatch):
    class Broken:
        def check(self, password):
            return {}[self]

    lines = []
    monkeypatch.setattr(log, "line", lines.append)
    house = house(tables=TABLES, listener_tables=DOORS)
    house.lookup.logins._decoys["users"] = Broken()
    assert logged_in(house, "nobody") == "later"
    assert any("KeyError" in line for line in lines) and not any(SECRET in line for line in lines)
    assert logged_in(house, "argon", request=6) == "yes"


@pytest.mark.parametrize(
    "ask, imsg",
    [
        ("check", CheckCredentials(1, 9, HERE, "bob", SECRET)),
        ("check", CheckCredentials(1, 4, HERE, "bob", SECRET)),
        ("begin_scram", BeginScram(1, 0, HERE, "bob")),
        ("finish_scram", FinishScram(1, 0, HERE, "bob", b"", b"")),
    ],
)
def test_a_login_where_there_is_none_is_a_violation_that_tells_nothing(open_house, ask, imsg):
    with pytest.raises(Violation) as raised:
        getattr(open_house.lookup.logins, ask)(None, imsg)
    assert SECRET not in str(raised.value)

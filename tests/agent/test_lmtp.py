"""Mail to an LMTP server: what it is told, what queue is told, and what happens when it goes away."""

import errno
import os
import socket
import tempfile
import threading
import time

import pytest
from msgspec.structs import replace

from mail_local import lmtp, trace
from smtpd.agent import lmtp as lmtp_agent
from smtpd.agent.lmtp import MAILS_PER_CONNECTION, LmtpAgent, LmtpSender
from smtpd.agent.worker import EX_PROTOCOL
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec, InProgress, ProbeServer, ReadForward, Result, ServerProbed, decode
from smtpd.smtp.client_state import ClientState
from tests.agent.conftest import MAIL, errand
from tests.mail_local.lmtp_server import serving

TRACE = b"Delivered-To: bob@here.test\n"  # Return-Path is added by the server, who makes the final delivery


@pytest.fixture
def serve():
    with serving() as serve_one:
        yield serve_one


def to(user, number=1, message=77, **more):
    """An errand for this user; numbers of one message go together."""
    told = errand(number, **{"recipient": f"{user}@here.test", "destination": f"{user}@here.test", **more})
    return replace(told, envelope=message << 32 | number, user=user)


def nothing():
    pass


def wired(content):
    return content.replace(b"\n", b"\r\n")


def outcomes(agent, count):
    return {result.envelope & 0xFFFFFFFF: result.outcome for result in (agent.receive() for _ in range(count))}


class Queue:
    """The socket to queue: keeps the InProgress that are sent."""

    def __init__(self):
        self.heard = []

    def send(self, packet, _flags):
        self.heard.append(decode(packet))


class Clock:
    """Stands in the place of the module time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def executor(server, **spec):
    """The executor of one worker, without a process: for cases that need several errands in one batch."""
    return LmtpSender(LmtpAgent(AgentSpec("lmtp", server.target, **spec), "mail", "/"), Queue())


def test_a_mail_to_a_user_over_tcp(start, serve):
    server = serve()
    agent = start("lmtp", server.target)
    result = agent.deliver(to("bob"))
    assert result == Result(77 << 32 | 1, Outcome.DELIVERED, "250 2.0.0 bob saved")
    assert server.mails == [(1, "amy@there.test", ["bob"], wired(TRACE + MAIL))]
    assert agent.end() == 0


def test_a_mail_over_a_socket_of_the_file_system(start, serve, home):
    home.parent.chmod(0o755)
    server = serve(family=socket.AF_UNIX, address=str(home.parent / "lmtp"))
    assert start("lmtp-unix", server.target).deliver(to("bob")).outcome is Outcome.DELIVERED
    assert server.mails == [(1, "amy@there.test", ["bob"], wired(TRACE + MAIL))]


def test_a_server_that_made_its_socket_anew_is_found(start, serve, home):
    home.parent.chmod(0o755)
    address = str(home.parent / "lmtp")
    first = serve(family=socket.AF_UNIX, address=address, closes="used")
    agent = start("lmtp-unix", address)
    assert agent.deliver(to("bob")).outcome is Outcome.DELIVERED
    os.unlink(address)
    second = serve(family=socket.AF_UNIX, address=address)
    assert agent.deliver(to("bob", 2)).outcome is Outcome.DELIVERED
    assert (len(first.mails), len(second.mails)) == (1, 1)


def test_the_recipient_is_the_destination_when_the_action_says_so(start, serve):
    server = serve()
    start("lmtp", server.target, rcpt_to=True).deliver(to("bob", destination="bob+x@inner.test"))
    assert server.mails[0][2] == ["bob+x@inner.test"]


def test_the_recipient_is_the_agents_user_where_none_is_named(serve):
    server = serve()
    list(executor(server).execute([(to(""), -1)]))
    assert server.mails[0][2] == ["mail"]


def test_a_large_mail_comes_from_its_descriptor(start, serve):
    server = serve()
    content = b"Subject: large\n\n" + b".a line of dots and text\n" * 40_000
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        result = start("lmtp", server.target).deliver(to("bob", size=len(content)), file.fileno())
    assert result.outcome is Outcome.DELIVERED
    assert server.mails[0][3] == wired(TRACE + content)


def test_a_spool_file_that_is_too_short_delivers_nothing(start, serve):
    server = serve()
    with tempfile.TemporaryFile() as file:
        file.write(MAIL)
        file.flush()
        agent = start("lmtp", server.target)
        result = agent.deliver(to("bob", size=len(MAIL) + 10), file.fileno())
    assert result.outcome is Outcome.DEFERRED and "content ends" in result.text
    assert agent.deliver(to("bob", 2)).outcome is Outcome.DELIVERED
    assert [content for *_, content in server.mails] == [wired(TRACE + MAIL)]


# -- what not every server takes -------------------------------------------------------------------------

MODERN = ("PIPELINING", "8BITMIME", "SMTPUTF8")


GREETING = "Subject: grüß dich\n\nHello\n".encode()


def test_smtputf8_is_sent_for_a_mail_that_needs_it_and_for_no_other(start, serve):
    server = serve(extensions=MODERN)
    agent = start("lmtp", server.target)
    agent.deliver(to("bob", utf8=True, content=GREETING))
    agent.deliver(to("bob", 2, message=78))
    agent.deliver(to("bob", 3, message=79, sender="änne@there.test"))
    agent.deliver(to("bob", 4, message=80, utf8=True))
    assert server.senders == [
        "<amy@there.test> BODY=8BITMIME SMTPUTF8",
        "<amy@there.test> BODY=8BITMIME",
        "<änne@there.test> BODY=8BITMIME SMTPUTF8",
        "<amy@there.test> BODY=8BITMIME",
    ]


def test_smtputf8_is_not_sent_for_a_mail_whose_client_did_not_ask_for_it(serve):
    server = serve(extensions=MODERN)
    (result,) = executor(server).execute([(to("bob", content=GREETING), -1)])
    assert result.outcome is Outcome.DELIVERED and server.senders == ["<amy@there.test> BODY=8BITMIME"]


def test_smtputf8_is_sent_to_several_recipients_for_a_header_too_long_to_be_searched(serve):
    """Then we add no line to it."""
    server = serve(extensions=MODERN)
    long = b"Received: x\n" * (trace.HEADER_MAX // 12 + 1)
    list(
        executor(server).execute([(to(user, n, utf8=True, content=long), -1) for n, user in enumerate(["bob", "amy"])])
    )
    assert server.senders == ["<amy@there.test> BODY=8BITMIME SMTPUTF8"]


def test_the_size_that_is_announced_has_the_lines_that_we_add(serve):
    server = serve()
    list(executor(server).execute([(to("bob"), -1)]))
    assert f" SIZE={len(TRACE + MAIL)}" in server.senders[0]


def test_a_mail_that_said_smtputf8_without_need_goes_to_any_server(start, serve):
    server = serve()
    agent = start("lmtp", server.target)
    mail = MAIL + "Grüß dich\n".encode()
    assert agent.deliver(to("bob", utf8=True, content=mail)).outcome is Outcome.DELIVERED
    assert server.mails == [(1, "amy@there.test", ["bob"], wired(TRACE + mail))]


def test_utf8_in_the_header_goes_to_any_server(start, serve):
    """The mail's own, or of Delivered-To."""
    server = serve()
    agent = start("lmtp", server.target)
    assert agent.deliver(to("bob", utf8=True, content=GREETING)).outcome is Outcome.DELIVERED
    told = replace(to("bob", 1, message=78, utf8=True), recipient="böb@here.test")
    assert agent.deliver(told).outcome is Outcome.DELIVERED
    assert server.mails[0][3] == wired(TRACE + GREETING)
    assert server.mails[1][3] == wired("Delivered-To: böb@here.test\n".encode() + MAIL)
    assert not [said for said in server.senders if "SMTPUTF8" in said]


def test_smtputf8_is_sent_for_a_header_too_long_to_be_searched(start, serve):
    server = serve(extensions=MODERN)
    agent = start("lmtp", server.target)
    long = b"Received: x\n" * (trace.HEADER_MAX // 12 + 1)
    agent.deliver(to("bob", utf8=True, content=long))
    assert server.senders == ["<amy@there.test> BODY=8BITMIME SMTPUTF8"]


def test_an_address_that_the_server_cannot_be_told_fails_and_the_next_mail_goes(start, serve):
    server = serve()
    agent = start("lmtp", server.target)
    result = agent.deliver(to("bob", sender="änne@there.test"))
    assert result.outcome is Outcome.FAILED and result.text.startswith("5.6.7")
    assert agent.deliver(to("bob", 2)).outcome is Outcome.DELIVERED
    assert [recipients for _, _, recipients, _ in server.mails] == [["bob"]]


def test_no_return_path_of_the_mail_goes_to_the_server(start, serve):
    server = serve()
    start("lmtp", server.target).deliver(to("bob", content=b"Return-Path: <eve@x.test>\n" + MAIL))
    assert server.mails[0][3] == wired(TRACE + MAIL)


# -- what the server takes ------------------------------------------------------------------------------


def greet(agent, request=7):
    agent.send(ProbeServer(request))
    return agent.receive()


@pytest.mark.parametrize("extensions, verdict", [(MODERN, "utf8"), (("PIPELINING", "8BITMIME"), "ascii")])
def test_a_probe_is_answered_and_the_next_mail_uses_its_connection(start, serve, extensions, verdict):
    server = serve(extensions=extensions)
    agent = start("lmtp", server.target)
    assert greet(agent) == ServerProbed(7, verdict, "")
    assert agent.deliver(to("bob")).outcome is Outcome.DELIVERED
    assert greet(agent, 8) == ServerProbed(8, verdict, "")
    assert server.connections == 1


def test_a_probe_of_a_server_that_is_down_is_deferred(start):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = "{}:{}".format(*closed.getsockname())
    answer = greet(start("lmtp", target))
    assert (answer.request, answer.verdict) == (7, "later") and "refused" in answer.reason


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), lmtp.Unreachable("nobody listens")])
def test_a_probe_without_a_connection_says_why(serve, monkeypatch, error):
    worker = executor(serve())

    def take(_progress):
        raise error

    monkeypatch.setattr(worker._kind.pool, "take", take)
    (answer,) = worker.execute([(ProbeServer(9), -1)])
    assert answer == ServerProbed(9, "later", "Too many open files" if isinstance(error, OSError) else "nobody listens")


def test_a_probe_of_a_server_whose_address_is_unknown_says_so():
    worker = LmtpSender(LmtpAgent(AgentSpec("lmtp", "a:b:c"), "mail", "/"), Queue())
    (answer,) = worker.execute([(ProbeServer(9), -1)])
    assert answer.verdict == "later" and "neither host:port" in answer.reason


# -- several recipients ------------------------------------------------------------------------------


def test_the_recipients_of_one_message_go_in_one_transaction_and_have_an_answer_each(serve):
    server = serve(accepts={"nobody": "550 5.1.1 no such user"}, answers={"carol": "452 4.2.2 carol is full"})
    users = ["bob", "nobody", "carol", "dave"]
    results = list(executor(server).execute([(to(user, number), -1) for number, user in enumerate(users, 1)]))
    assert {result.envelope & 0xFF: (result.outcome, result.text) for result in results} == {
        1: (Outcome.DELIVERED, "250 2.0.0 bob saved"),
        2: (Outcome.FAILED, "550 5.1.1 no such user"),
        3: (Outcome.DEFERRED, "452 4.2.2 carol is full"),
        4: (Outcome.DELIVERED, "250 2.0.0 dave saved"),
    }
    assert [recipients for _, _, recipients, _ in server.mails] == [["bob", "carol", "dave"]]


def test_no_recipient_is_told_of_another(serve):
    server = serve()
    list(executor(server).execute([(to("bob", 1), -1), (to("carol", 2), -1)]))
    assert server.mails[0][3] == wired(MAIL)


def test_an_address_that_became_several_users_is_named_to_all_of_them(serve):
    server = serve()
    both = {"recipient": "team@here.test"}
    list(executor(server).execute([(to("bob", 1, **both), -1), (to("carol", 2, **both), -1)]))
    assert b"Delivered-To: team@here.test\r\n" in server.mails[0][3]


def test_different_messages_and_senders_go_alone(serve):
    server = serve()
    batch = [to("bob", 1), to("carol", 1, message=78), to("dave", 2, sender="eve@there.test"), to("eve", 3)]
    results = list(executor(server).execute([(told, -1) for told in batch]))
    assert {result.outcome for result in results} == {Outcome.DELIVERED} and len(results) == 4
    assert sorted(recipients for _, _, recipients, _ in server.mails) == [["bob", "eve"], ["carol"], ["dave"]]
    assert {number for number, *_ in server.mails} == {1}


def test_a_mail_that_was_here_before_is_a_loop_for_that_recipient_only(serve):
    server = serve()
    content = b"Delivered-To: bob@here.test\n" + MAIL
    results = list(
        executor(server).execute([(to("bob", 1, content=content), -1), (to("carol", 2, content=content), -1)])
    )
    assert [(result.envelope & 0xFF, result.outcome) for result in results] == [
        (1, Outcome.LOOP),
        (2, Outcome.DELIVERED),
    ]
    assert [recipients for _, _, recipients, _ in server.mails] == [["carol"]]


def test_a_mail_that_all_its_recipients_had_before_goes_to_no_server(serve):
    server = serve()
    (result,) = executor(server).execute([(to("bob", content=b"Delivered-To: bob@here.test\n" + MAIL), -1)])
    assert result.outcome is Outcome.LOOP and server.connections == 0


def test_an_answer_is_told_before_the_next_mail_is_sent(serve):
    server = serve()
    answers = executor(server).execute([(to("bob", 1), -1), (to("bob", 1, message=78), -1)])
    assert next(answers).outcome is Outcome.DELIVERED
    assert len(server.mails) == 1
    assert len(list(answers)) == 1


# -- connections ---------------------------------------------------------------------------------------


def test_a_connection_carries_many_mails_but_not_for_ever(start, serve):
    server = serve()
    agent = start("lmtp", server.target)
    for number in range(1, MAILS_PER_CONNECTION + 3):
        assert agent.deliver(to("bob", 1, message=number)).outcome is Outcome.DELIVERED
    numbers = [number for number, *_ in server.mails]
    assert numbers == [1] * MAILS_PER_CONNECTION + [2] * 2


def test_many_mails_go_over_several_connections_each_once(start, serve):
    server = serve(barrier=threading.Barrier(4))
    agent = start("lmtp", server.target)
    for number in range(1, 33):
        agent.send(to("bob", 1, message=number, content=b"%d\n" % number))
    assert set(outcomes(agent, 32).values()) == {Outcome.DELIVERED}
    assert server.connections == 4
    assert sorted(content.rpartition(b"\n")[0].rpartition(b"\n")[2] for *_, content in server.mails) == sorted(
        b"%d\r" % number for number in range(1, 33)
    )


@pytest.mark.parametrize("at_once", [False, True])
def test_a_mail_that_is_slow_for_one_user_keeps_no_other_mail_waiting(start, serve, at_once):
    """Whether the other mails come later or wait beside it: other workers are idle."""
    slow = threading.Event()
    server = serve(holds={"slow": slow})
    agent = start("lmtp", server.target)
    agent.send(to("slow", 1, message=1))
    if not at_once:
        assert agent.hear() == InProgress(1 << 32 | 1)
    for number in range(2, 12):
        agent.send(to("bob", 1, message=number))
    assert {agent.receive().envelope >> 32 for _ in range(10)} == {*range(2, 12)}
    slow.set()
    assert agent.receive().envelope >> 32 == 1


def test_in_progress_is_sent_before_and_during_a_transaction(serve, monkeypatch):
    monkeypatch.setattr(lmtp_agent, "PROGRESS_INTERVAL", 0.0)
    worker = executor(serve(extensions=()))
    list(worker.execute([(to("bob", 1), -1), (to("carol", 2), -1)]))
    numbers = [word.number & 0xFF for word in worker._queue.heard]
    assert numbers[:2] == [1, 2] and numbers.count(1) == numbers.count(2) > 6
    said = len(worker._queue.heard)
    list(worker.execute([(ProbeServer(9), -1)]))
    assert {word.number for word in worker._queue.heard[said:]} == {9}
    said = len(worker._queue.heard)
    for connection, _ in worker._kind.pool._idle:
        connection.close()  # by whoever sweeps: it is no word about a mail
    assert len(worker._queue.heard) == said


def test_in_progress_is_sent_at_the_begin_of_each_transaction(serve):
    worker = executor(serve())
    list(worker.execute([(to("bob", 1), -1), (to("bob", 2, message=78), -1)]))
    assert [word.number & 0xFF for word in worker._queue.heard] == [1, 2]


def test_in_progress_is_sent_at_intervals_only(serve):
    worker = executor(serve(extensions=()))
    list(worker.execute([(to("bob", 1), -1)]))
    assert len(worker._queue.heard) == 1


def test_a_reply_that_drips_in_must_be_complete_within_its_timeout(serve, monkeypatch):
    monkeypatch.setitem(lmtp.LMTP_TIMEOUT, ClientState.DOT, 0.3)
    server = serve(answers={"bob": "\r\n".join(["250-and so on"] * 40)}, drips=0.05)
    (result,) = executor(server).execute([(to("bob"), -1)])
    assert result.outcome is Outcome.DEFERRED and "no answer in 0 seconds" in result.text


def test_a_mail_has_one_timeout_for_all_its_steps_together(serve, monkeypatch):
    monkeypatch.setattr(lmtp, "TRANSACTION_MAX", 0.2)
    slow = threading.Event()
    server = serve(holds={"bob": slow})
    (result,) = executor(server).execute([(to("bob"), -1)])
    slow.set()
    assert result.outcome is Outcome.DEFERRED and lmtp.TRANSACTION_TOO_LONG in result.text


def test_a_timeout_of_one_mail_does_not_fail_others_while_the_server_responds(serve, monkeypatch):
    monkeypatch.setitem(lmtp.LMTP_TIMEOUT, ClientState.DOT, 0.2)
    slow = threading.Event()
    server = serve(holds={"slow": slow})
    worker = executor(server)
    kind = worker._kind
    always = property(lambda _: time.monotonic(), lambda _, _value: None)  # there is progress on some other connection
    monkeypatch.setattr(type(kind), "last_progress", always, raising=False)
    (result,) = worker.execute([(to("slow"), -1)])
    slow.set()
    assert result.outcome is Outcome.DEFERRED and not kind.draining


def test_a_server_that_takes_one_connection_gets_all_mail_over_it(start, serve):
    server = serve(limit=1)
    agent = start("lmtp", server.target)
    for number in range(1, 65):
        agent.send(to("bob", 1, message=number))
    assert set(outcomes(agent, 64).values()) == {Outcome.DELIVERED}
    assert len(server.mails) == 64 and {number for number, *_ in server.mails} == {1}


@pytest.mark.parametrize("closes", ["used", "mail"])
def test_a_kept_connection_that_was_closed_costs_no_delay_and_no_copy(start, serve, closes):
    server = serve(closes=closes)
    agent = start("lmtp", server.target)
    for number in range(1, 6):
        assert agent.deliver(to("bob", 1, message=number)).outcome is Outcome.DELIVERED
    assert [number for number, *_ in server.mails] == [1, 2, 3, 4, 5]


# -- trouble --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closes, delivered", [("dot", []), ("half", [1])])
def test_after_the_dot_nothing_is_sent_again_at_once(serve, closes, delivered):
    server = serve(closes=closes)
    results = list(executor(server).execute([(to("bob", 1), -1), (to("carol", 2), -1)]))
    assert [r.envelope & 0xFF for r in results if r.outcome is Outcome.DELIVERED] == delivered
    late = [r.text for r in results if r.outcome is Outcome.DEFERRED]
    assert len(late) == 2 - len(delivered) and all("may arrive twice" in text for text in late)
    assert len(server.mails) == 1


def test_after_the_dot_nothing_is_sent_again_over_a_kept_connection_either(serve):
    server = serve()
    worker = executor(server)
    list(worker.execute([(to("bob", 1), -1)]))
    server.closes = "dot"
    (result,) = worker.execute([(to("bob", 2, message=78), -1)])
    assert result.outcome is Outcome.DEFERRED and "may arrive twice" in result.text
    assert len(server.mails) == 2 and server.connections == 1


@pytest.fixture
def few(monkeypatch):
    """No more than some connections are taken: a mail that is sent again and again fails the test."""
    take, taken = lmtp_agent.ConnectionPool.take, []

    def counted(pool, progress):
        taken.append(1)
        assert len(taken) < 5, "it is sent again and again"
        return take(pool, progress)

    monkeypatch.setattr(lmtp_agent.ConnectionPool, "take", counted)


def test_a_new_connection_that_is_closed_is_not_followed_by_another(serve, few):
    server = serve(accepts={"bob": "421 4.3.2 shutting down"})
    (result,) = executor(server).execute([(to("bob"), -1)])
    assert result.outcome is Outcome.DEFERRED and "shutting down" in result.text
    assert server.connections == 1


def test_an_address_that_a_kept_connection_cannot_be_told_fails_and_is_not_tried_again(serve, few):
    server = serve()
    worker = executor(server)
    list(worker.execute([(to("bob", 1), -1)]))
    (result,) = worker.execute([(to("bob", 2, message=78, sender="änne@there.test"), -1)])
    assert result.outcome is Outcome.FAILED and server.connections == 1


def test_a_server_that_has_taken_a_mail_responds(serve, monkeypatch):
    worker, clock = executor(serve()), Clock()
    monkeypatch.setattr(lmtp_agent, "time", clock)
    clock.now = worker._kind.last_progress + lmtp.LMTP_TIMEOUT[ClientState.DOT] + 1
    assert worker._kind.is_unresponsive()
    list(worker.execute([(to("bob", 1), -1)]))
    assert not worker._kind.is_unresponsive()


def test_a_mail_that_fails_without_a_timeout_says_nothing_of_the_server(serve, monkeypatch):
    worker = executor(serve(accepts={"bob": "421 4.3.2 shutting down"}))
    monkeypatch.setattr(LmtpAgent, "is_unresponsive", lambda _kind: True)
    (result,) = worker.execute([(to("bob"), -1)])
    assert result.outcome is Outcome.DEFERRED and not worker._kind.draining


def test_an_unresponsive_server_is_waited_for_once(serve, monkeypatch):
    monkeypatch.setitem(lmtp.LMTP_TIMEOUT, ClientState.DOT, 0.1)
    server = serve(closes="deaf")
    worker = executor(server)
    results = list(worker.execute([(to("bob", 1, message=number), -1) for number in range(1, 4)]))
    assert {result.outcome for result in results} == {Outcome.DEFERRED}
    first, *others = [result.text for result in results]
    assert (
        first
        == "waiting for the answer to the mail: no answer in 0 seconds; the mail had been sent and may arrive twice"
    )
    assert others == ["the server does not respond"] * 2
    assert len(server.mails) == server.connections == 1


def test_a_server_that_says_why_it_closes_is_quoted(serve):
    server = serve(closes="content")
    (result,) = executor(server).execute([(to("bob", content=b"x" * 60 + b"\n" * 60_000), -1)])
    assert result.outcome is Outcome.DEFERRED
    assert server.mails == []


def test_a_server_that_is_down_delays_all_and_the_agent_leaves(start):
    with socket.socket() as sock:  # bound, and not listening
        sock.bind(("127.0.0.1", 0))
        target = "{}:{}".format(*sock.getsockname())
        agent = start("lmtp", target)
        result = agent.deliver(to("bob"))
        assert (result.outcome, result.text) == (Outcome.DEFERRED, f"{target}: Connection refused")
        assert agent.process.wait(30) == 0


def test_content_that_cannot_be_read_delays_that_mail(serve):
    directory = os.open("/", os.O_RDONLY)
    (result,) = executor(serve()).execute([(to("bob", size=10), directory)])
    assert (result.outcome, result.text) == (Outcome.DEFERRED, "Is a directory")


def test_an_exception_in_our_code_defers_that_mail_and_no_other(serve, monkeypatch):
    worker = executor(serve())
    with monkeypatch.context() as patched:
        patched.setattr(lmtp_agent, "_lines", lambda _errands: 1 / 0)
        (result,) = worker.execute([(to("bob"), -1)])
    assert result.outcome is Outcome.DEFERRED and "ZeroDivisionError" in result.text
    (result,) = worker.execute([(to("bob", 2), -1)])
    assert result.outcome is Outcome.DELIVERED


def test_the_content_of_a_mail_is_closed_when_it_is_sent(serve):
    with tempfile.TemporaryFile() as file:
        file.write(MAIL)
        file.flush()
        descriptor = os.dup(file.fileno())
        (result,) = executor(serve()).execute([(to("bob", size=len(MAIL)), descriptor)])
    assert result.outcome is Outcome.DELIVERED
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_agent_sees_the_directory_of_the_servers_socket_and_nothing_else(tmp_path):
    """The server may make its socket anew."""

    def visible(kind, target):
        return LmtpAgent(AgentSpec(kind, target), "mail", "/").visible_paths

    assert visible("lmtp-unix", f"{tmp_path}/socket") == [(str(tmp_path), "rw")]
    assert visible("lmtp-unix", f"{tmp_path}/missing/socket") == []
    assert visible("lmtp", "127.0.0.1:24") == []


@pytest.mark.parametrize(
    "kind, target, reason",
    [
        ("lmtp-unix", "/var/tmp/no/such/directory/lmtp", "/var/tmp/no/such/directory/lmtp: "),
        ("lmtp", "no.such.host.invalid:24", "no.such.host.invalid:24: "),
        ("lmtp", "a:b:c", "neither host:port nor the path"),
        ("lmtp-unix", "/" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_a_destination_that_cannot_be_resolved_is_reported(start, kind, target, reason):
    agent = start(kind, target)
    result = agent.deliver(to("bob"))
    assert result.outcome is Outcome.DEFERRED and reason in result.text
    assert agent.process.wait(30) == 0


def test_at_the_limit_of_processes_lmtp_mail_is_delivered_by_one_worker(start, serve):
    if os.geteuid() != 0:
        pytest.skip("needs root: limits of another user")
    server = serve()
    agent = start("lmtp", server.target, limits=["RLIMIT_NPROC=0"])
    for number in range(1, 4):
        assert agent.deliver(to("bob", number)).outcome is Outcome.DELIVERED


def test_an_address_with_a_command_in_it_fails_alone(start, serve):
    server = serve()
    agent = start("lmtp", server.target)
    assert agent.deliver(to("bob> X=1", 1)).outcome is Outcome.FAILED
    assert agent.deliver(to("bob", 2, sender="amy>\r\nRCPT TO:<eve")).outcome is Outcome.FAILED
    assert server.mails == []


def test_a_packet_without_a_mail_ends_the_agent(start, serve):
    agent = start("lmtp", serve().target)
    agent.send(ReadForward(1))
    assert agent.process.wait(30) == EX_PROTOCOL


def test_the_time_for_the_answer_begins_when_the_mail_has_been_taken(serve, monkeypatch):
    """A server that reads slowly has as long for its answer as any other."""
    send, states = lmtp.LmtpConnection._send, {}

    def watched(connection, data):
        states[data[-5:]] = connection._client.state
        send(connection, data)

    monkeypatch.setattr(lmtp.LmtpConnection, "_send", watched)
    (result,) = executor(serve()).execute([(to("bob"), -1)])
    assert result.outcome is Outcome.DELIVERED, result
    (ending,) = [state for data, state in states.items() if data.endswith(b".\r\n")]
    assert ending is ClientState.CONTENT  # while the end of the mail is written


def test_a_mail_whose_recipients_were_all_refused_is_not_sent_again_over_a_new_connection(serve):
    server = serve(accepts={"carol": "550 5.1.1 no"}, extensions=("PIPELINING", "LIMITS MAILMAX=2"))
    worker = executor(server)
    list(worker.execute([(to("bob", 1), -1)]))
    (result,) = worker.execute([(to("carol", 2, message=78), -1)])
    assert result.outcome is Outcome.FAILED and server.connections == 1

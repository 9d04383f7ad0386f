"""Sessions of programs of this host: which users get one, what is different in it, and its limits."""

import asyncio
import os
import socket

import pytest

from smtpd.dispatcher.inbound.connection import CLOSE_TIMEOUT
from smtpd.imsg import ExpandRecipient, OpenSession, PauseListeners, ResolveClient, SessionOpened, SessionRefused
from tests.dispatcher.conftest import Client

UID = 1000


async def ask(harness, uid=UID):
    """The answer, and the socket that came with it."""
    before = len(harness.heard)
    harness.control.send(OpenSession(before, uid))
    await harness.until(lambda: len(harness.heard) > before)
    answer = harness.heard[-1]
    if isinstance(answer, SessionRefused):
        return answer, None
    assert isinstance(answer, SessionOpened)
    return answer, socket.socket(fileno=harness.handed.pop())


async def program(harness, uid=UID):
    _, sock = await ask(harness, uid)
    harness.clients.append(Client(*await asyncio.open_connection(sock=sock)))
    return harness.clients[-1]


def test_a_program_of_this_host_hands_in_a_mail(harness, capfd):
    async def scenario():
        client = await program(harness)
        await client.greet()
        assert (await client.mail(b"From: amy\r\nSubject: x\r\n\r\nhello\r\n")).startswith("250 2.0.0")
        await client.say("QUIT", "221")
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    content = harness.peers.stored[1].decode()
    first, by, *_ = content.splitlines()
    assert (first, by) == (
        "Received: from client.test (mx.test [local])",
        "\tby mx.test (smtpd) with ESMTPA id 00000001",
    )
    assert "\nFrom: amy@mx.test\n" in content and "\nDate: " in content and "\nMessage-ID: <" in content
    (expanded,) = [asked for asked in harness.peers.asked if isinstance(asked, ExpandRecipient)]
    assert (expanded.origin.address, expanded.origin.client, expanded.origin.tag) == ("local", "mx.test", "")
    assert not any(isinstance(asked, ResolveClient) for asked in harness.peers.asked)
    assert f"smtp connected address=local host=mx.test uid={UID}\n" in capfd.readouterr().err
    assert harness.statistics["smtp.session.local"] == 0


def test_what_the_sentence_says_holds_for_the_session(make_harness):
    harness = make_harness(socket_listener={"tag": "here", "mask_src": True, "no_dsn": True})

    async def scenario():
        client = await program(harness)
        await client.reply()
        assert "DSN" not in await client.say("EHLO client.test", "250")
        await client.mail()

    harness.run(scenario())
    assert harness.peers.stored[1].startswith(b"Received: by mx.test ")
    (expanded,) = [asked for asked in harness.peers.asked if isinstance(asked, ExpandRecipient)]
    assert expanded.origin.tag == "here"


def test_neither_rates_nor_a_greeting_delay_hold_it_back(make_harness):
    harness = make_harness(greet_delay=60, connection_rate=1, message_rate=1, failure_rate=1)

    async def scenario():
        for _ in range(3):
            client = await program(harness)
            await client.greet()
            assert (await client.mail()).startswith("250")
            await client.say("NONSENSE", "500")

    harness.run(scenario())


def test_a_user_has_as_many_sessions_as_an_address_and_no_more(make_harness, capfd):
    harness = make_harness(max_sessions_per_address=2)

    async def scenario():
        mine = [await program(harness) for _ in range(2)]
        refused, _ = await ask(harness)
        assert refused.reason == "too many sessions of this user"
        other = await program(harness, UID + 1)
        await other.greet()
        mine[0].writer.close()
        await harness.until(lambda: len(harness.connections) == 2)
        await (await program(harness)).greet()

    harness.run(scenario())
    assert f'smtp refused address=local uid={UID} reason="too many sessions of this user"' in capfd.readouterr().err


def test_all_users_together_have_no_more_sessions_than_there_are(make_harness):
    harness = make_harness(max_sessions=2)

    async def scenario():
        for uid in (1, 2):
            await program(harness, uid)
        refused, _ = await ask(harness, 3)
        assert refused.reason == "too many sessions"

    harness.run(scenario())


def test_a_refusal_costs_no_descriptor(make_harness):
    harness = make_harness(max_sessions_per_address=1)

    async def scenario():
        await program(harness)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            await ask(harness)
        assert len(os.listdir("/proc/self/fd")) == before

    harness.run(scenario())


def test_a_program_that_never_takes_its_session_leaves_nothing(harness):
    async def scenario():
        _, sock = await ask(harness)
        sock.close()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())


def test_paused_is_paused_for_programs_too(harness):
    async def scenario():
        harness.control.send(PauseListeners(1, True))
        await harness.until(lambda: harness.heard)
        assert (await ask(harness))[0].reason == "no new sessions for now"
        harness.control.send(PauseListeners(2, False))
        await (await program(harness)).greet()

    harness.run(scenario())


def test_a_stop_ends_a_session_that_has_just_been_opened(harness):
    async def scenario():
        _, sock = await ask(harness)
        harness.dispatcher.connections.shutdown()
        await harness.until(lambda: not harness.connections)
        sock.close()

    harness.run(scenario())


@pytest.mark.parametrize("hold", [(), (ExpandRecipient,)])
def test_what_was_said_before_the_end_of_file_is_answered(harness, hold):
    """As `sendmail -bs < dialogue` has it."""

    async def scenario():
        client = await program(harness)
        harness.peers.hold = set(hold)
        client.write(b"EHLO client.test\r\nMAIL FROM:<amy@there.test>\r\nRCPT TO:<bob@here.test>\r\n")
        client.writer.write_eof()
        if hold:
            await harness.until(lambda: harness.peers.held)
            await asyncio.sleep(0)
            harness.peers.release()
        said = (await client.reader.read()).decode().splitlines()
        assert [line[:4] for line in said if line[3] == " "] == ["220 ", "250 ", "250 ", "250 "]
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert len(harness.peers.forgotten) == 1


def test_a_silent_program_is_disconnected(make_harness):
    harness = make_harness(timeout=1)

    async def scenario():
        client = await program(harness)
        await client.greet()
        now = harness.loop.time()
        harness.dispatcher.connections.sweep(now + 10)
        assert (await client.reply()).startswith("421 4.4.2")
        client.writer.close()
        await harness.until(lambda: not harness.connections)
        assert harness.loop.time() - now < CLOSE_TIMEOUT / 2  # it is not waited for once it has left

    harness.run(scenario())

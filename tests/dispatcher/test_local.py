"""Sessions of this host's programs: who gets one, what is different in it, and what it can cost."""

import asyncio
import os
import socket

import pytest

from smtpd.dispatcher.connection import CLOSING
from smtpd.imsg import ExpandRecipient, OpenSession, PauseListeners, ResolveClient, SessionOpened, SessionRefused
from tests.dispatcher.conftest import Client

UID = 1000


async def ask(house, uid=UID):
    """The answer, and the socket that came with it."""
    before = len(house.heard)
    house.control.send(OpenSession(before, uid))
    await house.until(lambda: len(house.heard) > before)
    answer = house.heard[-1]
    if isinstance(answer, SessionRefused):
        return answer, None
    assert isinstance(answer, SessionOpened)
    return answer, socket.socket(fileno=house.handed.pop())


async def program(house, uid=UID):
    _, sock = await ask(house, uid)
    house.clients.append(Client(*await asyncio.open_connection(sock=sock)))
    return house.clients[-1]


def test_a_program_of_this_host_hands_in_a_mail(house, capfd):
    async def scenario():
        client = await program(house)
        await client.greet()
        assert (await client.mail(b"From: amy\r\nSubject: x\r\n\r\nhello\r\n")).startswith("250 2.0.0")
        await client.say("QUIT", "221")
        await house.until(lambda: not house.connections)

    house.run(scenario())
    content = house.others.stored[1].decode()
    first, by, *_ = content.splitlines()
    assert (first, by) == (
        "Received: from client.test (mx.test [local])",
        "\tby mx.test (smtpd) with ESMTPA id 00000001",
    )
    assert "\nFrom: amy@mx.test\n" in content and "\nDate: " in content and "\nMessage-ID: <" in content
    (expanded,) = [asked for asked in house.others.asked if isinstance(asked, ExpandRecipient)]
    assert (expanded.origin.address, expanded.origin.client, expanded.origin.tag) == ("local", "mx.test", "")
    assert not any(isinstance(asked, ResolveClient) for asked in house.others.asked)
    assert f"smtp connected address=local host=mx.test uid={UID}\n" in capfd.readouterr().err
    assert house.statistics["smtp.session.local"] == 0


def test_what_the_sentence_says_holds_for_the_session(make_house):
    house = make_house(socket_listener={"tag": "here", "mask_src": True, "no_dsn": True})

    async def scenario():
        client = await program(house)
        await client.reply()
        assert "DSN" not in await client.say("EHLO client.test", "250")
        await client.mail()

    house.run(scenario())
    assert house.others.stored[1].startswith(b"Received: by mx.test ")
    (expanded,) = [asked for asked in house.others.asked if isinstance(asked, ExpandRecipient)]
    assert expanded.origin.tag == "here"


def test_neither_rates_nor_a_greeting_delay_hold_it_back(make_house):
    house = make_house(greet_delay=60, connection_rate=1, message_rate=1, failure_rate=1)

    async def scenario():
        for _ in range(3):
            client = await program(house)
            await client.greet()
            assert (await client.mail()).startswith("250")
            await client.say("NONSENSE", "500")

    house.run(scenario())


def test_a_user_has_as_many_sessions_as_an_address_and_no_more(make_house, capfd):
    house = make_house(max_sessions_per_address=2)

    async def scenario():
        mine = [await program(house) for _ in range(2)]
        refused, _ = await ask(house)
        assert refused.reason == "too many sessions of this user"
        other = await program(house, UID + 1)
        await other.greet()
        mine[0].writer.close()
        await house.until(lambda: len(house.connections) == 2)
        await (await program(house)).greet()

    house.run(scenario())
    assert f'smtp refused address=local uid={UID} reason="too many sessions of this user"' in capfd.readouterr().err


def test_all_users_together_have_no_more_sessions_than_there_are(make_house):
    house = make_house(max_sessions=2)

    async def scenario():
        for uid in (1, 2):
            await program(house, uid)
        refused, _ = await ask(house, 3)
        assert refused.reason == "too many sessions"

    house.run(scenario())


def test_a_refusal_costs_no_descriptor(make_house):
    house = make_house(max_sessions_per_address=1)

    async def scenario():
        await program(house)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            await ask(house)
        assert len(os.listdir("/proc/self/fd")) == before

    house.run(scenario())


def test_who_never_takes_the_session_leaves_nothing(house):
    async def scenario():
        _, sock = await ask(house)
        sock.close()
        await house.until(lambda: not house.connections)

    house.run(scenario())


def test_paused_is_paused_for_programs_too(house):
    async def scenario():
        house.control.send(PauseListeners(1, True))
        await house.until(lambda: house.heard)
        assert (await ask(house))[0].reason == "no new sessions for now"
        house.control.send(PauseListeners(2, False))
        await (await program(house)).greet()

    house.run(scenario())


def test_a_stop_ends_a_session_that_has_just_been_opened(house):
    async def scenario():
        _, sock = await ask(house)
        house.dispatcher.crowd.shutdown()
        await house.until(lambda: not house.connections)
        sock.close()

    house.run(scenario())


@pytest.mark.parametrize("hold", [(), (ExpandRecipient,)])
def test_what_was_said_before_the_end_of_file_is_answered(house, hold):
    """As `sendmail -bs < dialogue` has it."""

    async def scenario():
        client = await program(house)
        house.others.hold = set(hold)
        client.write(b"EHLO client.test\r\nMAIL FROM:<amy@there.test>\r\nRCPT TO:<bob@here.test>\r\n")
        client.writer.write_eof()
        if hold:
            await house.until(lambda: house.others.held)
            await asyncio.sleep(0)
            house.others.release()
        said = (await client.reader.read()).decode().splitlines()
        assert [line[:4] for line in said if line[3] == " "] == ["220 ", "250 ", "250 ", "250 "]
        await house.until(lambda: not house.connections)

    house.run(scenario())
    assert len(house.others.forgotten) == 1


def test_one_that_is_silent_is_shown_out(make_house):
    house = make_house(timeout=1)

    async def scenario():
        client = await program(house)
        await client.greet()
        now = house.loop.time()
        house.dispatcher.crowd.sweep(now + 10)
        assert (await client.reply()).startswith("421 4.4.2")
        client.writer.close()
        await house.until(lambda: not house.connections)
        assert house.loop.time() - now < CLOSING / 2  # it is not waited for once it has left

    house.run(scenario())

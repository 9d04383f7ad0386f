"""The dialogues of the *.talk files beside this one."""

from dataclasses import replace
from pathlib import Path

import pytest

from smtpd.slice import Tls
from smtpd.smtp.question import Answer, TlsQuestion
from smtpd.tls.context import ServerContext
from tests.smtp.player import Conversation, Dialogue, dialogues, play_by_line, play_in_pieces
from tests.tls.world import Client, SigningService, chain, client_context, key, listener

TALKS = [
    pytest.param(dialogue, id=f"{path.stem}: {dialogue.name}")
    for path in sorted(Path(__file__).parent.glob("*.talk"))
    for dialogue in dialogues(path)
]


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


class Encrypted(Conversation):
    """Every byte passes a real TLS connection, each piece in a record of its own."""

    def __init__(self, options: dict[str, str], server: ServerContext):
        self.tls = Client(client_context(), server)
        self.shaken = options["tls"] == Tls.AT_ONCE
        if self.shaken:
            self.tls.shake()
        super().__init__(options)

    def feed(self, data: bytes) -> None:
        super().feed(self.tls.send(data) if self.shaken else data)

    def hear(self, data: bytes) -> None:
        if self.shaken:
            self.tls.link.write(data)
            data = self.tls.receive()
        super().hear(data)

    def answer(self, answer: Answer | None = None) -> None:
        if isinstance(self.open, TlsQuestion):
            self.tls.shake()
            self.shaken = True
        super().answer(answer)


@pytest.fixture(scope="module")
def server():
    signatory = SigningService(key("p256"))
    yield listener(signatory.signer, {"mx.here.test": chain("p256", "mx.here.test")})
    signatory.close()


def outcome(talk: Conversation):
    return talk.said, talk.logged, talk.closed, talk.stored, talk.forgotten, talk.asked, talk.failures


def check_end(talk: Conversation, dialogue: Dialogue) -> None:
    assert talk.closed == dialogue.closed
    assert [content.partition(b" (UTC)\n")[2] for content in talk.stored.values()] == dialogue.mails
    for line in dialogue.logged:
        assert any(logged.startswith(line) for logged in talk.logged), talk.logged


@pytest.mark.parametrize("dialogue", TALKS)
def test_dialogue(dialogue: Dialogue):
    check_end(play_by_line(dialogue), dialogue)


@pytest.mark.parametrize("dialogue", [talk for talk in TALKS if not {"tls", "auth"} & talk.values[0].options.keys()])
def test_the_same_behind_starttls(dialogue: Dialogue):
    talk = play_by_line(dialogue, encrypted=True)
    check_end(talk, dialogue)
    assert all(b" with ESMTPS id " in mail or b" with SMTP id " in mail for mail in talk.stored.values())


@pytest.mark.parametrize("dialogue", TALKS)
def test_the_same_in_groups_and_byte_by_byte(dialogue: Dialogue):
    expected = outcome(play_by_line(dialogue))
    assert outcome(play_in_pieces(dialogue, whole)) == expected
    assert outcome(play_in_pieces(dialogue, whole, eager=True)) == expected
    assert outcome(play_in_pieces(dialogue, bytewise)) == expected
    assert outcome(play_in_pieces(dialogue, bytewise, eager=True)) == expected


@pytest.mark.parametrize("dialogue", TALKS)
def test_the_same_cut_at_each_position(dialogue: Dialogue):
    expected = outcome(play_by_line(dialogue))
    for position in range(1, max(len(group.data) for group in dialogue.groups())):
        cut = play_in_pieces(dialogue, lambda data, at=position: [data[:at], data[at:]])
        assert outcome(cut) == expected


@pytest.mark.parametrize("dialogue", TALKS)
def test_the_same_over_tls(dialogue: Dialogue, server: ServerContext):
    """Where the listener has none, as if it were one with smtps."""
    dialogue = replace(dialogue, options={"tls": "smtps"} | dialogue.options)
    expected = outcome(play_in_pieces(dialogue, whole))
    assert outcome(play_in_pieces(dialogue, whole, talk=Encrypted(dialogue.options, server))) == expected
    assert outcome(play_in_pieces(dialogue, bytewise, talk=Encrypted(dialogue.options, server))) == expected

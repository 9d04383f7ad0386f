"""The dialogues of client/*.talk: each whole, byte by byte, and cut at each position of what the server says."""

from pathlib import Path

import pytest

from smtpd.smtp.client_state import REPLY_TIMEOUT, TRANSITIONS, ClientState
from tests.smtp.client_player import WatchedClient, dialogues, play, play_refused_chunk

ALL = [dialogue for path in sorted((Path(__file__).parent / "client").glob("*.talk")) for dialogue in dialogues(path)]
TALKS = [
    pytest.param(dialogue, id=f"{path.stem}: {dialogue.name}")
    for path in sorted((Path(__file__).parent / "client").glob("*.talk"))
    for dialogue in dialogues(path)
]


@pytest.mark.parametrize("dialogue", TALKS)
def test_dialogue(dialogue):
    play(dialogue, lambda data: [data])


@pytest.mark.parametrize("dialogue", TALKS)
def test_the_same_byte_by_byte(dialogue):
    play(dialogue, lambda data: [data[n : n + 1] for n in range(len(data))], piece=1)


@pytest.mark.parametrize("dialogue", TALKS)
def test_the_same_cut_at_each_position(dialogue):
    for position in range(1, max(len(turn.fed) for turn in dialogue.turns)):
        play(dialogue, lambda data, at=position: [data[:at], data[at:]], piece=1 + position % 5)


def test_the_dialogues_take_each_transition():
    WatchedClient.taken.clear()
    for dialogue in ALL:
        play(dialogue, lambda data: [data])
    play_refused_chunk(b"452 4.3.1 no space\r\n")
    possible = {(before, after) for before, followers in TRANSITIONS.items() for after in followers}
    assert WatchedClient.taken == possible


def test_every_state_has_its_transitions_and_each_that_waits_its_timeout():
    assert set(TRANSITIONS) == set(ClientState)
    assert set(REPLY_TIMEOUT) == set(ClientState) - {ClientState.READY, ClientState.INSPECT, ClientState.OVER}

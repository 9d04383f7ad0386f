"""The relay room, with limits and addresses as a test wants them."""

import pytest

from tests.relay.play import Play


@pytest.fixture
def play():
    return Play()

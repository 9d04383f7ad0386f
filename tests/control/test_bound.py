"""How many clients may be there, of whom, and how much of what they send is read."""

import os

import pytest

from smtpd.control import client as clients
from smtpd.control.client import PER_UID, UNPRIVILEGED_MAX
from smtpd.imsg import OpenContent
from tests.control.test_client import is_closed, works

US = os.getuid()


class Kernel:
    """Says whose the next connections are."""

    def __init__(self):
        self.uid = US

    def __call__(self, _sock):
        return self.uid


@pytest.fixture
def kernel(house, monkeypatch):
    made = Kernel()
    monkeypatch.setattr(clients, "UNPRIVILEGED_TIMEOUT", 3600.0)  # on a busy machine all of this takes longer
    monkeypatch.setattr(clients, "uid_of", made)
    return made


def fill(house, kernel, limit):
    """Strangers, as many of each user as may be, until there are so many; the next ones are closed."""
    for there in range(0, limit, PER_UID):
        kernel.uid += 1
        for _ in range(min(PER_UID, limit - there)):
            house.connect()
        house.until(lambda there=there: house.here() == min(there + PER_UID, limit))
    kernel.uid += 1
    assert all(is_closed(house.connect()) for _ in range(3))
    assert house.here() == limit


def test_an_administrator_is_served_while_the_clients_of_other_users_fill_their_limit(house, kernel):
    assert UNPRIVILEGED_MAX == 128
    fill(house, kernel, UNPRIVILEGED_MAX)
    kernel.uid = US
    assert works(house)


@pytest.mark.parametrize("most", [40, 41, 100])
def test_half_of_scarce_descriptors_is_kept_for_administrators(house, kernel, most):
    house.control.clients._most = most
    fill(house, kernel, most // 2)
    kernel.uid = US
    for _ in range(min(PER_UID, most - most // 2)):
        house.connect()
    house.until(lambda: house.here() == most // 2 + min(PER_UID, most - most // 2))


def test_a_client_is_not_read_while_its_question_waits(house):
    """What it sends meanwhile stays in its socket: it would be kept, and there is no end to it."""
    asked = []
    house.answers[OpenContent] = lambda channel, imsg: asked.append((channel, imsg))
    tool = house.client()
    tool.send(OpenContent(1, 5))
    house.until(lambda: asked)
    (client,) = house.control.clients.here
    house.until(lambda: not client._reading)
    tool.channel.sock.setblocking(False)
    sent = 0
    while tool.channel.flush() and sent < 100_000:
        for _ in range(100):
            tool.channel.send(OpenContent(2 + sent, 5))
        sent += 100
    assert sent < 100_000
    assert not client._waiting
    assert works(house)
    assert len(asked) == 1 and not client._waiting

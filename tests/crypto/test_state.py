"""What crypto does with a key that comes by descriptor."""

import asyncio
import os
import socket

import pytest

from smtpd.crypto.state import Crypto
from smtpd.imsg import TABLE, TakeKey
from smtpd.ipc.channel import Channel
from tests.tls.world import key, key_pem


@pytest.mark.parametrize("content", [key_pem(key("p256")), b"garbage"], ids=["a key", "garbage"])
def test_the_descriptor_of_a_key_is_closed_once_it_was_read(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    loop, (ours, theirs) = asyncio.new_event_loop(), socket.socketpair()
    channel = Channel(ours, TABLE, "crypto", "parent")
    Crypto(loop, channel, []).take_key(channel, TakeKey("mx.here.test"), descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)
    channel.close()
    theirs.close()
    loop.close()

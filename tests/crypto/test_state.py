"""What crypto does with imsgs: keys that come by descriptor, what control asks."""

import os
import socket

import pytest

from smtpd.crypto import process
from smtpd.crypto.signing_thread import ECDSA_COUNTER, REFUSED_COUNTER, RSA_COUNTER
from smtpd.crypto.state import Crypto
from smtpd.imsg import TABLE, DropCertificates, KeyTaken, ReportStatistics, SetVerbose, StatisticsReported, TakeKey
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from tests.tls.world import key, key_pem, packets, private_key


@pytest.fixture
def ends():
    """Channels of crypto to its parent and to control, each with its far end."""
    made = {}
    for peer in ("parent", "control"):
        ours, theirs = socket.socketpair()
        made[peer] = Channel(ours, TABLE, "crypto", peer), Channel(theirs, TABLE, peer, "crypto")
    yield made
    for pair in made.values():
        for channel in pair:
            channel.close()


@pytest.fixture
def crypto(ends):
    loop, pairs = SelectorLoop(), [packets() for _ in range(2)]
    yield Crypto(loop, ends["parent"][0], [(number, sock) for number, (sock, _) in enumerate(pairs)])
    for pair in pairs:
        for sock in pair:
            sock.close()
    loop.close()


@pytest.fixture
def tell(crypto, ends):
    """tell(peer, imsg, descriptor): what the peer hears."""

    def tell(peer, imsg, descriptor=None):
        near, far = ends[peer]
        getattr(process, f"from_{peer}")(crypto, near, imsg, descriptor)
        assert near.flush()
        return [answer for answer, _ in far.receive()]

    return tell


@pytest.mark.parametrize("content", [key_pem(key("p256")), b"garbage"], ids=["a key", "garbage"])
def test_the_descriptor_of_a_key_is_closed_once_it_was_read(tmp_path, tell, crypto, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    (taken,) = tell("parent", TakeKey("mx.here.test"), descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)
    if content == b"garbage":
        assert taken == KeyTaken("mx.here.test", "", "no private key in the file") and not crypto.keyring.keys
    else:
        public = private_key(content).public
        assert taken == KeyTaken("mx.here.test", public.hex(), "") and crypto.keyring.keys.keys() == {public}


def test_a_key_of_a_round_that_the_parent_refuses_is_forgotten(tmp_path, tell, crypto):
    path = tmp_path / "key"
    path.write_bytes(key_pem(key("p256")))
    tell("parent", TakeKey("mx.here.test"), os.open(path, os.O_RDONLY))
    assert crypto.keyring.keys
    assert tell("parent", DropCertificates()) == []
    assert not crypto.keyring.keys


def test_signatures_of_all_dispatchers_are_reported_together(tell, crypto):
    for thread, counted in zip(crypto._signing_threads, ((1, 2, 0), (10, 0, 5)), strict=True):
        thread.statistics.update(dict(zip((RSA_COUNTER, ECDSA_COUNTER, REFUSED_COUNTER), counted, strict=True)))
    counters = {RSA_COUNTER: 11, ECDSA_COUNTER: 2, REFUSED_COUNTER: 5}
    assert tell("control", ReportStatistics(7)) == [StatisticsReported(7, counters)]


def test_debug_lines_are_logged_as_control_says(tell, monkeypatch):
    monkeypatch.setattr(log, "verbose", False)
    for verbose in (True, False):
        tell("control", SetVerbose(verbose))
        assert log.verbose is verbose


@pytest.mark.parametrize("peer", ["parent", "control"])
def test_any_other_imsg_is_fatal(tell, peer):
    with pytest.raises(Violation, match=f"unexpected KeyTaken from {peer}"):
        tell(peer, KeyTaken("mx.here.test", "", ""))

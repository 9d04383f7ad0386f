"""Desks sign in threads of their own, with keys that the loop takes and forgets meanwhile."""

import threading
from collections import Counter
from types import SimpleNamespace

from smtpd.crypto.state import Crypto
from smtpd.imsg import ReportStatistics
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.tls import signing
from smtpd.tls.signing import SIGNING_SOCKETS, Operation, Signer, SigningFailed
from tests.stress import WAIT_MAX, hasty_threads, join, rounds, run_until_stopped
from tests.tls.world import key, key_pem, packets, private_key

DIGEST = bytes(32)


def test_hand_over_signatures_keys_and_complaints(monkeypatch):
    """A key that is there signs, one that is not is refused, each thread gets its own answer, and what a thread has to
    complain of reaches the loop."""
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", WAIT_MAX)
    loop = SelectorLoop()
    steady, changing = (private_key(key_pem(key("p256", number))) for number in range(2))
    broken = SimpleNamespace(rsa=False, bits=256, sign=lambda *_: 1 / 0)
    pairs = [packets() for _ in range(SIGNING_SOCKETS)]
    complaints, sums, troubles = [], [], []
    monkeypatch.setattr(log, "warn", complaints.append)
    channel = SimpleNamespace(send=lambda imsg: sums.append(imsg.counters))
    crypto = Crypto(loop, channel, [(number, theirs) for number, (_, theirs) in enumerate(pairs)])
    keys = crypto.keyring.keys
    keys[steady.public], keys[b"?" * 32] = steady, broken
    crypto.begin()
    signer = Signer([ours for ours, _ in pairs])
    counted = Counter()

    def ask():
        try:
            for number in range(10):
                assert signer.sign(steady.public, Operation.ECDSA, DIGEST)
                for public in (changing.public, b"?" * 32) if number % 5 == 0 else ():
                    try:
                        signer.sign(public, Operation.ECDSA, DIGEST)
                    except SigningFailed as failed:
                        assert str(failed) == "no such key"
        except BaseException as error:
            troubles.append(error)

    def change():
        if changing.public in keys:
            del keys[changing.public]
        else:
            keys[changing.public] = changing
        crypto.report(channel, ReportStatistics(1))

    with hasty_threads():
        for _ in rounds(3):
            before, asked = len(complaints), 2 * 2 * SIGNING_SOCKETS
            threads = [threading.Thread(target=ask, daemon=True) for _ in range(2 * SIGNING_SOCKETS)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                change()
            join(threads)
            loop.call_soon(loop.stop)
            run_until_stopped(loop)
            assert len(complaints) - before == asked
            crypto.report(channel, ReportStatistics(1))
            counted["asked"] += 2 * SIGNING_SOCKETS * 10
            assert sums.pop()["crypto.signature.ecdsa"] >= counted["asked"]
            sums.clear()
    assert troubles == []
    for ours, _ in pairs:
        ours.close()
    loop.close()

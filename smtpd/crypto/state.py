"""State of the crypto process, and the answers to the imsgs of parent and control."""

import os
import socket
from collections import Counter

from smtpd.crypto.keyring import Keyring
from smtpd.crypto.signing_thread import SigningThread
from smtpd.envelope import Text
from smtpd.imsg import KeyTaken, ReportStatistics, SetVerbose, StatisticsReported, TakeKey
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.channel_set import die
from smtpd.ipc.event_loop import EventLoop
from smtpd.ipc.log import log
from smtpd.ipc.text_limit import fit_text
from smtpd.tls.openssl_library import TlsUnusable


class Crypto:
    """`signing`: the sockets to sign by, and of which dispatcher they are."""

    def __init__(self, loop: EventLoop, parent: Channel, signing: list[tuple[int, socket.socket]]):
        self.loop, self._parent = loop, parent
        self.keyring = Keyring(loop.call_later)
        self._signing_threads = [self._signing_thread(number, sock) for number, sock in signing]

    def _signing_thread(self, number: int, sock: socket.socket) -> SigningThread:
        name = f"dispatcher {number}".removesuffix(" 0")

        def violated(text: str) -> None:
            self.loop.call_soon_threadsafe(die, self._parent, Violation(f"{name} sent {text}"))

        def failed(text: str) -> None:
            self.loop.call_soon_threadsafe(log.warn, text)

        return SigningThread(sock, self.keyring.keys, violated, failed)

    def begin(self) -> None:
        for signing_thread in self._signing_threads:
            signing_thread.start()

    def take_key(self, channel: Channel, imsg: TakeKey, descriptor: int) -> None:
        try:
            channel.send(KeyTaken(imsg.pki, self.keyring.take(descriptor).hex(), ""))
        except TlsUnusable as error:
            channel.send(KeyTaken(imsg.pki, "", fit_text(Text, str(error))))
        finally:
            os.close(descriptor)

    def report(self, channel: Channel, imsg: ReportStatistics) -> None:
        counters: Counter[str] = Counter()
        for signing_thread in self._signing_threads:
            counters += signing_thread.statistics
        channel.send(StatisticsReported(imsg.request, dict(counters)))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose

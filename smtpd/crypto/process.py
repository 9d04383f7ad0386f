"""crypto -- holds private keys, and signs with them for those who have none.

    control --ReportStatistics, SetVerbose--> crypto

SECURITY
    Reads nothing from outside.  Taken over, it gives away the keys that it was handed, which are none yet, and signs
    what it should not.  It sees no mail, no file and no network.
"""

from collections import Counter

from smtpd import sandbox
from smtpd.config.slice import CryptoSlice
from smtpd.imsg import Begin, ReportStatistics, SetVerbose, StatisticsReported, Stop
from smtpd.ipc import boot
from smtpd.ipc.log import log
from smtpd.ipc.loop import connect, prepare, unexpected

USER, CHROOT = "_smtpc", "empty"
PLEDGE = "stdio"


class Crypto:
    def __init__(self, loop):
        self.loop = loop
        self.statistics: Counter[str] = Counter()

    def begin(self) -> None:
        """Nothing waits for it."""

    def report(self, channel, imsg: ReportStatistics) -> None:
        channel.send(StatisticsReported(imsg.request, dict(self.statistics)))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose


def main() -> None:
    handed = boot.receive("crypto", CryptoSlice)
    loop = prepare()
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, required=handed.configure.sandbox_required)
    handed.entered(held)
    connect(loop, handed.peers, {"control": from_control, "parent": from_parent}, Crypto(loop))
    loop.run_forever()


def from_parent(crypto, channel, imsg, descriptor):
    match imsg:
        case Begin():
            crypto.begin()
        case Stop():
            crypto.loop.stop()
        case _:
            unexpected("parent", imsg)


def from_control(crypto, channel, imsg, descriptor):
    match imsg:
        case ReportStatistics():
            crypto.report(channel, imsg)
        case SetVerbose():
            crypto.set_verbose(imsg)
        case _:
            unexpected("control", imsg)

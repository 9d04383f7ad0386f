"""crypto -- holds the private keys, and signs with them for the dispatchers.

    parent --TakeKey, a descriptor--> crypto --KeyTaken--> parent --UseTakenKeys, DropCertificates--> crypto
    dispatcher --a digest--> a thread of its own (tls/signing.py) --a signature--> dispatcher
    control --ReportStatistics, SetVerbose--> crypto

SECURITY
    Reads digests to sign, from dispatchers, which talk to the network; and key files, as descriptors the parent has
    opened and not read.  It sees no mail, no other file and no network.  Taken over, it gives away its keys.

    A dispatcher that was taken over can have handshakes signed as long as it lives: it can impersonate this server to
    the clients that it reaches.  A signature for one handshake cannot be used in another.  But the dispatcher chooses
    the digest, so it can be the digest of anything else that this key may sign: a key that is here must have no other
    use.  The dispatcher gets no key and can have nothing decrypted: no operation decrypts, and only a block in the form
    of a signature is signed (request_check.py).  Recorded sessions stay secret anyway, as RSA key exchange is never
    offered.  A request of another form ends the daemon.
"""

from smtpd import boot, sandbox
from smtpd.crypto.state import Crypto
from smtpd.imsg import Begin, DropCertificates, ReportStatistics, SetVerbose, Stop, TakeKey, UseTakenKeys
from smtpd.ipc.channel import Channel, owned, unexpected
from smtpd.ipc.channel_set import connect
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.slice import CryptoSlice

USER, CHROOT = "_smtpc", "empty"
PLEDGE = "stdio recvfd"


def main() -> None:
    handed = boot.receive("crypto", CryptoSlice)
    loop = SelectorLoop()
    held = sandbox.enter(USER, handed.root(CHROOT), PLEDGE, required=handed.configure.sandbox_required)
    handed.entered(held)
    crypto = Crypto(loop, handed.parent, handed.signing)
    connect(loop, handed.peers, {"control": from_control, "parent": from_parent}, crypto)
    loop.run_forever()


def from_parent(crypto: Crypto, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case TakeKey():
            crypto.take_key(channel, imsg, owned(descriptor))
        case UseTakenKeys():
            crypto.keyring.use_taken()
        case DropCertificates():
            crypto.keyring.drop()
        case Begin():
            crypto.begin()
        case Stop():
            crypto.loop.stop()
        case _:
            unexpected("parent", imsg)


def from_control(crypto: Crypto, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case ReportStatistics():
            crypto.report(channel, imsg)
        case SetVerbose():
            crypto.set_verbose(imsg)
        case _:
            unexpected("control", imsg)

"""crypto -- holds private keys, and signs with them for those who have none.

    parent --TakeKey, a descriptor--> crypto --KeyTaken--> parent --UseTakenKeys, DropCertificates--> crypto
    dispatcher --a digest--> a desk of its own, a thread (tls/signing.py) --a signature--> dispatcher
    control --ReportStatistics, SetVerbose--> crypto

SECURITY
    Reads digests to sign, from dispatchers, who talk to everybody; and key files, from the parent, unread until then.
    It sees no mail, no file of others and no network.  Taken over, it gives away its keys.

    A dispatcher that was taken over can have handshakes signed as long as it lives: it can be this server to whoever
    it reaches.  A signature for one handshake is of no use in another; but the digest is of its own choice, so it can
    be that of anything else that this key may say: a key that is here is to be used for nothing else.  It gets no
    key, and decrypts nothing: no operation does, and no block is signed that is not in the form of a signature
    (request.py).  What had been recorded stays secret anyhow, as RSA key exchange is not even offered where the
    configuration asks for it.  A request of another form ends the daemon.
"""

from smtpd import boot, sandbox
from smtpd.crypto.state import Crypto
from smtpd.imsg import Begin, DropCertificates, ReportStatistics, SetVerbose, Stop, TakeKey, UseTakenKeys
from smtpd.ipc.channel import Channel, owned
from smtpd.ipc.loop import connect, prepare, unexpected
from smtpd.slice import CryptoSlice

USER, CHROOT = "_smtpc", "empty"
PLEDGE = "stdio recvfd"


def main() -> None:
    handed = boot.receive("crypto", CryptoSlice)
    loop = prepare()
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

"""The process as the parent starts it, in its sandbox, with keys that come by descriptor."""

import os
import pwd
import select
import socket
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from smtpd.imsg import (
    TABLE,
    Begin,
    Configure,
    EnterSandbox,
    KeyTaken,
    SandboxEntered,
    Stop,
    TakeKey,
    TakeSigningSocket,
    UseTakenKeys,
)
from smtpd.ipc.channel import Channel
from smtpd.parent.start import spawn
from smtpd.slice import CryptoSlice
from smtpd.tls.signing import Operation, Signer, SigningFailed
from tests.crypto.test_request_check import DIGEST_INFO, pss_block
from tests.tls.world import chain, key, key_pem, packets


def has_user():
    try:
        pwd.getpwnam("_smtpc")
    except KeyError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and not has_user(), reason="as root it becomes _smtpc, who is missing"
)

DEADLINE = 10.0

# As the parent, who has denied himself and his children some things, before they make a loop.
CRYPTO = """
import os, sys
from smtpd import sandbox
sandbox.deny()
os.dup2(int(sys.argv[1]), 3)
from smtpd.crypto.process import main
main()
"""


class Process:
    def __init__(self, folder, log):
        self.folder = folder
        ours, theirs = spawn.pair()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-P", "-c", CRYPTO, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.channel = Channel(ours, TABLE, "parent", "crypto")
        sliced = msgspec.msgpack.encode(CryptoSlice())
        self.say(Configure(0, sliced, empty=str(folder), spool="", sandbox_required=False, verbose=False))
        self.sockets = []
        for number in (1, 1, 2):
            ours, theirs = packets()
            self.sockets.append(ours)
            self.say(TakeSigningSocket(number), theirs.detach())
        self.say(EnterSandbox())
        self.signer = Signer(self.sockets[:2])

    def say(self, imsg, descriptor=None):
        self.channel.send(imsg, descriptor)
        assert self.channel.flush()

    def hear(self):
        """The next imsg."""
        assert select.select([self.channel.fileno()], [], [], DEADLINE)[0]
        ((imsg, _),) = self.channel.receive()
        return imsg

    def take_key(self, pki, content):
        path = self.folder / "key"
        path.write_bytes(content)
        self.say(TakeKey(pki), os.open(path, os.O_RDONLY))
        return self.hear()

    def end(self):
        """How it ended."""
        return self.process.wait(DEADLINE)


@pytest.fixture
def log(tmp_path_factory):
    with open(tmp_path_factory.mktemp("log") / "log", "w+") as file:
        yield file


@pytest.fixture
def crypto(tmp_path, log):
    process = Process(tmp_path, log)
    yield process
    process.process.kill()
    process.process.wait()
    process.channel.close()
    for sock in process.sockets:
        sock.close()


def test_keys_come_and_are_used_and_go(crypto, log):
    entered = crypto.hear()
    assert isinstance(entered, SandboxEntered)
    assert "seccomp stdio recvfd" in entered.held
    assert not [line for line in entered.missing if "memory" in line]
    taken = crypto.take_key("a.test", key_pem(key("rsa2048")))
    assert taken.trouble == ""
    rsa = bytes.fromhex(taken.public)
    crypto.say(UseTakenKeys())
    crypto.say(Begin())
    public = key("rsa2048").public_key()
    signature = crypto.signer.sign(rsa, Operation.RSA_PKCS1, DIGEST_INFO)
    public.verify(signature, bytes(32), padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    signature = crypto.signer.sign(rsa, Operation.RSA_PSS, pss_block(key("rsa2048")))
    public.verify(signature, b"a handshake", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    # Other keys, while it runs and signs.
    taken = crypto.take_key("a.test", key_pem(key("p256")))
    ecdsa = bytes.fromhex(taken.public)
    crypto.say(UseTakenKeys())
    for operation, name, data in [(Operation.ECDSA, ecdsa, bytes(32)), (Operation.RSA_PKCS1, rsa, DIGEST_INFO)]:
        assert crypto.signer.sign(name, operation, data)
    signature = Signer(crypto.sockets[2:]).sign(ecdsa, Operation.ECDSA, bytes(32))
    key("p256").public_key().verify(signature, bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    with pytest.raises(SigningFailed, match="no such key"):
        crypto.signer.sign(bytes(32), Operation.ECDSA, bytes(32))
    crypto.say(Stop())
    assert crypto.end() == 0
    log.seek(0)
    assert log.read() == ""


@pytest.mark.parametrize(
    "content, trouble",
    [
        (b"", "no private key in the file"),
        (b"x" * 70_000, "the file of the key is too large"),
        (lambda: chain("p256", "a.test"), "no private key in the file"),
    ],
)
def test_a_file_without_a_key_is_reported_and_the_process_goes_on(crypto, content, trouble):
    crypto.hear()
    taken = crypto.take_key("a.test", content if isinstance(content, bytes) else content())
    assert taken == KeyTaken("a.test", "", trouble)
    assert crypto.take_key("a.test", key_pem(key("p256"))).trouble == ""


def test_a_dispatcher_that_wants_something_decrypted_ends_the_daemon(crypto, log):
    crypto.hear()
    public = bytes.fromhex(crypto.take_key("a.test", key_pem(key("rsa2048"))).public)
    crypto.say(Begin())
    secret = key("rsa2048").public_key().encrypt(b"premaster", padding.PKCS1v15())
    with pytest.raises(SigningFailed):
        crypto.signer.sign(public, Operation.RSA_PSS, secret)
    assert crypto.end() == 1
    log.seek(0)
    assert log.read() == "warn: fatal: dispatcher 1 sent a request that no handshake makes: RSA_PSS of 256 bytes\n"


@pytest.mark.parametrize("packet", [b"x", b"\0" * 37, bytes(4096), b"\0" * 4 + b"\x04" + bytes(64)], ids=len)
def test_a_packet_that_is_no_request_ends_the_daemon(crypto, log, packet):
    crypto.hear()
    crypto.say(Begin())
    crypto.sockets[2].send(packet)
    assert crypto.end() == 1
    log.seek(0)
    assert log.read().startswith("warn: fatal: dispatcher 2 sent a request for a signature: ")


def test_a_dispatcher_that_goes_is_left_to_the_parent(crypto):
    crypto.hear()
    crypto.take_key("a.test", key_pem(key("p256")))
    crypto.say(Begin())
    for sock in crypto.sockets[:2]:
        sock.shutdown(socket.SHUT_RDWR)
    taken = crypto.take_key("a.test", key_pem(key("p256")))
    assert Signer(crypto.sockets[2:]).sign(bytes.fromhex(taken.public), Operation.ECDSA, bytes(32))

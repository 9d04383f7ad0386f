"""Contexts made and handshakes shaken under a dispatcher's promises, where no callback can be made any more."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.tls.world import chain

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the promises are Linux's")

DISPATCHER = """
    import socket, ssl, sys
    from concurrent.futures import ThreadPoolExecutor
    from smtpd import sandbox
    from smtpd.slice import Tls
    from smtpd.slice import TlsSlice
    from smtpd.tls.context import Authorities, Certificate, make_context
    from smtpd.tls.connection import TlsConnection
    from smtpd.tls.signing import Signer

    empty, numbers = sys.argv[1], [int(number) for number in sys.argv[2:]]
    pem = sys.stdin.buffer.read()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    sandbox.deny()
    ids = sandbox.Ids(64001, 64001)
    held = sandbox.enter(ids, empty, "stdio inet recvfd")
    print(*[line for line in held if "memory" in line or line.startswith("seccomp")])

    signer = Signer([socket.socket(fileno=number) for number in numbers])

    def shake(number):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = client.wrap_bio(incoming, outgoing, server_hostname="b.test" if number % 2 else "a.test")
        link = TlsConnection(server)
        for _ in range(2):
            try:
                connection.do_handshake()
            except ssl.SSLWantReadError:
                pass
            link.feed(outgoing.read())
            done = link.step()
            incoming.write(link.take_output())
        link.close()
        return done and link.facts.version

    for reload in range(3):
        certificates = {"a.test": Certificate.read(pem), "b.test": Certificate.read(pem)}
        tls = TlsSlice(Tls.OFFERED, ("a.test", "b.test"), ca="clients")
        server = make_context(tls, certificates, Authorities.read(pem), {}, signer)
        with ThreadPoolExecutor(4) as threads:
            print(*set(threads.map(shake, range(20))))
"""


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_handshakes_under_the_promises_of_a_dispatcher(signatory, tmp_path, kind):
    numbers = [os.dup(sock.fileno()) for sock in signatory.sockets]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-P", "-c", textwrap.dedent(DISPATCHER), str(tmp_path), *map(str, numbers)],
            input=chain(kind, "a.test"),
            capture_output=True,
            pass_fds=numbers,
            timeout=30,
        )
    finally:
        for number in numbers:
            os.close(number)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode().splitlines() == ["seccomp stdio inet recvfd", *["TLSv1.3"] * 3]

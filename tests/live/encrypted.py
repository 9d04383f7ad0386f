"""A client of TLS whose bytes the test has in its hands: what is sent, when, and in which pieces.

    client = Client(port)         banner, EHLO, STARTTLS, then     client.shake()
    client = Client(port, smtps=True)                              the same at once

`say` and `reply` are in the clear before that and encrypted after it.
"""

import contextlib
import socket
import ssl

from cryptography import x509

from tests.live.certificate import Authority, key_pem
from tests.live.conftest import Daemon, started

CONF = """
pki mx.here.test cert "{{directory}}/mx.crt"
pki mx.here.test key "{{directory}}/mx.key"
listen on 127.0.0.1 port {{port}} tls pki mx.here.test
listen on 127.0.0.1 port {smtps} smtps pki mx.here.test
action "local" maildir
match from any for domain "here.test" action "local"
"""


@contextlib.contextmanager
def tls_daemon(ground, smtps):
    """With STARTTLS on its port, and TLS at once on the port `smtps`."""
    daemon = Daemon(ground, CONF.format(smtps=smtps))
    Authority("here").issue("mx.here.test").write(daemon.directory, "mx")
    with started(daemon):
        yield daemon


def careless():
    """Trusts everybody: for tests in which nobody asks whose certificate it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def showing(identity, directory):
    """A context with a certificate of the client's own."""
    context = careless()
    path = directory / f"shown-{identity.serial}.pem"
    path.write_bytes(key_pem(identity.key) + identity.chain)
    context.load_cert_chain(path)
    return context


def serial_of(client):
    """Of the certificate that it was shown."""
    return x509.load_der_x509_certificate(client.tls.getpeercert(binary_form=True)).serial_number


class Client:
    def __init__(self, port, *, smtps=False, context=None, name="mx.here.test", timeout=20, session=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or careless()).wrap_bio(self._in, self._out, server_hostname=name, session=session)
        self.was_closed = False  # by the server's close_notify
        self._shaken = False
        self._text = b""
        if smtps:
            self.shake()
            self.reply()
        else:
            self.reply()
            self.command("EHLO client.test")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    # -- the handshake --------------------------------------------------------------

    def starttls(self):
        assert self.command("STARTTLS").startswith("220")
        return self.shake()

    def shake(self):
        """Raises ssl.SSLError or ConnectionError where the server will not."""
        while not self._shaken:
            try:
                self.tls.do_handshake()
                self._shaken = True
            except ssl.SSLWantReadError:
                self.socket.sendall(self._out.read())
                if not self._receive():
                    raise ConnectionError("closed during the handshake") from None
        self.socket.sendall(self._out.read())
        return self

    def hello(self):
        """The client's first flight, not sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    # -- bytes ------------------------------------------------------------------------

    def records(self, data):
        """`data` encrypted, not sent."""
        self.tls.write(data)
        return self._out.read()

    def close_notify(self):
        """Not sent either.  Nothing can be encrypted afterwards."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self._out.read()

    def send(self, raw):
        self.socket.sendall(raw)

    def say(self, data):
        self.send(self.records(data) if self._shaken else data)

    def _receive(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return b""
        self._in.write(data)
        return data

    def _read_more(self):
        """False at the end of the connection, however it ends."""
        if not self._shaken:
            data = self._receive()
            self._in.read()
            self._text += data
            return bool(data)
        while True:
            try:
                plain = self.tls.read(65536)
                self._text += plain
                self.was_closed = not plain
                return bool(plain)
            except ssl.SSLWantReadError:
                if not self._receive():
                    return False
            except ssl.SSLZeroReturnError:  # after both have said it
                self.was_closed = True
                return False
            except ssl.SSLError:
                return False

    # -- SMTP ---------------------------------------------------------------------------

    def reply(self):
        """All lines of the next one; empty at the end."""
        lines = []
        while not lines or lines[-1][3:4] == "-":
            while b"\n" not in self._text:
                if not self._read_more():
                    return ""
            line, _, self._text = self._text.partition(b"\n")
            lines.append(line.decode().rstrip("\r"))
        return "\n".join(lines)

    def command(self, line):
        self.say(line.encode() + b"\r\n")
        return self.reply()

    def begin_mail(self, *recipients, sender="amy@there.test"):
        """Up to the recipients."""
        for line in ("EHLO client.test", f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients)):
            answer = self.command(line)
            assert answer.startswith("250"), f"{line}: {answer}"
        return self

    def rest(self):
        """Everything up to the end of the connection."""
        while self._read_more():
            pass
        return self._text

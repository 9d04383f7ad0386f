"""A host that takes our mail: aiosmtpd, which keeps what comes, and refuses what the address of a recipient says.

nobody@   550 to RCPT      full@   452 to RCPT      wait@   451 to the content      spam@   554 to the content
"""

import contextlib
import ssl
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509

from tests.unique import free_port

USER, PASSWORD = "amy", "correct horse"
AT_RCPT = {"nobody": "550 5.1.1 no such user", "full": "452 4.2.2 mailbox full"}
AT_DATA = {"wait": "451 4.7.1 try again later", "spam": "554 5.7.1 not wanted here"}


class Kept:
    """A mail, and the connection over which it came."""

    def __init__(self, server, session, envelope):
        self.sender, self.recipients = envelope.mail_from, list(envelope.rcpt_tos)
        self.options, self.content = list(envelope.mail_options), envelope.original_content
        self.peer = session.peer
        tls = server.transport.get_extra_info("ssl_object")
        self.encrypted = tls is not None
        shown = tls and tls.getpeercert(binary_form=True)
        self.serial = x509.load_der_x509_certificate(shown).serial_number if shown else None  # of our certificate
        self.user = session.auth_data.login.decode() if session.auth_data else None
        self.helo = session.host_name


class NextHop:
    """`gate`: cleared, the reply to a content waits for it."""

    def __init__(self, port):
        self.mails = []
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0  # contents that had to wait
        self.port = port

    async def handle_RCPT(self, server, session, envelope, address, options):
        if refusal := AT_RCPT.get(address.partition("@")[0]):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        for address in envelope.rcpt_tos:
            if refusal := AT_DATA.get(address.partition("@")[0]):
                return refusal
        if not self.gate.is_set():
            self.waiting += 1
            await server.loop.run_in_executor(None, self.gate.wait, 60)
        self.mails.append(Kept(server, session, envelope))
        return f"250 2.0.0 kept as {len(self.mails)}"

    def subjects(self):
        lines = [line for mail in self.mails for line in mail.content.decode().split("\r\n")]
        return [line.removeprefix("Subject: ") for line in lines if line.startswith("Subject: ")]


def authenticate(server, session, envelope, mechanism, data):
    right = (data.login.decode(), data.password.decode()) == (USER, PASSWORD)
    session.auth_data = data if right else None
    return AuthResult(success=right, handled=False, auth_data=data)  # the server itself replies


def server_context(identity, directory, name, clients=None):
    """`clients`: the authority whose certificates clients must have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity.write(directory, name))
    if clients:
        context.load_verify_locations(clients.write(directory, "clients"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextlib.contextmanager
def next_hop(context=None, *, smtps=False, login=False, address="127.0.0.1", port=None):
    """With a `context`: TLS by STARTTLS, or at once.  `login`: USER and PASSWORD are asked for."""
    here = NextHop(port or free_port())
    options = {"decode_data": False, "enable_SMTPUTF8": True}
    if login:
        # aiosmtpd does not see the TLS of smtps, and so does not require what it takes for a password in the clear.
        options |= {"auth_required": not smtps, "authenticator": authenticate, "auth_require_tls": not smtps}
    options |= {"ssl_context": context} if smtps else {"tls_context": context}
    controller = Controller(here, address, here.port, **options)
    controller.start()
    try:
        yield here
    finally:
        here.gate.set()
        controller.stop()

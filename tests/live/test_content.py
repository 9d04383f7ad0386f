"""What is accepted is delivered: each kind of content, to each kind of delivery, byte for byte; or refused at once."""

import contextlib
import email
import re
import shutil

import pytest

from tests.live import dovecot as peer
from tests.live.conftest import COMPLETE, empty_maildir, mails, running, until
from tests.live.recipient import envelopes
from tests.unique import free_port

CONF = """
listen on 127.0.0.1 port {{port}}
table people {{{{ "carol" = "{uid}:{gid}:/nonexistent" }}}}
action "dovecot" lmtp "127.0.0.1:{lmtp}" userbase <people>
action "address" lmtp "127.0.0.1:{lmtp}" rcpt-to userbase <people>
action "nobody" lmtp "127.0.0.1:{nobody}" userbase <people>
action "maildir" maildir
action "mbox" mbox
action "mda" mda "cat > ~/.taken && mv ~/.taken ~/taken"
match from any for domain "dovecot.test" action "dovecot"
match from any for domain "address.test" action "address"
match from any for domain "nobody.test" action "nobody"
match from any for domain "maildir.test" action "maildir"
match from any for domain "mbox.test" action "mbox"
match from any for domain "mda.test" action "mda"
"""
HEADER = b"From: amy@there.test\r\n" + COMPLETE
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 300 + b"\n.\r\n\r.\r"
TARGETS = [
    pytest.param("dovecot", marks=pytest.mark.skipif(peer.MISSING is not None, reason=str(peer.MISSING))),
    "maildir",
    "mbox",
    "mda",
    "file",
    "command",
]


@pytest.fixture(scope="module")
def vmail(users):
    return users.make("smtpd-vmail")


@pytest.fixture(scope="module")
def dovecot(ground, vmail):
    server = peer.Dovecot(ground / "dovecot-content", free_port(), vmail)
    server.add_user("carol")
    if peer.MISSING is None:
        server.start()
    yield server
    server.kill()


FORWARDS = {"file": "{home}/taken\n", "command": '"|cat > ~/.taken && mv ~/.taken ~/taken"\n'}


@pytest.fixture(scope="module")
def forwarders(users):
    """Users with a .forward each."""
    made = {kind: users.make(f"smtpd-{kind}") for kind in FORWARDS}
    for kind, name in made.items():
        forward = users.home(name) / ".forward"
        forward.write_text(FORWARDS[kind].format(home=users.home(name)))
        forward.chmod(0o600)
        shutil.chown(forward, name)
    return made


@pytest.fixture(scope="module")
def daemon(ground, users, alice, dovecot):
    owner = dovecot.owner
    conf = CONF.format(lmtp=dovecot.port, nobody=free_port(), uid=owner.pw_uid, gid=owner.pw_gid)
    with running(ground, conf) as made:
        yield made


class Stores:
    """Where each target keeps its mail."""

    def __init__(self, daemon, users, alice, forwarders, dovecot):
        self.home, self.alice, self.forwarders = users.home(alice), alice, forwarders
        self.homes = {kind: users.home(name) for kind, name in forwarders.items()} | {"mda": self.home}
        self.maildir = dovecot.homes / "carol" / "Maildir"
        self.box = daemon.directory / "state" / "mail" / alice
        self.empty()

    def empty(self):
        empty_maildir(self.home)
        for path in (*self.maildir.glob("new/*"), *self.maildir.glob("cur/*")):
            path.unlink()
        for path in (self.box, *(home / "taken" for home in self.homes.values())):
            path.unlink(missing_ok=True)

    def recipient(self, target, extension=""):
        if target in self.forwarders:
            return f"{self.forwarders[target]}{extension}@maildir.test"
        return f"{'carol' if target == 'dovecot' else self.alice}{extension}@{target}.test"

    def read(self, target):
        """All that was delivered there; without the lines that an mbox puts around a mail."""
        match target:
            case "dovecot":
                paths = [*self.maildir.glob("new/*"), *self.maildir.glob("cur/*")]
                return [path.read_bytes() for path in paths]
            case "maildir":
                return mails(self.home)
        path = self.box if target == "mbox" else self.homes[target] / "taken"
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            if target in ("mbox", "file") and content:
                assert re.match(rb"From \S+ [^\n]*\n", content) and content.endswith(b"\n\n")
                content = content[content.index(b"\n") + 1 : -1]
            return [content] if content else []
        return []


@pytest.fixture
def stores(daemon, users, alice, forwarders, dovecot):
    yield Stores(daemon, users, alice, forwarders, dovecot)
    if envelopes(daemon):  # after a failure, which is not to be that of the next test
        daemon.smtpctl("remove", "all")


def answers(client, sender, recipient, options, content, chunks=None):
    """To MAIL, RCPT and the end of the content; the first that is no 2xx is the last."""
    client.command_encoding = "utf-8"
    client.ehlo()
    heard = [client.docmd(f"MAIL FROM:<{sender}> {' '.join(options)}".strip())]
    if heard[-1][0] == 250:
        heard.append(client.docmd(f"RCPT TO:<{recipient}>"))
    if heard[-1][0] == 250:
        heard.append(client.data(content) if chunks is None else send_chunks(client, content, chunks))
    if heard[-1][0] != 250:
        client.rset()
    return [f"{code} {text.decode()}"[:9] for code, text in heard]


def send_chunks(client, content, size):
    *pieces, last = [content[at : at + size] for at in range(0, len(content), size)]
    first = b"".join(b"BDAT %d\r\n%s" % (len(piece), piece) for piece in pieces)
    client.sock.sendall(first + b"BDAT %d LAST\r\n%s" % (len(last), last))
    return [client.getreply() for _ in range(len(pieces) + 1)][-1]


TAKEN = ["250 2.0.0", "250 2.1.5", "250 2.0.0"]


def is_delivered(daemon, stores, target):
    """Within its time, once, and nothing of it waits."""
    until(lambda: not envelopes(daemon) and stores.read(target), what=f"the mail in {target}")  # not half of it
    (mail,) = stores.read(target)
    return mail


def split(mail):
    """The Return-Path fields of all that was put in front, and the mail as it was sent."""
    front, _, rest = mail.partition(b"From: amy@there.test\n")
    unfolded = front.replace(b"\n\t", b" ").replace(b"\n ", b" ").splitlines()
    assert {line.partition(b":")[0] for line in unfolded} <= {b"Return-Path", b"Delivered-To", b"Received"}
    assert unfolded[0].startswith(b"Return-Path: ")
    return [line for line in unfolded if line.startswith(b"Return-Path")], b"From: amy@there.test\n" + rest


def plain(content):
    return content.replace(b"\r\n", b"\n")


EIGHT = HEADER + "Subject: eight\r\n\r\nGrüße aus Köln\r\n".encode()
KINDS = {
    "ascii": ([], HEADER + b"Subject: ascii\r\n\r\nhello\r\n", None),
    "8-bit": (["BODY=8BITMIME"], EIGHT, None),
    "utf-8 header": (["SMTPUTF8"], HEADER + "Subject: Grüße\r\n\r\nüber\r\n".encode(), None),
    "binarymime text": (["BODY=BINARYMIME"], HEADER + b"Subject: text\r\n\r\nhello\r\n.\r\n" * 3, 64),
    "bdat, bare lf": ([], HEADER + b"Subject: lf\r\n\r\none\ntwo\n.\n.\r\nthree", 64),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_text_is_delivered_as_it_is_with_lf_line_ends(daemon, stores, target, kind):
    options, content, chunks = KINDS[kind]
    with daemon.client() as client:
        recipient = stores.recipient(target)
        assert answers(client, "amy@there.test", recipient, options, content, chunks) == TAKEN
    paths, kept = split(is_delivered(daemon, stores, target))
    assert kept == plain(content) + (b"" if content.endswith(b"\n") else b"\n")
    assert paths == [b"Return-Path: <amy@there.test>"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", ["binary", ""])
def test_binary_content_is_base64_and_decodes_to_what_came(daemon, stores, target, label):
    fields = f"Content-Type: image/png\r\nContent-Transfer-Encoding: {label}\r\n" if label else ""
    content = HEADER + b"Subject: png\r\nMIME-Version: 1.0\r\n" + fields.encode() + b"\r\n" + PNG
    with daemon.client() as client:
        recipient = stores.recipient(target)
        assert answers(client, "amy@there.test", recipient, ["BODY=BINARYMIME"], content, 10_000) == TAKEN
    mail = is_delivered(daemon, stores, target)
    assert b"\0" not in mail and b"\r" not in mail
    assert email.message_from_bytes(mail).get_payload(decode=True) == PNG


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sender", ["", "amy@there.test"])
def test_the_only_return_path_is_ours(daemon, stores, target, sender):
    """RFC 5321 4.4"""
    forged = (
        b"Return-Path: <eve@x.test>\r\n" + HEADER + b"RETURN-PATH:\r\n <eve@x.test>\r\nSubject: forged\r\n\r\nx\r\n"
    )
    with daemon.client() as client:
        assert answers(client, sender, stores.recipient(target), [], forged) == TAKEN
    paths, kept = split(is_delivered(daemon, stores, target))
    assert paths == [f"Return-Path: <{sender}>".encode()]
    assert kept == plain(HEADER) + b"Subject: forged\n\nx\n"


@pytest.mark.parametrize("target", TARGETS[1:])
def test_addresses_beyond_ascii_are_kept_where_no_extension_is_needed(daemon, stores, target):
    with daemon.client() as client:
        assert answers(client, "åmy@there.test", stores.recipient(target, "+ü"), ["SMTPUTF8"], EIGHT) == TAKEN
    mail = is_delivered(daemon, stores, target)
    assert split(mail)[0] == ["Return-Path: <åmy@there.test>".encode()] and split(mail)[1] == plain(EIGHT)
    assert f"Delivered-To: {stores.recipient(target, '+ü')}\n".encode() in mail


REFUSED = ["250 2.0.0", "553 5.6.7"]


@pytest.mark.skipif(peer.MISSING is not None, reason=str(peer.MISSING))
def test_addresses_that_a_server_cannot_be_told_are_refused_while_the_client_listens(daemon, dovecot, stores):
    """RFC 6531 3.6.  A server that is told the user has no recipient to refuse; a domain can be told in ASCII."""
    takes = False
    with daemon.client() as client:
        sent = [
            answers(client, "åmy@there.test", "carol@dovecot.test", ["SMTPUTF8"], EIGHT),
            answers(client, "amy@there.test", "carol+ü@address.test", ["SMTPUTF8"], EIGHT),
            answers(client, "amy@there.test", "carol+ü@dovecot.test", ["SMTPUTF8"], EIGHT),
            answers(client, "amy@müller.test", "carol@address.test", ["SMTPUTF8"], EIGHT),
        ]
        takes = sent[0] == TAKEN
    assert sent == ([TAKEN] * 4 if takes else [REFUSED, REFUSED, TAKEN, TAKEN])
    until(lambda: not envelopes(daemon), what="an empty queue")
    kept = stores.read("dovecot")
    assert len(kept) == (4 if takes else 2)
    assert any(b"Return-Path: <amy@xn--mller-kva.test>\n" in mail for mail in kept) is not takes


def test_while_the_server_cannot_be_asked_the_client_tries_again_later(daemon, stores):
    with daemon.client() as client:
        heard = answers(client, "åmy@there.test", "carol@nobody.test", ["SMTPUTF8"], EIGHT)
        assert heard == ["250 2.0.0", "451 4.3.0"]
    assert envelopes(daemon) == []
    assert "server of action nobody: " in daemon.log


@pytest.mark.parametrize(
    "options, content, reply",
    [
        (["BODY=BINARYMIME"], HEADER + b"Content-Transfer-Encoding: base64\r\n\r\n\0", "554 5.6.3"),
        ([], HEADER + b"Subject: nul\r\n\r\n\0", "550 5.6.0"),
        ([], b"From: amy@there.test\rSubject: cr\r\rhello\r", "550 5.6.0"),
    ],
)
def test_what_cannot_be_text_is_refused_at_its_end(daemon, stores, options, content, reply):
    with daemon.client() as client:
        heard = answers(client, "amy@there.test", stores.recipient("maildir"), options, content, 1000)
        assert heard == ["250 2.0.0", "250 2.1.5", reply]
        assert client.noop()[0] == 250
    assert envelopes(daemon) == []

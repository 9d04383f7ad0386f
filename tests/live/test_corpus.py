"""The mails of tests/corpus on all ways in, to all kinds of stores: each is there as smtpd(8) and sendmail(8) say, byte
for byte, or was refused for the reason that they give; and nothing is left in the queue.

    data, bdat                        SMTP; to each store, in one transaction
    bdat-cut, binarymime              SMTP, in chunks cut anywhere; to a Maildir
    sendmail, sendmail-t              recipients as arguments, and out of the header; to a Maildir
    bs                                `sendmail -bs`, whole dialogues at once; to a Maildir
"""

import email
import functools
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from tests.corpus import Encoded, Refused, all_mails, expected
from tests.live import corpus_ways as ways
from tests.live import dovecot as peer
from tests.live.conftest import mails, running, until
from tests.live.recipient import envelopes
from tests.unique import free_port

CONF = """
smtp limit max-mails 100000
smtp limit max-errors 100000
smtp limit tarpit 0
listen on 127.0.0.1 port {{port}}
table people {{{{ "carol" = "{uid}:{gid}:/nonexistent" }}}}
action "dovecot" lmtp "127.0.0.1:{dovecot}" userbase <people>
action "aiosmtpd" lmtp "127.0.0.1:{aiosmtpd}" userbase <people>
action "maildir" maildir
action "mbox" mbox
action "mda" mda "cat > ~/taken/.new.$SENDER && mv ~/taken/.new.$SENDER ~/taken/$SENDER"
match from any for domain "dovecot.test" action "dovecot"
match from any for domain "aiosmtpd.test" action "aiosmtpd"
match from any for domain "maildir.test" action "maildir"
match from any for domain "mbox.test" action "mbox"
match from any for domain "mda.test" action "mda"
"""
WAIT_MAX = 900  # seconds until all of them are delivered, on a busy machine
MAILS = list(enumerate(all_mails()))
STORES = ["maildir", "mbox", "mda", "aiosmtpd", *(["dovecot"] if peer.MISSING is None else [])]
TO_ALL = ("data", "bdat")
RULES = {
    "data": "data",
    "bdat": "bdat",
    "bdat-cut": "bdat",
    "binarymime": "binarymime",
    "sendmail": "sendmail",
    "sendmail-t": "sendmail",
    "bs": "data",
}
EACH = [(way, store) for way in RULES for store in (STORES if way in TO_ALL else STORES[:1])]


@functools.cache
def outcome(way, mail):
    """What is expected of the content as it is given in on this way."""
    if way == "bs":
        mail = ways.by_lines(mail)
    return expected(ways.as_resent(mail, ["x@maildir.test"]) if way == "sendmail-t" else mail, RULES[way])


def given(way):
    """The fields that name recipients for `sendmail -t` would take in a continuation line."""
    return [(number, mail) for number, mail in MAILS if way != "sendmail-t" or not mail.content.startswith(b" ")]


class Box:
    """An LMTP server of others, which keeps all in memory."""

    def __init__(self):
        self.mails = {}

    async def handle_DATA(self, server, session, envelope):
        self.mails.setdefault(envelope.mail_from, []).append(envelope.original_content)
        return "250 2.0.0 kept"


class Lmtp(Controller):
    def factory(self):
        class Peer(LMTP):
            line_length_limit = 100_000

        return Peer(self.handler, enable_SMTPUTF8=False, decode_data=False)


@pytest.fixture(scope="module")
def box():
    server = Lmtp(Box(), hostname="127.0.0.1", port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def dovecot(ground, users):
    server = peer.Dovecot(ground / "dovecot-corpus", free_port(), users.make("smtpd-vmail"))
    server.add_user("carol")
    if peer.MISSING is None:
        server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def user(users):
    """Whose mail it is, and who hands some of it in."""
    name = users.make("smtpd-corpus")
    taken = users.home(name) / "taken"
    taken.mkdir()
    shutil.chown(taken, name)
    return name


@pytest.fixture(scope="module")
def daemon(ground, user, dovecot, box):
    owner = dovecot.owner
    conf = CONF.format(dovecot=dovecot.port, aiosmtpd=box.port, uid=owner.pw_uid, gid=owner.pw_gid)
    with running(ground, conf) as made:
        yield made


# -- all of it is handed in, once -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(daemon, user):
    """What was said about each mail: way -> number -> Result."""
    everywhere = [f"{'carol' if store in ('dovecot', 'aiosmtpd') else user}@{store}.test" for store in STORES]
    recipients = {way: everywhere if way in TO_ALL else everywhere[:1] for way in RULES}
    children = {}
    for way, work in (("sendmail", ways.by_sendmail), ("sendmail-t", ways.by_sendmail), ("bs", ways.by_bs)):
        directory = daemon.directory / way
        run = functools.partial(work, daemon.state, user, directory, way, given(way), recipients[way])
        children[way] = ways.in_child(user, run, directory), directory
    by_smtp = [way for way in RULES if way not in children]
    with ThreadPoolExecutor(len(by_smtp)) as pool:
        replies = pool.map(lambda way: hand_in(daemon.port, way, recipients[way]), by_smtp)
        found = dict(zip(by_smtp, replies, strict=True))
    return found | {way: ways.results(*child) for way, child in children.items()}


def hand_in(port, way, recipients):
    with ways.Client(port) as client:
        return {number: hand_over(client, way, number, mail, recipients) for number, mail in MAILS}


def hand_over(client, way, number, mail, recipients):
    if way == "data":
        return client.by_data(way, number, mail, recipients)
    content = mail.as_chunk()
    chunks = ways.whole(content) if way == "bdat" else ways.cut(content, number)
    parameter = " BODY=BINARYMIME" if way == "binarymime" else ("", " BODY=8BITMIME", " SMTPUTF8")[number % 3]
    return client.by_bdat(way, number, mail, recipients, chunks, parameter)


@pytest.mark.parametrize("way", RULES)
def test_each_reply_is_the_expected_one(results, way):
    wrong = [
        (mail.id, getattr(outcome(way, mail), "rule", "same"), results[way][number])
        for number, mail in given(way)
        if not is_expected(way, outcome(way, mail), results[way][number])
    ]
    assert not wrong, wrong


def is_expected(way, outcome, result):
    if not isinstance(outcome, Refused):
        return result.status == 0 and result.reply.startswith("" if way.startswith("sendmail") else "250 2.0.0 ")
    if not outcome.code:
        return result.status == 65 and not re.match("[0-9]", result.reply)
    status, closed = (0, outcome.closes) if way in ("data", "bdat", "bdat-cut", "binarymime") else (70, False)
    said = f"{outcome.code} {outcome.enhanced} "
    return result.reply.startswith(said) and (result.status, result.closed) == (status, closed)


# -- what was delivered -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def delivered(daemon, user, users, dovecot, box, results):
    """Store -> sender -> mails, when nothing is under way any more."""
    home = users.home(user)
    places = {"maildir": home / "Maildir/new", "mda": home / "taken", "dovecot": dovecot.homes / "carol/Maildir/new"}
    count = {store: sum(len(accepted(results[way])) for way, to in EACH if to == store) for store in STORES}
    for store, path in places.items():
        if store in STORES:
            until(lambda path=path, store=store: len([*path.glob("[!.]*")]) >= count[store], WAIT_MAX, what=store)
    until(lambda: not envelopes(daemon), WAIT_MAX, what="an empty queue")
    lmtp = {sender: [plain(mail) for mail in mails] for sender, mails in box.handler.mails.items()}
    return {
        "maildir": by_sender(mails(home)),
        "mbox": by_sender(from_mbox((daemon.state / "mail" / user).read_bytes())),
        "mda": by_sender(path.read_bytes() for path in (home / "taken").iterdir()),
        "aiosmtpd": lmtp,
        "dovecot": by_sender(path.read_bytes() for path in places["dovecot"].glob("*")),
    }


def accepted(results):
    return [result for result in results.values() if not result.status and not re.match("[45]", result.reply)]


def taken(way):
    return {number: mail for number, mail in given(way) if not isinstance(outcome(way, mail), Refused)}


def by_sender(mails):
    found = {}
    for mail in mails:
        path = re.match(rb"Return-Path: <(.*)>\n", mail)
        found.setdefault(path[1].decode(), []).append(mail)
    return found


def from_mbox(text):
    """The mails, as they are quoted in there; each has ended with an empty line."""
    assert text.endswith(b"\n\n")
    first, *found = re.split(rb"(?:\A|(?<=\n\n))From \S+ \w{3} \w{3} [^\n]*\n", text)
    assert first == b""
    return [mail[:-1] for mail in found]


def plain(mail):
    """LF line ends; and there was nothing else that a server may take for one."""
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", mail)
    return mail.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("way, store", EACH)
def test_each_body_is_the_same_or_differs_by_the_documented_rule(delivered, way, store):
    there = {sender for sender in delivered[store] if sender.startswith(f"{way}.")}
    assert there == {ways.sender(way, number) for number in taken(way)}
    wrong = []
    for number, mail in taken(way).items():
        found = delivered[store][ways.sender(way, number)]
        if len(found) != 1 or not is_same(way, store, mail, found[0]):
            wrong.append((mail.id, [content[-200:] for content in found]))
    assert not wrong, (len(wrong), wrong[:10])


def is_same(way, store, mail, found):
    wanted = outcome(way, mail)
    header, _, body = found.partition(b"\n\n")
    header += b"\n"
    if isinstance(wanted, Encoded):
        return b"\0" not in found and decoded(header, body).rstrip(b"\n") == wanted.body.rstrip(b"\n")
    sent = header_of(mail, wanted.body)
    if sent is not None:
        kept = kept_fields(header)
        if kept[len(kept) - len(sent) :] != sent:
            return False
    return body == (in_mbox(wanted.body) if store == "mbox" else wanted.body)


def in_mbox(body):
    """mail.local(8)"""
    return (b"\n" + body).replace(b"\nFrom ", b"\n>From ")[1:]


MENDED = re.compile(rb"(?:to|cc|bcc|from|date|message-id|return-path)[ \t]*:", re.IGNORECASE)


def header_of(mail, body):
    """The fields that arrive as they were sent; None where the lines of a mail are not what they are."""
    text = mail.content.replace(b"\r\n", b"\n")
    text += b"" if text.endswith(b"\n") else b"\n"
    if b"\r" in text or b"\0" in text or not text.endswith(body) or text.startswith(b"From "):
        return None
    return kept_fields(text[: len(text) - len(body)].rstrip(b"\n") + b"\n")


def kept_fields(header):
    fields = re.findall(rb"[^\n]*\n(?:[ \t][^\n]*\n)*", header)
    return [field for field in fields if field != b"\n" and not MENDED.match(field)]


def decoded(header, body):
    return email.message_from_bytes(header + b"\n" + body).get_payload(decode=True) or b""


def test_nothing_is_left(daemon, delivered):
    assert envelopes(daemon) == []


def test_what_sendmail_does_not_send_is_kept_by_the_caller(users, user, results):
    letters = {path.read_bytes().rstrip(b"\n") for path in users.home(user).glob("dead.letter*")}
    for number, mail in MAILS:
        if results["sendmail"][number].status:
            assert ways.by_lines(mail).content.rstrip(b"\n") in letters, mail.id

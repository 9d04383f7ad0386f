"""An agent says that a mail is delivered when it is on the disk, or with whoever has taken it, and not before.

The agents run in this process, without a sandbox: what they do is noted (tests/recorder.py).
"""

import errno
import os
import socket
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from mail_local import maildir
from mail_local.mailbox import maybe_lock
from smtpd.agent.command import CommandAgent
from smtpd.agent.expansion_target import ExpansionTargetAgent
from smtpd.agent.lmtp import LmtpAgent
from smtpd.agent.mailbox import MailboxAgent
from smtpd.agent.maildir import MaildirAgent
from smtpd.agent.worker import Workers
from smtpd.envelope import Outcome
from smtpd.errand import PACKET_MAX, AgentSpec, Result, decode, encode
from smtpd.tables import alias_syntax
from tests.agent.conftest import errand, files
from tests.mail_local.lmtp_server import Server


def serve(recorder, kind, *errands, mailbox_socket=None, sock=None):
    """All of an agent's life: its errands, its answers, its end."""
    ours, theirs = sock or socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        for told in errands:
            ours.send(encode(told))
        ours.shutdown(socket.SHUT_WR)
        recorder.forget()
        with theirs:
            Workers(theirs, mailbox_socket, kind).run()
        answers = []
        while packet := ours.recv(PACKET_MAX):
            answers.append(decode(packet))
    return [answer.outcome for answer in answers if isinstance(answer, Result)]


def name(number=1):
    return f"1700000000.E{77 << 32 | number:016x}.{maildir.host_part(os.uname().nodename)}"


# -- Maildir ------------------------------------------------------------------------------------


@pytest.fixture
def storage(recorder, tmp_path):
    return MaildirAgent(AgentSpec("maildir", "~/Maildir"), "bob", str(tmp_path))


def test_a_mail_is_durable_in_its_maildir_before_it_is_said_to_be_delivered(recorder, storage):
    assert serve(recorder, storage, errand()) == [Outcome.DELIVERED]
    file = name()
    recorder.in_order(
        f"write Maildir/tmp/{file}",
        f"sync Maildir/tmp/{file}",
        f"move Maildir/tmp/{file} to Maildir/new/{file}",
        "sync Maildir/new",
        "answer DELIVERED",
    )


def test_mails_taken_together_are_all_durable_before_the_first_is_said_to_be(recorder, storage):
    assert serve(recorder, storage, *map(errand, range(1, 6))) == [Outcome.DELIVERED] * 5
    recorder.in_order("sync Maildir/tmp/*", "move Maildir/tmp/*", "sync Maildir/new", "answer DELIVERED")
    assert recorder.happened("sync Maildir/new") == 1


@pytest.mark.parametrize("what", ["write Maildir/tmp/*", "sync Maildir/tmp/*", "move *", "sync Maildir/new"])
def test_a_mail_that_is_not_durable_is_deferred_and_taken_back_first(recorder, storage, what):
    recorder.refuse(what, errno.ENOSPC)
    assert serve(recorder, storage, errand()) == [Outcome.DEFERRED]
    assert not recorder.happened("answer DELIVERED")
    recorder.in_order(f"remove Maildir/{'new' if what == 'sync Maildir/new' else 'tmp'}/{name()}", "answer DEFERRED")


def test_a_mail_that_an_earlier_agent_stored_is_looked_for_and_made_durable_before_it_counts(
    recorder, storage, tmp_path
):
    (tmp_path / "Maildir/cur" / f"{name()}:2,S").write_bytes(b"")
    assert serve(recorder, storage, errand(perhaps=True)) == [Outcome.DELIVERED]
    recorder.in_order("list Maildir/new", "list Maildir/cur", "sync Maildir/new", "answer DELIVERED")
    recorder.in_order("list Maildir/cur", "sync Maildir/cur", "answer DELIVERED")
    assert not recorder.happened("make *")


def test_a_home_that_may_be_written_and_not_read_gets_a_maildir(start, home):
    home.chmod(0o300)
    assert start().deliver(errand()).outcome is Outcome.DELIVERED
    home.chmod(0o700)
    assert len(files(home)[0]) == 1


# -- mailboxes ------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path):
    """The mailbox_socket of an agent, with a mailbox in it as the parent locks and passes it: lock 1."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    parent, mailbox_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with parent, mailbox_socket, ExitStack() as held:
        socket.send_fds(parent, [(1).to_bytes(8, "big")], [maybe_lock(directory, "bob", os.getuid(), 0, held)])
        yield mailbox_socket
    os.close(directory)


def under_lock(number):
    return replace(errand(number), lock=1)


def test_mails_are_written_and_synced_once_before_the_first_is_said_to_be_in_the_mailbox(recorder, locked):
    mails = [under_lock(number) for number in (1, 2, 3)]
    assert (
        serve(recorder, MailboxAgent(AgentSpec("mbox", ""), "bob", "/"), *mails, mailbox_socket=locked)
        == [Outcome.DELIVERED] * 3
    )
    recorder.in_order("write bob", "sync bob", "answer DELIVERED")
    assert recorder.happened("sync bob") == 1


def test_a_mailbox_is_not_synced_for_a_mail_that_is_not_written_to_it(recorder, locked):
    loop = replace(errand(content=b"Delivered-To: bob@here.test\n\n"), lock=1)
    kind = MailboxAgent(AgentSpec("mbox", ""), "bob", "/")
    assert serve(recorder, kind, loop, mailbox_socket=locked) == [Outcome.LOOP]
    assert not recorder.happened("sync bob")


@pytest.mark.parametrize("what", ["write bob", "sync bob"])
def test_what_is_not_durable_in_a_mailbox_is_deferred_and_taken_back_first(recorder, locked, tmp_path, what):
    recorder.refuse(what, errno.ENOSPC)
    kind = MailboxAgent(AgentSpec("mbox", ""), "bob", "/")
    assert serve(recorder, kind, under_lock(1), mailbox_socket=locked) == [Outcome.DEFERRED]
    recorder.in_order("cut bob", "answer DEFERRED")
    assert (tmp_path / "bob").read_bytes() == b""


# -- servers and commands ---------------------------------------------------------------------------


def test_a_server_has_taken_the_mail_before_it_is_said_to_be_delivered(recorder):
    server = Server()
    try:
        outcomes = serve(recorder, LmtpAgent(AgentSpec("lmtp", server.target), "mail", "/"), errand())
    finally:
        server.stop()
    assert outcomes == [Outcome.DELIVERED]
    recorder.in_order(
        "says LHLO *", "says MAIL *", "hears 250 2.1.0 *", "says Delivered-To: *", "hears 250 2.0.0 * saved"
    )
    recorder.in_order("hears 250 2.0.0 * saved", "answer DELIVERED")


def test_what_a_server_has_taken_is_said_before_it_is_asked_to_take_more(recorder):
    """A crash between two mails makes no second copy of the first."""
    server = Server()
    mails = [errand(1, sender="amy@there.test"), errand(2, sender="eve@there.test")]
    kind = LmtpAgent(AgentSpec("lmtp", server.target), "mail", "/")
    kind.WORKERS_MAX = 1
    try:
        assert serve(recorder, kind, *mails) == [Outcome.DELIVERED] * 2
    finally:
        server.stop()
    story = [text for text in recorder.events if text.startswith(("says MAIL", "answer DELIVERED"))]
    assert [text.split()[0] for text in story] == ["says", "answer", "says", "answer"]


class Observed(socket.socket):
    """What queue would see: whether the command was over when its mail was said to be delivered."""

    done = None
    seen = None

    def send(self, packet, *flags):
        if isinstance(decode(packet), Result):
            Observed.seen = self.done.exists()
        return super().send(packet, *flags)


def observed(done):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    Observed.done, Observed.seen = done, None
    return ours, Observed(fileno=theirs.detach())


LINE = "cat >%s; sleep 0.05; : >%s"


def test_a_command_is_over_before_its_mail_is_said_to_be_delivered(recorder, tmp_path):
    line = LINE % (tmp_path / "mail", tmp_path / "done")
    kind = CommandAgent(AgentSpec("command", line), "bob", str(tmp_path))
    assert serve(recorder, kind, errand(), sock=observed(tmp_path / "done")) == [Outcome.DELIVERED]
    assert Observed.seen is True


def test_a_command_of_a_forward_is_over_before_its_mail_is_said_to_be_delivered(recorder, tmp_path):
    line = LINE % (tmp_path / "mail", tmp_path / "done")
    (tmp_path / ".forward").write_text(f'"|{line}"\n')
    told = replace(errand(), digest=alias_syntax.digest(alias_syntax.Command(line)))
    kind = ExpansionTargetAgent(AgentSpec("expansion-target", ""), "bob", str(tmp_path))
    assert serve(recorder, kind, told, sock=observed(tmp_path / "done")) == [Outcome.DELIVERED]
    assert Observed.seen is True


def test_a_file_of_a_forward_is_durable_before_its_mail_is_said_to_be_delivered(recorder, tmp_path):
    (tmp_path / ".forward").write_text(f"{tmp_path}/archive\n")
    told = replace(errand(), digest=alias_syntax.digest(alias_syntax.File(f"{tmp_path}/archive")))
    assert serve(recorder, ExpansionTargetAgent(AgentSpec("expansion-target", ""), "bob", str(tmp_path)), told) == [
        Outcome.DELIVERED
    ]
    recorder.in_order(
        "make archive", "sync .", "lock archive", "write archive", "sync archive", "unlock archive", "answer DELIVERED"
    )

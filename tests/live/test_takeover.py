"""What queue and lookup could still bring about if they were taken over: nothing runs that nobody has allowed.

We speak in their place, through their own ends of their channels, to the parent, the agents, and each other.  What a
command would leave behind if it ran is a file in `out`, where anybody may make one.
"""

import contextlib
import os
import re
import select
import socket

import pytest

from smtpd.envelope import Duty, Kind, MailParameters, Notify, Outcome, Recipient
from smtpd.errand import PACKET_MAX, Deliver, InProgress, ReadForward, Result, decode, encode
from smtpd.imsg import (
    AddEnvelopes,
    AgentRefused,
    AgentStarted,
    EnvelopeExpanded,
    ExpandEnvelope,
    ExpandRecipient,
    FindHosts,
    FindRoute,
    HostsFound,
    LockMailbox,
    RecipientExpanded,
    RouteFound,
    StartAgent,
)
from smtpd.next_hop import MailHost, Smarthost
from smtpd.sandbox import landlock
from smtpd.tables.alias_syntax import Command, File, digest
from tests.live.conftest import mails, until
from tests.live.recipient import envelopes, logged, write
from tests.unique import free_port

CONF = """
listen on 127.0.0.1 port {{port}}
alias-commands user {runner}
table texts file:{{directory}}/texts
table homes {{{{ "zoe" = "0:0:{home}/zoe" }}}}
table people {{{{ "vera" = "54321:54321:/nonexistent" }}}}
action "local" maildir alias <texts>
action "mbox" mbox
action "mda" mda "cat >%{{{{user.directory}}}}/mda; printf '%%s' '%{{{{sender:raw}}}}' %{{{{rcpt:raw}}}} >>~/mda"
action "shared" mda "touch {out}/shared" user {vmail}
action "virtual" maildir userbase <homes> user {vmail}
action "people" maildir userbase <people>
action "expand" expand-only
action "forward" forward-only
match from any for domain "here.test" action "local"
"""
CONTENT = b"Subject: forged\n\nx\n"


@pytest.fixture(scope="module")
def runner(users):
    return users.make("smtpd-runner")


@pytest.fixture(scope="module")
def vmail(users):
    return users.make("smtpd-vmail")


@pytest.fixture
def out(tmp_path_factory, ground):
    """Anybody may leave something there; nobody does but who is expected to."""
    path = ground / tmp_path_factory.mktemp("out").name
    path.mkdir()
    path.chmod(0o1777)
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.fixture
def taken(impostor, make_daemon, users, runner, vmail, out):
    """`taken(role)`: in a daemon whose alias file has one command."""

    def make(role):
        conf = CONF.format(runner=runner, vmail=vmail, home=users.home(vmail), out=out)
        daemon = make_daemon(conf)
        write(daemon.directory / "texts", f"run: |touch {out}/aliased\n")
        return impostor(role, daemon=daemon)

    return make


# -- a queue asks for agents ------------------------------------------------------------------

FATAL = [
    (StartAgent(1, "{alice}", "shared", Duty.DELIVER), "which runs as another user"),
    (StartAgent(1, "root", "virtual", Duty.DELIVER), "which runs as another user"),
    (StartAgent(1, "_smtpd", "local", Duty.ALIASED), "which runs as another user"),
    (StartAgent(1, "{alice}", "local", Duty.DISCARD), "no agent's duty"),
    (StartAgent(1, "{alice}", "local", Duty.READ), "an action without users of its own"),
    (StartAgent(1, "{alice}", "expand", Duty.DELIVER), "no agent's duty"),
    (StartAgent(1, "{alice}", "forward", Duty.FORWARDED), "an action that only forwards"),
    (StartAgent(1, "{alice}", "", Duty.FORWARDED), "an action that is not configured"),
    (StartAgent(1, "{alice}\nroot", "local", Duty.DELIVER), "malformed StartAgent"),
    (StartAgent(1, "{alice}\0", "local", Duty.DELIVER), "malformed StartAgent"),
]


@pytest.mark.parametrize("asked, reason", FATAL, ids=[f"{a.user!r} {a.action} {a.duty.name}" for a, _ in FATAL])
def test_an_agent_that_no_queue_of_ours_would_ask_for_is_the_end(taken, alice, asked, reason):
    queue = taken("queue")
    queue.say("parent", StartAgent(1, asked.user.format(alice=alice), asked.action, asked.duty))
    assert queue.daemon.ended() == 1
    assert re.search(f"^warn: fatal: queue (broke the rules: )?.*{reason}", queue.daemon.log, re.MULTILINE)


def test_a_mailbox_for_an_agent_that_stores_in_none_is_the_end(taken, alice):
    queue = taken("queue")
    started = queue.ask(StartAgent(1, alice, "local", Duty.DELIVER))
    queue.say("parent", LockMailbox(2, started.agent))
    assert queue.daemon.ended() == 1
    assert "which has one or needs none" in queue.daemon.log


NOBODIES = ["root", "daemon", "nobody", "_smtpd", "_smtpq", "_smtpm", "_smtpf", "nonesuch", "", ".", "..", "/", "0"]
NOBODIES += ["root ", "root:x", "-root", "ROOT", "../root", "vera"]
WAYS = [("mbox", Duty.DELIVER), ("mda", Duty.DELIVER), ("expand", Duty.FORWARDED), ("", Duty.READ)]


def test_no_agent_is_started_for_a_user_who_may_not_receive(taken, alice):
    queue = taken("queue")
    before = set(queue.daemon.descendants())
    strangers = ["root", "zoe", alice, "_smtpm", "../vera", ""]
    asked = [(name, *way) for name in NOBODIES for way in WAYS]
    asked += [(name, "people", duty) for name in strangers for duty in (Duty.READ, Duty.DELIVER, Duty.FORWARDED)]
    for words in asked:
        answer = queue.ask(StartAgent(7, *words))
        assert isinstance(answer, AgentRefused) and answer.permanent, (words, answer)
    until(lambda: set(queue.daemon.descendants()) == before, what="the end of all that was forked")
    assert isinstance(queue.ask(StartAgent(7, "vera", "people", Duty.DELIVER)), AgentStarted)


# -- a queue tells agents what to do --------------------------------------------------------------


class Agent:
    """As queue sees it."""

    def __init__(self, queue, *words):
        answer = queue.ask(StartAgent(1, *words))
        assert isinstance(answer, AgentStarted), answer
        self.socket = socket.socket(fileno=queue.descriptors.pop())
        self.socket.settimeout(60)

    def deliver(self, target=None, **more):
        """The answer, or None when it has ended.  `target`: a command or file, or a digest."""
        fields = {"sender": "amy@there.test", "recipient": "bob@here.test", "destination": "bob@here.test"}
        told = target if isinstance(target, str) else "" if target is None else digest(target)
        fields |= {"extension": "", "by_descriptor": False, "perhaps_delivered": False, "digest": told, **more}
        self.socket.send(encode(Deliver(7 << 32 | 1, 1_700_000_000, len(CONTENT), content=CONTENT, **fields)))
        while packet := self.socket.recv(PACKET_MAX):
            if not isinstance(answer := decode(packet), InProgress):
                return answer
        return None


@pytest.fixture
def agent(taken):
    queue = taken("queue")
    made = []

    def make(*words):
        made.append(Agent(queue, *words))
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


@pytest.fixture
def forward(users, alice, out):
    """Alice's, with a command of hers."""
    path = users.home(alice) / ".forward"
    write(path, f"|touch {out}/forwarded\n", alice)
    yield path
    path.unlink()


FORGED = ["", "0" * 64, "f" * 63, "no digest", "|touch /tmp/x", "\0" * 64]


def test_a_command_runs_only_if_it_stands_in_the_file_of_its_user(agent, out, alice, runner, forward):
    own, alias = Command(f"touch {out}/forwarded"), Command(f"touch {out}/aliased")
    others = [Command(f"touch {out}/canary"), File(f"{out}/canary"), File("/etc/passwd"), *FORGED]
    hers, roots = agent(alice, "local", Duty.FORWARDED), agent(runner, "local", Duty.ALIASED)
    for target in (alias, *others):
        assert hers.deliver(target).outcome is Outcome.STALE, target
    for target in (own, *others):
        assert roots.deliver(target).outcome is Outcome.STALE, target
    assert list(out.iterdir()) == []
    # and so the files would have been seen
    assert hers.deliver(own).outcome is roots.deliver(alias).outcome is Outcome.DELIVERED
    assert {file.name: file.owner() for file in out.iterdir()} == {"forwarded": alice, "aliased": runner}


def test_a_file_that_is_not_the_users_own_warrants_nothing(agent, out, users, alice, bob, forward):
    hers = agent(alice, "local", Duty.FORWARDED)
    target = Command(f"touch {out}/forwarded")
    os.chown(forward, users.home(bob).stat().st_uid, -1)
    assert hers.deliver(target).outcome is Outcome.DEFERRED
    os.chown(forward, users.home(alice).stat().st_uid, -1)
    forward.chmod(0o666)
    assert hers.deliver(target).outcome is Outcome.DEFERRED
    forward.rename(forward.with_name("elsewhere"))
    forward.symlink_to("elsewhere")
    assert hers.deliver(target).outcome is Outcome.DEFERRED
    assert list(out.iterdir()) == []


def test_a_field_is_no_part_of_a_command(agent, out, users, alice):
    canary = out / "canary"
    evil = f"';touch {canary};'$(touch {canary})`touch {canary}`\"\n\r\0|touch {canary}&touch {canary}\n"
    command = agent(alice, "mda", Duty.DELIVER)
    for field in ("sender", "recipient", "destination", "extension", "digest"):
        result = command.deliver(**{field: evil})
        assert isinstance(result, Result) and result.outcome is not Outcome.DEFERRED, (field, result)
    assert list(out.iterdir()) == []
    assert (users.home(alice) / "mda").read_text().startswith("Return-Path: ")


def test_no_home_but_those_that_belong_to_the_action(agent, users, alice, vmail):
    maildir = agent(vmail, "virtual", Duty.DELIVER)
    below = users.home(vmail)
    elsewhere = "/root", users.home(alice), f"{below}x"
    before = [mails(home) for home in elsewhere]
    for home in ("/root", str(users.home(alice)), f"{below}/..", f"{below}/zoe/../../x", "relative", "/", f"{below}x"):
        result = maildir.deliver(user="zoe", home=home)
        assert result is not None and result.outcome is not Outcome.DELIVERED, (home, result)
    assert [mails(home) for home in elsewhere] == before
    (below / "zoe").mkdir(exist_ok=True)
    os.chown(below / "zoe", below.stat().st_uid, -1)
    assert maildir.deliver(user="zoe", home=f"{below}/zoe").outcome is Outcome.DELIVERED


@pytest.mark.parametrize("duty", [Duty.DELIVER, Duty.FORWARDED])
def test_an_agent_does_nothing_but_its_duty(agent, alice, duty):
    one = agent(alice, "local", duty)
    one.socket.send(encode(ReadForward(1)))
    assert one.socket.recv(PACKET_MAX) == b""


# -- a lookup adds envelopes -----------------------------------------------------------------------


def to(user, duty=Duty.DELIVER, action="local", *, kind=Kind.MDA, **more):
    destination = f"{user or 'nobody'}-{action}-{duty.name}@here.test".lower()
    return Recipient("lie@here.test", destination, action, kind, user, "", duty, **more)


class Lookup:
    """In the place of lookup, which is stopped, for one recipient of one mail."""

    def __init__(self, impostor):
        self.impostor, self.daemon = impostor, impostor.daemon

    def add(self, client, *recipients):
        """The mail that this client has begun gets these envelopes, whomever it is for.  What the client asked."""
        self.impostor.stop()
        client.putcmd("RCPT TO:<lie@here.test>")
        asked = self.impostor.hear("dispatcher")
        assert isinstance(asked, ExpandRecipient)
        self.impostor.say("queue", AddEnvelopes(asked.message, asked.origin, list(recipients), asked.terms))
        return asked

    def expand(self, *recipients):
        with self.client() as client:
            asked = self.add(client, *recipients)
            self.impostor.say("dispatcher", RecipientExpanded(asked.request, len(recipients)))
            assert client.getreply()[0] == 250
            assert client.data(CONTENT.decode())[0] == 250

    def client(self):
        client = self.daemon.client()
        client.ehlo()
        client.mail("amy@there.test")
        return client


def test_an_invented_answer_of_lookup_reaches_no_user_who_may_not_receive(taken, out, users, alice, vmail, forward):
    lookup = Lookup(taken("lookup"))
    daemon = lookup.daemon
    forged = digest(Command(f"touch {out}/canary"))
    lies = {
        to("root"): "root does not receive mail",
        to("_smtpd", action="mda"): "a daemon's user does not receive mail",
        to("../../root"): "no such user",
        to("root", Duty.FORWARDED, digest=forged): "root does not receive mail",
        to("root", Duty.ALIASED, digest=forged): "the alias file does not name this any more",
        to(alice, Duty.ALIASED, digest=digest(Command(f"touch {out}/forwarded"))): "the alias file does not name this",
        to("zoe", action="virtual", home="/root"): "the home /root of zoe is not below",
        to("zoe", action="virtual", home=f"{users.home(vmail)}/../.."): "/../.. of zoe is not below",
        to("nonesuch", action="people"): "no such user",
        to(alice, action="nonesuch"): "the configuration has no action",
        to(alice, action="expand"): "delivers nothing",
        to(alice, Duty.FORWARDED, "forward", digest=forged): "delivers nothing",
        to(alice, kind=Kind.MTA): "the configuration has no relay action",
    }
    lookup.expand(*lies)
    for lie, reason in lies.items():
        until(
            lambda lie=lie, reason=reason: logged(daemon, f" to=<{lie.destination}>", "result=", reason),
            what=f"an end of {lie}",
        )
        assert not logged(daemon, f" to=<{lie.destination}>", "result=Ok")

    def ends():
        """Those that are left, and those whose sender is told."""
        left = [row for row in envelopes(daemon) if row[2] != "bounce"]
        return len(left) + len(logged(daemon, "bounce: failed for ", "rcpt=<lie@here.test>"))

    until(lambda: ends() == len(lies), what="an end of each")
    assert list(out.iterdir()) == []


def test_no_mail_goes_to_a_port_that_no_relay_action_has(impostor, make_daemon):
    """Landlock: nothing that lookup says, and nothing that a dispatcher thinks of itself, connects elsewhere."""
    if landlock.abi() < 4:
        pytest.skip("Landlock of this kernel knows no ports")
    right, wrong = free_port(), free_port()
    with socket.create_server(("127.0.0.1", wrong)) as other:
        conf = f"""
        listen on 127.0.0.1 port {{port}}
        action "out" relay host smtp+notls://127.0.0.1:{right}
        match from local for any action "out"
        """
        lookup = Lookup(impostor("lookup", daemon=make_daemon(conf)))
        lookup.expand(to("", action="out", kind=Kind.MTA))
        asked = lookup.impostor.hear("dispatcher")
        assert isinstance(asked, FindRoute)
        lookup.impostor.say(
            "dispatcher", RouteFound(asked.request, [Smarthost("smtp+notls", "127.0.0.1", wrong, False)], "")
        )
        asked = lookup.impostor.hear("dispatcher")
        assert isinstance(asked, FindHosts)
        host = MailHost("", 0, ["127.0.0.1"])
        lookup.impostor.say("dispatcher", HostsFound(asked.request, [host], True, "", [], 60))
        until(lambda: logged(lookup.daemon, " mta error reason=", "Permission denied"), what="the end of the connect")
        assert not select.select([other], [], [], 0)[0]


def test_a_lookup_that_insists_on_a_forged_digest_is_heard_a_hundred_times_at_most(taken, out, alice, forward):
    lookup = Lookup(taken("lookup"))

    def lie(count):
        return to(alice, Duty.FORWARDED, digest=digest(Command(f"touch {out}/canary{count}")))

    lookup.expand(lie(0))
    count = 0
    while not logged(lookup.daemon, "the .forward changes faster than mail is delivered"):
        if select.select([lookup.impostor.channel_to("queue").fileno()], [], [], 0.1)[0]:
            asked = lookup.impostor.hear("queue")
            assert isinstance(asked, ExpandEnvelope)
            count += 1
            lookup.impostor.say("queue", EnvelopeExpanded(asked.request, [lie(count)]))
    assert count == 101
    assert list(out.iterdir()) == []


SHAPES = [
    ("a digest that is none", to("bob", Duty.FORWARDED, digest="|touch /tmp/x"), "malformed AddEnvelopes"),
    ("a line feed in a name", to("bob\nroot"), "malformed AddEnvelopes"),
    ("a NUL in a home", to("zoe", action="virtual", home="/home/zoe\0/root"), "malformed AddEnvelopes"),
    ("reading a .forward", to("bob", Duty.READ), "an envelope that is no delivery"),
    ("a notice", to("bob", Duty.EXPAND), "an envelope that is no delivery"),
    ("a NOTIFY against itself", to("bob", notify=Notify.NEVER | Notify.DELAY), "an impossible NOTIFY"),
]


@pytest.mark.parametrize("recipient, reason", [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES])
def test_an_envelope_that_cannot_be_is_the_end(taken, recipient, reason):
    lookup = Lookup(taken("lookup"))
    with contextlib.closing(lookup.client()) as client:
        lookup.add(client, recipient)
        assert lookup.daemon.ended() == 1
    assert re.search(f"^warn: fatal: lookup .*{reason}", lookup.daemon.log, re.MULTILINE), lookup.daemon.log


@pytest.mark.parametrize(
    "terms, reason",
    [(MailParameters(priority=9), "other terms than before"), (MailParameters(release=2**40), "other terms")],
    ids=str,
)
def test_other_terms_for_another_recipient_are_the_end(taken, terms, reason):
    lookup = Lookup(taken("lookup"))
    with contextlib.closing(lookup.client()) as client:
        asked = lookup.add(client, to("bob"))
        lookup.impostor.say("queue", AddEnvelopes(asked.message, asked.origin, [to("bob")], terms))
        assert lookup.daemon.ended() == 1
    assert re.search(f"^warn: fatal: lookup .*{reason}", lookup.daemon.log, re.MULTILINE), lookup.daemon.log


def test_an_expansion_without_a_question_ends_the_daemon(taken):
    lookup = taken("lookup")
    lookup.say("queue", EnvelopeExpanded(99, [to("bob")]))
    assert lookup.daemon.ended() == 1
    assert "lookup answers EnvelopeExpanded without a request" in lookup.daemon.log

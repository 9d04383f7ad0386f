"""Which agents queue may ask for: each row of the table, and what a queue that was taken over would try."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.errand import PROMISES, AgentSpec
from smtpd.imsg import AgentRefused, ForkAgent, StartAgent
from smtpd.ipc.channel import Violation
from smtpd.parent.permitted_agent import PermittedAgent, PermittedAgents, UnknownUser
from smtpd.slice import LMTP_USER, Account, AgentSlice, Method, ParentSlice

ALICE = Account(2000, 2001, "/srv/alice")
ACTIONS = (
    AgentSlice("maildir", Method.MAILDIR, "~/Maildir", junk=True),
    AgentSlice("mbox", Method.MBOX, ""),
    AgentSlice("mda", Method.MDA, "procmail", wrapper="nice %{mda}"),
    AgentSlice("shared", Method.MAILDIR, "/srv/%{user}", user="vmail"),
    AgentSlice("lmtp", Method.LMTP, "localhost:24", rcpt_to=True),
    AgentSlice("socket", Method.LMTP, "/run/lmtp"),
    AgentSlice("lmtp-as", Method.LMTP, "/run/lmtp", user="vmail"),
    AgentSlice("people", Method.MAILDIR, "~/Maildir", accounts={"alice": ALICE}),
    AgentSlice("people-mbox", Method.MBOX, "", accounts={"alice": ALICE}),
    AgentSlice("expand", Method.EXPAND_ONLY, ""),
    AgentSlice("expand-people", Method.EXPAND_ONLY, "", accounts={"alice": ALICE}),
    AgentSlice("forward", Method.FORWARD_ONLY, ""),
)


def configuration(**more):
    return ParentSlice((), ACTIONS, (), 1, None, sub_addr_delim="-", **more)


PLAIN = configuration()
WITH_COMMANDS = configuration(alias_commands="lists", alias_files=("/etc/aliases",))
PERSON = (2000, 2001, "/srv/alice")
WARRANT = AgentSpec("expansion-target", delimiter="-")

ALLOWED = [
    (PLAIN, "bob", "", Duty.READ, None, AgentSpec("forward")),
    (PLAIN, "alice", "people", Duty.READ, PERSON, AgentSpec("forward")),
    (PLAIN, "alice", "expand-people", Duty.READ, PERSON, AgentSpec("forward")),
    (PLAIN, "bob", "maildir", Duty.DELIVER, None, AgentSpec("maildir", "~/Maildir", junk=True, delimiter="-")),
    (PLAIN, "bob", "mbox", Duty.DELIVER, None, AgentSpec("mbox", delimiter="-")),
    (PLAIN, "bob", "mda", Duty.DELIVER, None, AgentSpec("command", "procmail", "nice %{mda}", delimiter="-")),
    (PLAIN, "vmail", "shared", Duty.DELIVER, None, AgentSpec("maildir", "/srv/%{user}", delimiter="-", shared=True)),
    (PLAIN, LMTP_USER, "lmtp", Duty.DELIVER, None, AgentSpec("lmtp", "localhost:24", rcpt_to=True, delimiter="-")),
    (PLAIN, LMTP_USER, "socket", Duty.DELIVER, None, AgentSpec("lmtp-unix", "/run/lmtp", delimiter="-")),
    (PLAIN, "vmail", "lmtp-as", Duty.DELIVER, None, AgentSpec("lmtp-unix", "/run/lmtp", delimiter="-", shared=True)),
    (PLAIN, "alice", "people", Duty.DELIVER, PERSON, AgentSpec("maildir", "~/Maildir", delimiter="-")),
    (PLAIN, "alice", "people-mbox", Duty.DELIVER, PERSON, AgentSpec("mbox", delimiter="-")),
    (PLAIN, "bob", "maildir", Duty.FORWARDED, None, WARRANT),
    (PLAIN, "bob", "mda", Duty.FORWARDED, None, AgentSpec("expansion-target", wrapper="nice %{mda}", delimiter="-")),
    (PLAIN, "bob", "shared", Duty.FORWARDED, None, WARRANT),
    (PLAIN, "bob", "lmtp", Duty.FORWARDED, None, WARRANT),
    (PLAIN, "bob", "expand", Duty.FORWARDED, None, WARRANT),
    (PLAIN, "alice", "people", Duty.FORWARDED, PERSON, WARRANT),
    (
        WITH_COMMANDS,
        "lists",
        "mda",
        Duty.ALIASED,
        None,
        AgentSpec("expansion-target", wrapper="nice %{mda}", delimiter="-", files=("/etc/aliases",)),
    ),
    (WITH_COMMANDS, "bob", "maildir", Duty.FORWARDED, None, WARRANT),  # whose warrant is no alias file
]


@pytest.mark.parametrize("slice, user, action, duty, account, post", ALLOWED, ids=lambda value: str(value)[:12])
def test_what_queue_may_ask_for_is_forked_as_the_configuration_says(slice, user, action, duty, account, post):
    permitted = PermittedAgents(slice).get_permitted(StartAgent(1, user, action, duty))
    assert (permitted.user, permitted.account, permitted.spec) == (user, account, post)
    files = list(post.files)
    described = (post.kind, post.target, post.wrapper, post.junk, post.rcpt_to, post.delimiter, files, post.shared)
    assert permitted.fork(7) == ForkAgent(7, user, account, *described)


FORGED = [
    (PLAIN, "bob", "other", Duty.DELIVER),  # no such action
    (PLAIN, "bob", "", Duty.DELIVER),
    (PLAIN, "bob", "", Duty.FORWARDED),
    (PLAIN, "bob", "other", Duty.READ),
    (PLAIN, "bob", "maildir", Duty.READ),  # its users are the system's: asked for without an action
    (PLAIN, "vmail", "shared", Duty.READ),
    (PLAIN, "root", "shared", Duty.DELIVER),  # it runs as vmail
    (PLAIN, "bob", "shared", Duty.DELIVER),
    (PLAIN, "root", "lmtp", Duty.DELIVER),
    (PLAIN, "bob", "socket", Duty.DELIVER),
    (PLAIN, LMTP_USER, "lmtp-as", Duty.DELIVER),
    (PLAIN, "bob", "expand", Duty.DELIVER),
    (PLAIN, "bob", "forward", Duty.FORWARDED),
    (PLAIN, "bob", "forward", Duty.DELIVER),
    (PLAIN, "bob", "maildir", Duty.DISCARD),  # nobody needs an agent for that
    (PLAIN, "lists", "maildir", Duty.ALIASED),  # commands in alias files are off
    (PLAIN, "", "maildir", Duty.ALIASED),
    (WITH_COMMANDS, "bob", "maildir", Duty.ALIASED),
    (WITH_COMMANDS, "lists", "forward", Duty.ALIASED),
    (WITH_COMMANDS, "lists", "other", Duty.ALIASED),
]


@pytest.mark.parametrize("slice, user, action, duty", FORGED, ids=lambda value: str(value)[:12])
def test_what_no_queue_of_ours_asks_for_is_the_end_of_it(slice, user, action, duty):
    with pytest.raises(Violation):
        PermittedAgents(slice).get_permitted(StartAgent(1, user, action, duty))


@pytest.mark.parametrize("duty", [Duty.READ, Duty.DELIVER, Duty.FORWARDED])
@pytest.mark.parametrize("user", ["bob", "root", LMTP_USER])
def test_a_user_that_is_not_in_the_userbase_is_unknown_whatever_the_system_knows(make_world, user, duty):
    with pytest.raises(UnknownUser):
        PermittedAgents(PLAIN).get_permitted(StartAgent(1, user, "people", duty))
    world = make_world(*ACTIONS)
    world.say("queue", StartAgent(1, user, "people", duty))
    assert world.hears("queue") == [AgentRefused(1, True, f"no such user: {user}")]
    assert world.hears("nursery") == []


@given(st.sampled_from([PLAIN, WITH_COMMANDS]), st.text(max_size=8) | st.sampled_from(["bob", "vmail", "lists"]))
@settings(max_examples=100)
def test_no_agent_runs_as_a_user_that_the_configuration_does_not_have(slice, user):
    """A user of a userbase has its ids, whom an action names is nobody else; all others the nursery judges."""
    for action in ["", *(action.name for action in ACTIONS)]:
        for duty in Duty:
            try:
                found = PermittedAgents(slice).get_permitted(StartAgent(1, user, action, duty))
            except (Violation, UnknownUser):
                continue
            check(slice, found, user, action, duty)


def check(slice: ParentSlice, found: PermittedAgent, user, name, duty):
    action = {action.name: action for action in ACTIONS}.get(name)
    assert found.user == user and found.spec.kind in PROMISES
    assert (found.account is not None) == (action is not None and action.accounts is not None and duty != Duty.ALIASED)
    if duty == Duty.DELIVER and action.user:
        assert user == action.user
    if duty == Duty.ALIASED:
        assert user == slice.alias_commands and found.spec.files == slice.alias_files

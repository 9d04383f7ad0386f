"""Names, trusted clients and senders of a listener."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.imsg import CheckSender, ClassifyClient, ClientClassified, SenderChecked
from smtpd.ipc.channel import Violation
from smtpd.lookup.listener_tables import may_send_as
from smtpd.slice import ListenerTablesSlice, TableSlice
from tests.lookup.conftest import CONFIGURATION

TABLES = (
    *CONFIGURATION.tables,
    TableSlice(
        "names",
        pairs=(
            ("192.0.2.1", "a.here.test"),
            ("2001:db8::1", "b.here.test"),
            ("192.0.2.2", "a b"),
            ("192.0.2.3", "mx.müller.test"),
        ),
    ),
    TableSlice("trusted", entries=("198.51.100.0/24", "2001:db8::/32")),
    TableSlice(
        "senders",
        pairs=(
            ("bob", "bob@here.test, @bob.test"),
            ("amy@here.test", "@"),
            ("eve", "@\u00e4(*.x"),
            ("eva@müller.test", "eva@müller.test"),
        ),
    ),
    TableSlice("away", backend="ldap"),
)
DOORS = (
    ListenerTablesSlice(1, True, senders="senders", hostnames="names", xclient="trusted"),
    ListenerTablesSlice(2, senders="away", hostnames="away", xclient="away"),
    ListenerTablesSlice(3, senders="trusted"),
    ListenerTablesSlice(4),
)


@pytest.fixture
def open_house(house):
    return house(tables=TABLES, listener_tables=DOORS)


@pytest.mark.parametrize(
    "address, local, hostname, xclient",
    [
        ("203.0.113.9", "192.0.2.1", "a.here.test", False),
        ("198.51.100.9", "192.0.2.9", "", True),
        ("2001:DB8::9", "2001:DB8:0::1", "b.here.test", True),
        ("::ffff:198.51.100.9", "::ffff:192.0.2.1", "a.here.test", True),
        ("local", "local", "", False),
        ("203.0.113.9", "192.0.2.3", "mx.xn--mller-kva.test", False),
        ("203.0.113.9", "192.0.2.2", "", False),  # what stands there is no name
    ],
)
def test_the_server_name_and_trust_of_a_client(open_house, address, local, hostname, xclient):
    assert open_house.ask(ClassifyClient(5, 1, address, local)) == ClientClassified(5, hostname, xclient)


@pytest.mark.parametrize("listener", [2, 4])
def test_a_table_that_is_not_there_or_cannot_be_asked_changes_nothing(open_house, listener):
    welcomed = open_house.ask(ClassifyClient(5, listener, "198.51.100.9", "192.0.2.1"))
    assert welcomed == ClientClassified(5, "", False)


@pytest.mark.parametrize(
    "user, sender, verdict",
    [
        ("bob", "bob@here.test", "yes"),
        ("BOB", "Bob+lists@HERE.test", "yes"),
        ("bob", "anybody@bob.test", "yes"),
        ("eva@xn--mller-kva.test", "eva@MÜLLER.test", "yes"),
        ("eva@müller.test", "eva@xn--mller-kva.test", "yes"),
        ("eva@müller.test", "eva@muller.test", "no"),
        ("bob", "amy@here.test", "no"),
        ("bob", "bob@there.test", "no"),
        ("bob", "", "no"),
        ("amy@here.test", "anybody@there.test", "yes"),
        ("amy@here.test", "", "yes"),
        ("amy", "amy@here.test", "no"),
        ("nobody", "nobody@here.test", "no"),
    ],
)
def test_a_user_sends_as(open_house, user, sender, verdict):
    assert open_house.ask(CheckSender(5, 1, user, sender)) == SenderChecked(5, verdict)


@pytest.mark.parametrize("listener", [2, 3])
def test_a_table_that_cannot_say_is_for_later(open_house, listener):
    assert open_house.ask(CheckSender(5, listener, "bob", "bob@here.test")) == SenderChecked(5, "later")


@pytest.mark.parametrize("imsg", [ClassifyClient(1, 9, "192.0.2.1", "192.0.2.1"), CheckSender(1, 4, "bob", "")])
def test_a_listener_without_such_a_table_is_not_asked_about(open_house, imsg):
    ask = {ClassifyClient: "classify", CheckSender: "check_sender"}[type(imsg)]
    with pytest.raises(Violation):
        getattr(open_house.lookup.listeners, ask)(None, imsg)


ADDRESS = st.from_regex(r"[ab+]{1,3}@[ab.]{1,4}", fullmatch=True)
PATTERN = st.one_of(ADDRESS, st.from_regex(r"[ab]?@?[ab.*]{0,4}", fullmatch=True))


@settings(max_examples=200, deadline=None)
@given(st.lists(PATTERN, max_size=4), ADDRESS)
def test_a_sender_is_allowed_by_one_pattern_or_not_at_all(patterns, sender):
    each = [may_send_as(pattern, sender, "+") for pattern in patterns]
    assert may_send_as(" ,".join(patterns), sender, "+") is any(each)
    assert may_send_as(f",{sender},", sender, "+")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_garbage_allows_only_the_addresses_in_it(patterns, sender):
    if may_send_as(patterns, f"{sender}@here.test", "+"):
        assert "@" in patterns or any(part.strip() for part in patterns.split(","))

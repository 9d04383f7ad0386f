"""The keys of alias and virtual tables."""

import pytest

from smtpd.tables.lookup_keys import alias_keys, virtual_keys


@pytest.mark.parametrize(
    "user, keys",
    [
        ("bob", ("bob",)),
        ("bob+lists", ("bob+lists", "bob")),
        ("bob+a+b", ("bob+a+b", "bob")),
        ("+lists", ("+lists",)),
        ("bob-lists", ("bob-lists",)),
    ],
)
def test_a_sub_address_comes_before_its_user(user, keys):
    assert alias_keys(user, "+") == keys


def test_the_order_of_a_virtual_table():
    assert virtual_keys("bob+x", "d.test", "+") == ("bob+x@d.test", "bob@d.test", "bob+x", "bob", "@d.test", "@")
    assert virtual_keys("bob", "d.test", "-") == ("bob@d.test", "bob", "@d.test", "@")


def test_a_user_without_a_domain_is_not_caught():
    assert virtual_keys("bob+x", "", "+") == ("bob+x", "bob")

"""The order of a host's addresses, RFC 8305 4."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.relay.address_order import ADDRESSES_TRIED_MAX, Path, address_order, family_of

V4, V6 = ["192.0.2.1", "192.0.2.2", "192.0.2.3"], ["2001:db8::1", "2001:db8::2", "2001:db8::3"]


def addresses(*arguments, **more):
    return [path.address for path in address_order(*arguments, **more)]


def test_families_take_turns_that_of_the_first_address_first():
    assert addresses([*V6[:2], *V4[:2]]) == [V6[0], V4[0], V6[1], V4[1]]
    assert addresses([*V4[:2], *V6[:2]]) == [V4[0], V6[0], V4[1], V6[1]]


def test_a_family_that_has_not_worked_comes_last():
    assert addresses([*V6[:2], *V4[:2]], broken=[6]) == [*V4[:2], *V6[:2]]
    assert addresses(V6[:1], broken=[6]) == V6[:1]


def test_both_families_are_among_the_five_that_are_tried():
    found = addresses([*V6, *V4])
    assert len(found) == ADDRESSES_TRIED_MAX
    assert {family_of(address) for address in found} == {4, 6}


@pytest.mark.parametrize("family, expected", [(4, V4[:1]), (6, V6[:1])])
def test_a_family_that_is_not_wanted_is_never_used(family, expected):
    assert addresses([V6[0], V4[0]], families=[family]) == expected


def test_a_source_is_of_the_family_of_the_address():
    assert address_order([V6[0], V4[0]], ["198.51.100.1"]) == [Path(V4[0], "198.51.100.1")]
    assert address_order([V6[0]], ["198.51.100.1"]) == []


def test_the_same_number_gives_the_same_source_first():
    sources = ["198.51.100.1", "2001:db8:1::1", "198.51.100.2"]
    assert [path.source for path in address_order(V4[:1], sources, start=4)] == ["198.51.100.1", "198.51.100.2"]
    assert [path.source for path in address_order(V4[:1], sources, start=5)] == ["198.51.100.2", "198.51.100.1"]


@given(
    st.lists(st.sampled_from([*V4, *V6]), unique=True),
    st.lists(st.sampled_from(["198.51.100.1", "2001:db8:1::1"]), unique=True),
    st.sets(st.sampled_from([4, 6])),
    st.sets(st.sampled_from([4, 6])),
)
def test_any_addresses(given_addresses, sources, families, broken):
    paths = address_order(given_addresses, sources, families, broken)
    assert len(paths) == len(set(paths)) and {path.address for path in paths} <= set(given_addresses)
    assert all(family_of(path.address) in families for path in paths)
    assert all(not path.source or family_of(path.source) == family_of(path.address) for path in paths)

"""The _mta-sts TXT record, as RFC 8461 3.1 has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.lookup.mta_sts_record import policy_id


@pytest.mark.parametrize(
    "record",
    [
        b"v=STSv1; id=20160831085700Z;",
        b"v=STSv1; id=20160831085700Z",
        b"v=STSv1;id=20160831085700Z",
        b"v=STSv1 ;\tid=20160831085700Z ; ",
        b"v=STSv1; id=20160831085700Z; other=a:b",
        b"v=STSv1; x_y-z.9=!; id=20160831085700Z;",
    ],
)
def test_a_record(record):
    assert policy_id([record]) == "20160831085700Z"


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"v=STSv1",
        b"v=STSv1;",
        b"v=STSv2; id=1;",
        b"V=STSv1; id=1;",
        b"id=1; v=STSv1;",
        b"v=STSv1; id=;",
        b"v=STSv1; id=a-b;",
        b"v=STSv1; id=" + b"1" * 33,
        b"v=STSv1; id=1; id=2;",
        b"v=STSv1; id=1;; x=y",
        b"v=STSv1; id=1; x",
        b"v=STSv1; id=1; =y",
        b"v=STSv1; id=1; x=a b",
        b"v=STSv1; id=1; x=a=b",
        b"v=STSv1; id=1; x=\xc3\xa9",
        b"v=STSv1; id=1\n",
        b"v=STSv1; id=1; " + b"x" * 33 + b"=y",
        b"v = STSv1; id=1;",
    ],
)
def test_what_is_none(record):
    assert policy_id([record]) == ""


def test_records_of_others_do_not_count():
    assert policy_id([b"v=spf1 -all", b"v=STSv1; id=7;", b"v=STSv10; id=8;"]) == "7"


def test_more_than_one_is_none():
    """ "If the number of resulting records is not one", even where the other one is not valid."""
    assert policy_id([b"v=STSv1; id=7;", b"v=STSv1; id=7;"]) == ""
    assert policy_id([b"v=STSv1; id=7;", b"v=STSv1; nonsense"]) == ""


@given(st.lists(st.binary() | st.binary().map(lambda data: b"v=STSv1; id=" + data), max_size=4))
def test_any_records_give_an_id_or_none(records):
    found = policy_id(records)
    assert found == "" or (found.isascii() and found.isalnum() and len(found) <= 32)

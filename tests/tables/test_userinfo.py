"""uid:gid:home."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tables.userinfo import UserInfo, UserInfoError, parse_userinfo


@pytest.mark.parametrize(
    "value, info",
    [
        ("1001:1002:/home/bob", UserInfo(1001, 1002, "/home/bob")),
        ("::/home/bob", UserInfo(None, None, "/home/bob")),
        ("1001::/home/bob", UserInfo(1001, None, "/home/bob")),
        ("0:0:/", UserInfo(0, 0, "/")),
        ("4294967294:1:/a b:c", UserInfo(4294967294, 1, "/a b:c")),
    ],
)
def test_a_user(value, info):
    assert parse_userinfo(value) == info


WRONG = [
    "",
    "1001",
    "1001:1002",
    "1001:1002:",
    "1001:1002:home",
    "-1:1002:/home",
    "+1:1002:/home",
    " 1:2:/home",
    "1_0:2:/home",
    "4294967295:1:/home",
    "1:4294967295:/home",
    "99999999999:1:/home",
    "١:1:/home",
    "bob:bob:/home/bob",
    "1:1:/home/../root",
    "1:1:/home/./x",
    "1:1:/home\n",
    "1:1:/home\0",
    "1:1:/home/\udcff",
    "1:1:/" + "x" * 1024,
]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_not_quite_a_user_is_none(value):
    with pytest.raises(UserInfoError):
        parse_userinfo(value)


@settings(max_examples=200, deadline=None)
@given(st.text("019:/.-\n ab", max_size=24))
def test_any_text_is_a_user_or_malformed(value):
    try:
        info = parse_userinfo(value)
    except UserInfoError:
        return
    assert value == f"{value.split(':')[0]}:{value.split(':')[1]}:{info.home}" and info.home.startswith("/")

"""Where an action's path leads for one user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_local.place import expand


@pytest.mark.parametrize(
    "path, expected",
    [
        ("~/Maildir", "/home/bob/Maildir"),
        ("/var/mail/%{user.username}/Maildir", "/var/mail/bob/Maildir"),
        ("%{user.directory}/mail", "/home/bob/mail"),
        ("%{USER.Username}", None),
        ("/m/%{USER.Username}", "/m/bob"),
        ("/a/100%%", "/a/100%"),
        ("/a/~/b", "/a/~/b"),
    ],
)
def test_expansion(path, expected):
    if expected is None:
        with pytest.raises(ValueError):
            expand(path, "bob", "/home/bob")
    else:
        assert expand(path, "bob", "/home/bob") == expected


@pytest.mark.parametrize(
    "path", ["Maildir", "", "~bob/Maildir", "/a/%{sender}", "/a/%{rcpt.user}", "/a/%x", "/a/%", "/a/%{", "/\0"]
)
def test_what_is_no_place(path):
    with pytest.raises(ValueError):
        expand(path, "bob", "/home/bob")


def test_a_value_is_not_expanded_again():
    assert expand("/m/%{user.username}", "%{user.directory}", "/home/bob") == "/m/%{user.directory}"


def test_a_user_without_a_home_has_no_place_in_it():
    with pytest.raises(ValueError):
        expand("~/Maildir", "bob", "")


@given(st.text())
def test_any_path_is_absolute_or_refused(path):
    try:
        assert expand(path, "bob", "/home/bob").startswith("/")
    except ValueError:
        pass

"""What the system says of a failure, in words."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.ipc.os_error import describe_error, error_path

REFUSED = f"permission denied for uid {os.geteuid()}"


def failure(number, *names):
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    "error, reason",
    [
        (failure(errno.EACCES, "/home/bob/Maildir"), f"/home/bob/Maildir: {REFUSED}"),
        (failure(errno.EACCES), REFUSED),
        (failure(errno.EPERM, "/x"), f"/x: operation not permitted for uid {os.geteuid()}"),
        (PermissionError(errno.EPERM, "not below /srv", "/home"), "/home: not below /srv"),
        (failure(errno.ENOSPC, "/x"), "/x: No space left on device"),
        (failure(errno.ENOENT, 7), "No such file or directory"),
        (OSError("the content ends"), "the content ends"),
        (ValueError("a name with a NUL in it"), "a name with a NUL in it"),
    ],
)
def test_words(error, reason):
    assert describe_error(error) == reason


@pytest.mark.parametrize(
    "name, path",
    [
        (None, "/home/bob/Maildir"),
        ("tmp", "/home/bob/Maildir/tmp"),
        ("/elsewhere", "/elsewhere"),
        (3, "/home/bob/Maildir"),
    ],
)
def test_the_whole_path(name, path):
    with pytest.raises(PermissionError) as raised, error_path("/home/bob/Maildir"):
        raise failure(errno.EACCES, *([] if name is None else [name]))
    assert describe_error(raised.value) == f"{path}: {REFUSED}"


def test_where_several_know_their_part_of_the_way():
    with pytest.raises(OSError) as raised, error_path("/home/bob"), error_path("Maildir"):  # noqa: PT011
        raise failure(errno.ENOSPC, "new")
    assert describe_error(raised.value) == "/home/bob/Maildir/new: No space left on device"


def test_a_path_that_the_system_names_stays(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, error_path("/"):
        os.stat(tmp_path / "nothing")
    assert describe_error(raised.value) == f"{tmp_path}/nothing: No such file or directory"


@given(st.integers(1, 140), st.none() | st.text(max_size=20), st.none() | st.text(max_size=20))
def test_no_number_of_an_error_is_ever_said(number, text, name):
    error = OSError(
        *([number, os.strerror(number)] if text is None else [text]), *([name] if name and text is None else [])
    )
    assert "[Errno" not in describe_error(error).replace(text or "", "")

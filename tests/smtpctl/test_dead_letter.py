"""What could not be sent is kept, and nobody else is harmed by that."""

import os

import pytest

from smtpctl import dead_letter
from smtpctl.dead_letter import NAME, NUMBERS, save


def test_each_letter_has_a_file_of_its_own(tmp_path):
    paths = [save(str(tmp_path), [b"one", b" %d" % number]) for number in range(3)]
    assert paths == [str(tmp_path / name) for name in (NAME, f"{NAME}.1", f"{NAME}.2")]
    assert (tmp_path / NAME).read_bytes() == b"one 0" and (tmp_path / f"{NAME}.2").read_bytes() == b"one 2"


def test_no_other_user_can_read_it(tmp_path):
    before = os.umask(0)
    try:
        save(str(tmp_path), [b"x"])
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["symlink", "dangling", "fifo", "directory"])
def test_what_is_there_is_not_followed_and_not_written_to(tmp_path, there):
    target = tmp_path / "target"
    path = tmp_path / NAME
    if there == "symlink":
        target.write_bytes(b"precious")
        path.symlink_to(target)
    elif there == "dangling":
        path.symlink_to(target)
    elif there == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert save(str(tmp_path), [b"x"]) == f"{path}.1"
    assert target.read_bytes() == b"precious" if there == "symlink" else not target.exists()


def test_the_number_of_files_is_limited(tmp_path):
    for number in range(NUMBERS):
        (tmp_path / (f"{NAME}.{number}" if number else NAME)).touch()
    with pytest.raises(FileExistsError):
        save(str(tmp_path), [b"x"])


@pytest.mark.parametrize("home", ["/", "/nowhere", "/etc/passwd", "relative/nowhere"])
def test_only_in_a_home_of_ones_own(home, monkeypatch):
    monkeypatch.setattr(dead_letter.os, "geteuid", lambda: 12345)
    with pytest.raises(OSError):
        save(home, [b"x"])

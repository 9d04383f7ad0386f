"""Which file of keys the parent opens for queue."""

import os

import pytest

from smtpd.parent.start.await_child import CannotStart
from smtpd.parent.start.queue_key import open_queue_key


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "queue.key"
    made.touch(0o600)
    made.write_text("1" * 64)
    return made


def test_a_file_of_ones_own_is_opened(path):
    descriptor = open_queue_key(str(path), strict=False)
    assert os.read(descriptor, 100) == b"1" * 64
    os.close(descriptor)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601])
def test_a_file_that_others_may_use_is_refused(path, mode):
    path.chmod(mode)
    with pytest.raises(CannotStart, match=f"can be read by others .mode {mode:04o}"):
        open_queue_key(str(path), strict=False)


@pytest.mark.parametrize("make", ["directory", "fifo", "nothing"])
def test_what_is_no_file_is_refused_and_not_waited_for(path, make):
    path.unlink()
    if make == "directory":
        path.mkdir(0o700)
    elif make == "fifo":
        os.mkfifo(path, 0o600)
    with pytest.raises(CannotStart, match="queue encryption: "):
        open_queue_key(str(path), strict=False)


def test_no_descriptor_stays_of_what_is_refused(path):
    path.chmod(0o644)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CannotStart):
        open_queue_key(str(path), strict=False)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of others")
def test_as_root_the_file_is_roots(path):
    os.chown(path, 12345, 12345)
    for strict in (False, True):
        with pytest.raises(CannotStart):
            open_queue_key(str(path), strict=strict)

"""The reserve of the disk."""

from types import SimpleNamespace

from smtpd.queue.store.space import INODES_RESERVE, MIB, RESERVE_BYTES, Space


class Disk:
    def __init__(self, total, free):
        self.asked = 0
        self.total, self.free, self.inodes = total, free, 10**6
        self.now = 0.0
        self.error = None
        self.space = Space("/", lambda: self.now, self.statvfs)

    def statvfs(self, _path):
        self.asked += 1
        if self.error:
            raise self.error
        return SimpleNamespace(f_frsize=1, f_blocks=self.total, f_bavail=self.free, f_files=10**6, f_favail=self.inodes)


def test_above_the_reserve_there_is_room():
    disk = Disk(1000 * MIB, RESERVE_BYTES + 100)
    assert disk.space.take(100)


def test_the_size_of_blocks_counts():
    def statvfs(_path):
        blocks = RESERVE_BYTES // 4096
        return SimpleNamespace(f_frsize=4096, f_blocks=4 * blocks, f_bavail=blocks + 1, f_files=0, f_favail=0)

    space = Space("/", lambda: 0.0, statvfs)
    assert space.take(4096) and not space.take(1)


def test_below_the_reserve_there_is_none():
    disk = Disk(1000 * MIB, RESERVE_BYTES + 100)
    assert not disk.space.take(101)
    assert not Disk(1000 * MIB, RESERVE_BYTES - 1).space.take(0)


def test_a_small_disk_keeps_half_of_it():
    disk = Disk(40 * MIB, 21 * MIB)
    assert disk.space.take(MIB)
    assert not disk.space.take(1)


def test_what_was_let_in_counts_until_the_disk_is_asked_again():
    disk = Disk(1000 * MIB, RESERVE_BYTES + 100)
    assert disk.space.take(60)
    assert not disk.space.take(60)
    disk.now = 1.0
    assert disk.space.take(60)


def test_the_disk_is_asked_once_a_second():
    disk = Disk(1000 * MIB, 500 * MIB)
    for disk.now in (0.0, 0.3, 0.9, 1.0, 1.5, 2.0):
        disk.space.take(1)
    assert disk.asked == 3


def test_room_comes_back_by_itself():
    disk = Disk(1000 * MIB, 0)
    assert not disk.space.take(1)
    disk.free, disk.now = 500 * MIB, 1.0
    assert disk.space.take(1)


def test_a_disk_that_does_not_answer_is_full():
    def statvfs(_path):
        raise OSError(5, "Input/output error")

    assert not Space("/", lambda: 0.0, statvfs).take(1)


def test_a_disk_that_does_not_answer_any_more_is_full():
    disk = Disk(1000 * MIB, 500 * MIB)
    assert disk.space.take(1)
    disk.error, disk.now = OSError(5, "Input/output error"), 1.0
    assert not disk.space.take(1)


def test_a_disk_without_inodes_is_full():
    disk = Disk(1000 * MIB, 500 * MIB)
    disk.inodes = INODES_RESERVE
    assert disk.space.take(1)
    disk.inodes, disk.now = INODES_RESERVE - 1, 1.0
    assert not disk.space.take(1)

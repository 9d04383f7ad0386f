"""All threads of the queue's disk at once: changes, reads of the store, and spool files, one after the other."""

import os
import threading
import time

import pytest

from smtpd.ipc.loop import prepare
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove
from tests.queue.conftest import CONTENT, add
from tests.stress import hasty_threads, join, rounds, run_until_stopped

MESSAGES = 20


@pytest.fixture
def disk(tmp_path):
    loop = prepare()
    spool = Spool(str(tmp_path))
    made = Disk(loop, SQLiteStore(str(tmp_path)), spool, Space(str(tmp_path), time.monotonic), lambda: None)
    made.loop = loop
    yield made
    made.close(lambda *_: loop.stop())
    run_until_stopped(loop)
    loop.close()


class Life:
    """Of one message: added, read, its file made and removed, its envelope loaded and removed.  `ended` is called when
    each of the threads has answered."""

    def __init__(self, disk, number, ended):
        self.disk, self.number, self.ended = disk, number, ended
        disk.commits.submit(add(number), self.added)

    def added(self, error):
        assert error is None
        self.disk.read_message(self.number, self.found)

    def found(self, message, error):
        assert error is None and message.content == CONTENT
        path = os.path.join(self.disk.spool_path, f"stress-{self.number}")
        self.disk.work(lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600)) or os.unlink(path), self.worked)

    def worked(self, _result, error):
        assert error is None
        self.disk.load([self.number << 32 | 1], self.loaded)

    def loaded(self, rows, error):
        assert error is None and [row.id for row in rows] == [self.number << 32 | 1]
        self.disk.commits.submit(Remove(self.number << 32 | 1), self.removed, must_succeed=True)

    def removed(self, error):
        assert error is None
        self.ended()


def test_hand_over_every_change_read_and_file_is_answered(disk, tmp_path):
    disk.spool_path, left = str(tmp_path), 0

    def ended():
        nonlocal left
        left -= 1
        if not left:
            disk.loop.stop()

    with hasty_threads():
        for _ in rounds(4):
            left = MESSAGES
            for number in range(1, MESSAGES + 1):
                Life(disk, number, ended)
            run_until_stopped(disk.loop)
            assert disk.idle and disk.store.messages(1, MESSAGES) == set()


def test_hand_over_of_the_connections_when_the_store_is_repaired(tmp_path):
    """One thread reads while another one commits, and closes and opens everything again."""
    store, troubles, ended = SQLiteStore(str(tmp_path)), [], threading.Event()

    def read():
        try:
            while not ended.is_set():
                assert store.messages(1, 9) <= {1}
                assert set(store.sizes([1])) <= {1}
                assert len(store.envelopes(0, 1 << 40, 10)) <= 1
        except BaseException as error:
            troubles.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with hasty_threads():
        for _ in rounds(5):
            store.apply([add(1)])
            store.repair([])
            store.apply([Remove(1 << 32 | 1)])
            store.repair([1])
    ended.set()
    join([reader])
    store.close()
    assert troubles == []

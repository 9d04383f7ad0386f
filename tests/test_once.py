"""Which tests root leaves to the ordinary user: none that asks who the user is (tests/once.py)."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import once


def test_each_file_of_the_list_is_there():
    assert [path for path in once.FILES if not path.is_file()] == []


def asks():
    return os.geteuid()


def gives_away(path):
    os.chown(path, os.stat(path).st_uid, -1)


def starts():
    subprocess.run([sys.executable, "--version"], check=True, stdout=subprocess.DEVNULL)


def reads():
    return open("/proc/version")


@pytest.mark.parametrize(
    "function, found",
    [(asks, ["geteuid"]), (gives_away, ["chown", "st_uid"]), (starts, ["subprocess"]), (reads, ["/proc/version"])],
)
def test_what_depends_on_the_user_is_seen_in_the_code_that_runs(function, found):
    assert once.words_of(function.__code__) == tuple(f"tests/test_once.py, {function.__name__}: {it}" for it in found)


def test_it_is_seen_in_each_test_in_all_threads_and_only_while_it_is_watched():
    for _ in range(2):
        with once.Watch() as watch:
            thread = threading.Thread(target=asks)
            thread.start()
            thread.join()
        with once.Watch() as another:
            pass
        asks()
        assert watch.found == {"tests/test_once.py, asks: geteuid"} and another.found == set()


def test_the_owner_of_a_file_is_seen_where_the_library_looks_it_up():
    with once.Watch() as watch:
        Path(__file__).owner()
    assert watch.found == {"pathlib: owner"}


def test_constants_and_decorators_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(once, "TESTS", tmp_path / "tests")
    path = tmp_path / "test_example.py"
    path.write_text(
        "import os, pytest\n\n\n@pytest.mark.skipif(os.geteuid() != 0, reason='root')\ndef test_it(): ...\n"
    )
    assert once.words_of_module(path) == ("test_example.py, <module>: geteuid",)

"""Files that aliases include."""

import os

import pytest

from smtpd.ipc.log import log
from smtpd.lookup.include_file import SIZE_MAX, IncludeFiles
from smtpd.tables.alias_syntax import Address, User


@pytest.fixture
def path(tmp_path):
    return tmp_path / "list"


def told(capfd):
    log.flush()
    return capfd.readouterr().err


def test_its_members(path):
    path.write_text("# the staff\nbob, amy@there.test\n\n  eve # a comment\n\\\nlast")
    assert IncludeFiles().read(str(path)) == (User("bob"), Address("amy", "there.test"), User("eve"), User("last"))


def test_a_comment_takes_no_line_with_it(path):
    path.write_text("# bob \\\namy\n")
    assert IncludeFiles().read(str(path)) == (User("amy"),)


def test_it_includes_no_other_file(path, capfd):
    path.write_text(f"bob\n:include:{path}\n")
    assert IncludeFiles().read(str(path)) == (User("bob"),)
    assert "cannot include others" in told(capfd)


def test_faults_of_an_include_are_logged_once(path, capfd):
    includes = IncludeFiles()
    path.write_text("bob\namy\n")
    assert includes.read(str(path)) == (User("bob"), User("amy"))
    assert told(capfd) == ""
    path.write_text("bob\n" + "a b\n" * 9)
    assert includes.read(str(path)) == includes.read(str(path)) == (User("bob"),)
    assert told(capfd).count(f"include {path}: line ") == 5


def test_the_file_is_closed(path):
    path.write_text("bob\n")
    before = os.listdir("/dev/fd")
    includes = IncludeFiles()
    assert includes.read(str(path)) == includes.read(str(path)) == (User("bob"),)
    assert os.listdir("/dev/fd") == before


def test_a_change_is_seen_at_once(path):
    includes = IncludeFiles()
    path.write_text("bob")
    assert includes.read(str(path)) == (User("bob"),)
    new = path.with_suffix(".new")
    new.write_text("amy")
    new.rename(path)
    assert includes.read(str(path)) == (User("amy"),)


def test_a_missing_include_has_no_members_and_is_logged_once(path, capfd):
    includes = IncludeFiles()
    assert includes.read(str(path)) == includes.read(str(path)) == ()
    assert told(capfd).count(str(path)) == 1
    path.write_text("bob")
    assert includes.read(str(path)) == (User("bob"),)


def test_the_members_stay_while_it_cannot_be_read(path, capfd):
    includes = IncludeFiles()
    path.write_text("bob")
    assert includes.read(str(path)) == (User("bob"),)
    path.unlink()
    assert includes.read(str(path)) == includes.read(str(path)) == (User("bob"),)
    assert told(capfd) == f"warn: include {path}: No such file or directory: its members stay as they were\n"
    path.write_text("bob\n" * (SIZE_MAX // 4 + 1))
    assert includes.read(str(path)) == (User("bob"),)
    path.write_text("amy")
    assert includes.read(str(path)) == (User("amy"),)


def test_a_file_without_end_has_no_members(path, capfd):
    path.write_text("bob\n" * (SIZE_MAX // 4 + 1))
    assert IncludeFiles().read(str(path)) == ()
    assert "larger" in told(capfd)
    assert IncludeFiles().read("/dev/zero") == ()
    assert "not a regular file" in told(capfd)


def test_a_fifo_is_not_waited_for(path, capfd):
    os.mkfifo(path)
    assert IncludeFiles().read(str(path)) == ()
    assert "not a regular file" in told(capfd)


def test_a_directory_and_a_path_that_is_none(path, capfd):
    path.mkdir()
    assert IncludeFiles().read(str(path)) == IncludeFiles().read("/a\0b") == ()


def test_many_files_are_not_all_remembered(tmp_path):
    includes = IncludeFiles()
    for n in range(600):
        assert includes.read(str(tmp_path / str(n))) == ()
    assert len(includes._known) <= 256

"""What must hold before anybody is started."""

import os

import pytest

from smtpd.config.trust import Untrusted, check_path
from smtpd.parent.start.await_child import CannotStart
from smtpd.parent.start.check import check_configured, check_reachable, check_start
from smtpd.parent.start.option import Options
from smtpd.paths import Paths
from smtpd.slice import ParentSlice, ProgramSlice

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root is careful about others")


@pytest.fixture
def ground(tmp_path):
    """A directory that root trusts, whatever lies above it on this machine."""
    try:
        check_path(str(tmp_path))
    except Untrusted:
        pytest.skip("the directory for tests is not root's alone")
    return tmp_path


def configured(*words, files=()):
    programs = (ProgramSlice("people", words, "_smtpf"),) if words else ()
    return ParentSlice((), (), files, 1, None, programs=programs)


@needs_root
@pytest.mark.parametrize("which", ["table-ldap", "ldap.conf", "aliases"])
def test_no_program_and_no_file_of_one_that_others_may_write(ground, which):
    paths = {name: ground / name for name in ("table-ldap", "ldap.conf", "aliases")}
    for path in paths.values():
        path.touch(0o755)
    slice = configured(str(paths["table-ldap"]), str(paths["ldap.conf"]), files=(str(paths["aliases"]),))
    check_configured(Options(), slice)
    paths[which].chmod(0o777)
    with pytest.raises(Untrusted, match=which):
        check_configured(Options(), slice)
    check_configured(Options(insecure_paths=True), slice)


@needs_root
def test_a_program_that_is_not_there_stops_the_start(ground):
    with pytest.raises(FileNotFoundError):
        check_configured(Options(), configured(str(ground / "table-none")))


@needs_root
@pytest.mark.parametrize("path", ["none", "none/either", "link"])
def test_a_table_file_may_be_missing_where_no_other_user_can_create_one(ground, path):
    (ground / "link").symlink_to("behind/none")
    (ground / "behind").mkdir()
    slice = configured(files=(str(ground / path),))
    check_configured(Options(), slice)
    (ground if path != "link" else ground / "behind").chmod(0o1777)
    with pytest.raises(Untrusted, match="is writable by others"):
        check_configured(Options(), slice)


@needs_root
def test_mailboxes_are_not_looked_for_where_another_user_could_replace_the_directory(ground):
    (ground / "open").mkdir()
    (ground / "open" / "mail").mkdir()
    (ground / "mail").symlink_to(ground / "open" / "mail")
    check_reachable(Options(), str(ground / "mail"))
    (ground / "open").chmod(0o777)
    with pytest.raises(Untrusted, match="open"):
        check_reachable(Options(), str(ground / "mail"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root has a default place")
def test_an_ordinary_user_has_to_say_where():
    with pytest.raises(CannotStart, match="--state"):
        check_start(Options(), Paths())

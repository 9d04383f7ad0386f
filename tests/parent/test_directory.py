"""The directories that others chroot into: whose they are, and who else may write there."""

import os
import pwd
import subprocess

import pytest

from smtpd.parent.start.directory import DirectoryError, make_directory
from smtpd.sandbox import Ids
from tests.unique import MARK

ME = Ids(os.geteuid(), os.getegid())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a directory away")


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_made_has_its_mode_whatever_the_umask(tmp_path, umask):
    make_directory(str(tmp_path / "new"), ME, 0o755)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o755
    make_directory(str(tmp_path / "new"), ME, 0o755)


@pytest.mark.parametrize("mode", [0o757, 0o777])
def test_one_that_others_may_write_is_unfit_and_the_cure_is_said(tmp_path, mode):
    path = tmp_path / "spool"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(DirectoryError, match=f"^{path} is writable by others .*: chmod (go|o)-w {path}$"):
        make_directory(str(path), ME, 0o700)


@needs_root
def test_the_group_of_root_may_not_write(tmp_path):
    tmp_path.chmod(0o775)
    with pytest.raises(DirectoryError, match=f"chmod g-w {tmp_path}$"):
        make_directory(str(tmp_path), ME, 0o755)


@needs_root
def test_a_group_that_is_the_owners_own_may_write(tmp_path):
    """As a umask of 0002 makes it."""
    name = f"smtpd-dir-{MARK}"
    subprocess.run(["useradd", "--user-group", name], check=True)
    try:
        _, _, uid, gid, *_ = pwd.getpwnam(name)
        path = tmp_path / "state"
        path.mkdir()
        os.chown(path, uid, gid)
        path.chmod(0o775)
        make_directory(str(path), Ids(uid, gid), 0o755)
        os.chown(path, uid, 100)
        path.chmod(0o775)
        with pytest.raises(DirectoryError):
            make_directory(str(path), Ids(uid, gid), 0o755)
    finally:
        subprocess.run(["userdel", name], check=True)


@needs_root
def test_one_of_another_user_is_unfit(tmp_path):
    with pytest.raises(DirectoryError, match="belongs to uid 0 and should belong to uid 54321"):
        make_directory(str(tmp_path), Ids(54321, 54321), 0o755)

"""What root may read or run: only what is root's alone, from / to the last step."""

import os

import pytest

from smtpd.config import trust
from smtpd.config.trust import Untrusted, check_own_directory, check_path, check_tree, read_text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root makes files that are root's")

STRANGER = 12345


@pytest.fixture
def ground(tmp_path):
    """A directory that root trusts, whatever lies above it on this machine."""
    top = tmp_path / "ground"
    top.mkdir(mode=0o755)
    try:
        check_path(str(top))
    except Untrusted:
        pytest.skip("the directory for tests is not root's alone")
    return top


def make(path, mode=0o644, owner=0):
    path.write_text("text")
    path.chmod(mode)
    os.chown(path, owner, owner)
    return str(path)


def test_a_file_of_root_is_read(ground):
    assert read_text(make(ground / "conf")) == "text"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o602])
def test_a_file_that_others_may_write_is_refused(ground, mode):
    with pytest.raises(Untrusted, match="writable"):
        read_text(make(ground / "conf", mode))


def test_a_file_of_another_user_is_refused(ground):
    with pytest.raises(Untrusted, match=f"uid {STRANGER}"):
        read_text(make(ground / "conf", owner=STRANGER))


def test_a_directory_on_the_way_counts_as_much_as_the_file(ground):
    (ground / "open").mkdir()
    path = make(ground / "open" / "conf")
    (ground / "open").chmod(0o777)
    with pytest.raises(Untrusted, match="open is writable"):
        check_path(path)
    os.chown(ground / "open", STRANGER, 0)
    (ground / "open").chmod(0o755)
    with pytest.raises(Untrusted, match="belongs to"):
        check_path(path)


def test_a_sticky_directory_will_do_on_the_way_but_not_at_the_end(ground):
    (ground / "tmp").mkdir()
    (ground / "tmp").chmod(0o1777)
    check_path(make(ground / "tmp" / "conf"))
    with pytest.raises(Untrusted):
        check_path(str(ground / "tmp"))
    (ground / "tmp" / "deeper").mkdir()
    with pytest.raises(Untrusted):
        check_path(str(ground / "tmp" / "deeper" / ".."))


def test_a_directory_of_root_below_a_sticky_one_may_be_made_and_found_again(ground):
    (ground / "tmp").mkdir()
    (ground / "tmp").chmod(0o1777)
    state = ground / "tmp" / "state"
    check_own_directory(str(state))
    state.mkdir(mode=0o755)
    check_own_directory(str(state))
    state.chmod(0o1777)
    with pytest.raises(Untrusted, match="state is writable"):
        check_own_directory(str(state))
    os.chown(state, STRANGER, STRANGER)
    with pytest.raises(Untrusted, match="belongs to"):
        check_own_directory(str(state))


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_of_root_is_not_made_where_others_could_exchange_it(ground, mode):
    (ground / "open").mkdir()
    (ground / "open").chmod(mode)
    with pytest.raises(Untrusted, match="open is writable"):
        check_own_directory(str(ground / "open" / "state"))


def test_a_link_of_root_is_followed_and_the_real_name_returned(ground):
    path = make(ground / "real")
    (ground / "link").symlink_to("real")
    (ground / "far").symlink_to(ground / "link")
    assert check_path(str(ground / "far")) == path


def test_a_link_of_another_user_in_a_sticky_directory_is_refused(ground):
    make(ground / "conf")
    (ground / "tmp").mkdir()
    (ground / "tmp").chmod(0o1777)
    (ground / "tmp" / "link").symlink_to(ground / "conf")
    os.lchown(ground / "tmp" / "link", STRANGER, STRANGER)
    with pytest.raises(Untrusted):
        check_path(str(ground / "tmp" / "link"))


def test_what_a_link_leads_through_is_checked_too(ground):
    """`link/../conf` is the file beside the link's target, not the one beside the link."""
    (ground / "bad" / "in").mkdir(parents=True)
    make(ground / "bad" / "conf", owner=STRANGER)
    make(ground / "conf")
    (ground / "link").symlink_to(ground / "bad" / "in")
    with pytest.raises(Untrusted):
        check_path(str(ground / "link" / ".." / "conf"))


def test_links_that_lead_in_a_circle_end(ground):
    (ground / "a").symlink_to("b")
    (ground / "b").symlink_to("a")
    with pytest.raises(Untrusted, match="too many"):
        check_path(str(ground / "a"))


def test_a_fifo_does_not_hang_and_is_refused(ground):
    os.mkfifo(ground / "conf", 0o644)
    with pytest.raises(OSError, match="not a regular file"):
        read_text(str(ground / "conf"))


def test_a_huge_file_is_refused(ground, monkeypatch):
    monkeypatch.setattr(trust, "FILE_SIZE_MAX", 3)
    with pytest.raises(OSError, match="too large"):
        read_text(make(ground / "conf"))


def test_a_tree_is_as_good_as_its_worst_file(ground):
    (ground / "code" / "deep").mkdir(parents=True)
    make(ground / "code" / "deep" / "module.py")
    check_tree(str(ground / "code"))
    make(ground / "code" / "deep" / "module.pyc", mode=0o666)
    with pytest.raises(Untrusted, match=r"module\.pyc"):
        check_tree(str(ground / "code"))

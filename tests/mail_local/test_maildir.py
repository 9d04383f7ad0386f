"""The library below the agent: names, folders, and stores that run side by side."""

import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_local import maildir
from mail_local.maildir import EarlierDeliveries, Maildir, MaildirMail, folder_name, host_part, pieces_of
from tests.stress import Meanwhile


@pytest.fixture
def root(tmp_path):
    maildir.make(str(tmp_path / "Maildir"))
    return tmp_path / "Maildir"


def store(root, *mails):
    box = Maildir(str(root), EarlierDeliveries("host"))
    try:
        return box.store(list(mails))
    finally:
        box.close()


def mail(number, content=b"x", **more):
    return MaildirMail(f"1.E{number:016x}.host", (content,), **more)


@pytest.mark.parametrize(
    "extension, folder",
    [
        ("work", ".work"),
        ("Work.Projects", ".Work.Projects"),
        ("a/b", ".a:b"),
        ("..", ".::"),
        (".hidden", ".:hidden"),
        ("../../x", ".:::..:x"),
        ("a|b`c", ".a:b:c"),
        ("a\0b", ".a:b"),
    ],
)
def test_the_folder_of_a_sub_address(extension, folder):
    assert folder_name(extension) == folder


@given(st.text())
@settings(max_examples=200)
def test_no_sub_address_leaves_the_maildir(extension):
    name = folder_name(extension)
    assert name.startswith(".") and "/" not in name and "\0" not in name
    assert not name.startswith("..")


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_host_is_part_of_a_name(host):
    assert not set(host_part(host)) & {"/", ":"}


def test_a_host_without_a_name_is_localhost():
    assert host_part("") == "localhost"


def test_an_empty_list_is_stored(root):
    assert store(root) == []


def test_a_defect_in_one_mail_leaves_nothing_of_the_others(root):
    """What has been answered for none of them comes again."""

    def defective():
        yield b"Subject: "
        raise ZeroDivisionError

    before = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError):
        store(root, mail(1), mail(2), MaildirMail("1.E3.host", defective()))
    assert os.listdir("/proc/self/fd") == before
    assert os.listdir(root / "tmp") == os.listdir(root / "new") == []


def test_a_defect_while_a_mail_is_synced_closes_no_descriptor_but_those_of_the_mails(root, monkeypatch):
    plain, left = os.fsync, [None, ZeroDivisionError()]

    def failing(descriptor):
        if left and (error := left.pop(0)):
            raise error
        plain(descriptor)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(ZeroDivisionError):
        store(root, mail(1), mail(2), mail(3))
    assert os.listdir("/proc/self/fd") == before
    assert os.listdir(root / "tmp") == os.listdir(root / "new") == []


def test_a_mail_that_a_reader_took_before_its_directory_could_be_synced_does_not_come_twice(root, monkeypatch):
    """It cannot be taken back, and the next try would not find it in new/."""
    fsync, new = os.fsync, os.stat(root / "new")

    def failing(descriptor):
        if os.path.samestat(os.fstat(descriptor), new):
            (root / "new" / mail(1).name).rename(root / "cur" / f"{mail(1).name}:2,S")
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    reasons = store(root, mail(1), mail(2))
    assert [bool(reason) for reason in reasons] == [False, True]
    assert os.listdir(root / "new") == []


@pytest.mark.parametrize("what", ["directory", "its files"])
def test_a_defect_takes_back_what_came_and_leaves_what_was_there(root, monkeypatch, what):
    """A mail that an earlier process has stored may have been read."""
    store(root, mail(1))
    plain, new = os.fsync, os.stat(root / "new")

    def failing(descriptor):
        if os.path.samestat(os.fstat(descriptor), new) is (what == "directory"):
            monkeypatch.undo()
            raise ZeroDivisionError
        plain(descriptor)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(ZeroDivisionError):
        store(root, mail(1, perhaps_stored=True), mail(2), mail(3))
    assert os.listdir(root / "new") == [mail(1).name] and os.listdir(root / "tmp") == []
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_mail_that_a_reader_took_counts_when_the_directory_of_read_mail_is_durable(root, monkeypatch, fails):
    plain, new, cur = os.fsync, os.stat(root / "new"), os.stat(root / "cur")
    synced = []

    def failing(descriptor):
        status = os.fstat(descriptor)
        if os.path.samestat(status, new):
            (root / "new" / mail(1).name).rename(root / "cur" / f"{mail(1).name}:2,S")
            raise OSError(errno.EIO, "Input/output error")
        if os.path.samestat(status, cur):
            synced.append("cur")
            if fails:
                raise OSError(errno.EIO, "Input/output error")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    (reason,) = store(root, mail(1))
    assert synced == ["cur"] and bool(reason) is fails


def test_a_mail_that_cannot_even_be_taken_back_is_tried_again(root, monkeypatch):
    """Its second delivery finds the first by its name."""
    new = os.stat(root / "new")

    def failing(descriptor, plain=os.fsync):
        if os.path.samestat(os.fstat(descriptor), new):
            raise OSError(errno.EIO, "Input/output error")
        plain(descriptor)

    def read_only(name, *, dir_fd):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(os, "unlink", read_only)
    assert ["Input/output error" in reason for reason in store(root, mail(1), mail(2))] == [True, True]


def test_reasons_come_in_the_order_of_the_mails(root):
    (root / "tmp" / mail(2).name).mkdir()
    reasons = store(root, mail(1), mail(2), mail(3))
    assert [bool(reason) for reason in reasons] == [False, True, False]


def test_content_that_fails_in_the_middle_leaves_nothing(root):
    def pieces():
        yield b"first"
        raise OSError(5, "Input/output error")

    assert store(root, MaildirMail("name", pieces())) == ["Input/output error"]
    assert os.listdir(root / "tmp") == os.listdir(root / "new") == []


def test_a_short_descriptor_is_an_error(tmp_path):
    (tmp_path / "short").write_bytes(b"12345")
    descriptor = os.open(tmp_path / "short", os.O_RDONLY)
    with pytest.raises(OSError, match="content ends after 5 of 6 bytes"):
        list(pieces_of(descriptor, 6))
    assert b"".join(pieces_of(descriptor, 4)) == b"1234"
    os.close(descriptor)


def test_of_a_longer_descriptor_no_more_is_read_than_belongs_to_the_mail(tmp_path, monkeypatch):
    """Piece by piece."""
    monkeypatch.setattr(maildir, "_PIECE", 3)
    with open(tmp_path / "long", "wb+", buffering=0) as file:
        file.write(b"1234567890")
        assert list(pieces_of(file.fileno(), 5)) == [b"123", b"45"]


def test_a_file_that_is_there_is_never_overwritten(root):
    (root / "new" / mail(1).name).write_bytes(b"the first")
    assert store(root, mail(1, b"the second")) == [""]
    assert (root / "new" / mail(1).name).read_bytes() == b"the first"
    assert os.listdir(root / "tmp") == []


def test_where_rename_cannot_refuse_it_is_a_link(root, monkeypatch):
    monkeypatch.setattr(maildir, "_renameat2", None)
    (root / "new" / mail(1).name).write_bytes(b"the first")
    assert store(root, mail(1, b"the second"), mail(2)) == ["", ""]
    assert (root / "new" / mail(1).name).read_bytes() == b"the first"
    assert sorted(os.listdir(root / "new")) == [mail(1).name, mail(2).name]
    assert os.listdir(root / "tmp") == []
    assert (root / "new" / mail(2).name).stat().st_nlink == 1


def test_a_link_that_fails_is_no_delivery(root, monkeypatch):
    monkeypatch.setattr(maildir, "_renameat2", None)

    def refuse(*_arguments, **_named):
        raise OSError(errno.EMLINK, "Too many links", "name")

    monkeypatch.setattr(os, "link", refuse)
    assert store(root, mail(1)) == [f"{root}/new/{mail(1).name}: Too many links"]
    assert os.listdir(root / "tmp") == os.listdir(root / "new") == []


def test_a_symbolic_link_in_tmp_is_placed_as_what_it_is(root, tmp_path, monkeypatch):
    """The user's other file gets no second name."""
    monkeypatch.setattr(maildir, "_renameat2", None)
    (tmp_path / "other").touch()
    (root / "tmp/name").symlink_to(tmp_path / "other")
    descriptor = os.open(root, os.O_RDONLY)
    folder = maildir.Folder(descriptor, str(root))
    folder.place("name")
    folder.close()
    os.close(descriptor)
    assert (root / "new/name").is_symlink() and (tmp_path / "other").stat().st_nlink == 1


def test_a_draft_that_is_gone_when_it_is_to_be_removed_is_no_error(root, monkeypatch):
    """The mail was stored before, and a cleaner has emptied tmp/."""
    store(root, mail(1))
    plain = maildir.Folder._rename

    def rename(folder, name):
        try:
            plain(folder, name)
        finally:
            (root / "tmp" / name).unlink()

    monkeypatch.setattr(maildir.Folder, "_rename", rename)
    assert store(root, mail(1)) == [""]


def test_a_system_that_takes_no_hint_for_its_disk_stores_all_the_same(root, monkeypatch):
    hints = []
    monkeypatch.setattr(maildir, "_sync_file_range", lambda *arguments: hints.append(arguments[1:]))
    assert store(root, mail(1)) == [""]
    assert hints == [(0, 0, maildir._SYNC_FILE_RANGE_WRITE)]
    monkeypatch.setattr(maildir, "_sync_file_range", None)
    assert store(root, mail(2)) == [""]


def test_threads_that_store_side_by_side(root):
    reasons = []

    def run(first):
        reasons.extend(store(root, *[mail(first + number) for number in range(5)]))

    threads = [threading.Thread(target=run, args=(n * 5,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons == [""] * 40
    assert len(os.listdir(root / "new")) == 40


def test_an_earlier_delivery_is_found_in_its_folder_only(root):
    os.mkdir(root / ".work")
    store(root, mail(1, extension="work"))
    assert store(root, mail(1, extension="work", perhaps_stored=True)) == [""]
    assert len(os.listdir(root / ".work/new")) == 1
    assert os.listdir(root / "new") == []


def test_a_maildir_is_searched_once_and_for_what_lay_there_then(root):
    store(root, mail(1))
    (root / "new" / "1.E1.elsewhere").touch()
    box = Maildir(str(root), EarlierDeliveries("host"))
    assert box.earlier.holds("", box._inbox, mail(1).name)
    assert box.earlier._names == {"": {mail(1).name}}  # those of other hosts would take memory only
    (root / "new" / mail(1).name).unlink()
    (root / "new" / mail(2).name).touch()
    assert box.earlier.holds("", box._inbox, mail(1).name)
    assert not box.earlier.holds("", box._inbox, mail(2).name)
    box.close()


def test_two_threads_that_look_for_earlier_mail_at_the_same_moment_search_once(root):
    earlier, searches = EarlierDeliveries("host"), []

    class Folder:
        def names(self):
            searches.append(self)
            other()
            return []

    other = Meanwhile(lambda: earlier.holds("", Folder(), "name"))
    assert not earlier.holds("", Folder(), "name")
    other.end()
    assert len(searches) == 1


def test_a_maildir_is_made_below_the_directory_that_is_named_and_not_elsewhere(tmp_path):
    (tmp_path / "home").mkdir()
    for path in (tmp_path / "Maildir", tmp_path / "home2" / "Maildir", tmp_path / "home" / ".." / "Maildir"):
        with pytest.raises(PermissionError):
            maildir.make(os.path.normpath(path), below=str(tmp_path / "home"))
    assert os.listdir(tmp_path) == ["home"]


def test_a_directory_is_made_with_those_on_its_way_and_without_a_maildir(tmp_path):
    maildir.make_directory(str(tmp_path / "mail" / "homes"))
    assert os.listdir(tmp_path / "mail" / "homes") == []


def test_a_maildir_that_is_there_in_part_is_completed(root):
    os.rmdir(root / "new")
    assert store(root, mail(1)) == [""]


@pytest.mark.parametrize("way", ["a/b/Maildir", "file/b/Maildir", "part/Maildir"])
def test_nothing_stays_open_of_a_maildir_that_is_made_or_cannot_be_made(tmp_path, way):
    (tmp_path / "file").touch()
    (tmp_path / "part" / "Maildir").mkdir(parents=True)
    (tmp_path / "part" / "Maildir" / "cur").touch()
    before = os.listdir("/proc/self/fd")
    try:
        maildir.make(str(tmp_path / way))
    except NotADirectoryError:
        assert way != "a/b/Maildir"
    assert os.listdir("/proc/self/fd") == before


def test_make_is_content_with_what_is_there(root):
    maildir.make(str(root))
    assert sorted(os.listdir(root)) == ["cur", "new", "tmp"]


def test_a_folder_opened_in_part_leaves_no_descriptor(root):
    os.rmdir(root / "cur")
    (root / "cur").touch()
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(NotADirectoryError) as raised:
        Maildir(str(root), EarlierDeliveries("host"))
    assert raised.value.filename == str(root / "cur")
    assert (os.listdir("/proc/self/fd") if before else []) == before

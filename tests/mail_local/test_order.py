"""Deliveries of the library: durable before they are said to be, and found again after a crash at any point."""

import errno
import os
from contextlib import ExitStack

import pytest

from mail_local import mailbox, maildir, mbox, mboxfile
from mail_local.maildir import MaildirMail
from tests.mail_local.test_maildir import store

UID, GID = os.getuid(), os.getgid()
ONE, TWO, THREE = (f"1.E{number:016x}.host" for number in (1, 2, 3))


@pytest.fixture
def root(tmp_path):
    maildir.make(str(tmp_path / "box"))
    return tmp_path / "box"


def mail(name, **more):
    return MaildirMail(name, (b"one", b"two"), **more)


def names(root):
    return {part: sorted(os.listdir(root / part)) for part in ("tmp", "new", "cur") if os.listdir(root / part)}


# -- Maildir ------------------------------------------------------------------------------


def test_a_mail_is_synced_before_it_is_placed_and_its_place_after(recorder, root):
    assert store(root, mail(ONE)) == [""]
    recorder.in_order(
        f"make box/tmp/{ONE}",
        f"write box/tmp/{ONE}",
        f"sync box/tmp/{ONE}",
        f"move box/tmp/{ONE} to box/new/{ONE}",
        "sync box/new",
    )
    assert not recorder.happened("sync box/cur")  # nothing was looked for


def test_without_the_rename_of_linux_the_order_is_the_same(recorder, root, monkeypatch):
    monkeypatch.setattr(maildir, "_renameat2", None)
    assert store(root, mail(ONE)) == [""]
    recorder.in_order(
        f"sync box/tmp/{ONE}",
        f"link box/tmp/{ONE} to box/new/{ONE}",
        f"remove box/tmp/{ONE}",
        "sync box/new",
    )


def test_mails_stored_together_are_all_written_then_all_synced_then_all_placed(recorder, root):
    """The first fsync commits what all of them need, and one fsync of new/ is enough for all names."""
    assert store(root, *map(mail, (ONE, TWO, THREE))) == [""] * 3
    recorder.in_order("write box/tmp/*", "sync box/tmp/*", "move box/tmp/*", "sync box/new")
    assert [recorder.happened(what) for what in ("sync box/tmp/*", "move *", "sync box/new")] == [3, 3, 1]


@pytest.mark.parametrize("link", ["second name", "symbolic link"])
def test_what_lies_in_tmp_under_the_name_of_a_mail_is_removed_and_never_written_to(root, tmp_path, link):
    (tmp_path / "other").write_bytes(b"somebody else's, and longer than the mail")
    if link == "second name":
        os.link(tmp_path / "other", root / "tmp" / ONE)
    else:
        os.symlink(tmp_path / "other", root / "tmp" / ONE)
    assert store(root, mail(ONE)) == [""]
    assert (root / "new" / ONE).read_bytes() == b"onetwo"
    assert (tmp_path / "other").read_bytes() == b"somebody else's, and longer than the mail"
    assert names(root) == {"new": [ONE]}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_folder_that_cannot_be_opened_now_is_waited_for(root, monkeypatch, number):
    """The user wants the mail there; only where there is no such folder it goes to the inbox."""
    os.mkdir(root / ".work")
    plain = os.open

    def refuse(name, *arguments, **named):
        if name == ".work":
            raise OSError(number, os.strerror(number))
        return plain(name, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert store(root, mail(ONE, extension="work")) != [""]
    assert names(root) == {}


def test_each_folder_is_synced_in_which_a_mail_was_placed(recorder, root):
    os.mkdir(root / ".work")
    assert store(root, mail(ONE), mail(TWO, extension="work"), mail(THREE, junk=True)) == [""] * 3
    for folder, name in (("", ONE), (".work/", TWO), (".Junk/", THREE)):
        recorder.in_order(f"move box/{folder}tmp/{name} to *", f"sync box/{folder}new")


def test_a_mail_found_in_the_place_of_an_earlier_delivery_is_made_durable_where_it_is(recorder, root):
    """The process that stored it may have died before it synced new/, and a reader may have moved it in that moment."""
    store(root, mail(ONE))
    (root / "new" / ONE).rename(root / "cur" / f"{ONE}:2,S")
    recorder.forget()
    assert store(root, mail(ONE, perhaps_stored=True)) == [""]
    recorder.in_order("list box/new", "list box/cur", "sync box/new")
    recorder.in_order("list box/cur", "sync box/cur")
    assert not recorder.happened("make *")
    assert names(root) == {"cur": [f"{ONE}:2,S"]}


def test_one_mail_that_was_found_among_new_ones_is_made_durable_too(recorder, root):
    store(root, mail(ONE))
    (root / "new" / ONE).rename(root / "cur" / f"{ONE}:2,S")
    recorder.forget()
    assert store(root, mail(ONE, perhaps_stored=True), mail(TWO)) == ["", ""]
    recorder.in_order("list box/cur", "sync box/cur")
    assert names(root) == {"new": [TWO], "cur": [f"{ONE}:2,S"]}


def test_the_second_delivery_of_a_mail_that_is_in_new_syncs_that_too(recorder, root):
    store(root, mail(ONE))
    recorder.forget()
    assert store(root, mail(ONE)) == [""]
    recorder.in_order(f"move * to box/new/{ONE} fails", f"remove box/tmp/{ONE}", "sync box/new")


def test_a_reader_that_moves_a_mail_while_it_is_looked_for_does_not_hide_it(recorder, root):
    """From new/ to cur/: so new/ is listed first."""
    store(root, mail(ONE))
    plain = os.listdir

    def listdir(directory):
        found = plain(directory)
        if (root / "new" / ONE).exists():
            (root / "new" / ONE).rename(root / "cur" / f"{ONE}:2,S")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        assert store(root, mail(ONE, perhaps_stored=True)) == [""]
    assert names(root) == {"cur": [f"{ONE}:2,S"]}


@pytest.mark.parametrize("what", ["write box/tmp/*", "sync box/tmp/*", "move box/*", "sync box/new"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_could_not_be_made_durable_is_not_there(recorder, root, what, number):
    """It is delivered again later: a copy that a reader has taken meanwhile would be one too many."""
    recorder.refuse(what, number)
    (reason,) = store(root, mail(ONE))
    assert os.strerror(number) in reason
    assert names(root) == {}


def test_one_mail_that_fails_takes_no_other_with_it(recorder, root):
    recorder.refuse(f"sync box/tmp/{TWO}")
    assert [bool(reason) for reason in store(root, mail(ONE), mail(TWO), mail(THREE))] == [False, True, False]
    assert names(root) == {"new": [ONE, THREE]}


def test_a_mail_that_failed_before_keeps_its_reason_and_takes_nothing_back(recorder, root):
    store(root, mail(ONE))
    recorder.refuse(f"sync box/tmp/{ONE}", errno.EDQUOT)
    recorder.refuse("sync box/new", errno.EIO)
    reasons = store(root, mail(ONE), mail(TWO))
    assert os.strerror(errno.EDQUOT) in reasons[0] and os.strerror(errno.EIO) in reasons[1]
    assert names(root) == {"new": [ONE]}


def test_a_directory_that_cannot_be_synced_takes_all_with_it_that_came_but_not_what_was_there(recorder, root):
    """What an earlier process had stored may have been read: it is not taken back, only not yet confirmed."""
    store(root, mail(ONE))
    recorder.refuse("sync box/new")
    reasons = store(root, mail(ONE, perhaps_stored=True), mail(TWO))
    assert all(reasons)
    assert names(root) == {"new": [ONE]}


def test_cur_that_cannot_be_synced_leaves_what_was_found_and_defers_it(recorder, root):
    store(root, mail(ONE))
    (root / "new" / ONE).rename(root / "cur" / f"{ONE}:2,S")
    recorder.refuse("sync box/cur")
    assert all(store(root, mail(ONE, perhaps_stored=True)))
    assert names(root) == {"cur": [f"{ONE}:2,S"]}


def test_a_folder_that_cannot_be_synced_defers_no_mail_of_another_folder(recorder, root):
    os.mkdir(root / ".work")
    store(root, mail(ONE))
    recorder.refuse("sync box/.work/new")
    reasons = store(root, mail(ONE, perhaps_stored=True), mail(TWO, extension="work"), mail(THREE))
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert names(root) == {"new": [ONE, THREE]} and names(root / ".work") == {}


@pytest.mark.parametrize(
    "what, path",
    [
        (f"make box/tmp/{ONE}", "tmp"),
        (f"write box/tmp/{ONE}", f"tmp/{ONE}"),
        (f"sync box/tmp/{ONE}", f"tmp/{ONE}"),
        (f"move box/tmp/{ONE} to *", f"new/{ONE}"),
        ("sync box/new", ""),
    ],
)
def test_the_reason_names_the_path_that_failed(recorder, root, what, path):
    recorder.refuse(what, errno.ENOSPC)
    assert store(root, mail(ONE)) == [f"{root}{'/' if path else ''}{path}: {os.strerror(errno.ENOSPC)}"]


def test_the_reason_names_the_folder_that_cannot_be_made(recorder, root):
    recorder.refuse("make directory box/.Junk", errno.ENOSPC)
    assert store(root, mail(ONE, junk=True)) == [f"{root}: {os.strerror(errno.ENOSPC)}"]


def test_a_new_maildir_is_durable_with_each_directory_on_its_way(recorder, tmp_path):
    maildir.make(str(tmp_path / "mail/of/bob"))
    recorder.in_order("make directory mail", "sync .")
    recorder.in_order("make directory mail/of", "sync mail")
    recorder.in_order("make directory mail/of/bob", "sync mail/of")
    for part in ("tmp", "new", "cur"):
        recorder.in_order(f"make directory mail/of/bob/{part}", "sync mail/of/bob")
    recorder.forget()
    maildir.make(str(tmp_path / "mail/of/bob"))
    assert recorder.events == []


def test_a_new_folder_is_durable_before_a_mail_in_it_counts(recorder, root):
    recorder.forget()
    assert store(root, mail(ONE, junk=True)) == [""]
    recorder.in_order("make directory box/.Junk", "sync box", "write box/.Junk/*", "sync box/.Junk/new")
    recorder.in_order("make directory box/.Junk/new", "sync box/.Junk", "write box/.Junk/*")


# -- mbox ---------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def append(directory, **more):
    with mailbox.locked(directory, "bob", UID, GID, lock_timeout=0.0, **more) as descriptor:
        return mbox.store(descriptor, [mbox.MboxMail("amy@there.test", 0, (b"one\n",))] * 2)


def test_a_new_mailbox_is_durable_in_its_directory_before_anything_is_written_to_it(recorder, directory):
    assert append(directory) == ["", ""]
    recorder.in_order("make bob", "sync .", "write bob", "sync bob")


def test_an_empty_mailbox_is_made_durable_again(recorder, directory, tmp_path):
    """Whoever made it may have ended before its directory was synced."""
    (tmp_path / "bob").touch(0o600)
    assert append(directory) == ["", ""]
    recorder.in_order("sync .", "write bob", "sync bob")


@pytest.mark.parametrize("kernel_locks_files", [True, False])
def test_a_mailbox_is_written_and_synced_under_both_locks(recorder, directory, monkeypatch, kernel_locks_files):
    """By a lock of the open file where the kernel knows such ones, otherwise by one of the process."""
    if not kernel_locks_files:
        monkeypatch.setattr(mailbox, "_OFD_SETLK", None)
    append(directory)
    recorder.forget()
    append(directory)
    recorder.in_order("lock bob", "make bob.lock", "write bob", "sync bob", "remove bob.lock", "unlock bob")
    assert recorder.happened("sync bob") == 1


def test_the_locks_are_given_up_in_order_where_nothing_was_written(recorder, directory):
    with ExitStack() as held:
        assert mailbox.maybe_lock(directory, "bob", UID, GID, held) is not None
        recorder.forget()
    recorder.in_order("remove bob.lock", "unlock bob")


@pytest.mark.parametrize("what", ["write bob", "sync bob"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_could_not_be_appended_is_taken_back_before_the_mailbox_is_unlocked(
    recorder, directory, tmp_path, what, number
):
    append(directory)
    before = (tmp_path / "bob").read_bytes()
    recorder.forget()
    recorder.refuse(what, number, times=2)
    assert append(directory) == [os.strerror(number)] * 2
    assert (tmp_path / "bob").read_bytes() == before
    recorder.in_order("lock bob", "cut bob", "remove bob.lock", "unlock bob")


def test_a_file_of_the_users_own_is_locked_written_synced_and_unlocked(recorder, tmp_path):
    mboxfile.append(str(tmp_path / "archive"), mbox.MboxMail("amy@there.test", 0, (b"one\n",)), lock_timeout=0.0)
    recorder.in_order("make archive", "sync .", "lock archive", "write archive", "sync archive", "unlock archive")
    assert not recorder.happened("make archive.lock")

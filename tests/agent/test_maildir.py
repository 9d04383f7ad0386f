"""Mail into a Maildir: what is there afterwards, and what is not."""

import os
import subprocess
import tempfile

import pytest
from msgspec.structs import replace

from smtpd.agent import maildir as maildir_agent
from smtpd.agent.maildir import OPEN_MAX, MaildirAgent, MaildirWriter
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec
from tests.agent.conftest import MAIL, UID, errand, files, make_tree, own
from tests.stress import Meanwhile

TRACE = b"Return-Path: <amy@there.test>\nDelivered-To: bob@here.test\n"


def name(number=1):
    return f"1700000000.E{77 << 32 | number:016x}.{os.uname().nodename}"


def test_a_mail_arrives_with_its_trace_lines(start, home):
    agent = start()
    result = agent.deliver(errand())
    assert (result.envelope, result.outcome, result.text) == (77 << 32 | 1, Outcome.DELIVERED, "Delivered")
    assert files(home) == ([TRACE + MAIL], [])
    assert agent.end() == 0


def test_the_name_comes_from_the_envelope_and_is_the_users_alone(start, home):
    start().deliver(errand())
    (path,) = (home / "Maildir/new").iterdir()
    assert path.name == name()
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o777, status.st_nlink) == (UID, 0o600, 1)


def test_the_tree_is_made_for_the_user_alone(start, home):
    start(target="~/mail/of/bob").deliver(errand())
    for path in ("mail", "mail/of", "mail/of/bob", "mail/of/bob/tmp", "mail/of/bob/new", "mail/of/bob/cur"):
        assert (home / path).stat().st_mode & 0o777 == 0o700
        assert (home / path).stat().st_uid == UID


def test_the_null_sender_leaves_an_empty_return_path(start, home):
    start().deliver(errand(sender=""))
    assert files(home)[0] == [b"Return-Path: <>\nDelivered-To: bob@here.test\n" + MAIL]


def test_content_by_descriptor_arrives_byte_for_byte(start, home):
    content = b"Subject: large\n\n" + bytes(range(256)) * 4000
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        os.lseek(file.fileno(), 12345, os.SEEK_SET)  # the offset is nobody's business
        result = start().deliver(errand(size=len(content)), file.fileno())
    assert result.outcome is Outcome.DELIVERED
    assert files(home) == ([TRACE + content], [])


def test_a_spool_file_that_is_too_short_is_tried_later(start, home):
    with tempfile.TemporaryFile() as file:
        file.write(b"Subject: half")
        file.flush()
        result = start().deliver(errand(size=5000), file.fileno())
    assert result.outcome is Outcome.DEFERRED
    assert files(home) == ([], [])


def test_many_mails_at_once_are_each_answered_and_each_there(start, home):
    agent = start()
    for number in range(1, 101):
        agent.send(errand(number, MAIL + b"%d\n" % number))
    results = [agent.receive() for _ in range(100)]
    assert {result.envelope & 0xFFFFFFFF for result in results} == set(range(1, 101))
    assert {result.outcome for result in results} == {Outcome.DELIVERED}
    new, tmp = files(home)
    assert new == [TRACE + MAIL + b"%d\n" % number for number in range(1, 101)]
    assert tmp == []
    assert agent.end() == 0


def test_a_mail_that_was_here_before_is_a_loop(start, home):
    result = start().deliver(errand(content=b"Delivered-To: bob@here.test\n" + MAIL))
    assert result.outcome is Outcome.LOOP
    assert files(home) == ([], [])


# -- folders -------------------------------------------------------------------------------------


def test_junk_goes_to_its_folder_when_the_action_says_so(start, home):
    spam = b"X-Spam-Flag: YES\n" + MAIL
    agent = start(junk=True)
    agent.deliver(errand(1, spam))
    agent.deliver(errand(2))
    assert files(home, ".Junk") == ([TRACE + spam], [])
    assert files(home) == ([TRACE + MAIL], [])
    assert (home / "Maildir/.Junk").stat().st_mode & 0o777 == 0o700


def test_junk_stays_in_the_inbox_when_it_does_not(start, home):
    start().deliver(errand(1, b"X-Spam-Flag: YES\n" + MAIL))
    assert len(files(home)[0]) == 1


def test_a_sub_address_goes_to_its_folder_where_there_is_one(start, home):
    agent = start()
    agent.deliver(errand(1, extension="work"))
    (home / "Maildir/.work").mkdir(0o700)
    own(home / "Maildir/.work")
    agent.deliver(errand(2, extension="work"))
    assert len(files(home)[0]) == 1
    assert len(files(home, ".work")[0]) == 1


@pytest.mark.parametrize("extension", ["../../evil", "..", ".", "/etc", "a/../b", "x" * 250, "é" * 200, "a\0b"])
def test_a_sub_address_that_would_leave_the_maildir_stays_in_the_inbox(start, home, extension):
    result = start().deliver(errand(extension=extension))
    assert result.outcome is Outcome.DELIVERED
    assert len(files(home)[0]) == 1
    assert [path.name for path in home.iterdir()] == ["Maildir"]


# -- exactly once ----------------------------------------------------------------------------------


def test_a_second_delivery_of_an_envelope_finds_the_first(start, home):
    agent = start()
    agent.deliver(errand())
    assert agent.deliver(errand()).outcome is Outcome.DELIVERED
    assert files(home) == ([TRACE + MAIL], [])


@pytest.mark.parametrize("flags", ["", ":2,", ":2,S", ":2,RST"])
def test_one_that_a_reader_has_moved_is_found_after_a_restart(start, home, flags):
    make_tree(home)
    (home / "Maildir/cur" / (name() + flags)).touch()
    assert start().deliver(errand(perhaps=True)).outcome is Outcome.DELIVERED
    assert files(home) == ([], [])


def test_one_that_was_never_stored_is_stored_after_a_restart(start, home):
    make_tree(home)
    assert start().deliver(errand(1, perhaps=True)).outcome is Outcome.DELIVERED
    assert len(files(home)[0]) == 1


def test_the_half_written_file_of_a_crash_is_replaced(start, home):
    make_tree(home)
    half = home / "Maildir/tmp" / name()
    half.write_bytes(b"Return-Pa")
    own(half)
    assert start().deliver(errand(1)).outcome is Outcome.DELIVERED
    assert files(home)[1] == []
    assert (home / "Maildir/new" / name()).read_bytes() == TRACE + MAIL


# -- trouble ----------------------------------------------------------------------------------------


def test_a_limit_on_file_size_delays_and_leaves_nothing(start, home):
    agent = start(limits=["RLIMIT_FSIZE=8192"])
    result = agent.deliver(errand(1, MAIL + b"x" * 20000))
    assert (result.outcome, result.text) == (Outcome.DEFERRED, f"{home}/Maildir/tmp/{name(1)}: File too large")
    assert files(home) == ([], [])
    assert agent.deliver(errand(2)).outcome is Outcome.DELIVERED


def test_one_bad_mail_among_many_costs_only_itself(start, home):
    agent = start(limits=["RLIMIT_FSIZE=8192"])
    for number in range(1, 31):
        agent.send(errand(number, MAIL + b"x" * (20000 if number % 7 == 0 else 10)))
    results = [agent.receive() for _ in range(30)]
    deferred = {result.envelope & 0xFFFFFFFF for result in results if result.outcome is Outcome.DEFERRED}
    assert deferred == {7, 14, 21, 28}
    assert len(files(home)[0]) == 26 and files(home)[1] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
@pytest.mark.parametrize("option", ["size=64k", "nr_inodes=8"])
def test_a_full_disk_delays_and_goes_on_when_there_is_room(start, home, option):
    small = home / "Maildir"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{option},uid={UID},mode=700", "tmpfs", small], check=True)
    try:
        agent = start()
        outcomes = [agent.deliver(errand(number, MAIL + b"x" * 9000)).outcome for number in range(1, 21)]
        stored, left_over = files(home)
        assert outcomes.count(Outcome.DELIVERED) == len(stored) < 20
        assert outcomes.count(Outcome.DEFERRED) == 20 - len(stored)
        assert left_over == []
        (small / "new" / name(1)).unlink()
        assert agent.deliver(errand(20, MAIL)).outcome is Outcome.DELIVERED
        agent.end()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_home_that_cannot_be_written_is_reported(start, home):
    if os.geteuid() == 0:
        os.chown(home, 0, 0)
        home.chmod(0o755)
    else:
        home.chmod(0o500)
    agent = start()
    result = agent.deliver(errand())
    assert (result.outcome, result.text) == (Outcome.DEFERRED, f"{home}/Maildir: permission denied for uid {UID}")
    assert agent.process.wait(30) == 0  # the next agent may find it mended
    home.chmod(0o700)


def test_a_path_that_needs_a_home_of_a_user_without_one(start):
    result = start(target="Maildir").deliver(errand())
    assert result.outcome is Outcome.DEFERRED
    assert "absolute" in result.text


def test_an_exception_in_our_code_defers_that_batch_and_names_the_place(tmp_path):
    storer = MaildirWriter(MaildirAgent(AgentSpec("maildir", "~/Maildir"), "bob", str(tmp_path)))
    broken = replace(errand(1), extension=7)
    (result,) = storer.execute([(broken, -1)])
    assert result.outcome is Outcome.DEFERRED and "folder_name line" in result.text
    (result,) = storer.execute([(errand(2), -1)])
    assert result.outcome is Outcome.DELIVERED


def test_nothing_stays_open_of_a_maildir_that_was_moved_away(tmp_path):
    writer = MaildirWriter(MaildirAgent(AgentSpec("maildir", "~/Maildir"), "bob", str(tmp_path)))
    before = os.listdir("/proc/self/fd")
    writer.execute([(errand(1), -1)])
    (tmp_path / "Maildir").rename(tmp_path / "old")
    (result,) = writer.execute([(errand(2), -1)])
    assert (result.outcome, result.text) == (Outcome.DEFERRED, f"{tmp_path}/Maildir: No such file or directory")
    assert os.listdir("/proc/self/fd") == before


def test_the_number_of_maildirs_whose_earlier_mail_is_remembered_is_bounded(tmp_path):
    agent = MaildirAgent(AgentSpec("maildir", "~/Maildir"), "bob", str(tmp_path))
    kept = agent.earlier_deliveries("/kept")
    for number in range(3 * OPEN_MAX * agent.WORKERS_MAX):
        agent.earlier_deliveries(f"/{number}")
        assert agent.earlier_deliveries("/kept") is kept
    assert len(agent._earlier_deliveries) == OPEN_MAX * agent.WORKERS_MAX


def test_two_workers_that_open_a_maildir_at_the_same_moment_remember_its_earlier_mail_once(tmp_path, monkeypatch):
    agent = MaildirAgent(AgentSpec("maildir", "~/Maildir"), "bob", str(tmp_path))
    made, found = maildir_agent.EarlierDeliveries, []
    other = Meanwhile(lambda: found.append(agent.earlier_deliveries("/mail")))

    def slow(host):
        other()
        return made(host)

    monkeypatch.setattr(maildir_agent, "EarlierDeliveries", slow)
    found.append(agent.earlier_deliveries("/mail"))
    other.end()
    assert len(found) == 2 and found[0] is found[1]


def test_so_many_maildirs_are_kept_open_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(maildir_agent, "OPEN_MAX", 2)
    path = f"{tmp_path}/%{{sender.user}}"
    writer = MaildirWriter(MaildirAgent(AgentSpec("maildir", path), "bob", str(tmp_path)))

    def kept(*senders):
        for number, sender in enumerate(senders):
            (result,) = writer.execute([(errand(number, sender=f"{sender}@there.test"), -1)])
            assert result.outcome is Outcome.DELIVERED
        return [os.path.basename(root) for root in writer._open]

    assert kept("amy", "eve") == ["amy", "eve"]
    (_, eve) = writer._open.values()
    assert kept("zoe", "eve") == ["zoe", "eve"] and list(writer._open.values())[1] is eve
    for box in writer._open.values():
        box.close()


# -- what a user may do to his Maildir ----------------------------------------------------------------


def replaced(path, make):
    path.rmdir()
    make(path)
    own(path)


@pytest.mark.parametrize("part", ["tmp", "new", "cur", ".work"])
@pytest.mark.parametrize("what", ["link", "file", "fifo"])
def test_a_part_that_is_no_directory_is_never_followed(start, home, part, what):
    make_tree(home)
    outside = home / "outside"
    outside.mkdir()
    own(outside)
    at = home / "Maildir" / part
    at.mkdir(exist_ok=True)
    makes = {"link": lambda path: path.symlink_to(outside), "file": lambda path: path.touch(), "fifo": os.mkfifo}
    replaced(at, makes[what])
    result = start().deliver(errand(2, extension="work"))
    assert result.outcome is (Outcome.DELIVERED if part == ".work" else Outcome.DEFERRED)
    assert os.listdir(outside) == []


@pytest.mark.parametrize("what", ["link", "fifo", "device"])
def test_what_lies_in_the_way_in_tmp_is_removed_and_not_opened(start, home, what):
    make_tree(home)
    victim = home / "victim"
    victim.write_bytes(b"precious")
    own(victim)
    at = home / "Maildir/tmp" / name()
    if what == "link":
        at.symlink_to(victim)
    elif what == "fifo":
        os.mkfifo(at)
    elif os.geteuid() == 0:
        os.mknod(at, 0o20666, os.makedev(1, 3))
    assert start().deliver(errand(1)).outcome is Outcome.DELIVERED
    assert victim.read_bytes() == b"precious"
    assert (home / "Maildir/new" / name()).read_bytes() == TRACE + MAIL


def test_a_directory_in_the_way_delays_that_mail(start, home):
    make_tree(home)
    (home / "Maildir/tmp" / name()).mkdir()
    agent = start()
    assert agent.deliver(errand(1)).outcome is Outcome.DEFERRED
    assert agent.deliver(errand(3)).outcome is Outcome.DELIVERED


def test_a_link_in_new_under_the_mails_name_is_not_written_through(start, home):
    make_tree(home)
    (home / "Maildir/new" / name()).symlink_to(home / "victim")
    start().deliver(errand(1))
    assert not (home / "victim").exists()


def test_a_maildir_that_is_a_link_is_the_users_choice(start, home):
    elsewhere = home / "disk"
    elsewhere.mkdir()
    (home / "Maildir").symlink_to(elsewhere)
    own(elsewhere, home / "Maildir")
    assert start().deliver(errand()).outcome is Outcome.DELIVERED
    assert len(list((elsewhere / "new").iterdir())) == 1


def test_a_maildir_moved_away_is_for_the_next_agent(start, home):
    agent = start()
    agent.deliver(errand(1))
    os.rename(home / "Maildir", home / "Maildir.old")
    assert agent.deliver(errand(2)).outcome is Outcome.DEFERRED
    assert agent.process.wait(30) == 0
    assert start().deliver(errand(2)).outcome is Outcome.DELIVERED
    assert len(files(home)[0]) == 1 and len(list((home / "Maildir.old/new").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory of somebody else's")
def test_a_maildir_of_another_user_defers(start, home):
    (home / "Maildir").mkdir(0o755)
    assert start().deliver(errand()).outcome is Outcome.DEFERRED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a home of root's")
def test_a_home_that_the_user_may_search_and_not_read(start, home):
    """Nor those above it, on a host with many users."""
    (home / "Maildir").mkdir(mode=0o700)
    own(home / "Maildir")
    os.chown(home, 0, 0)
    for path in (home, home.parent):
        path.chmod(0o711)
    assert start().deliver(errand()).outcome is Outcome.DELIVERED

"""The parent and mail that was kept: what it lists, in which order it is handed in, and what users may put there."""

import os
import socket
import stat
import time

import pytest

from smtpd.imsg import OfflineSubmitted, SubmitOffline
from smtpd.ipc.channel import Violation
from smtpd.parent import offline
from tests.parent.conftest import LOCAL


def name(number):
    return f"{number:032x}"


def put(folder, number, size=1, ending=""):
    path = folder / (name(number) + ending)
    with path.open("wb") as file:
        file.truncate(size)
    return path.name


@pytest.fixture
def listed(make_world, tmp_path):
    """A world that has listed the directory once."""

    def make():
        world = make_world(LOCAL, offline=tmp_path)
        listing(world)
        return world

    return make


def listing(world):
    """To its end."""
    mails = world.offline
    mails._begin_in(0)
    world.wait(0)
    world.turn_until(lambda: mails._timer is not None and not mails._is_listing and not mails._worker.waiting)


def asked(world):
    return [imsg.name for imsg in world.hears("nursery")]


def answer(world, request, verdict, reason=""):
    world.say("nursery", OfflineSubmitted(request, verdict, reason))
    world.turn_until(lambda: not world.offline._worker.waiting)


def test_a_mail_is_removed_only_when_it_has_been_sent(listed, tmp_path):
    put(tmp_path, 1)
    world = listed()
    assert world.hears("nursery") == [SubmitOffline(1, name(1))]
    listing(world)
    assert asked(world) == []  # it is under way
    answer(world, 1, "later", "smtpd is busy")
    assert os.listdir(tmp_path) == [name(1)]
    listing(world)
    assert world.hears("nursery") == [SubmitOffline(2, name(1))]
    answer(world, 2, "sent")
    assert os.listdir(tmp_path) == []


def test_it_is_looked_for_every_minute(listed, tmp_path):
    world = listed()
    put(tmp_path, 1)
    world.wait(offline.LIST_INTERVAL - 1)
    world.turn_until(lambda: not world.offline._worker.waiting)
    assert asked(world) == []
    world.wait(2)
    world.turn_until(lambda: not world.offline._worker.waiting)
    assert asked(world) == [name(1)]


def test_a_mail_that_is_refused_three_times_is_set_aside(listed, tmp_path, capfd):
    put(tmp_path, 1)
    world = listed()
    for attempt in range(offline.ATTEMPTS_MAX):
        assert asked(world) == [name(1)]
        answer(world, attempt + 1, "refused", "550 no such user")
        listing(world)
    assert asked(world) == []
    assert os.listdir(tmp_path) == [f"{name(1)}.refused"]
    said = capfd.readouterr().err
    assert said.count("is refused: 550 no such user") == 2
    assert f"is set aside as {name(1)}.refused: 550 no such user" in said
    assert "1 refused mails are set aside" in said


def test_a_mail_that_cannot_be_removed_is_not_sent_again(listed, tmp_path, monkeypatch, capfd):
    put(tmp_path, 1)
    world = listed()
    assert asked(world) == [name(1)]

    def unlink(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(offline.os, "unlink", unlink)
    answer(world, 1, "sent")
    assert "cannot be removed" in capfd.readouterr().err
    listing(world)
    assert asked(world) == []


def test_another_file_under_the_name_of_a_sent_one_stays(listed, tmp_path):
    put(tmp_path, 1)
    world = listed()
    assert asked(world) == [name(1)]
    put(tmp_path, 2).encode()
    os.rename(tmp_path / name(2), tmp_path / name(1))
    answer(world, 1, "sent")
    assert os.listdir(tmp_path) == [name(1)]


def test_what_is_no_mail_is_counted_and_left_alone(listed, tmp_path, capfd):
    outside = tmp_path.parent / "outside"
    outside.write_text("x")
    os.symlink(outside, tmp_path / name(1))
    os.mkfifo(tmp_path / name(2))
    os.mkdir(tmp_path / name(3))
    (tmp_path / "x").touch()
    for odd in (b"\xff\xfe", b"\x1b[31m", b"a\nb", b"-rf", b"A" * 32, b"\xd9\xa3" * 32, name(4).encode() + b"\n"):
        open(os.path.join(os.fsencode(tmp_path), odd), "w").close()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / name(5)))
    before = sorted(os.listdir(tmp_path))
    world = listed()
    assert asked(world) == []
    assert sorted(os.listdir(tmp_path)) == before and outside.read_text() == "x"
    assert f"{len(before)} files are no mail" in capfd.readouterr().err
    listing(world)
    assert capfd.readouterr().err == ""  # it is said once


def test_what_a_sendmail_has_not_finished_is_removed_after_a_day(listed, tmp_path):
    put(tmp_path, 1, ending=".tmp")
    put(tmp_path, 2, ending=".tmp")
    old = time.time() - offline.UNFINISHED_AGE - 60
    os.utime(tmp_path / f"{name(1)}.tmp", (old, old))
    world = listed()
    assert asked(world) == []
    assert os.listdir(tmp_path) == [f"{name(2)}.tmp"]


def test_a_huge_file_is_set_aside_without_being_opened(listed, tmp_path):
    put(tmp_path, 1, offline.BYTES_PER_OWNER_MAX + 1)
    world = listed()
    world.turn_until(lambda: not world.offline._worker.waiting)
    assert asked(world) == []
    assert os.listdir(tmp_path) == [f"{name(1)}.refused"]


def test_of_many_files_few_are_remembered_and_all_are_handed_in(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "LISTED_MAX", 10)
    monkeypatch.setattr(offline, "FILES_PER_OWNER_MAX", 7)
    monkeypatch.setattr(offline, "LIST_PAUSE", 0.0)
    for number in range(45):
        put(tmp_path, number)
    world = listed()
    sent, most = [], 0
    while len(sent) < 45:
        most = max(most, sum(map(len, world.offline._waiting.values())))
        for imsg in world.hears("nursery"):
            sent.append(imsg.name)
            answer(world, imsg.request, "sent")
        world.wait(0)
        world.turn_until(lambda: world.offline._asked or not world.offline._worker.waiting)
    assert sorted(sent) == [name(number) for number in range(45)]
    assert most <= 7
    assert os.listdir(tmp_path) == []


def test_bytes_of_an_owner_are_bounded_too(listed, tmp_path):
    for number in range(4):
        put(tmp_path, number, offline.BYTES_PER_OWNER_MAX // 2 - 1)
    world = listed()
    assert len(asked(world)) == 1
    assert sum(map(len, world.offline._waiting.values())) <= 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes files of other users")
def test_a_user_with_many_files_does_not_hold_up_another(listed, tmp_path):
    for number in range(50):
        put(tmp_path, number)
        os.chown(tmp_path / name(number), 1234, 1234)
    for number, owner in ((100, 1235), (101, 1236), (102, 1237), (103, 1238)):
        put(tmp_path, number)
        os.chown(tmp_path / name(number), owner, owner)
    world = listed()
    (first, *others) = world.hears("nursery")
    assert len([first, *others]) == offline.AT_ONCE  # each of another owner
    owners = {(tmp_path / imsg.name).stat().st_uid for imsg in (first, *others)}
    assert len(owners) == offline.AT_ONCE
    for imsg in (first, *others):
        answer(world, imsg.request, "sent")
    turn = {(tmp_path / imsg.name).stat().st_uid for imsg in world.hears("nursery")}
    assert {1235, 1236, 1237, 1238} <= owners | turn


def test_a_refusal_ends_the_turns_of_its_owner_until_the_next_listing(listed, tmp_path):
    for number in range(5):
        put(tmp_path, number)
    world = listed()
    assert len(asked(world)) == 1
    answer(world, 1, "refused", "not written by sendmail")
    assert asked(world) == []
    world.wait(offline.LIST_PAUSE)
    world.turn_until(lambda: world.offline._asked)
    assert len(asked(world)) == 1


def test_owners_that_wait_are_bounded(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "OWNERS_MAX", 0)
    put(tmp_path, 1)
    world = listed()
    assert asked(world) == [] and not world.offline._waiting


def test_refusals_that_are_remembered_are_bounded(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "REFUSALS_MAX", 0)
    put(tmp_path, 1)
    world = listed()
    answer(world, 1, "refused", "no")
    assert not world.offline._refusals
    assert os.listdir(tmp_path) == [f"{name(1)}.refused"]


@pytest.mark.parametrize("imsg", [OfflineSubmitted(7, "sent", ""), OfflineSubmitted(1, "perhaps", "")])
def test_an_answer_that_cannot_be_is_fatal(listed, tmp_path, imsg):
    put(tmp_path, 1)
    world = listed()
    with pytest.raises(Violation):
        world.say("nursery", imsg)


def test_without_a_directory_nothing_is_done(make_world):
    world = make_world(LOCAL)
    world.offline.begin()
    assert world.hears("nursery") == []


def test_a_directory_that_cannot_be_listed_is_said_and_tried_again(make_world, tmp_path, monkeypatch, capfd):
    put(tmp_path, 1)
    world = make_world(LOCAL, offline=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(offline.os, "scandir", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        world.offline.begin()
        world.turn_until(lambda: not world.offline._worker.waiting)
    assert "cannot be listed: Input/output error" in capfd.readouterr().err
    world.wait(offline.LIST_INTERVAL)
    world.turn_until(lambda: world.offline._asked)
    assert asked(world) == [name(1)]


def test_a_daemon_that_stops_begins_no_mail(listed, tmp_path):
    for number in range(2):
        put(tmp_path, number)
    world = listed()
    assert len(asked(world)) == 1
    world.offline.stop()
    answer(world, 1, "sent")
    assert asked(world) == [] and len(os.listdir(tmp_path)) == 1
    assert stat.S_ISREG((tmp_path / os.listdir(tmp_path)[0]).stat().st_mode)

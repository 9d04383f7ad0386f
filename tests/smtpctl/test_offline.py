"""Mail that sendmail keeps while smtpd does not run: the file, the directory, and the session in which it is sent."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpctl import offline_folder
from smtpctl.offline_file import ENVELOPE_MAX, HEAD_SIZE, MAGIC, OfflineFile, OfflineFileError, pack_head
from smtpctl.offline_submission import OfflineSubmission
from smtpctl.submission import SubmissionMail
from smtpd.ipc.query import Answer
from tests.smtpctl.server import Server

CONTENT = b"Subject: x\n\nhello\n"
MAIL = SubmissionMail(
    "amy@here.test", ("bob@here.test", '"a b"@x.test', "däve"), 7, True, "HDRS", "a+b", "SUCCESS,DELAY"
)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "offline"
    made.mkdir()
    made.chmod(0o1733)
    return made


@pytest.fixture
def opened(tmp_path):
    """`opened(content)`: a descriptor of a file with that content."""
    descriptors = []

    def make(content):
        (tmp_path / "file").write_bytes(content)
        descriptors.append(os.open(tmp_path / "file", os.O_RDONLY))
        return descriptors[-1]

    yield make
    for descriptor in descriptors:
        os.close(descriptor)


def facts(mail):
    return {name: getattr(mail, name) for name in SubmissionMail.__slots__ if name != "size"}


def fields(*texts):
    envelope = b"".join(len(text).to_bytes(4) + text for text in texts)
    return MAGIC + len(envelope).to_bytes(4) + (0).to_bytes(8) + envelope


# -- the file ------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(opened):
    file = OfflineFile(opened(pack_head(MAIL, len(CONTENT)) + CONTENT))
    assert facts(file.mail) == facts(MAIL) and file.mail.size == len(CONTENT)
    assert b"".join(file.content()) == CONTENT


def test_a_file_cut_at_any_place_is_refused(opened):
    whole = pack_head(MAIL, len(CONTENT)) + CONTENT
    for size in range(len(whole)):
        with pytest.raises(OfflineFileError):
            OfflineFile(opened(whole[:size]))
    with pytest.raises(OfflineFileError, match="changed"):
        OfflineFile(opened(whole + b"x"))


GOOD = (b"amy@here.test", b"", b"", b"", b"", b"bob@here.test")


@pytest.mark.parametrize(
    "place, value",
    [
        (0, b"amy@here.test>\r\nRCPT TO:<eve@x.test"),
        (0, b"amy@here.test> SIZE=1"),
        (0, b"a\0b"),
        (0, b"\xff"),
        (1, b"FULL AUTH=<>"),
        (2, b"a b"),
        (2, b"a\r\nRSET"),
        (3, b"NEVER\r\n"),
        (4, b"7"),
        (5, b""),
        (5, b"bob\r\nDATA"),
        (5, b"<bob@here.test>"),
    ],
)
def test_no_field_can_end_or_lengthen_a_command(opened, place, value):
    OfflineFile(opened(fields(*GOOD)))
    with pytest.raises(OfflineFileError):
        OfflineFile(opened(fields(*GOOD[:place], value, *GOOD[place + 1 :])))


def test_the_null_sender_is_one(opened):
    assert OfflineFile(opened(fields(b"", *GOOD[1:]))).mail.sender == ""


def test_an_envelope_of_any_announced_length_takes_no_memory(opened):
    with pytest.raises(OfflineFileError):
        OfflineFile(opened(MAGIC + b"\xff" * 12))
    many = SubmissionMail("amy@here.test", ("bob@here.test",) * (ENVELOPE_MAX // 10), 0)
    with pytest.raises(OfflineFileError, match="too many recipients"):
        pack_head(many, 0)


@given(st.binary(max_size=200), st.integers(0, HEAD_SIZE + 60))
def test_any_bytes_are_a_file_or_refused(tmp_path_factory, data, place):
    path = tmp_path_factory.getbasetemp() / "any"
    whole = bytearray(pack_head(MAIL, len(CONTENT)) + CONTENT)
    for content in (data, MAGIC + data, bytes(whole[:place]) + data + bytes(whole[place + len(data) :])):
        path.write_bytes(content)
        with path.open("rb") as opened:
            try:
                file = OfflineFile(opened.fileno())
            except OfflineFileError:
                continue
        said = [file.mail.sender, file.mail.ret, file.mail.envid, file.mail.notify, *file.mail.recipients]
        assert not any(code < " " or code == "\x7f" for text in said for code in text)


def test_a_file_that_shrinks_while_it_is_read_has_no_end(opened, tmp_path):
    file = OfflineFile(opened(pack_head(MAIL, 200_000) + b"x" * 200_000))
    pieces = file.content()
    next(pieces)
    os.truncate(tmp_path / "file", 100)
    with pytest.raises(OfflineFileError, match="changed"):
        list(pieces)


# -- the session ---------------------------------------------------------------------------------


def in_child(function):
    """What it returns: it gives up root on its way."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, function().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def submit(control, opened):
    """`submit(content, answers)`: the verdict, and the server."""

    def submit(content, answers=None):
        server = Server(answers or {})
        control.answers[:] = [server.opened]
        path, descriptor = str(control.folder / "smtpd.sock"), opened(content)

        def work():
            os.close(server._sock.fileno())  # or its end would be none
            return OfflineSubmission(path).submit(descriptor)

        verdict = in_child(work)
        server.end()
        return verdict, server

    return submit


WHOLE = pack_head(MAIL, len(CONTENT)) + CONTENT


def test_a_mail_is_sent_as_sendmail_would(submit):
    verdict, server = submit(WHOLE)
    assert verdict == "sent"
    assert server.said[1].startswith("MAIL FROM:<amy@here.test>") and " RET=HDRS ENVID=a+2Bb" in server.said[1]
    assert server.said[2:5] == [f"RCPT TO:<{one}> NOTIFY=SUCCESS,DELAY" for one in MAIL.recipients]
    assert server.content == CONTENT.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    "answers, verdict",
    [
        ({"RCPT": "550 no such user"}, "refused bob@here.test: 550 no such user"),
        ({"RCPT": "450 later"}, "later bob@here.test: 450 later"),
        ({".": "552 too large"}, "refused command failed: 552 too large"),
        ({".": "451 disk"}, "later command failed: 451 disk"),
        ({".": ""}, "later smtpd closed the connection"),
        ({"": "421 stopping"}, "later command failed: 421 stopping"),
    ],
)
def test_what_the_server_says_is_the_verdict(submit, answers, verdict):
    assert submit(WHOLE, answers)[0].startswith(verdict)


def test_a_file_that_is_none_is_refused_and_nothing_is_said(control, opened):
    ours, theirs = socket.socketpair()
    control.answers[:] = [Answer(True, "", theirs.detach())]
    path, descriptor = str(control.folder / "smtpd.sock"), opened(b"root:x:0:0\n")

    def work():
        ours.close()
        return OfflineSubmission(path).submit(descriptor)

    with ours:
        assert in_child(work) == "refused not written by sendmail"
        assert ours.recv(100) == b""


def test_without_a_session_it_is_later(control, tmp_path):
    control.answers[:] = [Answer(False, "no more sessions")]
    path = str(control.folder / "smtpd.sock")
    assert in_child(lambda: OfflineSubmission(path).submit(-1)) == "later no more sessions"
    assert OfflineSubmission(str(tmp_path / "none")).submit(-1) == "later smtpd doesn't seem to be running"


# -- the directory -------------------------------------------------------------------------------


def test_a_kept_mail_is_a_new_file_of_its_user_only(folder):
    before = os.umask(0o777)
    try:
        offline_folder.keep(str(folder), MAIL, [CONTENT], has_date=True)
    finally:
        os.umask(before)
    (path,) = folder.iterdir()
    assert len(path.name) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("rb") as opened:
        file = OfflineFile(opened.fileno())
        content = b"".join(file.content())
    assert content.startswith(f"Received: by localhost (smtpd, from userid {os.getuid()});\n\t".encode())
    assert content.endswith(b"+0000 (UTC)\n" + CONTENT) and b"\nDate:" not in content


def test_a_date_is_added_where_there_is_none(folder):
    offline_folder.keep(str(folder), MAIL, [CONTENT], has_date=False)
    assert b" (UTC)\nDate: " in next(folder.iterdir()).read_bytes()


@pytest.mark.parametrize("mode", [0o777, 0o733])
def test_a_directory_where_others_could_remove_it_is_not_used(folder, mode):
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="sticky"):
        offline_folder.keep(str(folder), MAIL, [CONTENT], has_date=True)
    assert list(folder.iterdir()) == []


def test_a_link_to_a_directory_is_not_followed(folder, tmp_path):
    os.symlink(folder, tmp_path / "link")
    with pytest.raises(OSError):
        offline_folder.keep(str(tmp_path / "link"), MAIL, [CONTENT], has_date=True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_is_not_on_the_disk_is_not_kept(folder, monkeypatch, call):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline_folder.os, call, fail)
    with pytest.raises(OSError, match="No space"):
        offline_folder.keep(str(folder), MAIL, [CONTENT], has_date=True)
    assert list(folder.iterdir()) == []


def test_the_new_name_is_synced_after_the_file(folder, monkeypatch):
    done = []
    for call in ("fsync", "rename"):
        real = getattr(os, call)
        monkeypatch.setattr(
            offline_folder.os, call, lambda *a, real=real, call=call, **k: (done.append(call), real(*a, **k))[1]
        )
    monkeypatch.setattr(offline_folder, "_sync_file_system", lambda _: done.append("fsync"))
    offline_folder.keep(str(folder), MAIL, [CONTENT], has_date=True)
    assert done == ["fsync", "rename", "fsync"]


def test_the_file_system_can_be_synced(tmp_path):
    with (tmp_path / "x").open("w") as file:
        offline_folder._sync_file_system(file.fileno())
    with pytest.raises(OSError):
        offline_folder._sync_file_system(-1)


# -- sendmail ------------------------------------------------------------------------------------


def sendmail(state, *words, mail=CONTENT, **more):
    command = [sys.executable, "-m", "smtpctl", "sendmail", "--state", str(state), *words]
    environment = {**os.environ, "HOME": str(state / "home")}
    return subprocess.run(command, input=mail, capture_output=True, env=environment, timeout=20, check=False, **more)


PLAIN = ("-f", "amy@here.test", "bob@here.test")


@pytest.fixture
def state(folder):
    (folder.parent / "home").mkdir()
    return folder.parent


def test_the_mail_is_kept_and_that_is_said(state, folder):
    done = sendmail(state, *PLAIN)
    assert done.returncode == 0 and b"the mail is kept, and sent when it runs" in done.stderr
    assert len(list(folder.iterdir())) == 1 and list((state / "home").iterdir()) == []


def test_with_online_it_fails_and_keeps_none(state, folder):
    done = sendmail(state, "--online", *PLAIN)
    assert done.returncode == 75 and list(folder.iterdir()) == []
    assert (state / "home/dead.letter").read_bytes() == CONTENT


def test_without_the_directory_it_fails(state, folder):
    folder.rmdir()
    done = sendmail(state, *PLAIN)
    assert done.returncode == 75 and b"cannot be kept in" in done.stderr
    assert (state / "home/dead.letter").read_bytes() == CONTENT


def test_where_the_disk_is_full_it_fails_and_leaves_nothing(state, folder):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = sendmail(state, *PLAIN, mail=CONTENT + b"x\n" * 90_000, preexec_fn=limit)
    assert done.returncode == 75 and b"cannot be kept in" in done.stderr, done.stderr
    assert list(folder.iterdir()) == []


def test_a_daemon_that_is_busy_or_refuses_keeps_nothing(state, control, folder):
    control.answers[:] = [Answer(False, "smtp is paused")]
    assert sendmail(state, *PLAIN).returncode == 69
    assert list(folder.iterdir()) == []


def test_a_dialogue_is_not_kept(state, folder):
    done = sendmail(state, "-bs", mail=b"MAIL FROM:<>\r\n")
    assert done.returncode == 75 and list(folder.iterdir()) == []

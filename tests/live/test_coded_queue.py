"""A queue whose content is compressed or encrypted on the disk."""

import random
import shutil
import subprocess

import pytest

from tests.live.conftest import COMPLETE, CONF, OPTIONS, empty_maildir, mails, until

SMALL = b"Subject: small\r\n\r\n" + b"Nothing much happens here.\r\n" * 100
LARGE = (
    b"Subject: large\r\n\r\n"
    + b"".join(b"Line %d of a long mail.\r\n" % number for number in range(8_000))
    + random.Random(3).randbytes(40_000).hex("\n", 30).encode().replace(b"\n", b"\r\n")
    + b"\r\n"
)
COMMAND = 'action "local" mda "cat > ~/taken-$$ && mkdir -p ~/Maildir/new && mv ~/taken-$$ ~/Maildir/new/"\n'


def spool_bytes(daemon):
    """All that the daemon has on the disk for its queue, as it lies there now."""
    return b"".join(path.read_bytes() for path in (daemon.state / "spool").rglob("*") if path.is_file())


def pause_and_send(daemon, user, *contents):
    daemon.smtpctl("pause", "mda", check=False)  # it may be already
    for content in contents:
        daemon.send(f"{user}@here.test", content)


def envelopes(daemon):
    return [line.split("|")[0] for line in daemon.smtpctl("show", "queue").stdout.splitlines()]


def texts(home):
    """Of the mails that were delivered, without what was added in front."""
    return sorted((mail[mail.index(b"Subject: ") :] for mail in mails(home)), key=len)


def expected(*contents):
    return sorted((content.replace(b"\r\n", b"\n") for content in contents), key=len)


@pytest.mark.parametrize("delivery", ["maildir", "mbox", "command"])
def test_compressed_mail_is_small_on_the_disk_and_delivered_as_it_came(make_daemon, users, alice, letterbox, delivery):
    conf = CONF.replace("maildir", "mbox") if delivery == "mbox" else CONF
    if delivery == "command":
        conf = CONF.replace('action "local" maildir\n', COMMAND)
        assert conf != CONF
    daemon = make_daemon("queue compression\n" + conf)
    daemon.start()
    pause_and_send(daemon, alice, SMALL, LARGE)
    (file,) = (daemon.state / "spool/content").iterdir()
    assert file.stat().st_size < 0.6 * len(LARGE)
    for id, content in zip(envelopes(daemon), (SMALL, LARGE), strict=True):
        shown = daemon.smtpctl("show", "message", id).stdout
        assert shown[shown.index("Subject: ") :] == content.decode().replace("\r\n", "\n")
    daemon.kill()
    daemon.start()  # what a crash leaves is what was stored
    if delivery == "mbox":
        box = daemon.state / "mail" / alice
        until(lambda: box.exists() and box.read_bytes().count(b"\nSubject: ") == 2, what="delivery")
        assert LARGE.replace(b"\r\n", b"\n") in box.read_bytes()
    else:
        until(lambda: len(mails(letterbox)) == 2, what="delivery")
        assert texts(letterbox) == expected(SMALL, LARGE)
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    assert not [*(daemon.state / "spool/content").iterdir()] and COMPLETE
    empty_maildir(users.home(alice))
    assert daemon.stop() == 0


# -- encrypted -------------------------------------------------------------------------------------------------------

ONE, OTHER, THIRD = (digit * 64 for digit in "123")
SECRET = b"The treasure lies under the third oak from the left."
SMALL_SECRET = b"Subject: small\r\n\r\n" + (SECRET + b"\r\n") * 5
LARGE_SECRET = b"Subject: large\r\n\r\n" + (SECRET + b" Line after line.\r\n") * 3000


def encrypted(make_daemon, *keys, conf=CONF):
    daemon = make_daemon('queue encryption key "{directory}/queue.key"\n' + conf)
    write_keys(daemon, *keys)
    return daemon


def write_keys(daemon, *keys, mode=0o600):
    path = daemon.directory / "queue.key"
    path.write_text("".join(f"{key}\n" for key in keys))
    path.chmod(mode)
    return path


def parts_of(secret):
    """Any of these on the disk would say that something is there in the clear."""
    return [secret[at : at + 12] for at in range(0, len(secret) - 12, 4)]


def is_in_the_clear(daemon):
    stored = spool_bytes(daemon)
    return any(part in stored for part in parts_of(SECRET))


def waits_until_said(daemon, text):
    until(lambda: text in daemon.log, what=text)


def test_no_byte_of_a_mail_is_on_the_disk(make_daemon, users, alice, letterbox):
    """While it comes in, waits, is read for delivery, and after a crash."""
    daemon = encrypted(make_daemon, ONE)
    daemon.start()
    pause_and_send(daemon, alice, SMALL_SECRET, LARGE_SECRET)
    with daemon.client() as client:
        client.ehlo("client.test")
        for command in ("MAIL FROM:<amy@there.test>", f"RCPT TO:<{alice}@here.test>"):
            assert client.docmd(command)[0] == 250
        assert client.docmd("DATA")[0] == 354
        client.send(COMPLETE + LARGE_SECRET)  # and no final dot
        spool = daemon.state / "spool/content"
        until(lambda: len([*spool.iterdir()]) == 2 and all(f.stat().st_size > 60_000 for f in spool.iterdir()))
        assert not is_in_the_clear(daemon)
    assert (daemon.state / "spool/queue.db-wal").stat().st_size and not is_in_the_clear(daemon)
    for id, content in zip(envelopes(daemon), (SMALL_SECRET, LARGE_SECRET), strict=True):
        shown = daemon.smtpctl("show", "message", id).stdout
        assert shown[shown.index("Subject: ") :] == content.decode().replace("\r\n", "\n")
    daemon.kill()
    assert not is_in_the_clear(daemon)
    daemon.start("-P", "mda")
    assert not is_in_the_clear(daemon)
    daemon.smtpctl("resume", "mda")
    until(lambda: len(mails(letterbox)) == 2, what="delivery")
    assert not is_in_the_clear(daemon) and texts(letterbox) == expected(SMALL_SECRET, LARGE_SECRET)
    assert daemon.stop() == 0 and not is_in_the_clear(daemon)


def test_a_command_that_reads_a_mail_slowly_leaves_nothing_on_the_disk(make_daemon, users, alice, letterbox):
    slowly = f'action "local" mda "touch ~/began && while [ ! -e ~/go ]; do sleep 0.1; done; {COMMAND[20:-2]}"\n'
    daemon = encrypted(make_daemon, ONE, conf=CONF.replace('action "local" maildir\n', slowly))
    for name in ("began", "go"):
        (letterbox / name).unlink(missing_ok=True)
    daemon.start()
    daemon.send(f"{alice}@here.test", LARGE_SECRET)
    until((letterbox / "began").exists, what="the command")
    assert not is_in_the_clear(daemon)
    (letterbox / "go").touch()
    until(lambda: len(mails(letterbox)) == 1, what="delivery")
    assert texts(letterbox) == expected(LARGE_SECRET)
    assert daemon.stop() == 0


def test_the_key_is_changed_twice_and_all_mail_is_read(make_daemon, users, alice, letterbox):
    daemon = make_daemon()
    daemon.start("-P", "mda")
    pause_and_send(daemon, alice, SMALL_SECRET, LARGE_SECRET)
    assert is_in_the_clear(daemon) and daemon.stop() == 0
    conf = daemon.conf.read_text()
    daemon.conf.write_text(f'queue encryption key "{daemon.directory}/queue.key"\nqueue compression\n{conf}')
    sent = [SMALL_SECRET, LARGE_SECRET]
    for keys in ([ONE], [OTHER, ONE], [THIRD, OTHER]):
        write_keys(daemon, *keys)
        before = len(daemon.log)
        daemon.start("-P", "mda")
        until(lambda: "all that there were" in daemon.log[before:], what="encryption of what is queued")  # noqa: B023
        for content in (SMALL_SECRET, LARGE_SECRET):
            pause_and_send(daemon, alice, content)
            sent.append(content)
        assert daemon.stop() == 0
        files = b"".join(path.read_bytes() for path in (daemon.state / "spool/content").iterdir())
        assert not any(part in files for part in parts_of(SECRET))
    write_keys(daemon, THIRD)  # the others are not needed any more
    daemon.start()
    until(lambda: len(mails(letterbox)) == len(sent), what="delivery")
    assert texts(letterbox) == expected(*sent)
    until(lambda: not [*(daemon.state / "spool/content").iterdir()], what="an empty spool")
    write_keys(daemon, "none", THIRD)
    assert daemon.stop() == 0


def test_mail_whose_key_is_missing_waits_and_is_delivered_when_it_is_there(make_daemon, users, alice, letterbox):
    daemon = encrypted(make_daemon, ONE)
    conf = daemon.conf.read_text()
    daemon.conf.write_text("queue ttl 1s\n" + conf)  # it is over long before the key is back
    daemon.start("-P", "mda")
    pause_and_send(daemon, alice, SMALL_SECRET, LARGE_SECRET)
    assert daemon.stop() == 0
    for another in (conf, conf.partition("\n")[2]):  # with another key, and without any
        write_keys(daemon, OTHER)
        daemon.conf.write_text(another)
        daemon.start()
        ids = envelopes(daemon)
        assert len(ids) == 2
        for id in ids:
            queue = until(lambda: _with_error(daemon, "which is not configured", 2), what="the reason")
            done = daemon.smtpctl("show", "message", id, check=False)
            assert "which is not configured" in done.stderr + done.stdout, queue
        assert not mails(letterbox)
        if another == conf:
            waits_until_said(daemon, "messages that wait for it: 2")
        assert daemon.stop() == 0
    write_keys(daemon, OTHER, ONE)
    daemon.conf.write_text(conf)
    daemon.start()
    until(lambda: len(mails(letterbox)) == 2, what="delivery")
    assert texts(letterbox) == expected(SMALL_SECRET, LARGE_SECRET)
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    assert daemon.stop() == 0


def _with_error(daemon, text, count):
    shown = daemon.smtpctl("show", "queue").stdout
    return shown if shown.count(text) == count else ""


@pytest.mark.parametrize(
    "fault, said",
    [
        ("mode", "can be read by others (mode 0640)"),
        ("owner", "belongs to uid"),
        ("length", "line 1: a key is 64 hexadecimal digits"),
        ("empty", "it has no key"),
        ("missing", "No such file or directory"),
        ("directory", "is not a regular file"),
    ],
)
def test_a_key_file_that_cannot_be_used_ends_the_start_and_is_named(make_daemon, users, alice, fault, said):
    daemon = encrypted(make_daemon, ONE[:-1] if fault == "length" else ONE)
    path = daemon.directory / "queue.key"
    match fault:
        case "mode":
            path.chmod(0o640)
        case "owner":
            shutil.chown(path, alice)
        case "empty":
            path.write_text("")
        case "missing":
            path.unlink()
        case "directory":
            path.unlink()
            path.mkdir(mode=0o700)
    with pytest.raises(AssertionError, match="did not become ready"):
        daemon.start()
    lines = [line for line in daemon.log.splitlines() if "fatal" in line]
    assert any("queue encryption" in line and said in line for line in lines), daemon.log
    command = [daemon.python, "-m", "smtpd", "-n", "-f", str(daemon.conf), *OPTIONS]
    checked = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert checked.returncode == 1 and said in checked.stderr

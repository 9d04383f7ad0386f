"""HUP: new keys and certificates for who comes from now on; who is there stays; what is no good changes nothing."""

import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.live.certificate import Authority, key_pem
from tests.live.conftest import PYTHON, Daemon, empty_maildir, mails, started, until
from tests.live.encrypted import Client, serial_of, showing
from tests.tls.world import by_sha1, certify, pem
from tests.tls.world import key as key_of
from tests.trusted import OPTIONS

CONF = """
pki mx.here.test cert "{directory}/live/mx.crt"
pki mx.here.test key "{directory}/live/mx.key"
pki other.test cert "{directory}/live/other.crt"
pki other.test key "{directory}/live/other.key"
ca clients cert "{directory}/live/clients.ca"
listen on 127.0.0.1 port {port} tls pki mx.here.test pki other.test ca clients
action "local" maildir
match from any for domain "here.test" action "local"
"""
LOADED = "info: certificates of 2 pki loaded"
KEPT = "warn: keys and certificates stay as they were"


class Site:
    """The daemon, its files, which are new, and what it should show."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.authority, self.clients = Authority("here"), Authority("clients")
        self.live = daemon.directory / "live"
        self.live.mkdir(exist_ok=True)  # the daemon may have it open
        for left in self.live.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        self.other = self.authority.issue("other.test", kind="rsa")
        self.other.write(self.live, "other")
        self.clients.write(self.live, "clients")
        self.mx = self.renew()

    def renew(self, kind="p256"):
        """Written over."""
        self.mx = self.authority.issue("mx.here.test", kind=kind)
        self.mx.write(self.live, "mx")
        return self.mx

    def hup(self):
        """What the log says of it, once it is over."""
        mark = len(self.daemon.log)
        self.daemon.process.send_signal(signal.SIGHUP)

        def said():
            text = self.daemon.log[mark:]
            return text if LOADED in text or KEPT in text else None

        return until(said, what="the end of the reload")

    def check(self):
        """smtpd -n"""
        command = [PYTHON, "-m", "smtpd", "-n", *OPTIONS, "-f", str(self.daemon.conf)]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)

    def shown(self, **more):
        """The serial number of what a new client is shown."""
        with Client(self.daemon.port, **more).starttls() as client:
            serial = serial_of(client)
            assert client.command("NOOP").startswith("250")
            return serial


@pytest.fixture(scope="module")
def daemon(ground, users):
    daemon = Daemon(ground, CONF)
    Site(daemon)
    with started(daemon):
        yield daemon


@pytest.fixture
def site(daemon):
    """One for each test, as far as the daemon can tell."""
    made = Site(daemon)
    assert LOADED in made.hup()
    made.mark = len(daemon.log)
    return made


@pytest.fixture
def site_of_three(ground, users):
    """With three dispatchers."""
    daemon = Daemon(ground, f"dispatchers 3\n{CONF}")
    made = Site(daemon)
    with started(daemon):
        yield made


def test_a_new_certificate_is_for_new_sessions_and_the_old_ones_go_on(site, users, alice):
    empty_maildir(users.home(alice))
    old = site.mx.serial
    with Client(site.daemon.port).starttls() as client:
        assert client.begin_mail(f"{alice}@here.test").command("DATA").startswith("354")
        client.say(b"Subject: long\r\n\r\nhalf of it\r\n")
        new = site.renew(kind="rsa").serial
        said = site.hup()
        assert "anything else of the configuration needs a restart" in said
        assert LOADED in said
        assert site.shown() == new != old
        client.say(b"and the rest\r\n")
        assert client.command(".").startswith("250 2.0.0")
        assert serial_of(client) == old
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert mail.endswith(b"\nhalf of it\nand the rest\n")


def test_a_session_that_has_not_yet_asked_for_tls_gets_the_new_one(site):
    with Client(site.daemon.port) as client:
        new = site.renew().serial
        site.hup()
        client.starttls()
        assert serial_of(client) == new


def test_every_dispatcher_has_the_new_one(site_of_three):
    """The kernel chooses one for each client."""
    site = site_of_three
    site.shown()
    new = site.renew().serial
    site.hup()
    assert {site.shown() for _ in range(30)} == {new}


def renamed_over(site):
    """As acme clients do that write a file beside the old one first."""
    beside = site.daemon.directory / "beside"
    beside.mkdir()
    identity = site.authority.issue("mx.here.test")
    for path in identity.write(beside, "mx"):
        os.replace(path, site.live / path.name)
    return identity


def linked_to_another_file(site):
    """As certbot does: live/mx.crt is a link to live/../archive/mx2.crt."""
    archive = site.live / "archive"
    archive.mkdir()
    for number in (1, 2):
        identity = site.authority.issue("mx.here.test")
        for path in identity.write(archive, f"mx{number}"):
            link = site.live / f"new{path.suffix}"
            link.symlink_to(Path("archive") / path.name)
            os.replace(link, site.live / f"mx{path.suffix}")
        site.hup()
        assert site.shown() == identity.serial
    return identity


def linked_to_another_directory(site):
    """As Kubernetes and others do: mx.crt is a link into a directory that is itself a link, bent all at once."""
    for number in (1, 2):
        place = site.live / f"generation{number}"
        place.mkdir()
        identity = site.authority.issue("mx.here.test")
        identity.write(place, "mx")
        current = site.live / "new"
        current.symlink_to(place.name)
        os.replace(current, site.live / "current")
        for name in ("mx.crt", "mx.key"):
            link = site.live / "link"
            link.symlink_to(Path("current") / name)
            os.replace(link, site.live / name)
        site.hup()
        assert site.shown() == identity.serial
    return identity


@pytest.mark.parametrize("way", [renamed_over, linked_to_another_file, linked_to_another_directory])
def test_files_that_take_the_place_of_others_are_found(site, way):
    identity = way(site)
    site.hup()
    assert site.shown() == identity.serial


def garbage(site):
    (site.live / "mx.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return "pki mx.here.test: "


def key_of_another(site):
    (site.live / "mx.key").write_bytes(key_pem(site.other.key))
    return r"pki mx.here.test: \S+/mx.key: not the key of the certificate in \S+/mx.crt$"


def nothing(site):
    (site.live / "mx.key").unlink()
    return r"pki mx.here.test: \S+/mx.key: No such file or directory"


def empty(site):
    (site.live / "mx.crt").write_bytes(b"")
    return r"pki mx.here.test: \S+/mx.crt: no certificate in the file"


def key_for_everybody(site):
    (site.live / "mx.key").chmod(0o644)
    return r"pki mx.here.test: \S+/mx.key can be read by others"


def pipe(site):
    (site.live / "mx.crt").unlink()
    os.mkfifo(site.live / "mx.crt")
    return r"pki mx.here.test: \S+/mx.crt is not a regular file"


def key_among_certificates(site):
    (site.live / "mx.crt").write_bytes(site.mx.chain + key_pem(site.mx.key))
    return r"pki mx.here.test: \S+/mx.crt: private key in a certificate file"


def no_authorities(site):
    (site.live / "clients.ca").write_text("nobody\n")
    return r"ca clients: \S+/clients.ca: no certificate in the file"


def signed_by_sha1(site):
    """It can be read, and its key fits; only OpenSSL would not show it."""
    key = key_of("rsa2048", "another")
    (site.live / "mx.crt").write_bytes(pem(by_sha1(key, "mx.here.test")))
    (site.live / "mx.key").write_bytes(key_pem(key))
    return r"pki mx.here.test: \S+/mx.crt: the certificate is signed with SHA1, which is too weak "


def weak_authority(site):
    key = key_of("p256", "another")
    weak = certify(key_of("rsa1024"), "weak", authority=True)
    issued = certify(key, "mx.here.test", by=(weak, key_of("rsa1024")))
    (site.live / "mx.crt").write_bytes(pem(issued, weak))
    (site.live / "mx.key").write_bytes(key_pem(key))
    return r"pki mx.here.test: \S+/mx.crt: certificate 2 of 2, of an authority, has a key of 1024 bits"


BAD = [garbage, key_of_another, nothing, empty, key_for_everybody, pipe, key_among_certificates, no_authorities]
BAD += [signed_by_sha1, weak_authority]


@pytest.mark.parametrize("spoil", BAD)
def test_a_file_that_is_no_good_changes_nothing_and_is_named(site, spoil):
    """Nothing of the others either, which are new and good."""
    old, new = site.other.serial, site.authority.issue("other.test")
    new.write(site.live, "other")
    reason = spoil(site)
    said = site.hup()
    assert re.search(f"^warn: {reason}", said, re.MULTILINE), said
    assert KEPT in said and LOADED not in said
    checked = site.check()
    assert checked.returncode == 1 and len(checked.stderr.splitlines()) == 1, checked.stderr
    assert site.shown() == site.mx.serial
    assert site.shown(name="other.test") == old
    assert site.daemon.running()


def test_what_is_mended_is_taken_at_the_next_hup(site):
    key_of_another(site)
    assert KEPT in site.hup()
    new = site.renew()
    assert LOADED in site.hup()
    assert site.shown() == new.serial


def test_new_authorities_are_for_new_sessions_too(site):
    newer = Authority("newer clients")
    before, after = site.clients.issue("client.test", client=True), newer.issue("client.test", client=True)
    newer.write(site.live, "clients")
    site.hup()
    for identity in (before, after):
        site.shown(context=showing(identity, site.daemon.directory))
    results = re.findall(r'cert-check result="(\w+)" fingerprint="(\S+)"', site.daemon.log[site.mark :])
    assert results == [("unchecked", before.fingerprint), ("verified", after.fingerprint)]


def test_no_client_is_refused_during_a_reload(site):
    """Each gets the old certificate or the new one, and a signature by its key."""
    serials, stop, troubles = {site.mx.serial}, threading.Event(), []

    def come_and_go():
        while not stop.is_set():
            try:
                assert site.shown() in serials
            except Exception as error:
                troubles.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            identity = site.authority.issue("mx.here.test", kind=("rsa", "p256")[number % 2])
            serials.add(identity.serial)
            identity.write(site.live, "mx")
            assert LOADED in site.hup()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert troubles == []
    assert "tls-failed" not in site.daemon.log[site.mark :]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_many_reloads_leave_no_descriptors_behind(site):
    site.hup()
    pids = {title: pid for title, pid in site.daemon.pids().items() if title in ("parent", "crypto", "dispatcher")}
    before = {title: descriptors(pid) for title, pid in pids.items()}
    for number in range(20):
        if number == 10:
            key_of_another(site)
        if number == 15:
            site.renew()
        site.hup()
    assert {title: descriptors(pid) for title, pid in pids.items()} == before


def test_hups_in_a_row_end_with_what_is_there_at_the_end(site):
    for _ in range(10):
        new = site.renew()
        site.daemon.process.send_signal(signal.SIGHUP)
    until(lambda: site.shown() == new.serial, what="the last certificate")

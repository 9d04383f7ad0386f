"""Files of keys and certificates: what the parent opens, and what it does not."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smtpd.parent.certificate_file import CertificateFileError, open_certificate, open_files, open_key
from smtpd.parent.start.certificates import directories
from smtpd.slice import CaSlice, ParentSlice, PkiSlice

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: whose a file is matters to root only")


@pytest.fixture
def place():
    """A directory that root trusts."""
    made = Path(os.path.realpath(tempfile.mkdtemp(prefix="smtpd-keys-", dir="/var/tmp")))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def write(path, text="text", mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def read(descriptor):
    with open(descriptor) as file:
        return file.read()


def test_a_key_that_only_its_owner_and_group_may_read_is_opened(place):
    for mode in (0o600, 0o640, 0o400):
        assert read(open_key(write(place / "key", mode=mode), ROOT)) == "text"


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o601, 0o602])
def test_a_key_that_others_may_read_is_refused(place, mode):
    with pytest.raises(CertificateFileError, match="others"):
        open_key(write(place / "key", mode=mode), False)


def test_a_certificate_may_be_read_by_all(place):
    assert read(open_certificate(write(place / "cert", mode=0o644), ROOT)) == "text"


@needs_root
@pytest.mark.parametrize("what", ["owner", "mode", "directory", "link"])
def test_what_others_than_root_could_change_is_refused(place, what):
    path = write(place / "keys" / "key")
    if what == "owner":
        os.chown(path, 12345, -1)
    elif what == "mode":
        os.chmod(path, 0o620)
    elif what == "directory":
        (place / "keys").chmod(0o777)
    else:
        (place / "theirs").symlink_to("keys/key")
        os.lchown(place / "theirs", 12345, -1)
        path = str(place / "theirs")
    with pytest.raises(CertificateFileError, match="12345|writable|others"):
        open_key(path, True)
    assert what == "mode" or read(open_key(path, False)) == "text"  # --insecure-paths, or not root


def test_what_is_no_file_is_refused_at_once(place):
    os.mkfifo(place / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "socket"))
        for name in ("fifo", ".", "socket", "nowhere"):
            with pytest.raises(CertificateFileError):
                open_key(str(place / name), False)


def test_a_link_in_the_last_step_is_never_followed_by_open(place):
    """A name that has just been looked at may have become a link: /etc/shadow must not be what goes to crypto."""
    write(place / "key")
    program = (
        "import os, sys; from smtpd.parent import certificate_file\n"
        "certificate_file.os.path.realpath = lambda path: path\n"
        "certificate_file.open_key(sys.argv[1], False)\n"
    )
    (place / "link").symlink_to("key")
    done = subprocess.run([sys.executable, "-c", program, str(place / "link")], capture_output=True, text=True)
    assert "Too many levels of symbolic links" in done.stderr


class LetsEncrypt:
    """live/NAME/privkey.pem -> ../../archive/NAME/privkey1.pem, bent to the next number at each renewal."""

    def __init__(self, place):
        self.live, self.archive = place / "live" / "here.test", place / "archive" / "here.test"
        self.live.mkdir(parents=True)
        self.pki = PkiSlice("here.test", str(self.live / "fullchain.pem"), str(self.live / "privkey.pem"))
        self.renew(1)

    def renew(self, number):
        for name in ("fullchain", "privkey"):
            write(self.archive / f"{name}{number}.pem", f"{name} {number}")
            link = self.live / f"{name}.pem"
            link.unlink(missing_ok=True)
            link.symlink_to(f"../../archive/here.test/{name}{number}.pem")


def configured(*pki, ca=()):
    return ParentSlice((), (), (), 1, None, pki=pki, ca=ca)


def test_a_link_is_followed_to_where_it_leads_now(place):
    made = LetsEncrypt(place)
    assert [read(file) for file in open_files(made.pki, 2, ROOT)] == ["privkey 1", "fullchain 1", "fullchain 1"]
    made.renew(2)
    assert [read(file) for file in open_files(made.pki, 1, ROOT)] == ["privkey 2", "fullchain 2"]


def test_the_directories_are_those_of_the_files_and_of_the_links_to_them(place):
    made = LetsEncrypt(place)
    ca = CaSlice("clients", write(place / "ca" / "ca.pem"))
    wanted = [made.archive, place / "ca", made.live]
    assert directories(configured(made.pki, ca=(ca,))) == sorted(str(path) for path in wanted)


def test_a_renewal_is_read_by_a_process_that_sees_only_those_directories(place):
    made = LetsEncrypt(place)
    other = write(place / "other" / "secret")
    program = (
        "import os, sys; from smtpd.parent.certificate_file import *; from smtpd.sandbox import landlock, privilege\n"
        "from smtpd.parent.start.certificates import directories; from smtpd.slice import *\n"
        f"pki = PkiSlice('here.test', {made.pki.cert!r}, {made.pki.key!r})\n"
        f"configured = ParentSlice((), (), (), 1, None, pki=(pki,))\n"
        "privilege.set_no_new_privileges()\n"
        "held = landlock.restrict([(path, 'r') for path in directories(configured)])\n"
        "print(held[0], flush=True); sys.stdin.read()\n"
        f"print([os.read(file, 100) for file in open_files(pki, 1, {ROOT})])\n"
        f"open({other!r})\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        if b"missing" in child.stdout.readline():
            pytest.skip("no Landlock on this machine")
        made.renew(2)
        out, error = child.communicate()
    assert b"privkey 2" in out and b"fullchain 2" in out and b"PermissionError" in error


def test_nothing_stays_open_when_one_of_the_files_cannot_be(place):
    pki = PkiSlice("here.test", str(place / "nowhere"), write(place / "key"))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CertificateFileError, match="nowhere: No such file"):
        open_files(pki, 3, ROOT)
    assert os.listdir("/proc/self/fd") == before

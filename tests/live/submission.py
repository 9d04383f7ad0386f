"""A place where users hand in their mail: what its configuration names, and a mail in which everything shows.

PKI                         a sentence of it; certify(daemon) makes mx.crt, mx.key, and here.ca, which has signed them
write_table, write_rows     what is kept of passwords, in a text file and in a database
hashed, smtpctl_encrypt     made by crypt(3), and by ourselves
assert_unsaid               no log has a password, in any spelling
letter, assert_same         neither subject, body nor name of the attachment are ASCII; it is compared part for part
"""

import base64
import ctypes
import ctypes.util
import email
import email.policy
import os
import random
import shutil
import sqlite3
import subprocess
from email.message import EmailMessage

from tests.live.certificate import Authority
from tests.live.conftest import PYTHON

NAME = "mx.here.test"
PKI = 'pki mx.here.test cert "{directory}/mx.crt" key "{directory}/mx.key"\n'
UTF8 = email.policy.SMTPUTF8
MIB = 1024 * 1024

_crypt = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
_crypt.crypt.restype = _crypt.crypt_gensalt.restype = ctypes.c_char_p
_crypt.crypt_gensalt.argtypes = (ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int)


def hashed(password, prefix="$6$", cost=1000):
    """By the system's own crypt(3)."""
    salt = _crypt.crypt_gensalt(prefix.encode(), cost, os.urandom(16), 16)
    return _crypt.crypt(password.encode(), salt).decode()


def smtpctl_encrypt(password, *options):
    command = [PYTHON, "-m", "smtpctl", "encrypt", *options]
    done = subprocess.run(
        command, input=password + "\n", capture_output=True, text=True, cwd="/", timeout=60, check=True
    )
    return done.stdout.strip()


def certify(daemon, authority=None, **options):
    """mx.crt, mx.key, and here.ca: whom to trust."""
    authority = authority or Authority("here")
    daemon.ca = authority.write(daemon.directory, "here")
    authority.issue(NAME, "localhost", "127.0.0.1", **options).write(daemon.directory, "mx")


def write_table(daemon, name, entries):
    """A file `name` that holds secrets."""
    path = daemon.directory / name
    path.touch(mode=0o640)
    shutil.chown(path, "root", "_smtpl")
    path.write_text("".join(f"{key} {value}\n" for key, value in entries.items()))
    return path


def write_rows(daemon, hashes):
    """An SQLite database of users, and rows.conf for it."""
    path = daemon.directory / "rows.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE users (name TEXT, hash TEXT)")
        database.executemany("INSERT INTO users VALUES (?, ?)", hashes.items())
    database.close()
    query = "SELECT name, hash FROM users WHERE name = ?"
    (daemon.directory / "rows.conf").write_text(f"dbpath {path}\nquery_credentials {query}\n")


# -- what nobody else may learn -------------------------------------------------------


def spellings(secret):
    """The secret, and what it looks like inside of base64, wherever it begins there."""
    found = [secret]
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret.encode()).decode()
        found.append(text[-(-before * 4 // 3) : len(text) - 4])
    return found


def assert_unsaid(text, *secrets):
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in text, f"a secret is in there, as {spelling[:3]}..."


# -- a mail ---------------------------------------------------------------------------


def letter(sender, recipient, *, size=MIB):
    """`size`: bytes of the attachment."""
    made = EmailMessage(policy=UTF8)
    made["From"], made["To"] = sender, recipient
    made["Subject"] = "Grüße aus Łódź ☃"
    made["Message-ID"] = f"<{random.getrandbits(64):x}@client.test>"
    made.set_content("Schöne Grüße\n.\n..\nFrom here\n")
    made.add_attachment(
        random.Random(size).randbytes(size), maintype="application", subtype="octet-stream", filename="Übersicht.bin"
    )
    return made


def assert_same(mail, sent):
    """What arrived has all fields, and all parts, of what was sent."""
    got = email.message_from_bytes(mail, policy=UTF8)
    for field in ("From", "To", "Subject", "Message-ID"):
        assert got[field] == sent[field], field
    ours, theirs = list(got.walk()), list(sent.walk())
    assert [part.get_content_type() for part in ours] == [part.get_content_type() for part in theirs]
    for our, their in zip(ours, theirs, strict=True):
        if not our.is_multipart():
            assert our.get_content() == their.get_content()
            assert our.get_filename() == their.get_filename()

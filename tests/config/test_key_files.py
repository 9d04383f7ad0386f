"""Keys and certificates as `smtpd -n` looks at them."""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from smtpd.config.check.key_files import KeyFiles, covers
from smtpd.config.errors import Report
from smtpd.config.parser import parse
from smtpd.tls.certificate import CERTIFICATE_FILE_MAX
from tests.tls.world import by_sha1, certify, key, pem

NOW = datetime(2026, 11, 21, tzinfo=UTC)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def pem_of(key, encryption=None) -> bytes:
    return key.private_bytes(PEM, PKCS8, encryption or serialization.NoEncryption())


def certificate_of(key, *names: str, days: int = 30, subject: str = "ours") -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=90)).not_valid_after(NOW + timedelta(days=days))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(PEM)


KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
GOOD = {"mx.crt": certificate_of(KEY, "mx.test", "*.example.org"), "mx.key": pem_of(KEY)}
GOOD["ca.crt"] = certificate_of(OTHER, subject="authority")


@pytest.fixture
def directory():
    """One with a short name, as errors show no long ones."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def looked_at(directory):
    """Errors and warnings, without the directory of the files."""

    def look_at(
        pki: str = "mx.test", *, listen: str = "", missing: str = "", **changed: bytes
    ) -> tuple[list[str], list[str]]:
        files = GOOD | {name.replace("_", "."): content for name, content in changed.items()}
        for name, content in files.items():
            if name != missing:
                (directory / name).touch(0o600)
                (directory / name).write_bytes(content)
        at = f"{directory}/"
        text = f'pki "{pki}" cert "{at}mx.crt"\npki "{pki}" key "{at}mx.key"\nca x cert "{at}ca.crt"\n'
        text += f"{listen or f'listen on 127.0.0.1 smtps verify pki "{pki}" ca x'}\nmatch reject"
        parsed = parse("f", text=text)
        report = Report()
        KeyFiles(parsed, report, strict=False, now=NOW.timestamp()).check()
        found = (report.errors(parsed.files), report.warnings(parsed.files))
        errors, warnings = ([str(line).replace(at, "") for line in lines] for lines in found)
        return errors, warnings

    return look_at


@pytest.mark.parametrize("pki", ["mx.test", "*", "mx1.example.org", "*.example.org"])
def test_a_key_its_certificate_and_its_names_fit(looked_at, pki):
    assert looked_at(pki) == ([], [])


@pytest.mark.parametrize("file, column", [("mx.crt", 1), ("mx.key", 2), ("ca.crt", 3)])
def test_a_file_that_is_not_there(looked_at, file, column):
    errors, warnings = looked_at(missing=file)
    assert errors[0].startswith(f"f:{column}:")
    assert errors[0].endswith(f'cannot read "{file}": No such file or directory')
    assert (len(errors), warnings) == (1, [])


@pytest.mark.parametrize("key", [OTHER, rsa.generate_private_key(65537, 2048)])
def test_the_key_of_another_certificate(looked_at, key):
    errors, _ = looked_at(mx_key=pem_of(key))
    assert errors == ['f:2:19: "mx.key" is not the key of the certificate in "mx.crt"']


def test_a_key_with_a_passphrase(looked_at):
    errors, _ = looked_at(mx_key=pem_of(KEY, serialization.BestAvailableEncryption(b"sesame")))
    assert errors == ['f:2:19: "mx.key": the key is encrypted, and smtpd cannot ask for its password']


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key(looked_at, content):
    errors, _ = looked_at(mx_key=content)
    assert errors == ['f:2:19: "mx.key": no private key in the file']


RELAY = 'action "out" relay tls ca x pki "mx.test"'


def test_the_files_of_a_relay_action_fit(looked_at):
    assert looked_at(listen=RELAY) == ([], [])


@pytest.mark.parametrize("file, column", [("mx.crt", 1), ("mx.key", 2), ("ca.crt", 3)])
def test_a_file_of_a_relay_action_that_is_not_there(looked_at, file, column):
    errors, _ = looked_at(listen=RELAY, missing=file)
    assert len(errors) == 1
    assert errors[0].startswith(f"f:{column}:")
    assert errors[0].endswith(f'cannot read "{file}": No such file or directory')


def test_the_key_of_another_certificate_in_a_relay_action(looked_at):
    errors, _ = looked_at(listen=RELAY, mx_key=pem_of(OTHER))
    assert [error.partition(": ")[2] for error in errors] == ['"mx.key" is not the key of the certificate in "mx.crt"']


@pytest.mark.parametrize("file, content", [("mx_crt", b""), ("mx_crt", GOOD["mx.key"]), ("ca_crt", b"-----BEGIN")])
def test_a_file_without_a_certificate(looked_at, file, content):
    errors, _ = looked_at(**{file: content})
    assert len(errors) == 1
    assert f'"{file.replace("_", ".")}": ' in errors[0]


def test_a_key_that_could_not_be_kept_in_another_process(looked_at):
    key = ed25519.Ed25519PrivateKey.generate()
    errors, _ = looked_at(mx_key=pem_of(key), mx_crt=certificate_of(key, "mx.test"))
    assert [error.partition(": a key of Ed25519 ")[0] for error in errors] == ['f:1:20: "mx.crt"', 'f:2:19: "mx.key"']


LISTEN = "listen on 127.0.0.1 tls pki mx.test"
WEAK = "too weak for OpenSSL's security level 2"


def by_weak_authority() -> bytes:
    return pem(certify(KEY, "mx.test", by=(weak_authority(), key("rsa1024"))), weak_authority())


def weak_authority():
    return certify(key("rsa1024"), "weak", authority=True)


def test_a_certificate_that_a_listener_cannot_show_is_to_blame_and_not_its_key(looked_at):
    """It is the dispatcher's own context that is made."""
    weak = pem(by_sha1(KEY, "mx.test"))
    errors, _ = looked_at(listen=LISTEN, mx_crt=weak)
    assert errors == [f'f:1:20: "mx.crt": the certificate is signed with SHA1, which is {WEAK}']
    assert looked_at(listen=f"{LISTEN} protocols all", mx_crt=weak) == ([], [])  # what that allows
    assert looked_at(listen="listen on 127.0.0.1", mx_crt=weak) == ([], [])  # nobody is shown it


def test_a_weak_authority_above_a_certificate(looked_at):
    errors, _ = looked_at(listen=LISTEN, mx_crt=by_weak_authority())
    assert errors == [f'f:1:20: "mx.crt": certificate 2 of 2, of an authority, has a key of 1024 bits, which is {WEAK}']


def test_a_key_of_another_certificate_and_a_weak_certificate_are_both_reported(looked_at):
    errors, _ = looked_at(listen=LISTEN, mx_crt=pem(by_sha1(KEY, "mx.test")), mx_key=pem_of(OTHER))
    assert ["SHA1" in errors[0], "is not the key of the certificate" in errors[1]] == [True, True]


@pytest.mark.parametrize("missing", ["mx.crt", "ca.crt"])
def test_a_listener_with_unreadable_files_is_not_checked(looked_at, missing):
    errors, _ = looked_at(listen=LISTEN.replace("tls ", "tls ca x "), missing=missing)
    assert len(errors) == 1


def test_a_certificate_larger_than_the_daemon_takes(looked_at):
    errors, _ = looked_at(mx_crt=GOOD["mx.crt"] + b"\n" * CERTIFICATE_FILE_MAX)
    assert errors == ['f:1:20: "mx.crt": is too large for certificates']


def test_a_certificate_that_has_expired_is_a_warning(looked_at):
    errors, warnings = looked_at(mx_crt=certificate_of(KEY, "mx.test", days=-1))
    assert errors == []
    assert warnings == ['f:1:20: the certificate in "mx.crt" expired on 2026-11-20']


def test_a_certificate_for_other_names_is_a_warning(looked_at):
    errors, warnings = looked_at("mx.elsewhere.test")
    assert errors == []
    assert warnings[0].endswith(
        'the certificate in "mx.crt" is for "mx.test" or "*.example.org", not for "mx.elsewhere.test"'
    )


def test_a_key_that_others_may_read(looked_at, directory):
    (directory / "mx.key").touch()
    (directory / "mx.key").chmod(0o644)
    errors, _ = looked_at()
    assert errors == ['f:2:19: private key "mx.key" can be read by everybody (mode 0644): chmod o= it']


def test_a_pipe_in_the_place_of_a_key_does_not_hang(looked_at, directory):
    os.mkfifo(directory / "mx.key", 0o600)
    errors, _ = looked_at(missing="mx.key")
    assert errors[0].endswith('cannot read "mx.key": not a regular file')


@pytest.mark.parametrize(
    "name, host, does",
    [
        ("a.test", "a.test", True),
        ("*.test", "a.test", True),
        ("*.test", "b.a.test", False),
        ("*.test", "test", False),
        ("*.a.test", "*.a.test", True),
        ("a.test", "b.test", False),
    ],
)
def test_which_hosts_a_certificate_name_covers(name, host, does):
    assert covers(name, host) is does

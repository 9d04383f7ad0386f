"""What `smtpd -n` says."""

import os
import tempfile
from pathlib import Path

import pytest

from smtpd import sandbox
from smtpd.config.configtest import configtest
from smtpd.tables import db

CONF = 'table aliases file:{0}/aliases\naction "local" maildir alias <aliases>\nmatch for local action "local"\n'


@pytest.fixture
def directory():
    """One that others may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def conf(directory):
    path = directory / "smtpd.conf"
    path.write_text(CONF.format(directory))
    return str(path)


def test_a_warning_goes_to_stderr_and_is_no_error(conf, directory, capsys):
    (directory / "aliases").write_text("a: b\nc: |cat\n")
    assert configtest(conf, {}, False, True) == 0
    warning, verdict = capsys.readouterr().err.splitlines()
    assert warning.startswith(f'warning: {directory}/aliases:2:1: alias "c" is refused')
    assert verdict == "configuration OK"


def test_an_error_in_a_file_of_a_table_is_one_of_the_configuration(conf, directory, capsys):
    (directory / "smtpd.conf").write_text(CONF.format(directory).replace("alias", "userbase"))
    (directory / "userbasees").write_text("bob 0:0:/root\n")
    assert configtest(conf, {}, True, True) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f'{directory}/userbasees:1:1: user "bob": uid 0, expected 100 or more')


@pytest.mark.skipif(os.geteuid() != 0 or not sandbox.find_ids("_smtpl"), reason="needs root, and the user _smtpl")
def test_what_the_daemon_could_not_read_is_an_error_for_root_too(conf, directory, capsys):
    (directory / "aliases").write_text("a: b\n")
    (directory / "aliases").chmod(0o600)
    ids = os.getresuid(), os.getresgid(), os.getgroups()
    assert configtest(conf, {}, False, True) == 1
    assert capsys.readouterr().err.startswith(
        f'{conf}:1:7: cannot read "{directory}/aliases": user _smtpl has to be able to read it\n'
    )
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == ids


AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not sandbox.find_ids("_smtpl"), reason="needs root, and the user _smtpl"
)


@pytest.fixture
def database(directory):
    """A table that makemap made, and a configuration that has it."""
    path = directory / "aliases.db"
    path.write_bytes(db.encode([("a", "b")]))
    conf = directory / "smtpd.conf"
    conf.write_text(CONF.format(directory).replace("file:", "db:").replace("/aliases\n", "/aliases.db\n"))
    return str(conf), path


@AS_ROOT
def test_a_database_that_the_daemon_could_not_read_is_an_error_for_root_too(database, capsys):
    conf, path = database
    assert configtest(conf, {}, False, True) == 0
    path.chmod(0o600)
    ids = os.getresuid(), os.getresgid(), os.getgroups()
    assert configtest(conf, {}, False, True) == 1
    assert f'{conf}:1:7: cannot read "{path}": Permission denied' in capsys.readouterr().err
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == ids


@AS_ROOT
def test_a_database_that_others_may_write_is_an_error_as_at_the_start(database, capsys):
    conf, path = database
    os.chmod(conf, 0o644)
    path.chmod(0o666)
    assert configtest(conf, {}, False, False) == 1
    assert f"{path} is writable by others than root (mode 0666): chmod go-w {path}" in capsys.readouterr().err

"""What `smtpd -n` says."""

import pytest

from smtpd.config.command import check

CONF = 'table aliases file:{0}/aliases\naction "local" maildir alias <aliases>\nmatch for local action "local"\n'


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "smtpd.conf"
    path.write_text(CONF.format(tmp_path))
    return str(path)


def test_a_warning_goes_to_stderr_and_is_no_error(conf, tmp_path, capsys):
    (tmp_path / "aliases").write_text("a: b\nc: |cat\n")
    assert check(conf, {}, False, True) == 0
    warning, verdict = capsys.readouterr().err.splitlines()
    assert warning.startswith(f'warning: {tmp_path}/aliases:2:1: alias "c" is refused')
    assert verdict == "configuration OK"


def test_an_error_in_a_file_of_a_table_is_one_of_the_configuration(conf, tmp_path, capsys):
    (tmp_path / "smtpd.conf").write_text(CONF.format(tmp_path).replace("alias", "userbase"))
    (tmp_path / "userbasees").write_text("bob 0:0:/root\n")
    assert check(conf, {}, True, True) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f'{tmp_path}/userbasees:1:1: user "bob": uid 0, expected 100 or more')

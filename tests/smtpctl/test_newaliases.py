"""newaliases, with a control that the test plays."""

import subprocess
import sys
from pathlib import Path

import pytest

from smtpctl.newaliases import check
from smtpd.config.model import Table
from smtpd.imsg import TableUpdated, UpdateTable
from smtpd.slice import Service
from smtpd.tables.db import DbTable

TOP = Path(__file__).parent.parent.parent
CONF = """\
listen on 127.0.0.1
table aliases {backend}:{path}
action "local" maildir alias <aliases>
match for local action "local"
"""


@pytest.fixture
def newaliases(tmp_path):
    """Checks `aliases` in the test's folder, as a table of that backend."""

    def run(text, backend="file", state=tmp_path):
        path = tmp_path / "aliases"
        path.write_text(text)
        table = f"{path}.db" if backend == "db" else str(path)
        (tmp_path / "smtpd.conf").write_text(CONF.format(backend=backend, path=table))
        command = [sys.executable, "-m", "smtpctl", "newaliases", "-f", str(tmp_path / "smtpd.conf")]
        options = {"capture_output": True, "text": True, "timeout": 20, "cwd": TOP}
        done = subprocess.run([*command, "--state", str(state)], check=False, **options)
        return done.returncode, done.stdout.replace(str(tmp_path), "DIR"), done.stderr.replace(str(tmp_path), "DIR")

    return run


def test_aliases_are_counted_and_the_daemon_reads_them_again(newaliases, control):
    control.answers[:] = [TableUpdated(1, "")]
    assert newaliases("root: bob\npostmaster: root\n") == (0, "DIR/aliases: 2 aliases\n", "")
    assert control.asked == [UpdateTable(1, "aliases")]


def test_a_daemon_that_does_not_run_reads_them_when_it_starts(newaliases):
    assert newaliases("root: bob\n") == (0, "DIR/aliases: 1 aliases\n", "")


def test_a_daemon_that_cannot_read_them_is_heard(newaliases, control):
    control.answers[:] = [TableUpdated(1, "table aliases: no")]
    assert newaliases("root: bob\n") == (1, "DIR/aliases: 1 aliases\n", "newaliases: table aliases: no\n")


def test_an_alias_that_leads_nowhere_is_told_and_read(newaliases, control):
    control.answers[:] = [TableUpdated(1, "")]
    status, _, told = newaliases("root: bob\nlist: |cat\nall: :include:/nowhere/all\n")
    assert (status, control.asked) == (0, [UpdateTable(1, "aliases")])
    command, include = told.splitlines()
    assert command.startswith('warning: DIR/aliases:2:1: alias "list" is refused: ')
    assert include.startswith('warning: DIR/aliases:3:1: alias "all": include: ')


def test_aliases_that_are_wrong_stay_unread(newaliases, control):
    told = "newaliases: DIR/aliases:2: x: unclosed quote\n"
    assert newaliases('root: bob\nx: "y\n') == (1, "", told)
    assert control.asked == []


def test_a_db_is_made_of_the_file_without_its_ending(newaliases, tmp_path):
    assert newaliases("Root: bob\n", "db") == (0, "DIR/aliases: 1 aliases\n", "")
    assert DbTable("aliases", str(tmp_path / "aliases.db")).find(Service.ALIAS, "root") == "bob"


def test_a_db_whose_source_is_not_known_is_not_guessed(tmp_path):
    with pytest.raises(Exception, match="use makemap"):
        check(Table("aliases", path=str(tmp_path / "aliases"), backend="db"))


def test_a_configuration_that_is_wrong_is_told(newaliases, tmp_path):
    command = [sys.executable, "-m", "smtpctl", "newaliases", "-f", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20, cwd=TOP)
    assert done.returncode == 1 and "cannot read" in done.stderr


def test_it_has_a_name_of_its_own(tmp_path):
    """Installed beside smtpctl, which looks at how it is called."""
    program = tmp_path / "newaliases"
    program.write_text("import sys\nfrom smtpctl.__main__ import main\nsys.exit(main())\n")
    command = [sys.executable, str(program), "too", "many"]
    options = {"capture_output": True, "text": True, "timeout": 20, "env": {"PYTHONPATH": str(TOP)}}
    done = subprocess.run(command, check=False, **options)
    assert (done.returncode, done.stderr) == (1, "usage: newaliases [-f file] [--state directory]\n")

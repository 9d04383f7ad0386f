"""What a newcomer types first: make, the scripts behind it, and what the README says of them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
SCRIPTS = sorted([*TOP.glob("etc/*.sh"), *TOP.glob("tests/*.sh")])


def run(*command, cwd, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_for_any_shell(path):
    assert path.read_text().startswith("#!/bin/sh\n")
    assert run("sh", "-n", str(path), cwd=TOP).returncode == 0


@pytest.mark.parametrize("name", ["install", "setup", "try", "venv"])
def test_a_script_that_makes_files_has_a_umask_of_its_own(name):
    assert "umask 022" in (TOP / f"etc/{name}.sh").read_text().splitlines()


def test_a_blank_in_the_path_is_told_before_anything_is_made(tmp_path):
    checkout = tmp_path / "my mail"
    shutil.copytree(TOP / "etc", checkout / "etc")
    done = run("sh", "etc/venv.sh", ".venv", cwd=checkout)
    assert done.returncode == 1
    assert f'has a blank in it: "{checkout}"' in done.stderr
    assert [path.name for path in checkout.iterdir()] == ["etc"]


@pytest.mark.parametrize("port", ["smtp", "2525 -v", "-1"])
def test_a_port_is_a_number(tmp_path, port):
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    done = run("sh", "etc/try.sh", cwd=tmp_path, PORT=port)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"PORT={port}: expected a number\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root installs")
def test_nothing_is_taken_away_where_nothing_was_installed(tmp_path):
    done = run("sh", "etc/uninstall.sh", cwd=TOP, prefix=str(tmp_path))
    assert done.returncode == 1
    assert f"nothing of smtpd is installed below {tmp_path}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root installs")
@pytest.mark.parametrize("place", ["", "/prefix/../"], ids=["elsewhere", "dots"])
def test_nothing_is_taken_away_that_is_not_below_the_prefix(tmp_path, place):
    """Where the prefix belongs to another user, that user may have written the list."""
    victim, library = tmp_path / "victim", tmp_path / "prefix/lib/smtpd"
    library.mkdir(parents=True)
    victim.touch()
    named = f"{tmp_path}{place}victim" if place else victim
    (library / "installed").write_text(f"{tmp_path}/prefix/bin/mailq\n{named}\n")
    done = run("sh", "etc/uninstall.sh", cwd=TOP, prefix=str(tmp_path / "prefix"))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"names {named}, which is not below {tmp_path}/prefix: nothing is removed" in done.stderr
    assert victim.exists() and library.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root installs")
def test_a_list_that_another_user_has_written_is_not_obeyed(tmp_path):
    library = tmp_path / "lib/smtpd"
    library.mkdir(parents=True)
    (library / "installed").write_text(f"{tmp_path}/bin/mailq\n")
    os.chown(library / "installed", 1000, 1000)
    done = run("sh", "etc/uninstall.sh", cwd=TOP, prefix=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not root's own file: nothing is removed" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
@pytest.mark.parametrize("script", ["install", "uninstall", "setup"])
def test_users_other_than_root_are_refused(script):
    done = run("sh", f"etc/{script}.sh", cwd=TOP)
    assert done.returncode == 1
    assert "run it as root" in done.stderr


def test_every_command_is_explained_and_there():
    makefile, readme = (TOP / "Makefile").read_text(), (TOP / "README.md").read_text()
    explained = set(re.findall(r"^# make (\w+)", makefile, re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert explained == targets - {"venv", "clean"}
    assert set(re.findall(r"\bmake\s(run|test|bench|check|install|uninstall|fresh)\b", readme)) <= targets


def test_the_readme_says_what_debian_needs_and_what_is_missing_before_the_commands():
    before, _, _ = (TOP / "README.md").read_text().partition("make run     ")
    assert re.search("apt-get install .*git.* make.* python3 python3-venv", before)
    assert "Not there yet" in before

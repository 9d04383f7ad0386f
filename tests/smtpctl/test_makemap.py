"""makemap, as it is called."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl.makemap import MakemapError, make, parse
from smtpd.slice import Service
from smtpd.tables import db
from smtpd.tables.db import DbTable

TOP = Path(__file__).parent.parent.parent


@pytest.fixture
def makemap(tmp_path):
    def run(*arguments, stdin=""):
        command = [sys.executable, "-m", "smtpctl", "makemap", *arguments]
        environment = os.environ | {"PYTHONPATH": str(TOP)}
        options = {"input": stdin, "capture_output": True, "text": True, "timeout": 20, "env": environment}
        done = subprocess.run(command, check=False, cwd=tmp_path, **options)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_map_is_made_and_found_in_and_dumped(makemap, tmp_path):
    (tmp_path / "virtual").write_text("# ours\nBob@here.test: bob, amy # both\n@here.test joe\n")
    assert makemap("virtual") == (0, "", "")
    table = DbTable("virtual", str(tmp_path / "virtual.db"))
    assert table.find(Service.ALIAS, "bob@here.test") == "bob, amy"
    assert makemap("-U", "virtual.db") == (0, "@here.test\tjoe\nBob@here.test\tbob, amy\n", "")


def test_a_set_takes_whole_lines(makemap, tmp_path):
    (tmp_path / "domains").write_text("a.test\n*.b.test\n::1\n")
    assert makemap("-t", "set", "-d", "btree", "-o", "out", "domains") == (0, "", "")
    table = DbTable("domains", str(tmp_path / "out"))
    assert table.check(Service.DOMAIN, "x.b.test") is True
    assert table.check(Service.STRING, "::1") is True


def test_all_that_is_wrong_is_told_by_file_and_line_and_nothing_is_made(makemap, tmp_path):
    (tmp_path / "aliases").write_text("a: b\nc\nA: d\ne: f g h\n\ni: |\n")
    status, said, told = makemap("-t", "aliases", "aliases")
    assert (status, said) == (1, "")
    assert told.splitlines() == [
        "aliases:2: key without a value",
        "aliases:3: duplicate A, first in line 1",
        "aliases:4: e: neither an address nor the name of a user",
        "aliases:6: i: a | without a command",
    ]
    assert os.listdir(tmp_path) == ["aliases"]


def test_bytes_in_comments_do_not_matter_and_in_lines_they_are_told(makemap, tmp_path):
    (tmp_path / "aliases").write_bytes(b"\xef\xbb\xbfroot: # M\xfcller\n  bob,\n  amy\n")
    assert makemap("aliases") == (0, "", "")
    assert makemap("-U", "aliases.db") == (0, "root\tbob, amy\n", "")
    (tmp_path / "aliases").write_bytes(b"root: bob\nm\xfcller: amy\n")
    assert makemap("aliases") == (1, "", "aliases:2: not UTF-8\n")
    assert makemap("-U", "aliases.db") == (0, "root\tbob, amy\n", "")


def test_a_domain_in_two_spellings_is_one_key(makemap, tmp_path):
    (tmp_path / "virtual").write_text("@m\u00fcller.test: bob\n@xn--mller-kva.test: amy\n", encoding="utf-8")
    assert makemap("virtual") == (1, "", "virtual:2: duplicate @xn--mller-kva.test, first in line 1\n")


def test_values_are_checked_for_aliases_only(makemap, tmp_path):
    (tmp_path / "secrets").write_text("relay user:pass word\n")
    assert makemap("secrets") == (0, "", "")


def test_a_file_without_entries_is_made_with_a_warning(makemap, tmp_path):
    (tmp_path / "none").write_text("# nothing\n")
    assert makemap("none") == (0, "", "makemap: none: no entries\n")
    assert list(db.read(str(tmp_path / "none.db"))) == []


def test_standard_input_needs_a_name_for_what_is_made(makemap, tmp_path):
    assert makemap("-", stdin="a b\n") == (1, "", "makemap: standard input needs -o\n")
    assert makemap("-o", "x.db", "-", stdin="a b\n") == (0, "", "")
    assert list(db.read(str(tmp_path / "x.db"))) == [("a", "b")]


def test_the_arguments_of_sendmail_s_makemap(makemap, tmp_path):
    assert makemap("hash", "access", stdin="a b\n") == (0, "", "")
    assert list(db.read(str(tmp_path / "access.db"))) == [("a", "b")]


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["-t", "x", "a"], ["-d", "dbm", "a"], ["-z", "a"]])
def test_how_to_use_it(makemap, arguments):
    status, _, told = makemap(*arguments)
    assert status == 1 and told.startswith("usage: makemap ")


def test_a_locked_file_is_an_error(makemap, tmp_path):
    with open(tmp_path / "map", "w") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert makemap("map") == (1, "", "map is locked\n")


def test_a_missing_file_or_one_that_is_no_text(makemap, tmp_path):
    assert makemap("map") == (1, "", "map: No such file or directory\n")
    (tmp_path / "map").write_bytes(b"a \xff\n")
    assert makemap("map")[0] == 1
    assert makemap("-U", "map") == (1, "", "map: not made by makemap\n")


def test_the_file_has_the_mode_of_its_source_and_is_never_open_to_more(tmp_path):
    source, target = tmp_path / "secrets", tmp_path / "secrets.db"
    source.write_text("a b\n")
    for mode in (0o600, 0o640, 0o4644):
        os.chmod(source, mode)
        make(str(source), str(target), "map")
        assert target.stat().st_mode & 0o7777 == mode & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file away")
def test_the_file_has_the_owner_of_its_source(tmp_path):
    source, target = tmp_path / "map", tmp_path / "map.db"
    source.write_text("a b\n")
    os.chown(source, 1234, 2345)
    make(str(source), str(target), "map")
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 2345)


@pytest.fixture
def linked(tmp_path):
    """map, and map.db, a link by way of another one to a file in another directory."""
    (tmp_path / "map").write_text("a b\n")
    (tmp_path / "there").mkdir()
    os.symlink("there/link.db", tmp_path / "map.db")
    os.symlink("real.db", tmp_path / "there" / "link.db")
    return tmp_path


@pytest.mark.parametrize("before", [None, b"", db.encode([("x", "y")])])
def test_a_link_in_its_place_stays_and_leads_to_the_new_file(linked, before):
    real = linked / "there" / "real.db"
    if before is not None:
        real.write_bytes(before)
    make(str(linked / "map"), str(linked / "map.db"), "map")
    assert os.readlink(linked / "map.db") == "there/link.db" and not real.is_symlink()
    assert list(db.read(str(linked / "map.db"))) == [("a", "b")]
    assert sorted(os.listdir(linked / "there")) == ["link.db", "real.db"]


def refused(directory, source="map", target="map.db"):
    with pytest.raises(MakemapError) as failed:
        make(str(directory / source), str(directory / target), "map")
    return str(failed.value).replace(f"{directory}/", "")


def test_a_link_to_something_else_is_an_error(linked):
    real = linked / "there" / "real.db"
    real.write_text("precious")
    assert refused(linked) == "map.db is a link to there/real.db, which makemap has not made"
    assert real.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_link_of_another_user_is_not_followed(linked):
    """Where others may write, it could lead root anywhere."""
    os.chown(linked / "there" / "link.db", 1234, 1234, follow_symlinks=False)
    assert refused(linked) == "there/link.db: a link of uid 1234 is not followed"


def test_links_in_a_circle(linked):
    os.symlink("link.db", linked / "there" / "real.db")
    assert refused(linked) == "map.db: too many links"


@pytest.mark.parametrize("target", ["map", "also", "link"])
def test_the_text_itself_is_never_replaced(linked, target):
    os.link(linked / "map", linked / "also")
    os.symlink("map", linked / "link")
    assert refused(linked, target=target) == f"{target} is input and output: expected another file for the table"
    assert (linked / "map").read_text() == "a b\n"


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_a_regular_file_is_replaced(linked, kind):
    """Or `makemap -o /dev/null` would leave a file there."""
    (os.mkdir if kind == "directory" else os.mkfifo)(linked / "other", 0o700)
    assert refused(linked, target="other") == "other: not a regular file"


def test_an_entry_that_could_not_be_looked_up_is_an_error_of_its_line(tmp_path):
    """The reader takes rows of up to VALUE_MAX bytes, with the key in both of its forms."""
    (tmp_path / "map").write_text(f"a b\nbob {'x' * db.VALUE_MAX}\n")
    assert refused(tmp_path) == f"map:2: more than {db.VALUE_MAX} bytes in an entry"
    assert sorted(os.listdir(tmp_path)) == ["map"]
    largest = "é" * ((db.VALUE_MAX - db.ROW_OVERHEAD - len("bobbob")) // 2)
    (tmp_path / "map").write_text(f"bob {largest}\n")
    make(str(tmp_path / "map"), str(tmp_path / "map.db"), "map")
    assert DbTable("map", str(tmp_path / "map.db")).find(Service.ALIAS, "bob") == largest


@pytest.mark.parametrize("wrong", [b"SQLite format 3\0", db.encode([("a", "c")]), b""])
def test_what_cannot_be_read_back_takes_no_place(linked, monkeypatch, wrong):
    """A disk that lies, or a writer with limits of its own: the old table stays."""
    make(str(linked / "map"), str(linked / "map.db"), "map")
    monkeypatch.setattr(db, "encode", lambda entries: wrong)
    assert refused(linked).startswith("map.db: ")
    assert list(db.read(str(linked / "map.db"))) == [("a", "b")]
    assert sorted(os.listdir(linked / "there")) == ["link.db", "real.db"]


@settings(max_examples=200, deadline=None)
@given(st.text('abA:# \t"@|/,\\\n\0', max_size=60), st.sampled_from(["map", "set", "aliases"]))
def test_any_text_is_a_map_or_wrong_in_some_line(text, kind):
    entries, wrong = parse(text, kind)
    assert all(1 <= line <= text.count("\n") + 1 and reason for line, reason in wrong)
    if not wrong:
        db.encode(entries)

"""The command line: the words of OpenSMTPD, and none of them ignored."""

import os

import pytest

from smtpd.parent.start.option import CONFIGURATION, UsageError, read_options


def test_without_words_it_is_the_system_s_daemon_in_the_background():
    options = read_options([])
    assert options.configuration == CONFIGURATION and options.state is None
    assert not options.foreground and not options.log_to_stderr and not options.check_only


def test_d_is_the_foreground_with_stderr_and_F_the_foreground_with_syslog():
    assert read_options(["-d"]).foreground and read_options(["-d"]).log_to_stderr
    assert read_options(["-F"]).foreground and not read_options(["-F"]).log_to_stderr


def test_the_last_of_two_macros_of_one_name_counts():
    assert read_options(["-D", "a=b c", "-D", "d=e", "-D", "a="]).macros == {"a": "", "d": "e"}


@pytest.mark.parametrize("name", ["a=b", "a-b", "ä", "a b"])
def test_a_macro_has_a_name_that_a_file_can_use(name):
    """Split at the last equals sign, as by OpenSMTPD."""
    with pytest.raises(UsageError, match="invalid macro name"):
        read_options(["-D", f"{name}=c"])


@pytest.mark.parametrize("option", ["-f", "--state"])
@pytest.mark.parametrize("path", ["/a\tb", "/a\x1b[2J", "/" + "a" * 1024, "/\udcff"])
def test_a_path_that_no_imsg_can_carry_is_refused(option, path):
    with pytest.raises(UsageError, match="cannot be used as a path"):
        read_options([option, path])


@pytest.mark.parametrize("word", ["a", "=b", ""])
def test_a_macro_without_a_name_or_a_value_is_refused(word):
    with pytest.raises(UsageError, match="macro=value"):
        read_options(["-D", word])


def test_words_may_stand_together():
    options = read_options(["-nv", "-f", "/etc/x.conf"])
    assert options.check_only and options.verbose and options.configuration == "/etc/x.conf"


def test_relative_paths_are_of_the_directory_where_it_was_typed():
    options = read_options(["-f", "my.conf", "--state", ".run"])
    assert options.configuration == os.path.join(os.getcwd(), "my.conf")
    assert options.state == os.path.join(os.getcwd(), ".run")


def test_what_shall_be_paused_may_be_said_more_than_once():
    assert read_options(["-P", "mda", "-P", "smtp", "-P", "mta"]).paused == ("mda", "smtp", "mta")


def test_what_is_to_be_explained_stands_behind_the_word():
    words = ["-n", "-f", "/etc/x.conf", "--explain", "from=192.0.2.1", "rcpt-to=bob@here.test", "mail-from="]
    assert read_options(words).explain == ("from=192.0.2.1", "rcpt-to=bob@here.test", "mail-from=")
    assert read_options(words).check_only and read_options(["-n"]).explain == ()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--explain", "rcpt-to=bob@here.test"], "goes with -n"),
        (["-n", "--explain"], "of what"),
        (["-n", "--explain", "bob@here.test"], "expected key=value"),
        (["-n", "--explain", "=bob"], "expected key=value"),
        (["-n", "rcpt-to=bob@here.test"], "unexpected operand"),
        (["-T", "imsg"], "-T: not available"),
        (["-B", "queue=ram"], "-B: not available"),
        (["-P", "lunch"], "expected mda, mta or smtp"),
        (["-z"], "-z"),
        (["now"], "unexpected operand"),
        (["--state", ""], "empty path"),
        (["--insecure"], None),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(words, said):
    if said is None:
        assert read_options(words).insecure_paths  # a long word may be shortened, as everywhere
        return
    with pytest.raises(UsageError, match=said):
        read_options(words)

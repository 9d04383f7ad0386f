"""What files, macros and rights of reading do to a configuration; what stands in it is in tests/conf."""

import os
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpd.config.errors import ConfigErrors
from smtpd.config.model import Config, Table
from smtpd.config.parse.syntax import RESERVED
from smtpd.config.parser import FILES_MAX, parse
from smtpd.slice import Match

RULE = "match for any reject\n"


def errors_of(text: str, **more) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse("f", text=text, **more)
    return [str(error) for error in caught.value.errors]


def reader(**files: str):
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    return read


def test_the_reserved_words_are_those_of_the_language():
    words = """
        action admd alias any auth auth-optional backup bounce bypass ca cert chain chroot ciphers commit compression
        connect data data-line dhe disconnect domain ehlo encryption expand-only fcrdns filter for forward-only from
        group helo helo-src host hostname hostnames include inet4 inet6 junk key limit listen lmtp local mail-from
        maildir mask-src masquerade match max-deferred max-message-size mbox mda mta mx no-dsn no-verify noop on phase
        pki port proc proc-exec protocols proxy-v2 queue quit rcpt-to rdns received-auth recipient regex reject relay
        report rewrite rset scheduler senders smtp smtp-in smtp-out smtps socket src srs sub-addr-delim table tag
        tagged tls tls-require ttl user userbase verify virtual warn-interval wrapper
    """
    assert set(words.split()) == RESERVED


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_names_something_only_in_quotes(word):
    assert parse("f", text=f"table '{word}' {{ '{word}' }}\n{RULE}").config.tables == (Table(word, (word,)),)
    assert errors_of(f"table {word} {{ x }}\n{RULE}")


def test_a_macro_of_the_command_line_wins_over_the_file():
    config = parse("f", text='x = "file"\nmatch for domain $x reject', macros={"x": "given"}).config
    assert config.tables[0].entries == ("given",)


def test_all_files_that_were_read_are_listed():
    read = reader(**{"/etc/mail/a": 'include "b"', "/etc/mail/b": 'include "/c"\n' + RULE, "/c": ""})
    assert parse("/etc/mail/a", read=read).files == ("/etc/mail/a", "/etc/mail/b", "/c")


def test_a_listener_has_its_position():
    read = reader(f=f'{RULE}include "g"\nlisten on a', g="\n  listen on b")
    positions = parse("f", read=read).listener_positions
    assert [(position.file, position.line, position.column) for position in positions] == [("g", 2, 13), ("f", 3, 11)]


def test_a_file_that_cannot_be_read_is_the_only_error():
    assert errors_of(None, read=reader()) == ['f: cannot read "f": No such file or directory']


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "smtpd.conf"
    path.write_bytes(b'match for domain "gr\xfc\xdfe" reject\n')
    with pytest.raises(ConfigErrors, match=r"smtpd.conf:1:18: invalid UTF-8: byte FC"):
        parse(str(path))


def test_bytes_in_a_comment_and_a_byte_order_mark_do_not_matter(tmp_path):
    path = tmp_path / "smtpd.conf"
    path.write_bytes(b"\xef\xbb\xbfmatch reject # gr\xfc\xdfe\n# \xff\n")
    assert len(parse(str(path)).config.matches) == 1


def test_a_pipe_or_a_directory_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    text = f'include "{tmp_path}/pipe"\ninclude "{tmp_path}"\ninclude "/dev/zero"\n'
    lines = errors_of(text)
    assert len(lines) == 3
    assert "not a regular file" in lines[0]
    assert "not a regular file" in lines[2]


def test_the_number_of_included_files_is_bounded():
    """Each includes the next one twice: 2^50 without a bound."""
    files = {f"f{n}": f'include "f{n + 1}"\n' * 2 for n in range(50)} | {"f50": RULE}
    with pytest.raises(ConfigErrors, match=f"more than {FILES_MAX} files"):
        parse("f0", read=reader(**files))


def test_no_control_character_of_a_file_reaches_the_terminal():
    for line in errors_of('match for \x1b[31m reject\nmatch for "\x1b]0;x\x07" "\x9b" reject\ninclude "\x1b"\n'):
        assert line.isprintable()


def test_an_error_in_a_macro_is_placed_at_its_use():
    assert errors_of('x = "for nay"\nmatch from any $x reject')[0].startswith('f:2:16: syntax error at "nay"')


def test_a_bare_word_goes_on_behind_a_macro_that_begins_it():
    assert parse("f", text="x = mx1\nmatch for domain $x.example reject").config.tables[0].entries == ("mx1.example",)


@pytest.mark.parametrize("size", [2**63 - 1, 10**18 + 1])
def test_the_largest_numbers(size):
    assert parse("f", text=f"smtp max-message-size {size}\n{RULE}").config.max_message_size == size
    assert "too large" in errors_of(f"smtp max-message-size {2**63}\n{RULE}")[0]


def test_two_mistakes_in_two_sentences_are_two_errors():
    assert len(errors_of("match for any action\nlisten onn lo\n" * 20)) == 40


def test_an_action_whose_declaration_is_wrong_is_not_missed_as_well():
    assert len(errors_of('action "x" maildirr\ntable t { a = }\nmatch for domain <t> action "x"')) == 2


def test_from_and_for_are_local_by_default():
    assert parse("f", text="match reject").config.matches == (Match(None),)


WORDS = sorted(RESERVED) + [*"{}<>!=,()#'\"\\$\n\t-@/", "=>", "\\\n", "lo", "x", "<x>", "25", "4d", "$m", "m = ", '"m"']


@settings(max_examples=150, deadline=None)
@given(st.text())
@example("$")
@example('"\\')
@example("\\")
@example("match for domain regex '((((((((((((' reject")
@example(f"match for domain regex '{'(' * 4000}{')' * 4000}' reject")
@example("match for domain regex 'a{99999999999999999999}' reject")
@example(f"match for domain regex 'a{{{'9' * 5000}}}' reject")
@example("smtp max-message-size '1\N{KELVIN SIGN}'")
@example("listen on lo port '--5'")
@example("listen on lo port '\N{SUPERSCRIPT TWO}'")
@example(f"listen on lo port '{'9' * 5000}'")
@example(f"smtp limit max-rcpt {'9' * 5000}")
@example("x = x\n$x" * 50)
def test_any_text_is_a_configuration_or_has_errors(text):
    parses_or_has_errors(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_any_words_are_a_configuration_or_have_errors(words):
    parses_or_has_errors(" ".join(words))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_configuration_that_was_cut_or_spoilt_anywhere_does_not_confuse_the_parser(data):
    position = data.draw(st.integers(0, len(SAMPLE)))
    spoilt = data.draw(st.text(string.printable + "\0é", max_size=3))
    parses_or_has_errors(SAMPLE[:position] + spoilt + SAMPLE[position + data.draw(st.integers(0, 5)) :])


def parses_or_has_errors(text: str) -> None:
    try:
        assert isinstance(parse("f", text=text, read=reader()).config, Config)
    except ConfigErrors as errors:
        assert errors.errors
        assert all(str(error).isprintable() for error in errors.errors)


SAMPLE = """
lan = "from src 10.0.0.0/8"
table domains { "example.org", # ours
    '*.example.net' }
table names { "bob" => "amy" }
action "local" maildir "~/Mail/%{user.username}" junk ttl 4d
listen on eth0 port 2525 hostname mx.example.org tag "lan" inet4
smtp max-message-size 35M
match $lan !for domain regex { "a.*", "[[:digit:]]" } action "local"
match tag lan rcpt-to <names> for domain <domains> reject
"""

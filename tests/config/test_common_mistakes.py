"""Wrong configurations, as people write them, and what `smtpd -n` says of each.

wrong/NAME.conf      the file, with the line ends and the encoding that it was written with
wrong/NAME.errors    all lines that are printed, warnings first; the machine is that of machine.py
"""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.errors import ConfigError, ConfigErrors
from smtpd.config.parse.syntax import RESERVED
from smtpd.config.parser import parse_with_report
from smtpd.config.resolve.slicing import slice_config
from smtpd.tables.text_file import decode
from tests.config.machine import this_machine

WRONG = Path(__file__).parent / "wrong"
FILES = sorted(WRONG.glob("*.conf"))
THERE = {
    "/etc/mail/wide": "# @list\n0.0.0.0/2\n64.0.0.0/2\n128.0.0.0/1\n",
    "/etc/mail/office": "192.0.2.0/24\n2001:db8::/32\n",
    "/etc/mail/senders": "@example.org\n",
    "/etc/mail/aliases.db": "",
    "/etc/aliases": "root: amy\n",
    "/etc/mail/hosts": "smtps://me@mail.example.org\nsmtps://nobody@[2001:db8::1]\nsmtp://a:b@c\n",
    "/etc/mail/routes": "example.org smtp+tls://mx.example.org\nexample.net smtp+tls://\n",
    "/etc/mail/secrets": "me: u:p\nyou: a-password-without-user\n",
    "/etc/mail/names": "192.0.2.1 a b\neth0 out.example.org\n",
}


def read(path: str) -> str:
    name = path.removeprefix("wrong/")
    if path in THERE:
        return THERE[path]
    if not (WRONG / name).is_file() or "/" in name:
        raise FileNotFoundError(2, "No such file or directory")
    return decode((WRONG / name).read_bytes())


def said(name: str) -> list[str]:
    """The lines; the last one is what an accepted configuration ends with."""
    parsed = parse_with_report(name, text=read(name), read=read)
    try:
        warnings = slice_config(parsed, this_machine(THERE), read).warnings
    except ConfigErrors as errors:
        return [*(f"warning: {warning}" for warning in errors.warnings), *map(str, errors.errors)]
    return [*(f"warning: {warning}" for warning in warnings), "configuration OK"]


@pytest.mark.parametrize("name", [file.name for file in FILES])
def test_the_errors_of_a_wrong_configuration(name):
    assert said(name) == (WRONG / name).with_suffix(".errors").read_text(encoding="utf-8").splitlines()


def test_all_of_them_are_compared():
    assert len(FILES) >= 60
    assert {file.stem for file in FILES} == {file.stem for file in WRONG.glob("*.errors")}


@pytest.mark.parametrize("name", [file.name for file in FILES])
def test_errors_are_printable(name):
    assert all(line.isprintable() for line in said(name))


# Any mistake

SAMPLE = """
lan = "from src 10.0.0.0/8"
table domains { "example.org", # ours
    '*.example.net' }
table names { "bob" => "amy" }
table aliases file:/etc/aliases
table old db:/etc/mail/aliases.db
pki mx1 cert "/mx.crt"
pki mx1 key "/mx.key" dhe auto
ca office cert "/ca.crt"
mda wrapper "nice" "nice %{mda}"
alias-commands user lists
action "local" maildir "~/Mail/%{user.username}" junk alias <aliases> ttl 4d
action "vmail" lmtp "/run/lmtp" rcpt-to virtual <names> user vmail
action "pipe" mda "cat %{rcpt.user}" wrapper "nice" alias <old>
listen on eth0 port 2525 hostname mx.example.org tag "lan" inet4
listen on lo tls-require pki mx1 auth { amy = "!" } senders <names> masquerade
listen on lo smtps verify pki mx1 ca office port 466 protocols "tlsv1.3"
listen on socket tag "local"
smtp max-message-size 35M
smtp limit max-rcpt 100 greet-delay 2
queue ttl 2d
match $lan !for domain regex { "a.*", "[[:digit:]]" } action "local"
match tag lan rcpt-to <names> for domain <domains> reject
match from auth for any action "vmail"
match from local for local action "pipe"
"""
WORDS = re.findall(r'"[^"\n]*"|[^\s"]+|\n', SAMPLE)
ODD = [
    "\0",
    "\r",
    "\r\n",
    "\ufeff",
    "\u201c",
    "\u00a0",
    "\udcff",
    "\\",
    "\\\n",
    "$",
    '"',
    "'",
    "{",
    "}",
    "<",
    ">",
    "#",
    "!",
]


def check_all_that_is_said(text: str) -> None:
    """Each error has its place in the file, and no traceback comes in its stead."""
    parsed = parse_with_report("f", text=text, read=read)
    try:
        slice_config(parsed, this_machine(THERE), read)
    except ConfigErrors as errors:
        lines = text.count("\n") + text.count("\r") + 1
        for error in errors.errors:
            assert str(error).isprintable() and error.text
            if error.file == "f" and "no rules" not in error.text:
                assert 1 <= error.line <= lines and error.column >= 1


def test_the_sample_has_no_mistake():
    parsed = parse_with_report("f", text=SAMPLE, read=read)
    slice_config(parsed, this_machine(THERE), read)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_words_missing_doubled_exchanged_or_strange(data):
    words = list(WORDS)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        other = data.draw(st.sampled_from([*WORDS, *ODD, *sorted(RESERVED)]))
        words[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([[], [words[at]] * 2, [other], [other, words[at]], [words[at] + other]])
        )
    check_all_that_is_said(" ".join(words))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_characters_missing_or_strange(data):
    position = data.draw(st.integers(0, len(SAMPLE)))
    spoilt = data.draw(st.text(max_size=3) | st.sampled_from(ODD))
    check_all_that_is_said(SAMPLE[:position] + spoilt + SAMPLE[position + data.draw(st.integers(0, 40)) :])


@settings(max_examples=100, deadline=None)
@given(st.permutations(SAMPLE.splitlines()[5:]))
def test_lines_in_any_order(lines):
    check_all_that_is_said("\n".join([*SAMPLE.splitlines()[:5], *lines]))


@pytest.mark.parametrize("line", range(1, SAMPLE.count("\n")))
def test_a_line_that_is_wrong_costs_no_other_line_an_error(line):
    """Whatever is in its place, the mistakes of all the others are told: here a rule at the end names no action."""
    lines = [*SAMPLE.splitlines(), 'match for any action "nobody"', "listen on nosuch.example", "match for nay reject"]
    wrong = ["listen onn lo", "accept for any deliver to mbox", 'action "x" maildri', "table t { a = }", "$nothing"]
    for mistake in wrong:
        lines[line] = mistake
        told = [str(error) for error in errors_of_text("\n".join(lines))]
        last = len(lines)
        assert any(text.startswith(f"f:{last - 2}:22: ") for text in told), (mistake, told)
        assert any(text.startswith(f"f:{last - 1}:11: ") for text in told), (mistake, told)
        assert any(text.startswith(f"f:{last}:11: ") for text in told), (mistake, told)


def errors_of_text(text: str) -> list[ConfigError]:
    try:
        slice_config(parse_with_report("f", text=text, read=read), this_machine(THERE), read)
    except ConfigErrors as errors:
        return errors.errors
    return []


LARGE = {
    "tables that are not declared": "".join(
        f"table t{n} {{ a }}\nmatch for domain <x{n}> reject\n" for n in range(500)
    ),
    "backslashes": "listen on lo \\\n" * 5000,
    "sentences in a sentence": "listen on lo \\\n" * 300,
    "macros": "m = 'a a a a a a a a a a'\n" + "match for domain { $m $m $m } reject\n" * 300,
    "macros that are wrong": "m = 5\n$m\n" * 500,
    "quotes that are open": 'action "a\n' * 1000,
    "braces that are open": "match for domain {\n" * 1000,
    "former words": "accept from any for domain { a, b } deliver to mbox\n" * 500,
    "a word": "a" * 500_000,
    "unknown words": "".join(f"foo{n} bar\n" for n in range(500)),
}


@pytest.mark.parametrize("kind", LARGE)
def test_many_mistakes_cost_little_time(kind):
    """A second of this machine's processor each would be too much by far; all together take about two."""
    before = time.process_time()
    errors_of_text(LARGE[kind])
    assert time.process_time() - before < 10

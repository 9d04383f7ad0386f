"""What is written for people is true of the tree: manual pages and README."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from smtpctl.command import COMMANDS
from smtpctl.command_parser import PARAMETERS
from smtpctl.sendmail_option import ATTACHED, FLAGS, WITH_VALUE
from smtpd import VERSION
from smtpd.config.parse.syntax import OPTION_ONLY_WORDS, RESERVED, SENTENCE_ONLY_WORDS, UNUSED_RESERVED
from smtpd.config.parser import parse
from smtpd.lookup.explain import EXPLAIN_KEYS
from smtpd.parent.start.option import USAGE
from smtpd.slice import Limits
from smtpd.smtp.extension import Offer
from smtpd.tls.client_connection import REASONS as SERVER_REASONS
from smtpd.tls.connection import CLIENT_ALERT, PROTOCOL_ERROR, REASONS

TOP = Path(__file__).parent.parent
MAN = TOP / "man"
INCLUDED = {"/etc/mail/srs.conf": "srs key 0123456789abcdef\n"}  # by examples of smtpd.conf(5)
ELSEWHERE = {("sh", "1"), ("openssl-ciphers", "1"), ("fcntl", "2"), ("passwd", "5")}

# Words of the language that smtpd.conf(5) does not have, as they are not available yet.
LATER = """
    admd bounce bypass chain chroot commit connect data disconnect ehlo fcrdns filter
    group noop phase proc proc-exec report rewrite scheduler warn-interval
"""


def words_of(page, macros="Ic|Cm"):
    """What stands behind the macros for words that one types, in any line of the page."""
    found = set()
    for line in (MAN / page).read_text().splitlines():
        if line.startswith("."):
            for run in re.split(rf"(?:^|[ .])(?:{macros}) ", line)[1:]:
                found |= set(re.split(r" (?:Ar|Oo|Oc|Ns|No|Op) ?", run)[0].replace(" , ", " ").split())
    return found


WORDS = (RESERVED - UNUSED_RESERVED).union(SENTENCE_ONLY_WORDS, *OPTION_ONLY_WORDS.values())


@pytest.mark.parametrize("word", sorted(WORDS))
def test_a_word_of_the_language_is_in_the_manual_as_soon_as_it_is_available(word):
    assert (word in words_of("smtpd.conf.5")) == (word not in LATER.split())


def test_every_command_of_smtpctl_is_in_its_manual():
    documented = words_of("smtpctl.8")
    for command in COMMANDS:
        if command.run:
            assert {word for word in command.pattern.split() if word not in PARAMETERS} <= documented, command.pattern


def test_every_option_of_sendmail_is_in_its_manual():
    documented = {word[0] for word in words_of("sendmail.8", "Fl")}
    assert set(FLAGS + WITH_VALUE + ATTACHED) <= documented


PROGRAMS = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
START = "import sys; from {} import {} as main; sys.argv[0] = '/bin/{}'; sys.exit(main())"


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_program_has_help_and_a_version(name):
    start = START.format(*PROGRAMS[name].split(":"), name)

    def call(option):
        return subprocess.run([sys.executable, "-c", start, option], capture_output=True, text=True, cwd=TOP)

    called = "sendmail" if name == "send-mail" else name
    shown, version = call("--help"), call("--version")
    assert (shown.returncode, shown.stderr) == (0, "") and f"usage: {called} " in shown.stdout
    said = "smtpd" if name == "smtpd" else f"{called} (smtpd)"
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{said} {VERSION}\n", "")


@pytest.mark.parametrize("page", sorted(page.name for page in MAN.glob("*.8")))
def test_help_and_version_are_in_the_manual(page):
    assert {"-help", "-version"} <= words_of(page, "Fl")


def test_every_option_of_smtpd_is_in_its_manual():
    text = (MAN / "smtpd.8").read_text()
    for option in re.findall(r"^  --?([\w-]+)", USAGE, re.MULTILINE):
        assert re.search(rf"^\.It Fl (n )?-?{option}\b", text, re.MULTILINE), option
    assert set(EXPLAIN_KEYS) <= words_of("smtpd.8")


def test_what_a_session_offers_is_in_the_manual():
    everything = Offer(1, Limits(), hold=1, require_tls=True, starttls=True, mechanisms=("PLAIN",), xclient="ADDR")
    offered = {keyword.partition(" ")[0] for keyword in everything.keywords(0)}
    assert offered <= words_of("smtpd.8", "Cm")


def test_what_the_log_says_of_a_session_is_in_the_manual():
    source = "".join(
        path.read_text() for room in ("smtp", "dispatcher") for path in (TOP / "smtpd" / room).rglob("*.py")
    )
    events = re.findall(r'\blog\(\s*"([a-z-]+)"', source) + re.findall(r'reject\("([a-z-]+)"', source)
    reasons = re.findall(r'(?:hang_up|_dismiss|Close)\((?:[A-Z_]+, )?"([a-z-]+)"', source)
    assert len(events) > 5
    assert len(reasons) > 5
    assert set(events + reasons) <= words_of("smtpd.8", "Cm")


def test_every_reason_why_tls_fails_is_in_the_manual():
    rooms = (TOP / "smtpd" / room for room in ("tls", "dispatcher"))
    source = "".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    failures = r"_failure|TlsFailed|TlsLocalFailure|self\._?fail|last\.fail|SigningFailed"
    reasons = re.findall(rf'\b(?:{failures})\(f?"([^":{{]+)[":]', source)
    assert len(reasons) > 8
    section = (MAN / "smtpd.8").read_text().partition(".Ss TLS FAILURES")[2].partition(".El")[0]
    documented = {line.partition(" :")[0] for line in re.findall(r"^\.It (.*)", section, re.MULTILINE)}
    of_peers = {"certificate of the client", "certificate of the server"}
    shown = {*reasons, *REASONS.values(), *SERVER_REASONS.values(), *of_peers}
    shown |= {CLIENT_ALERT, CLIENT_ALERT.replace("client", "server"), PROTOCOL_ERROR}
    assert shown == documented


def test_the_examples_of_the_manual_are_good_configurations():
    text = (MAN / "smtpd.conf.5").read_text()
    examples = re.findall(r"^\.Bd -literal.*\n((?:[^.].*\n|\n)+)\.Ed", text, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert parse("f", text=example, read=INCLUDED.__getitem__).config.matches


@pytest.mark.parametrize("page", sorted(page.name for page in MAN.iterdir()))
def test_a_manual_refers_to_manuals_that_are_there(page):
    for name, section in re.findall(r"^\.Xr (\S+) (\d)", (MAN / page).read_text(), re.MULTILINE):
        assert (name, section) in ELSEWHERE or (MAN / f"{name}.{section}").exists(), name


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_every_path_that_a_document_names_is_there(document):
    """Written from the top of the tree, or from smtpd/."""
    named = re.findall(r"`(\w[\w.*-]*(?:/[\w.*-]*)+)`", (TOP / document).read_text())
    assert len(named) > 20
    for path in named:
        any_process = path.replace("/A/", "/*/")
        assert [*TOP.glob(any_process), *(TOP / "smtpd").glob(any_process)], path

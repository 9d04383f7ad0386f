"""Each file of tests/conf, and what smtpd makes of it.

NAME.conf   NAME.canonical   the model, printed; and printing what that parses to changes nothing
NAME.conf   NAME.errors      the lines that an administrator sees
"""

import re
from pathlib import Path

import pytest

from smtpd.config import specifier
from smtpd.config.build.action import OPTIONS
from smtpd.config.build.builder import DELIVERY_LIMITS, LIMITS
from smtpd.config.build.relay import OPTIONS as RELAY_OPTIONS
from smtpd.config.build.relay_limit import LIMITS as RELAY_LIMITS
from smtpd.config.errors import ConfigErrors
from smtpd.config.parser import parse
from smtpd.config.printer import print_config
from smtpd.slice import Method

PROJECT = Path(__file__).parent.parent.parent
CONF = PROJECT / "tests" / "conf"
FILES = sorted(CONF.glob("*.conf"))


def read(path: str) -> str:
    """As the parser's own, but from where the golden files are, so that their paths are short."""
    try:
        return (CONF / path).read_bytes().decode()
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such file or directory") from None


def outcome(file: str) -> tuple[str, str]:
    try:
        return "canonical", print_config(parse(file, read=read).config)
    except ConfigErrors as errors:
        return "errors", f"{errors}\n"


@pytest.mark.parametrize("file", [file.name for file in FILES])
def test_golden(file):
    kind, text = outcome(file)
    assert text == (CONF / file).with_suffix(f".{kind}").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", [file.name for file in FILES if file.with_suffix(".canonical").exists()])
def test_the_canonical_form_means_the_same_and_is_its_own(file):
    model = parse(file, read=read).config
    printed = print_config(model)
    assert parse("printed", text=printed).config == model
    assert print_config(parse("printed", text=printed).config) == printed


@pytest.mark.parametrize("file", ["smtpd.conf", "try.conf"])
def test_the_installed_configuration_has_no_errors_and_is_no_open_relay(file):
    config = parse(str(PROJECT / "etc" / file)).config
    assert [(match.source.kind, match.destination.kind) for match in config.matches] == [("local", "local")]


MANUAL = (PROJECT / "man" / "smtpd.conf.5").read_text(encoding="utf-8")


def test_the_manual_has_all_limits_methods_options_and_specifiers():
    items = set(re.findall(r"^\.It Cm (\S+)", MANUAL, re.MULTILINE))
    options = {option.replace("_", "-") for option in (*OPTIONS, *RELAY_OPTIONS)}
    assert {*LIMITS, *DELIVERY_LIMITS, *RELAY_LIMITS, *Method, *options} - {"inet6"} <= items
    described = set(re.findall(r"%\{([a-z.]+)", MANUAL))
    halves = {f"{name}{half}" for name in ("rcpt", "dest") for half in (".user", ".domain")}
    assert specifier.NAMES - halves <= described
    words = " ".join(re.findall(r"^\.It Cm (.*)$", MANUAL, re.MULTILINE))
    assert set(re.findall(r"[a-z]+", words)) >= specifier.MODIFIERS

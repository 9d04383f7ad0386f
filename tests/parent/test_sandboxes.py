"""What the log says of the start: sandboxes in one line, and all of them with -v."""

from types import SimpleNamespace

import pytest

from smtpd.ipc.log import log
from smtpd.parent.child import Child
from smtpd.parent.start.await_child import CannotStart
from smtpd.parent.start.log_pipes import StderrLog
from smtpd.parent.start.option import Options
from smtpd.parent.start.sandboxes import report, sum_up
from smtpd.parent.start.state import StartState
from smtpd.paths import Paths

NOT_ROOT = "missing: chroot (not root)"


@pytest.fixture
def booted():
    made = StartState(Options(), Paths(None), StderrLog(), None)
    made.children.extend([Child("queue", 0, 0, None), Child("dispatcher", 2, 0, None)])
    return made


def said(booted, capfd, **held):
    for name, lines in held.items():
        report(booted, name.replace("_", " "), lines)
    sum_up(booted)
    return capfd.readouterr().err.splitlines()


def test_complete_sandboxes_are_one_line(booted, capfd):
    assert said(booted, capfd, parent=["capabilities kill"], queue=["uid 1"], dispatcher_2=["uid 2"]) == [
        "info: sandbox: 3 processes confined, nothing is missing"
    ]


def test_what_several_lack_is_said_once(booted, capfd):
    lines = said(booted, capfd, parent=[NOT_ROOT], queue=["uid 1", NOT_ROOT], dispatcher_2=[NOT_ROOT])
    assert lines == ["warn: sandbox: missing in all processes: chroot (not root)"]


def test_the_missing_parts_are_named(booted, capfd):
    other = "missing: seccomp (no libseccomp)"
    assert said(booted, capfd, parent=["uid 0"], queue=[NOT_ROOT, other], dispatcher_2=[NOT_ROOT]) == [
        "warn: sandbox: missing in queue: chroot (not root), seccomp (no libseccomp)",
        "warn: sandbox: missing in dispatcher 2: chroot (not root)",
    ]


def test_a_verbose_log_has_a_line_for_each(booted, capfd, monkeypatch):
    monkeypatch.setattr(log, "verbose", True)
    assert said(booted, capfd, parent=[], queue=["uid 1", NOT_ROOT])[:2] == [
        "debug: sandbox of parent: nothing",
        "debug: sandbox of queue: uid 1, missing: chroot (not root)",
    ]


def test_what_is_required_and_missing_ends_the_start(booted):
    booted.configuration = SimpleNamespace(sandbox_required=True)
    with pytest.raises(CannotStart, match=r"sandbox of queue: seccomp \(no libseccomp\) is missing"):
        report(booted, "queue", [NOT_ROOT, "missing: seccomp (no libseccomp)"])


@pytest.mark.parametrize("system", ["landlock abi 3", "pledge knows none"])
def test_ports_that_cannot_be_limited_are_said_and_end_no_start(booted, capfd, system):
    booted.configuration = SimpleNamespace(sandbox_required=True)
    assert said(booted, capfd, dispatcher_2=[f"missing: limit to TCP ports ({system})"]) == [
        f"warn: sandbox: missing in dispatcher 2: limit to TCP ports ({system})"
    ]

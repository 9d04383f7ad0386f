"""What is printed, by friendly and by hostile mail."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from smtpctl.output import (
    as_json,
    envelope_lines,
    envelope_object,
    for_terminal,
    queue_line,
    visible,
    why_waiting,
)
from smtpd.envelope import Body, Duty, Kind, MailParameters, Notify, Origin, QueueEntry, Recipient, Schedule

NOW = 1_795_243_855


def entry(**more):
    given = {
        "address": "192.0.2.7",
        "sender": "snd@b.example",
        "error": "450 4.2.1 later",
        "next_try": NOW + 1206,
        "held": False,
        "suspended": False,
        "inflight": False,
        "recipient": "temp@x",
        "kind": Kind.MDA,
        "release": 0,
        "delayed": "",
        "paused": False,
    } | more
    return QueueEntry(
        Schedule(
            0x3F86A5CB48E81BFF,
            given["kind"],
            NOW - 400,
            NOW + 345_200,
            given["next_try"],
            2,
            given["held"],
            given["suspended"],
        ),
        Origin(given["sender"], given["address"], "<unknown>", "b.example", "mx.x", "", True),
        Recipient(given["recipient"], "temp@x", "local", Kind.MDA, "temp", ""),
        NOW - 30,
        given["error"],
        given["inflight"],
        1234,
        MailParameters(release=given["release"]),
        given["delayed"],
        given["paused"],
    )


def test_a_line_of_the_queue_has_fourteen_fields():
    assert queue_line(entry(), NOW) == (
        "3f86a5cb48e81bff|inet4|mda||snd@b.example|temp@x|temp@x|1795243455|1795589055|1795243825|2|pending|1206|"
        "450 4.2.1 later"
    )


@pytest.mark.parametrize(
    "more, place, field",
    [
        ({"address": "local"}, 1, "local"),
        ({"address": "2001:db8::1"}, 1, "inet6"),
        ({"held": True}, 3, "hold"),
        ({"suspended": True, "held": True}, 3, "suspend,hold"),
        ({"sender": ""}, 4, ""),
        ({"inflight": True}, 11, "inflight"),
        ({"inflight": True, "next_try": NOW - 12}, 12, "12"),
        ({"inflight": True, "next_try": 0}, 12, "400"),
        ({"next_try": NOW - 5}, 12, "0"),
    ],
)
def test_the_fields_of_a_line(more, place, field):
    assert queue_line(entry(**more), NOW).split("|")[place] == field


@pytest.mark.parametrize(
    "more, mda_paused, reason",
    [
        ({}, False, ""),
        ({"suspended": True}, False, "paused by administrator"),
        ({"suspended": True, "held": True}, True, "paused by administrator"),
        ({"held": True}, True, "held until it is scheduled"),
        ({}, True, "mda is paused"),
        ({"inflight": True, "suspended": True}, True, ""),
        ({"kind": Kind.MTA}, True, ""),
        ({"kind": Kind.MTA, "delayed": "Connection refused"}, True, "destination delayed: Connection refused"),
        ({"kind": Kind.MTA, "delayed": "x", "paused": True}, True, "destination paused by administrator"),
        ({"release": NOW}, False, ""),
        ({"release": NOW + 60}, False, "not before 2026-11-21 06:51:55 +0000, as the client wished"),
        ({"release": NOW + 60}, True, "mda is paused"),
    ],
)
def test_paused_and_held_mail_says_why(more, mda_paused, reason, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    waiting = entry(**more)
    assert why_waiting(waiting, NOW, mda_paused=mda_paused) == reason
    if waiting.schedule.kind is Kind.MTA:
        assert why_waiting(waiting, NOW, mda_paused=mda_paused, mta_paused=True) == "mta is paused"
    error = "450 4.2.1 later"
    assert queue_line(waiting, NOW, reason).split("|")[13] == (f"{reason}: {error}" if reason else error)
    assert queue_line(entry(**more, error=""), NOW, reason).split("|")[13] == reason
    shown = envelope_object(waiting, NOW, reason)
    assert (shown["reason"], shown["error"]) == (reason, error)
    assert [line for line in envelope_lines(waiting, reason) if line.startswith("reason: ")] == (
        [f"reason: {reason}"] if reason else []
    )


def test_no_mail_can_add_a_field_or_a_line():
    line = queue_line(entry(sender="a|b@x", error="line\nnext|\x1b[2Jand \\ more"), NOW)
    assert len(line.split("|")) == 14
    assert line.isprintable()
    assert line.endswith("|line\\012next\\174\\033[2Jand \\\\ more")


def test_an_envelope_is_shown_with_known_keys():
    assert list(envelope_lines(entry(held=True, error="no\nroom"))) == [
        "evpid: 3f86a5cb48e81bff",
        "dispatcher: local",
        "type: mda",
        "smtpname: mx.x",
        "helo: b.example",
        "hostname: <unknown>",
        "errorline: no\\012room",
        "sockaddr: 192.0.2.7",
        "sender: snd@b.example",
        "rcpt: temp@x",
        "dest: temp@x",
        "ctime: 1795243455",
        "last-try: 1795243825",
        "next-try: 1795245061",
        "expire: 1795589055",
        "ttl: 345600",
        "retry: 2",
        "flags: hold",
        "state: pending",
        "size: 1234",
        "mda-user: temp",
    ]


def test_what_a_forward_names_is_shown_by_its_digest():
    given = entry()
    recipient = Recipient("temp@x", "temp@x", "local", Kind.MDA, "temp", "", Duty.FORWARDED, "ab" * 32, "/home/temp")
    given = structs.replace(given, recipient=recipient)
    assert list(envelope_lines(given))[-3:] == [
        "mda-home: /home/temp",
        "mda-duty: forwarded",
        f"mda-digest: {'ab' * 32}",
    ]
    assert json.loads(as_json(envelope_object(given, NOW)))["duty"] == "forwarded"


def asked():
    """An envelope with everything that a client can ask for."""
    given = entry()
    return structs.replace(
        given,
        origin=structs.replace(given.origin, tls=True, user="amy"),
        recipient=structs.replace(given.recipient, notify=Notify.FAILURE | Notify.DELAY, original="rfc822;temp\n@x"),
        terms=MailParameters(Body.BINARY, True, True, "HDRS", "QQ|314159", "<>", NOW + 5, NOW + 9, "R", True, -3),
    )


def test_what_the_client_has_asked_for_is_shown():
    assert list(envelope_lines(asked()))[-14:] == [
        "esmtp-tls: yes",
        "esmtp-user: amy",
        "dsn-notify: failure,delay",
        "dsn-orcpt: rfc822;temp\\012@x",
        "dsn-ret: HDRS",
        "dsn-envid: QQ|314159",
        "body: binary",
        "smtputf8: yes",
        "require-tls: yes",
        "submitter: <>",
        f"release: {NOW + 5}",
        f"deliver-by: {NOW + 9}",
        "deliver-by-mode: RT",
        "priority: -3",
    ]
    assert queue_line(asked(), NOW) == queue_line(entry(), NOW)


def test_json_holds_what_the_client_has_asked_for():
    found = json.loads(as_json(envelope_object(asked(), NOW)))
    assert (found["user"], found["login"], found["tls"]) == ("temp", "amy", True)
    assert (found["notify"], found["original"]) == (["failure", "delay"], "rfc822;temp\n@x")
    assert (found["body"], found["priority"], found["by_mode"], found["release"]) == ("binary", -3, "R", NOW + 5)
    assert json.loads(as_json(envelope_object(entry(), NOW)))["notify"] == []


def test_json_holds_the_same_and_nothing_but_ascii():
    text = as_json(envelope_object(entry(error="Grüße\x9b\u202e"), NOW))
    assert text.isascii() and text.isprintable()
    found = json.loads(text)
    assert (found["envelope"], found["error"], found["seconds"]) == ("3f86a5cb48e81bff", "Grüße\x9b\u202e", 1206)


@given(text=st.text())
def test_what_is_visible_stays_on_its_line_and_in_its_field(text):
    shown = visible(text, also="|")
    assert shown.isprintable() and "|" not in shown


@given(one=st.text(), other=st.text())
def test_what_differs_looks_different(one, other):
    assert (visible(one) == visible(other)) == (one == other)


@given(text=st.text())
def test_content_on_a_terminal_has_lines_and_tabs_and_no_commands(text):
    shown = for_terminal(text)
    assert all(char.isprintable() or char in "\n\t" for char in shown)
    assert shown.count("\n") == text.count("\n")


def test_content_that_prints_is_shown_as_it_is():
    assert for_terminal("Grüße \\ aus\tKöln\n") == "Grüße \\ aus\tKöln\n"

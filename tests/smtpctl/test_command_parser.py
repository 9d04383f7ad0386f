"""Which command a line means: a table."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpctl.command import COMMANDS
from smtpctl.command_parser import UnknownCommand, find_beginning, find_command
from smtpctl.operation import UnknownId, envelopes
from smtpd.imsg import TABLE, ScheduleEnvelopes, UpdateTable

MEANT = """
show queue                          show queue
sh q                                show queue
show queue 1a2b3c4d                 show queue <msgid>
show queue 1A2B3C4D                 show queue <msgid>
show stats                          show stats
show stati                          -
show statu                          show status
show st                             -
show s                              -
show envelope 1a2b3c4d00000001      show envelope <evpid>
show message 1a2b3c4d00000001       show message <evpid>
show mess 1a2b3c4d                  show message <msgid>
show m 1a2b3c4d                     -
show host                           -
show hosts                          show hosts
show hoststats                      show hoststats
show mta paused                     show mta paused
show quarantine                     show quarantine
show qua                            show quarantine
sc all                              schedule all
sched a                             schedule all
s all                               -
schedule 1a2b3c4d                   schedule <msgid>
remove 1a2b3c4d00000001             remove <evpid>
rem all                             remove all
re all                              -
pause envelope all                  pause envelope all
pause e 1a2b3c4d                    pause envelope <msgid>
resume envelope 1a2b3c4d00000001    resume envelope <evpid>
pause mda                           pause mda
pause m                             -
pa s                                pause smtp
resume smtp                         resume smtp
log v                               log verbose
log brief                           log brief
log                                 -
pause mta from 192.0.2.1 for c.test    pause mta from <address> for <destination>
pause mta from 2001:db8::1 for *    pause mta from <address> for <destination>
resume mta from * for c.test        resume mta from <address> for <destination>
pause mta from a@b for c.test       -
resume route 18446744073709551615    resume route <route>
resume route x                      -
pause destination *                 -
encrypt                             encrypt
encrypt secret                      encrypt <string>
encrypt --scram                     encrypt --scram
encrypt --scram secret              encrypt --scram <string>
encrypt secret --scram              -
update table aliases                update table <table>
up t <dynamic:0001>                 update table <table>
update table                        -
show queue 00000000                 show queue <msgid>
show queue 8000000a                 show queue <msgid>
show message ffffffffffffffff       show message <evpid>
show queue 1a2b3c4                  -
show queue 1a2b3c4d5                -
show queue 1a2b3c4g                 -
show queue all                      -
schedule 0000000000000001           schedule <evpid>
schedule 1a2b3c4d00000001 now       -
remove from @spam.test older 2d     remove <selection>
rem to bob@here.test                remove <selection>
rem fro @spam.test                  -
remove older                        remove <selection>
schedule error greylist is held     schedule <selection>
show queue from <>                  show queue <selection>
show queue from all                 show queue <selection>
pause envelope is waiting           pause envelope <selection>
resume envelope all from x          -
hold all                            hold all
hold 1a2b3c4d                       hold <msgid>
release from a to b                 release <selection>
remove 1a2b3c4d from x              -
nonsense                            -
"""


def cases():
    for line in MEANT.strip().splitlines():
        words, _, meant = line.partition("    ")
        yield words.split(), meant.strip()


@pytest.mark.parametrize(
    "words, meant", list(cases()), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_line_means_one_command_or_none(words, meant):
    try:
        command, parameters = find_command(COMMANDS, words)
    except UnknownCommand:
        assert meant == "-"
    else:
        assert command.pattern == meant
        if meant.endswith("<selection>"):
            assert parameters == words[len(meant.split()) - 1 :]
        else:
            assert len(parameters) == meant.count("<")


def test_every_command_can_be_said_in_full():
    samples = {"<msgid>": "1a2b3c4d", "<evpid>": "1a2b3c4d00000001", "<table>": "t", "<string>": "anything"}
    samples |= {"<domain>": "far.test", "<address>": "192.0.2.1", "<destination>": "far.test", "<route>": "1"}
    samples |= {"<selection>": "from"}
    for command in COMMANDS:
        words = [samples.get(word, word) for word in command.pattern.split()]
        assert find_command(COMMANDS, words)[0] is command


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 257, "caf\udce9"])
def test_what_no_table_can_be_called_is_no_command(name):
    with pytest.raises(UnknownCommand):
        find_command(COMMANDS, ["update", "table", name])


def test_possibilities_are_the_commands_that_begin_alike():
    with pytest.raises(UnknownCommand) as unclear:
        find_command(COMMANDS, ["show", "st"])
    assert [command.pattern for command in unclear.value.possibilities] == ["show stats", "show status"]


@pytest.mark.parametrize(
    "words, reason",
    [
        ("", "no command"),
        ("nonsense", "unknown word: nonsense"),
        ("show elephants", "unknown word: elephants"),
        ("pause all", "unknown word: all"),
        ("show st", "ambiguous word: st"),
        ("show", "incomplete command"),
        ("update table", "incomplete command"),
        ("show status now", "unexpected word: now"),
        ("schedule 1a2b3c4d00000001 now", "unexpected word: now"),
        ("show queue 1a2b3c4d00000001", "not an id: 1a2b3c4d00000001 (a message's has 8 hexadecimal digits)"),
        ("show envelope x", "not an id: x (an envelope's has 16 hexadecimal digits)"),
        (
            "remove 1a2",
            "not an id: 1a2 (an envelope's has 16 hexadecimal digits, a message's has 8 hexadecimal digits)",
        ),
        ("remove everything", "unknown word: everything"),
        ("show \x1b[2J", "unknown word: \\033[2J"),
    ],
)
def test_the_wrong_word_is_named(words, reason):
    with pytest.raises(UnknownCommand) as unclear:
        find_command(COMMANDS, words.split(" ") if words else [])
    assert str(unclear.value) == reason


def test_without_a_match_all_commands_are_possible():
    with pytest.raises(UnknownCommand) as unclear:
        find_command(COMMANDS, ["log", "loud"])
    assert [command.pattern for command in unclear.value.possibilities] == ["log brief", "log verbose"]


def test_help_is_found_by_the_beginning():
    assert {command.pattern.split()[0] for command in find_beginning(COMMANDS, ["pau"])} == {"pause"}


@given(words=st.lists(st.text(max_size=20), max_size=6))
def test_any_words_are_a_command_or_unclear(words):
    try:
        command, parameters = find_command(COMMANDS, words)
    except UnknownCommand as unclear:
        assert unclear.possibilities
    else:
        assert len(words) == len(command.pattern.split())


@given(parameter=st.text() | st.from_regex("[0-9a-f]{8}|[0-9a-f]{16}", fullmatch=True))
@example("x" * 256)
@example("\udcff")
@example("ffffffffffffffff")
@example("0000000100000000")
@example("7fffffff")
def test_what_is_understood_can_be_asked(parameter):
    """Control would show us out over anything else, without a word of what is wrong."""
    asked = []
    try:
        _, (name,) = find_command(COMMANDS, ["update", "table", parameter])
        asked.append(UpdateTable(1, name))
    except UnknownCommand:
        pass
    try:
        _, ids = find_command(COMMANDS, ["schedule", parameter])
        asked.append(ScheduleEnvelopes(1, *envelopes(ids)))
    except (UnknownCommand, UnknownId):
        pass
    for imsg in asked:
        payload = msgspec.msgpack.encode(imsg)
        assert len(payload) <= TABLE.by_class[type(imsg)].limit
        assert msgspec.msgpack.decode(payload, type=type(imsg)) == imsg

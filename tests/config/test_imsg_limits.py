"""What `smtpd -n` accepts can be told to every process, and carried by every imsg that names it.

CARRIED_EXAMPLES=2000 in the environment tries more configurations.

A process that receives what does not fit its type ends the daemon: at the first RCPT, and again after each restart.
"""

import os
import types
import typing
from dataclasses import is_dataclass

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from smtpd import slice
from smtpd.config import model
from smtpd.config.errors import ConfigErrors
from smtpd.config.model import Config
from smtpd.config.resolve.slice_encoding import SLICE_MAX, encode_slices
from smtpd.config.resolve.slicing import Sliced
from smtpd.envelope import (
    ALIAS_FILES_MAX,
    CommandLine,
    Duty,
    Kind,
    MailParameters,
    Origin,
    Path,
    Recipient,
    Setting,
    Word,
)
from smtpd.imsg import (
    ROLES,
    TABLE,
    AddEnvelopes,
    AddListener,
    AskServerForUtf8,
    ClientClassified,
    Configure,
    ExpandRecipient,
    ForkTableProgram,
    ReadForward,
    StartAgent,
    TakeAuthorities,
    TakeCertificate,
    TakeKey,
    TakeLog,
    TakeTableProgram,
    UpdateTable,
)
from smtpd.ipc.channel import Violation
from smtpd.ipc.text_limit import text_error
from smtpd.parent.permitted_agent import PermittedAgents
from smtpd.slice import Slices
from tests.config.machine import errors_of, sliced

# -- the architecture: no text of the configuration without a type that it travels in ---------------------------------


def is_record(kind):
    """A class with fields: of the model a dataclass, of the slices a Struct."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Struct) and kind is not Struct)


def texts_without_bounds(kind, where):
    """The places in a type where a `str` is not bounded by characters and length."""
    parts = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Annotated if parts[0] is str:
            (meta,) = kind.__metadata__
            if meta.max_length is None or meta.pattern is None:
                yield where
        case typing.Annotated:
            yield from texts_without_bounds(parts[0], where)
        case None if kind is str:
            yield where
        case None if is_record(kind):
            for name, of_field in typing.get_type_hints(kind, include_extras=True).items():
                yield from texts_without_bounds(of_field, f"{kind.__name__}.{name}")
        case _:
            for part in parts:
                yield from texts_without_bounds(part, where)


@pytest.mark.parametrize("kind", [Config, Slices])
def test_every_text_of_the_configuration_has_the_type_that_it_travels_in(kind):
    assert not list(texts_without_bounds(kind, kind.__name__))


@pytest.mark.parametrize("module", [model, slice])
def test_no_part_of_model_and_slices_is_overlooked(module):
    """What cannot be reached from Config or Slices would not be looked at above."""

    def reached(kind):
        if is_record(kind):
            yield kind
            for of_field in typing.get_type_hints(kind, include_extras=True).values():
                yield from reached(of_field)
        for part in typing.get_args(kind):
            yield from reached(part)

    found = {*reached(Config), *reached(Slices)}
    here = {one for one in vars(module).values() if is_record(one)}
    assert here <= found


def size_max(kind):
    """Bytes of msgpack that a value of this type has at the most; None where nothing bounds it."""
    parts = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Annotated if parts[0] is str:
            (meta,) = kind.__metadata__
            digest = 64 if meta.max_length is None and "[0-9a-f]{64}" in (meta.pattern or "") else None
            longest = meta.max_length or digest
            return None if longest is None else 5 + 4 * longest
        case typing.Annotated if parts[0] is bytes:
            (meta,) = kind.__metadata__
            return None if meta.max_length is None else 5 + meta.max_length
        case typing.Annotated if typing.get_origin(parts[0]) is list:
            (meta,) = kind.__metadata__
            item = size_max(typing.get_args(parts[0])[0])
            return None if item is None or meta.max_length is None else 5 + meta.max_length * item
        case typing.Annotated:
            return size_max(parts[0])
        case typing.Union | types.UnionType:
            sizes = [size_max(part) for part in parts]
        case builtin if builtin is tuple:
            sizes = [size_max(part) for part in parts]
        case typing.Literal:
            return 16
        case None if kind in (int, bool, types.NoneType) or isinstance(kind, type) and issubclass(kind, int):
            return 9
        case None if isinstance(kind, type) and issubclass(kind, Struct):
            sizes = [size_max(hint) for hint in typing.get_type_hints(kind, include_extras=True).values()]
        case _:
            return None
    return None if None in sizes else 5 + sum(sizes)


@pytest.mark.parametrize("declared", TABLE.declarations, ids=lambda one: one.cls.__name__)
def test_an_imsg_whose_fields_are_bounded_is_never_over_its_limit(declared):
    """The parts may be as long as they may; together they are what the channel refuses to send."""
    sizes = [size_max(field.type) for field in msgspec.structs.fields(declared.cls)]
    if None not in sizes:
        assert 5 + sum(sizes) <= declared.limit


def test_the_paths_beside_a_slice_have_room():
    assert SLICE_MAX + sum(size_max(f.type) or 0 for f in msgspec.structs.fields(Configure)) <= limit(Configure)


def limit(cls):
    return TABLE.by_class[cls].limit


# -- what is accepted can be carried, and what can be carried is accepted ----------------------------------------------

EXAMPLES = int(os.environ.get("CARRIED_EXAMPLES", "25"))  # a long form: 2000

# What the language lets a word in quotes hold: see lexer.py.
CHARACTERS = st.sampled_from("a.Z0-_%@ \té€") | st.characters(min_codepoint=32, max_codepoint=0x2FFF)
SHORT = st.text(CHARACTERS, min_size=1, max_size=6)
LONG = st.tuples(st.sampled_from(["a", "é", "€"]), st.sampled_from([31, 33, 250, 256, 257, 1000, 1023, 1024, 4090]))
WORD = (SHORT | LONG.map(lambda pair: pair[0] * pair[1])).filter(
    lambda text: all(char.isprintable() or char == "\t" for char in text) and not set(text) & set("\"'\\<>%{}$#`")
)
PLAIN = {
    "tag": "x",
    "action": "a2",
    "table": "t",
    "path": "/t",
    "maildir": "~/Maildir",
    "command": "cat",
    "wrapper": "nice",
}
WORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(PLAIN, WORD)).map(lambda given: PLAIN | given)


def configured(words):
    """A configuration in which each of the words stands where it belongs; and the files of its tables."""
    path, maildir = f"/{words['path'].strip()}", f"/{words['maildir']}"
    text = f"""
        table "{words["table"]}" "file:{path}"
        mda wrapper w "{words["wrapper"]} %{{mda}}"
        alias-commands user lists
        listen on "127.0.0.1" tag "{words["tag"]}"
        listen on socket tag "{words["tag"]}"
        action "{words["action"]}" mda "{words["command"]}" alias <"{words["table"]}"> wrapper w
        action "m{words["action"]}" maildir "{maildir}"
        match tag "{words["tag"]}" for any action "{words["action"]}"
    """
    return text, {path: "amy: bob\n"}


def maybe_sliced(words) -> Sliced | None:
    text, files = configured(words)
    try:
        return sliced(text, texts=files)
    except ConfigErrors as errors:
        # The net below (encoding.py) has no places: what a user writes is found where it stands.
        assert all(error.line for error in errors.errors), errors
        return None


def carried(imsg):
    """As it comes out at the other end.  Raises what the channels raise."""
    declared = TABLE.by_class[type(imsg)]
    payload = msgspec.msgpack.encode(imsg)
    if len(payload) > declared.limit:
        raise Violation("over its limit")
    return msgspec.msgpack.decode(payload, type=declared.cls)


def imsgs_of(slices: Slices):
    """All that name something of the configuration: from the start to the agent of a recipient."""
    encoded = encode_slices("f", slices)
    for role in ROLES:
        yield Configure(1, encoded[role], "/run/empty", "/var/spool/smtpd", True, False)
    parent, lookup = slices.parent, slices.lookup
    for program in parent.programs:
        yield ForkTableProgram(1, program.user, list(program.arguments))
        yield TakeTableProgram(program.table)
        yield TakeLog(f"table {program.table[:100]}", 0)
    for pki in parent.pki:
        yield from (TakeKey(pki.name), TakeCertificate(pki.name))
    for ca in parent.ca:
        yield TakeAuthorities(ca.name)
    for table in lookup.tables:
        yield UpdateTable(1, table.name)
    for listener in (*slices.dispatcher.listeners, slices.dispatcher.socket):
        yield AddListener(1, listener.address)
        yield ClientClassified(1, listener.hostname, False)
        origin = Origin("amy@there.test", "192.0.2.1", "<unknown>", "there", listener.hostname, listener.tag, True)
        yield ExpandRecipient(1, 1, origin, "bob@here.test", MailParameters(), 0, "")
        for action in parent.actions:
            yield from (AskServerForUtf8(1, action.name), ReadForward(1, "bob", action.name))
            to = Recipient("bob@here.test", "bob@here.test", action.name, Kind.MDA, "bob", "")
            yield AddEnvelopes(1, origin, [to], MailParameters())
    posts = PermittedAgents(parent)
    for action in parent.actions:
        duties = [(Duty.DELIVER, action.user or "bob"), (Duty.FORWARDED, "bob")]
        if parent.alias_commands:
            duties.append((Duty.ALIASED, parent.alias_commands))
        for duty, user in duties:
            asked = StartAgent(1, user, action.name, duty)
            yield asked
            yield posts.get_permitted(asked).fork(1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(WORDS)
@example(PLAIN | {"tag": "a\tb"})
@example(PLAIN | {"action": "a\tb"})
@example(PLAIN | {"action": "a" * 257})
@example(PLAIN | {"path": "a\tb"})
@example(PLAIN | {"path": "a" * 1024})
@example(PLAIN | {"table": "€" * 256})
@example(PLAIN | {"command": "€" * 4096})
@example(PLAIN | {"command": "b" * 4000, "wrapper": "a" * 4000})
def test_what_is_accepted_can_be_carried(words):
    accepted = maybe_sliced(words)
    if accepted is None:
        return
    for imsg in imsgs_of(accepted.slices):
        assert carried(imsg) == imsg


LIMITS = {"tag": 32, "action": 255, "table": 256, "path": 1023, "maildir": 1023, "command": 4000, "wrapper": 80}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.integers(1, 300), st.sampled_from("ab-_é"))
def test_texts_that_an_imsg_can_carry_are_accepted(which, length, letter):
    """So no word is refused that every process could take."""
    if length <= LIMITS[which]:
        assert maybe_sliced(PLAIN | {which: f"{letter * (length - 1)}z"}) is not None


@given(
    st.text(max_size=20) | st.characters().map(lambda char: char * 257),
    st.sampled_from([Word, Path, CommandLine, Setting]),
)
def test_a_fault_is_what_the_decoder_refuses(text, kind):
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(text), type=kind)
    except (msgspec.ValidationError, UnicodeEncodeError):
        assert text_error(kind, text)
    else:
        assert not text_error(kind, text)


# -- all together -----------------------------------------------------------------------------------------------------


def test_a_command_that_its_wrapper_makes_too_long_is_an_error_of_the_action():
    text = f'mda wrapper w "{"a" * 3000} %{{mda}}"\naction "x" mda "{"b" * 2000}" wrapper w'
    assert errors_of(text) == ["f:2:8: the command within its wrapper is longer than 4096 characters"]


def test_a_value_counts_as_what_it_becomes_in_the_line():
    """'%{dest}' becomes ''"${1}"''."""
    fits = f"""action "x" mda "{"b" * 4085} '%{{dest}}'\""""
    assert errors_of(fits) == []
    assert errors_of(fits.replace("bb", "bbb", 1)) == ["f:1:16: longer than 4096 characters"]


def test_alias_files_are_few_where_they_may_name_commands():
    names = [f"t{number}" for number in range(ALIAS_FILES_MAX + 1)]
    text = "".join(f'table {name} "/{name}"\naction b{name} mbox alias <{name}>\n' for name in names)
    files = {f"_{name}": "amy: bob\n" for name in names}
    assert errors_of(text, **files) == []
    assert errors_of(f"alias-commands user lists\n{text}", **files) == [
        f"f:1:21: {len(names)} alias files that may name commands, expected at most {ALIAS_FILES_MAX}"
    ]


def test_a_slice_that_no_imsg_carries_is_an_error():
    slices = sliced("").slices
    large = slice.TableSlice("t", ("x" * 8000,) * 1100)
    with pytest.raises(ConfigErrors, match="f: the configuration of lookup has .* bytes, expected at most"):
        encode_slices("f", replace(slices, lookup=replace(slices.lookup, tables=(large,))))


def test_a_slice_that_its_process_could_not_decode_is_an_error():
    """Whatever has been overlooked before."""
    slices = sliced("").slices
    with pytest.raises(ConfigErrors, match=r"f: invalid configuration of lookup: .*server_name"):
        encode_slices("f", replace(slices, lookup=replace(slices.lookup, server_name="a\tb")))


def test_a_pki_that_no_listener_names_is_not_checked():
    found = sliced('pki "x" cert "/nowhere" key "/nowhere"\nca "y" cert "/nowhere"')
    assert found.warnings == (
        'f:1:14: unused pki "x": no listener and no action names it',
        'f:2:13: unused ca "y": no listener and no action names it',
    )
    assert not found.slices.parent.pki and not found.slices.parent.ca

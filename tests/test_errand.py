"""The frames between queue and an agent: what either may be sent by a process that somebody else commands."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Outcome
from smtpd.errand import (
    FORWARD,
    FORWARD_MAX,
    HEADER,
    PACKET_MAX,
    PROBE_SERVER,
    READ_FORWARD,
    RESULT,
    SERVER_PROBED,
    SERVERS,
    TEXT_MAX,
    VERDICTS,
    Deliver,
    ForwardText,
    FrameError,
    InProgress,
    ProbeServer,
    ReadForward,
    Result,
    ServerProbed,
    decode,
    encode,
)

CONTENT_MAX = 64 * 1024  # bytes; more than queue ever puts into a frame (envelope.INLINE_MAX)

numbers = st.integers(0, 2**64 - 1)
paths = st.text(st.characters(codec="utf-8"), max_size=300)
contents = st.binary(max_size=500)


@st.composite
def delivers(draw):
    content, by_descriptor = draw(contents), draw(st.booleans())
    utf8 = draw(st.booleans())
    size = draw(numbers) if by_descriptor else len(content)
    strings = [draw(paths) for _ in range(4)]
    fixed = (draw(numbers), draw(numbers), size, *strings)
    more = [draw(paths) for _ in range(3)]
    return Deliver(
        *fixed, b"" if by_descriptor else content, by_descriptor, draw(st.booleans()), *more, draw(numbers), utf8
    )


results = st.builds(Result, numbers, st.sampled_from(Outcome), st.text(st.characters(codec="utf-8"), max_size=100))
forwards = st.builds(ForwardText, numbers, st.sampled_from(VERDICTS), st.binary(max_size=FORWARD_MAX))
greeted = st.builds(
    ServerProbed, numbers, st.sampled_from(SERVERS), st.text(st.characters(codec="utf-8"), max_size=100)
)
requests = st.one_of(delivers(), st.builds(ReadForward, numbers), st.builds(ProbeServer, numbers))
errands = st.one_of(requests, results, forwards, greeted, st.builds(InProgress, numbers))

MAIL = Deliver(
    1 << 32, 1700000000, 5, "amy@there.test", "bob@here.test", "bob@here.test", "work", b"mail\n", False, True
)


@given(errands)
@settings(max_examples=200)
def test_what_is_encoded_is_decoded_again(errand):
    assert decode(encode(errand)) == errand


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_a_frame_or_malformed(packet):
    try:
        decode(packet)
    except FrameError:
        pass


@given(errands, st.data())
@settings(max_examples=200)
def test_a_frame_with_a_byte_changed_is_a_frame_or_malformed(errand, data):
    packet = bytearray(encode(errand))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(packet))
    except FrameError:
        pass


@given(errands)
@settings(max_examples=50)
def test_a_frame_cut_at_any_place_is_malformed(errand):
    packet = encode(errand)
    for end in range(0, len(packet), max(1, len(packet) // 60)):
        with pytest.raises(FrameError):
            decode(packet[:end])


@given(errands)
@settings(max_examples=50)
def test_a_frame_with_trailing_bytes_is_malformed(errand):
    with pytest.raises(FrameError):
        decode(encode(errand) + b"\0")


def test_the_largest_content_fits_with_the_longest_addresses():
    path = "\N{EURO SIGN}" * 1024
    mail = Deliver(1 << 32, 1, CONTENT_MAX, path, path, path, "x" * 256, b"x" * CONTENT_MAX, False, False)
    assert len(encode(mail)) <= PACKET_MAX
    assert decode(encode(mail)) == mail


def test_a_result_text_is_cut_at_its_bound():
    result = decode(encode(Result(1, Outcome.DEFERRED, "x" * 9999)))
    assert result.text == "x" * TEXT_MAX


@pytest.mark.parametrize("kind, longest", [(RESULT, TEXT_MAX), (SERVER_PROBED, TEXT_MAX), (FORWARD, FORWARD_MAX)])
def test_a_text_of_a_users_process_is_as_long_as_it_may_be_or_malformed(kind, longest):
    def answer(length):
        return decode(HEADER.pack(kind, 0, 0, 1 + length, 1) + b"\1" + b"x" * length)

    assert len(msgspec.structs.astuple(answer(longest))[-1]) == longest
    with pytest.raises(FrameError):
        answer(longest + 1)


def test_a_packet_is_as_long_as_it_may_be_or_malformed():
    longest = PACKET_MAX - len(encode(msgspec.structs.replace(MAIL, size=0, content=b"")))
    for size in (longest, longest + 1):
        packet = encode(msgspec.structs.replace(MAIL, size=size, content=b"x" * size))
        if size == longest:
            assert len(decode(packet).content) == longest
        else:
            with pytest.raises(FrameError):
                decode(packet)


@pytest.mark.parametrize("kind", [READ_FORWARD, PROBE_SERVER])
def test_a_question_with_more_than_its_number_is_malformed(kind):
    with pytest.raises(FrameError):
        decode(HEADER.pack(kind, 0, 0, 1, 1) + b"x")


def test_a_header_whose_reserved_field_is_not_zero_is_malformed():
    with pytest.raises(FrameError):
        decode(HEADER.pack(READ_FORWARD, 0, 1, 0, 1))


@pytest.mark.parametrize("outcome", [0, 6, 255])
def test_an_outcome_that_does_not_exist_is_malformed(outcome):
    with pytest.raises(FrameError):
        decode(HEADER.pack(3, 0, 0, 1, 1) + bytes([outcome]))


@pytest.mark.parametrize("verdict", [len(VERDICTS), 255])
def test_a_verdict_that_does_not_exist_is_malformed(verdict):
    with pytest.raises(FrameError):
        decode(HEADER.pack(4, 0, 0, 1, 1) + bytes([verdict]))


def test_content_beside_a_descriptor_is_malformed():
    with pytest.raises(FrameError):
        decode(encode(msgspec.structs.replace(MAIL, by_descriptor=True)))


def test_content_of_another_length_than_it_says_is_malformed():
    with pytest.raises(FrameError):
        decode(encode(msgspec.structs.replace(MAIL, size=6)))


def test_an_address_that_is_not_utf8_is_malformed():
    with pytest.raises(FrameError):
        decode(encode(MAIL).replace(b"amy@", b"\xff\xfe\xfd@"))


@pytest.mark.parametrize("kind", [0, 8, 255])
def test_an_unknown_kind_is_malformed(kind):
    with pytest.raises(FrameError):
        decode(HEADER.pack(kind, 0, 0, 0, 1))


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_an_unknown_flag_is_malformed(kind):
    frames = {
        1: encode(MAIL),
        2: encode(ReadForward(1)),
        3: encode(Result(1, Outcome.LOOP, "")),
        4: encode(ForwardText(1, "none", b"")),
    }
    frame = bytearray(frames[kind])
    frame[1] |= 0x80
    with pytest.raises(FrameError):
        decode(bytes(frame))

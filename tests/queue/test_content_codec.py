"""The coding of content: whatever is stored, what is read is the content, or an error."""

import os
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.queue.store import content_codec
from smtpd.queue.store.content_codec import CHUNK, HEADER_BYTES, NOT_ENCRYPTED, PIECE, Codec, KeyMissing
from smtpd.queue.store.store import AS_IT_CAME, ContentDamaged
from smtpd.tls.content_key import KeyFileError, Keys, parse_keys

ONE, OTHER = "1" * 64, "2" * 64
KEYS = parse_keys(f"{ONE}\n{OTHER}\n".encode())
OTHERS = parse_keys(OTHER.encode())
ID = 0x1234567

COMPRESSED = Codec(compresses=True)
ENCRYPTED = Codec(keys=KEYS)
BOTH = Codec(compresses=True, keys=KEYS)
CODECS = pytest.mark.parametrize("codec", [COMPRESSED, ENCRYPTED, BOTH], ids=["compressed", "encrypted", "both"])

TEXT = b"".join(b"Line %d of a mail that says little.\n" % number for number in range(8000))
# Content that compresses and content that does not, around the sizes where something ends.
SIZES = [0, 1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5]
contents = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda size: TEXT[:size], st.integers(0, len(TEXT))),
    st.builds(lambda size, seed: random.Random(seed).randbytes(size), st.sampled_from(SIZES), st.integers(0, 9)),
)
places = st.integers(0, 10**9)


def stored_as(codec, content, piece=10_000, message=ID):
    encoder = codec.encoder(message)
    pieces = [encoder.add(content[at : at + piece]) for at in range(0, len(content), piece)]
    return b"".join(pieces) + encoder.finish()


def read_of(codec, stored, size, piece=10_000, message=ID, coding=None):
    pieces = (stored[at : at + piece] for at in range(0, len(stored), piece))
    return b"".join(codec.pieces(message, codec.coding if coding is None else coding, pieces, size))


@CODECS
@settings(max_examples=60, deadline=None)
@given(content=contents, written=st.integers(1, 200_000), read=st.integers(1, 200_000))
def test_what_is_read_is_what_was_stored(codec, content, written, read):
    written, read = max(written, len(content) // 50), max(read, len(content) // 50)
    assert read_of(codec, stored_as(codec, content, written), len(content), read) == content
    coding, stored = codec.encode(ID, content)
    assert codec.decode(ID, coding, stored, len(content)) == content


@CODECS
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [os.urandom, lambda size: TEXT[:size]], ids=["random", "text"])
def test_the_size_of_a_chunk_is_no_limit(codec, size, make):
    content = make(size)
    assert read_of(codec, stored_as(codec, content), size) == content


@CODECS
def test_content_may_come_and_go_byte_by_byte(codec):
    content = TEXT[:300]
    assert read_of(codec, stored_as(codec, content, 1), len(content), 1) == content


@pytest.mark.parametrize("codec", [ENCRYPTED, BOTH])
@settings(max_examples=200, deadline=None)
@given(content=contents, place=places)
def test_a_changed_bit_of_what_is_encrypted_is_damage(codec, content, place):
    stored = bytearray(stored_as(codec, content))
    bit = place % (8 * len(stored))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ContentDamaged):
        read_of(codec, bytes(stored), len(content))


@CODECS
@settings(max_examples=100, deadline=None)
@given(content=contents.filter(bool), place=places)
def test_content_that_is_cut_is_damage(codec, content, place):
    stored = stored_as(codec, content)
    with pytest.raises(ContentDamaged):
        read_of(codec, stored[: place % len(stored)], len(content))


@settings(max_examples=100, deadline=None)
@given(content=contents, place=places, change=st.integers(1, 255))
def test_what_is_compressed_and_changed_never_is_more_than_its_row_says(content, place, change):
    """That it is not what was stored is found out by its digest."""
    stored = bytearray(stored_as(COMPRESSED, content))
    stored[place % len(stored)] ^= change
    read = bytearray()
    try:
        for piece in COMPRESSED.pieces(ID, NOT_ENCRYPTED, [bytes(stored)], len(content)):
            read += piece
    except ContentDamaged:
        pass
    assert len(read) <= len(content)


def test_neither_chunks_nor_contents_can_be_exchanged():
    content = os.urandom(3 * CHUNK)
    stored, twin = stored_as(ENCRYPTED, content), stored_as(ENCRYPTED, content)
    sealed = CHUNK + 16
    header = stored[:HEADER_BYTES]
    chunks = [stored[at : at + sealed] for at in range(HEADER_BYTES, len(stored), sealed)]
    of_twin = [twin[at : at + sealed] for at in range(HEADER_BYTES, len(twin), sealed)]
    assert len(chunks) == 3 and read_of(ENCRYPTED, header + b"".join(chunks), len(content)) == content
    for wrong in (
        [chunks[1], chunks[0], chunks[2]],  # swapped
        [chunks[0], chunks[0], chunks[2]],  # repeated
        [chunks[0], chunks[2]],  # left out
        chunks[:2],  # cut
        [*chunks, chunks[2]],  # grown
        [chunks[0], of_twin[1], chunks[2]],  # of another content with the same key and the same text
    ):
        for size in (len(content), sum(map(len, wrong)) - 16 * len(wrong)):
            with pytest.raises(ContentDamaged):
                read_of(ENCRYPTED, header + b"".join(wrong), size)


@CODECS
def test_content_of_one_message_is_not_that_of_another(codec):
    with pytest.raises(ContentDamaged):
        read_of(codec, stored_as(codec, TEXT, message=ID), len(TEXT), message=ID + 1)


def test_no_two_contents_look_alike():
    """Each has a key of its own, so no nonce is used twice with a key."""
    stored = [stored_as(ENCRYPTED, bytes(100)) for _ in range(50)]
    assert len({each[-116:] for each in stored}) == 50


@pytest.mark.parametrize("codec", [ENCRYPTED, BOTH])
def test_nothing_of_the_content_is_in_what_is_stored(codec):
    secret = os.urandom(40).hex().encode()
    stored = stored_as(codec, TEXT[:1000] + secret + TEXT[1000:])
    assert not any(secret[at : at + 8] in stored for at in range(len(secret) - 8))
    assert TEXT[:16] not in stored and TEXT[1000:1016] not in stored


def test_a_key_that_is_not_there_is_no_damage():
    stored = stored_as(ENCRYPTED, TEXT)
    for codec in (Codec(keys=OTHERS), COMPRESSED):
        with pytest.raises(KeyMissing, match=f"{ENCRYPTED.coding:016x}"):
            read_of(codec, stored, len(TEXT), coding=ENCRYPTED.coding)


def test_an_older_key_reads_what_it_has_encrypted():
    before = Codec(keys=OTHERS)
    assert read_of(ENCRYPTED, stored_as(before, TEXT), len(TEXT), coding=before.coding) == TEXT
    assert ENCRYPTED.is_current(ENCRYPTED.coding)
    assert not any(map(ENCRYPTED.is_current, (before.coding, AS_IT_CAME, NOT_ENCRYPTED)))


def test_a_key_under_the_id_of_another_reads_nothing():
    stored = stored_as(ENCRYPTED, TEXT)
    with pytest.raises(ContentDamaged):
        read_of(ENCRYPTED, stored, len(TEXT), coding=Codec(keys=OTHERS).coding)
    forged = stored[:8] + struct.pack(">Q", Codec(keys=OTHERS).coding) + stored[16:]
    with pytest.raises(ContentDamaged):
        read_of(Codec(keys=OTHERS), forged, len(TEXT))


def test_a_bomb_takes_no_more_memory_than_its_row_says(monkeypatch):
    bomb = bytes(64 * 1024 * 1024)
    stored = stored_as(COMPRESSED, bomb, 1 << 20)
    assert len(stored) < 400_000
    largest = 0
    with pytest.raises(ContentDamaged):
        for piece in COMPRESSED.pieces(ID, NOT_ENCRYPTED, [stored], 1_000_000):
            largest = max(largest, len(piece))
    assert 0 < largest <= PIECE


def test_what_stands_behind_compressed_content_is_damage():
    stored = stored_as(COMPRESSED, TEXT) + b"x"
    with pytest.raises(ContentDamaged):
        read_of(COMPRESSED, stored, len(TEXT))


def test_compressed_is_what_becomes_smaller_by_it():
    assert len(stored_as(COMPRESSED, TEXT)) < len(TEXT) // 2
    noise = os.urandom(16_000)
    assert COMPRESSED.encode(ID, noise) == (AS_IT_CAME, noise)
    assert len(stored_as(COMPRESSED, noise * 100, 16_000 * 100)) < len(noise) * 100
    assert len(stored_as(BOTH, os.urandom(CHUNK))) == HEADER_BYTES + CHUNK + 16


def test_mail_that_looks_coded_is_mail():
    """The row says what is coded."""
    looks_coded = stored_as(COMPRESSED, TEXT)
    plain = Codec()
    assert not plain.is_active
    assert plain.decode(ID, AS_IT_CAME, looks_coded, len(looks_coded)) == looks_coded


def test_what_is_compressed_can_be_read_without_the_words():
    assert read_of(Codec(), stored_as(COMPRESSED, TEXT), len(TEXT), coding=NOT_ENCRYPTED) == TEXT


@pytest.mark.parametrize("at", [0, 4, 5, 6, 8, 16])
def test_a_header_of_another_kind_is_damage(at):
    stored = bytearray(stored_as(COMPRESSED, TEXT))
    stored[at] ^= 0xFF
    with pytest.raises(ContentDamaged):
        read_of(COMPRESSED, bytes(stored), len(TEXT))


# -- the file of keys -----------------------------------------------------------------------------------------------


def test_the_first_key_of_a_file_is_the_current_one():
    text = f"# since spring\n{ONE}\n\n  {OTHER.upper()}  \n"
    keys = parse_keys(text.encode())
    assert keys.current is not None and keys.current.id == KEYS.current.id and keys.ids == KEYS.ids


def test_none_in_front_means_that_nothing_more_is_encrypted():
    codec = Codec(keys=parse_keys(f"none\n{ONE}\n".encode()))
    assert not codec.is_active and codec.coding == AS_IT_CAME
    assert read_of(codec, stored_as(ENCRYPTED, TEXT), len(TEXT), coding=ENCRYPTED.coding) == TEXT
    assert codec.is_current(AS_IT_CAME) and not codec.is_current(ENCRYPTED.coding)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "it has no key"),
        ("# nothing\n", "it has no key"),
        ("none", "no key to read with"),
        (ONE[:-1], "line 1: a key is 64 hexadecimal digits"),
        (f"{ONE}0", "line 1: a key is 64 hexadecimal digits"),
        (f"{ONE}\nnone\n", "line 2: a key is"),
        (f"#\n{ONE}\n{ONE}\n", "line 3: duplicate key"),
        (f"{ONE} {OTHER}", "line 1: a key is"),
        ("\xff" * 64, "line 1: a key is"),
        ("#" * 100_000, "too large"),
    ],
)
def test_what_is_no_file_of_keys(text, said):
    with pytest.raises(KeyFileError, match=said) as error:
        parse_keys(text.encode("latin-1"))
    assert ONE[:10] not in str(error.value)


@given(st.binary(max_size=300))
def test_any_file_has_keys_or_an_error(text):
    try:
        assert isinstance(parse_keys(text), Keys)
    except KeyFileError:
        pass


def test_ids_of_keys_never_mean_something_else():
    assert len(set(KEYS.ids)) == 2 and all(NOT_ENCRYPTED < id < 2**63 for id in KEYS.ids)


def test_a_stream_that_is_not_zlib_is_damage():
    stored = stored_as(COMPRESSED, TEXT)
    assert zlib.decompress(stored[HEADER_BYTES:]) == TEXT
    with pytest.raises(ContentDamaged, match="compressed content"):
        read_of(COMPRESSED, stored[:HEADER_BYTES] + b"not zlib" * 10, len(TEXT))
    assert content_codec.PLAIN.codings == (AS_IT_CAME, NOT_ENCRYPTED)

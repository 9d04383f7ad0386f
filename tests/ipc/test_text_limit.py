"""Whether texts fit the types that they travel in, wherever they stand in a value."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Struct

from smtpd.ipc.text_limit import fit_text, text_error, text_errors

Short = Annotated[str, Meta(max_length=3)]
Plain = Annotated[str, Meta(pattern="^[a-z]*$")]
Word = Annotated[str, Meta(max_length=3, pattern="^[a-z]*$")]
Number = Annotated[int, Meta(ge=0)]
Some = Annotated[tuple[Word, ...], Meta(max_length=5)]


@pytest.mark.parametrize(
    "kind, text, error",
    [
        (Word, "", ""),
        (Word, "abc", ""),
        (Word, "abcd", "more than 3 characters"),
        (Word, "a\t", "a control character"),
        (Word, "a\udc80", "bytes that are not UTF-8"),
        (Short, "a\t", ""),
        (Short, "a\ud800", "bytes that are not UTF-8"),
        (Short, "abcd", "more than 3 characters"),
        (Plain, "abcd", ""),
        (Plain, "a\t", "a control character"),
    ],
)
def test_a_text_is_compared_with_the_length_and_the_pattern_that_its_type_has(kind, text, error):
    assert text_error(kind, text) == error


@pytest.mark.parametrize("kind", [str, Number, tuple[Word, ...], Annotated[int, Meta(max_length=3)], Word | None])
def test_a_type_that_bounds_no_text_is_a_mistake_of_ours(kind):
    with pytest.raises(AssertionError, match="bounds no text"):
        text_error(kind, "a")


class Inner(Struct):
    word: Word
    number: Number = 1


@dataclass
class Plainer:
    word: Word


class Outer(Struct):
    word: Word = ""
    perhaps: Word | None = None
    other: None | Word = None
    words: tuple[Word, ...] = ()
    pair: tuple[Word, Plain] = ("", "")
    pairs: tuple[tuple[Word, Plain], ...] | None = None
    by_name: dict[Word, Plain] = {}
    inner: Inner | None = None
    plainer: Plainer | None = None
    several: tuple[Inner, ...] = ()
    some: Some = ()
    number: int = 0
    flag: bool = False


LONG, TAB = "more than 3 characters", "a control character"


@pytest.mark.parametrize(
    "made, errors",
    [
        (Outer(), []),
        (Outer(word="abcd"), [("abcd", LONG)]),
        (Outer(perhaps="abcd"), [("abcd", LONG)]),
        (Outer(perhaps="abc"), []),
        (Outer(other="abcd"), [("abcd", LONG)]),
        (Outer(words=("abcd", "a", "bcde")), [("abcd", LONG), ("bcde", LONG)]),
        (Outer(pair=("abcd", "\t")), [("abcd", LONG), ("\t", TAB)]),
        (Outer(pair=("abc", "abcdef")), []),
        (Outer(pairs=(("abc", "abcdef"), ("abcd", "\t"))), [("abcd", LONG), ("\t", TAB)]),
        (Outer(by_name={"abc": "abcdef", "abcd": "a", "a": "\t"}), [("abcd", LONG), ("\t", TAB)]),
        (Outer(inner=Inner("abcd")), [("abcd", LONG)]),
        (Outer(plainer=Plainer("abcd")), [("abcd", LONG)]),
        (Outer(several=(Inner("abc"), Inner("abcd"))), [("abcd", LONG)]),
        (Outer(some=("abc", "abcd")), [("abcd", LONG)]),
    ],
    ids=str,
)
def test_each_text_in_a_value_is_found(made, errors):
    assert list(text_errors(made, type(made))) == errors
    decoder = msgspec.msgpack.Decoder(type(made))
    encoded = msgspec.msgpack.encode(made)
    if errors:
        with pytest.raises(msgspec.ValidationError):
            decoder.decode(encoded)
    else:
        assert decoder.decode(encoded) == made


def test_a_pair_of_another_length_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="zip"):
        list(text_errors(("a",), tuple[Word, Word]))


@pytest.mark.parametrize("text, fitted", [("a\nb", r"a\0"), ("abcdef", "abc"), ("ab", "ab")])
def test_a_reason_is_as_much_of_it_as_its_type_carries(text, fitted):
    assert fit_text(Short, text) == fitted


def test_a_reason_may_have_any_length_where_its_type_has_none():
    assert fit_text(Plain, "abc" * 100) == "abc" * 100

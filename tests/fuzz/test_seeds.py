"""Every seed: what a fuzzer found worth keeping, and what once broke something."""

import importlib
from pathlib import Path

import pytest

from tests.fuzz.__main__ import SEEDS, TARGETS
from tests.fuzz.dictionary_words import as_dictionary, read
from tests.fuzz.mutator import Mutator


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_seed(path: Path):
    importlib.import_module(f"tests.fuzz.{path.parent.name}").fuzz(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_client_might_say(target):
    fuzz, words = importlib.import_module(f"tests.fuzz.{target}").fuzz, read(target)
    assert len(as_dictionary(words).splitlines()) == len(words) > 10
    for word in words:
        for choice in (b"", b"\0", b"\1", b"\2", b"\x57\0\0", b"\xff\0\x80"):
            fuzz(choice + word)
            fuzz(choice + b"".join(words[:8]) + word)


def test_a_mutation_is_never_too_long_and_the_same_for_the_same_seed():
    words = read("session")
    made = [Mutator(words, lambda data, longest: data[::-1]).mutate(words[0] * 3, 80, seed) for seed in range(200)]
    again = [Mutator(words, lambda data, longest: data[::-1]).mutate(words[0] * 3, 80, seed) for seed in range(200)]
    assert made == again and max(map(len, made)) == 80 and len(set(made)) > 50

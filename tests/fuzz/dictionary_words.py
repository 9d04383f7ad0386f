"""Dictionaries of the fuzzer: what a client might say, a word a line, escaped as in Python, in dictionaries/TARGET."""

from pathlib import Path

DICTIONARIES = Path(__file__).parent / "dictionaries"


def read(target: str) -> tuple[bytes, ...]:
    lines = (DICTIONARIES / target).read_text().splitlines()
    return tuple(line.encode().decode("unicode_escape").encode("latin-1") for line in lines)


def as_dictionary(words: tuple[bytes, ...]) -> str:
    """As libFuzzer reads it."""
    return "".join(f'"{"".join(f"\\x{byte:02x}" for byte in word)}"\n' for word in words)

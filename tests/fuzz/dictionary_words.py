"""What a client might say: a word a line, escaped as in Python, in said/TARGET."""

from pathlib import Path

SAID = Path(__file__).parent / "said"


def read(target: str) -> tuple[bytes, ...]:
    lines = (SAID / target).read_text().splitlines()
    return tuple(line.encode().decode("unicode_escape").encode("latin-1") for line in lines)


def as_dictionary(words: tuple[bytes, ...]) -> str:
    """As libFuzzer reads it."""
    return "".join(f'"{"".join(f"\\x{byte:02x}" for byte in word)}"\n' for word in words)

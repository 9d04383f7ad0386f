"""Coverage-guided fuzzing (atheris) of everything that reads what a client or a server sends.

    python -m tests.fuzz TARGET [SECONDS] [CORPUS]      a directory; /tmp/smtpd-fuzz/TARGET if none is named
    python -m tests.fuzz TARGET --select CORPUS         inputs that reach more than the seeds go into seeds/TARGET

A target is a module here with a function `fuzz(data)`, which raises when something does not hold; dictionaries/TARGET
has what the other side might say.  It needs no fuzzer: test_seeds.py plays the seeds with pytest.  atheris is not among
the dependencies; an environment that has it, and those of smtpd, is

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install -r requirements.lock && /tmp/fuzz/bin/pip install atheris

A crash is left in the corpus as crash-*: it becomes a test with the name of the attack, and a seed.
"""

import argparse
import importlib
import sys
from pathlib import Path

from tests.fuzz import dictionary_words, select_seeds
from tests.fuzz.mutator import Mutator

SEEDS = Path(__file__).parent / "seeds"
TARGETS = ("address", "command", "content", "auth", "proxy", "xclient", "header", "session", "client")
LONGEST = dict.fromkeys(("header", "content", "session", "command", "client"), 1024)  # bytes; of the others 512


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--select", type=Path, metavar="CORPUS")
    chosen = parser.parse_args()
    if chosen.select:
        select_seeds.select(f"tests.fuzz.{chosen.target}", SEEDS / chosen.target, chosen.select)
    else:
        fuzz(chosen.target, chosen.seconds, chosen.corpus or Path("/tmp/smtpd-fuzz", chosen.target))


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["smtpd"]):
        target = importlib.import_module(f"tests.fuzz.{name}")
    corpus.mkdir(parents=True, exist_ok=True)
    known = dictionary_words.read(name)
    dictionary = corpus.parent / f"{name}.dict"
    dictionary.write_text(dictionary_words.as_dictionary(known))
    # looked up when it is called: atheris has no other before it runs
    mutator = Mutator(known, lambda data, longest: atheris.Mutate(data, longest))
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST.get(name, 512)}",
        f"-dict={dictionary}",
        f"-artifact_prefix={corpus}/",
        "-timeout=10",
        "-rss_limit_mb=1500",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    seeds = SEEDS / name
    directories = [str(corpus), *([str(seeds)] if seeds.is_dir() else [])]
    atheris.Setup([sys.argv[0], *options, *directories], target.fuzz, custom_mutator=mutator.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

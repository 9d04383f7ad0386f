"""Selects seeds out of a corpus: inputs that reach code which no other seed reaches.

Coverage is counted in pairs of lines of smtpd/ that follow each other; smaller inputs are tried first.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

LONGEST = 1200  # bytes of what is kept

Arc = tuple[object, int, int]


def select(target: str, seeds: Path, corpus: Path) -> None:
    fuzz = importlib.import_module(target).fuzz
    seeds.mkdir(parents=True, exist_ok=True)
    known: set[Arc] = set()
    kept = 0
    for path in [*sorted(seeds.iterdir()), *sorted(corpus.iterdir(), key=lambda path: path.stat().st_size)]:
        data = path.read_bytes()
        if len(data) > LONGEST or path.name.startswith(("crash-", "timeout-", "slow-")):
            continue
        arcs = arcs_of(fuzz, data)
        if not arcs <= known:
            known |= arcs
            if path.parent != seeds:
                (seeds / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
                kept += 1
    print(f"{seeds}: {kept} more, {len(known)} pairs of lines")


def arcs_of(fuzz: Callable[[bytes], None], data: bytes) -> set[Arc]:
    arcs: set[Arc] = set()

    def enter(frame: FrameType, event: str, argument: object) -> Callable | None:
        if "/smtpd/" not in frame.f_code.co_filename:
            return None
        before = 0

        def step(frame: FrameType, event: str, argument: object) -> Callable:
            nonlocal before
            if event == "line":
                arcs.add((frame.f_code, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        fuzz(data)
    finally:
        sys.settrace(None)
    return arcs

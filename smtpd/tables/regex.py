"""Regular expressions, matched in time proportional to the text.

    pattern --syntax--> tree --emit--> program --search--> yes or no

What is matched comes from a client, and an administrator's `^([a-z]+\\.?)+@` must not stop all mail when somebody
sends forty letters: a backtracking matcher, Python's own, would try 2^40 ways.  So all ways are followed at once, and
each set of places in the program that was reached is remembered with where each character leads from it (a lazy
automaton).

Says only whether, not where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from smtpd.tables.syntax import Between, Choice, Malformed, One, Parser, Repeat, Sequence, Tree, is_word

PROGRAM_MAX = 5000  # instructions; x{255} makes 255 copies of x
REMEMBERED = 4096  # transitions, then all are forgotten


@dataclass(frozen=True)
class Split:
    """Go on at both places."""

    one: int
    other: int


@dataclass(frozen=True)
class Accept:
    pass


Instruction = One | Between | Split | Accept


class _Emitter:
    """Lays a tree out as instructions; One and Between go on at the next one."""

    def __init__(self) -> None:
        self.program: list[Instruction] = []
        self._laid_out = 0

    def _add(self, instruction: Instruction) -> int:
        if len(self.program) >= PROGRAM_MAX:
            raise Malformed("too large")
        self.program.append(instruction)
        return len(self.program) - 1

    def emit(self, tree: Tree) -> None:
        self._laid_out += 1  # "(((){255}){255}){255}" makes no instruction, 255^3 times
        if self._laid_out > 2 * PROGRAM_MAX:
            raise Malformed("too large")
        match tree:
            case One() | Between():
                self._add(tree)
            case Sequence(parts):
                for part in parts:
                    self.emit(part)
            case Choice(ways):
                self._choice(ways)
            case Repeat(part, least, most):
                self._repeat(part, least, most)

    def _choice(self, ways: tuple[Tree, ...]) -> None:
        jumps = []
        for way in ways[:-1]:
            split = self._add(Accept())
            self.emit(way)
            jumps.append(self._add(Accept()))
            self.program[split] = Split(split + 1, len(self.program))
        self.emit(ways[-1])
        for jump in jumps:
            self.program[jump] = Split(len(self.program), len(self.program))

    def _repeat(self, part: Tree, least: int, most: int | None) -> None:
        for _ in range(least):
            self.emit(part)
        if most is None:
            split = self._add(Accept())
            self.emit(part)
            self._add(Split(split, split))
            self.program[split] = Split(split + 1, len(self.program))
            return
        splits = []
        for _ in range(most - least):
            splits.append(self._add(Accept()))
            self.emit(part)
        for split in splits:
            self.program[split] = Split(split + 1, len(self.program))


@dataclass(eq=False)
class _State:
    """Places in the program that `before`, the last character, led to; and where the next one leads: None accepts."""

    places: frozenset[int]
    before: str
    ways: dict[str, _State | None] = field(default_factory=dict)
    accepts_at_end: bool | None = None


class Pattern:
    """A regular expression.  Raises Malformed when it is none."""

    def __init__(self, text: str):
        self.text = text
        emitter = _Emitter()
        emitter.emit(Parser(text).parse())
        self._program = (*emitter.program, Accept())
        self._forget()

    def _forget(self) -> None:
        self._start = _State(frozenset((0,)), "")
        self._states: dict[tuple[frozenset[int], bool], _State] = {}
        self._remembered = 0

    def search(self, text: str) -> bool:
        """Whether it matches anywhere in `text`."""
        state = self._start
        for char in text:
            try:
                following = state.ways[char]
            except KeyError:
                following = self._step(state, char)
            if following is None:
                return True
            state = following
        if state.accepts_at_end is None:
            state.accepts_at_end = self._accepts(state, "")
        return state.accepts_at_end

    def _accepts(self, state: _State, behind: str) -> bool:
        return any(isinstance(self._program[place], Accept) for place in self._reach(state, behind))

    def _step(self, state: _State, char: str) -> _State | None:
        if self._remembered >= REMEMBERED:
            self._forget()
        self._remembered += 1
        following: set[int] = {0}  # a match may begin at each character
        for place in self._reach(state, char):
            instruction = self._program[place]
            if isinstance(instruction, Accept):
                state.ways[char] = None
                return None
            if isinstance(instruction, One) and instruction.test(char):
                following.add(place + 1)
        key = (frozenset(following), is_word(char))
        if key not in self._states:
            self._states[key] = _State(key[0], char)
        state.ways[char] = self._states[key]
        return self._states[key]

    def _reach(self, state: _State, behind: str) -> Iterator[int]:
        """All places that are reached without reading a character, `behind` being the next one."""
        seen = set(state.places)
        waiting = list(state.places)
        while waiting:
            place = waiting.pop()
            yield place
            instruction = self._program[place]
            ways: tuple[int, ...] = ()
            if isinstance(instruction, Split):
                ways = (instruction.one, instruction.other)
            elif isinstance(instruction, Between) and instruction.assertion.holds(state.before, behind):
                ways = (place + 1,)
            fresh = [way for way in ways if way not in seen]
            seen.update(fresh)
            waiting += fresh

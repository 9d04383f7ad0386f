"""A parser of one sentence, made of the grammar in grammar.lark.

    rule: "word" STRING other (… | …) …? …*     a tree: STRING, NUMBER and the trees of other rules are its children
    rule: … -> name | … -> name                 the tree is called so
    _rule                                       no tree: its children are those of the rule that names it
    ?rule                                       no tree where it has one child and no name behind an arrow
    !rule                                       the words in quotes are children, too

Notation and trees are those of Lark, a generator of parsers, to which tests/config/test_grammar.py compares this one.
Lark makes its tables at each start, which takes twenty times as long.

No rule contains itself.  So all sentences are paths through one graph of words, and all paths that fit the words so far
are followed side by side (Thompson's algorithm for regular expressions).
"""

import re
from collections.abc import Callable, Iterable

from smtpd.config.parse.tree import Token, Tree

END = "$END"
_VALUES = ("STRING", "NUMBER")  # the terminals that are no reserved words
_RULE = re.compile(r"^([?!]*)(\w+):", re.MULTILINE)
_SYMBOL = re.compile(r'"[^"]+"|->|\w+|[|()?*]')


class _Node:
    """What comes next: one of the nodes of `after`, once a word of the type `word` was read, a tree begun or ended."""

    __slots__ = ("after", "begins", "ends", "is_child", "word")

    def __init__(self, *after: "_Node") -> None:
        self.after = list(after)
        self.word = ""
        self.is_child = False  # of a word
        self.begins = False
        self.ends: _Tree | None = None


class _Tree:
    """How the tree of an alternative is made."""

    __slots__ = ("is_single", "name")

    def __init__(self, name: str, is_single: bool) -> None:
        self.name = name
        self.is_single = is_single  # no tree where it has one child


# What has been read, the last first.  A word is with the node that says whether it is a child.
type _Path = tuple[_Path | None, _Node, Token | None]
# From what comes behind an expression to a node before it.
type _Expression = Callable[[_Node], _Node]


class Grammar:
    """`text`: the rules; a sentence is a `start`."""

    def __init__(self, text: str) -> None:
        self.words: set[str] = set()  # the reserved ones
        self._rules: dict[str, _Expression] = {}
        _, *pieces = _RULE.split(re.sub(r"//.*|%.*", "", text))
        for marks, name, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
            self._rules[name] = _Rule(self, marks, name, _SYMBOL.findall(body)).alternatives()
        end = _Node()
        end.word = END
        self._start = self.reference("start")(end)

    def begin(self) -> "Sentence":
        return Sentence(self._start)

    def reference(self, name: str) -> _Expression:
        """The rule, which may stand further down."""
        return lambda after: self._rules[name](after)


class _Rule:
    """The body of one rule, by recursive descent."""

    def __init__(self, grammar: Grammar, marks: str, name: str, symbols: list[str]) -> None:
        self._grammar, self._marks, self._name = grammar, marks, name
        self._symbols = [*symbols, ""]
        self._place = 0

    def _take_if(self, symbol: str) -> bool:
        taken = self._symbols[self._place] == symbol
        self._place += taken
        return taken

    def alternatives(self) -> _Expression:
        """`… -> name | …` of the whole rule."""
        found = [self._named_alternative()]
        while self._take_if("|"):
            found.append(self._named_alternative())
        return _any_of(found)

    def _named_alternative(self) -> _Expression:
        body = self._sequence()
        name = self._name
        is_named = self._take_if("->")
        if is_named:
            name = self._symbols[self._place]
            self._place += 1
        if name.startswith("_"):
            return body
        tree = _Tree(name, is_single="?" in self._marks and not is_named)

        def before(after: _Node) -> _Node:
            ends = _Node(after)
            ends.ends = tree
            begins = _Node(body(ends))
            begins.begins = True
            return begins

        return before

    def _group(self) -> _Expression:
        found = [self._sequence()]
        while self._take_if("|"):
            found.append(self._sequence())
        assert self._take_if(")")
        return _any_of(found)

    def _sequence(self) -> _Expression:
        items: list[_Expression] = []
        while self._symbols[self._place] not in ("|", ")", "->", ""):
            items.append(self._repeated(self._item()))

        def before(after: _Node) -> _Node:
            for item in reversed(items):
                after = item(after)
            return after

        return before

    def _repeated(self, item: _Expression) -> _Expression:
        if self._take_if("?"):
            return lambda after: _Node(item(after), after)
        if self._take_if("*"):
            return lambda after: _loop(item, after)
        return item

    def _item(self) -> _Expression:
        symbol = self._symbols[self._place]
        self._place += 1
        if symbol == "(":
            return self._group()
        if symbol.startswith('"'):
            self._grammar.words.add(symbol[1:-1])
            return self._word(symbol[1:-1], is_child="!" in self._marks)
        if symbol in _VALUES:
            return self._word(symbol, is_child=True)
        return self._grammar.reference(symbol)

    def _word(self, word: str, is_child: bool) -> _Expression:
        def before(after: _Node) -> _Node:
            node = _Node(after)
            node.word, node.is_child = word, is_child
            return node

        return before


def _any_of(expressions: list[_Expression]) -> _Expression:
    return expressions[0] if len(expressions) == 1 else lambda after: _Node(*[one(after) for one in expressions])


def _loop(item: _Expression, after: _Node) -> _Node:
    node = _Node()
    node.after = [item(node), after]
    return node


class Sentence:
    """The words read so far, and what may follow them."""

    def __init__(self, start: _Node) -> None:
        self._ways: list[tuple[_Node, _Path | None]] = []  # each waits for a word
        self._follow([(start, None)])

    def accepts(self) -> set[str]:
        """The types of tokens that may be next; END is among them where the sentence may end."""
        return {node.word for node, _ in self._ways}

    def feed(self, token: Token) -> bool:
        """Take the next token.  False: none of this type may be next, and it was not taken."""
        ways = [(node, path) for node, path in self._ways if node.word == token.type]
        if ways:
            self._follow([(after, (path, node, token)) for node, path in ways for after in node.after])
        return bool(ways)

    def _follow(self, todo: "list[tuple[_Node, _Path | None]]") -> None:
        """All nodes that wait for a word, from these on."""
        todo.reverse()
        self._ways, seen = [], set()
        while todo:
            node, path = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.word:
                self._ways.append((node, path))
            else:
                if node.begins or node.ends:
                    path = path, node, None
                todo += [(after, path) for after in reversed(node.after)]

    def tree(self) -> Tree:
        """Of a sentence that may end here."""
        path: _Path | None = next(path for node, path in self._ways if node.word == END)
        steps = []
        while path is not None:
            path, node, token = path
            steps.append((node, token))
        (tree,) = _build(reversed(steps))
        assert isinstance(tree, Tree)  # `start` has one child
        return tree


class _Unfinished:
    """A tree in the making."""

    def __init__(self) -> None:
        self.children: list[Tree | Token] = []
        self.first: Token | None = None


def _build(steps: Iterable[tuple[_Node, Token | None]]) -> list[Tree | Token]:
    """The trees that begin and end in `steps`, and the tokens outside of them."""
    outermost = _Unfinished()
    stack = [outermost]
    for node, token in steps:
        if token is not None:
            for tree in stack:
                tree.first = token if tree.first is None else tree.first
            if node.is_child:
                stack[-1].children.append(token)
        elif node.ends is None:
            stack.append(_Unfinished())
        else:
            tree = stack.pop()
            stack[-1].children += _finish(tree, node.ends)
    return outermost.children


def _finish(tree: _Unfinished, made: _Tree) -> list[Tree | Token]:
    if made.is_single and len(tree.children) == 1:
        return tree.children
    assert tree.first is not None  # no rule matches no words
    return [Tree(made.name, tree.children, tree.first.line, tree.first.column)]

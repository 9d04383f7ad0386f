"""Declared tables, and tables as operands: `<name>`, `"one"`, `{ a, b }`, `{ a = x, b = y }`.

Inline tables get the names <dynamic:0>, <dynamic:1> … in the order in which they are built.
"""

from lark import Token, Tree

from smtpd.config.build import value
from smtpd.config.build.diagnostics import Diagnostics, parts, value_of
from smtpd.config.build.names import Names
from smtpd.config.errors import quoted
from smtpd.config.model import Table

STATIC_BACKEND = "static"  # the same as "file"
BACKENDS_WITH_PATH = ("file", STATIC_BACKEND, "db", "passwd", "sqlite")


class TableBuilder:
    """`maybe_declare` a table that has a sentence, ask for the name of an `operand`, and take `all` at the end."""

    def __init__(self, diagnostics: Diagnostics, names: Names) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self._declared: dict[str, Table] = {}
        self._inline: list[Table] = []
        self.by_name: dict[str, Table] = {}

    @property
    def all(self) -> tuple[Table, ...]:
        return (*self._declared.values(), *self._inline)

    def maybe_declare(self, name: Token, content: Tree) -> Table | None:
        """table NAME { … } | /path | BACKEND[:/path]; None if it has an error."""
        self._diagnostics.value(value.name, name, "")
        if content.data == "list":
            table = self._listed(str(name), content)
        else:
            table = self._from_backend(str(name), value_of(content))
        if table:
            self.by_name[table.name] = self._declared.setdefault(table.name, table)
        return table

    def _from_backend(self, name: str, source: Token) -> Table | None:
        backend, colon, path = ("file", ":", str(source)) if source.startswith("/") else str(source).partition(":")
        if not colon and backend in BACKENDS_WITH_PATH:
            self._diagnostics.error(
                source, f"table backend {quoted(backend)} requires a path, such as {backend}:/etc/mail/{name or 'x'}"
            )
            return None
        backend = self._diagnostics.value(value.backend, source, "", text=backend)
        if not backend:
            return None
        if colon and not self._diagnostics.value(value.absolute_path, source, "", text=path):
            return None
        return Table(name, path=path if colon else None, backend="file" if backend == STATIC_BACKEND else backend)

    def _listed(self, name: str, content: Tree) -> Table | None:
        entries = [parts(entry) for entry in parts(content)]
        if len({len(entry) for entry in entries}) > 1:
            self._diagnostics.error(content, "list and mapping mixed, expected a value for each entry or for none")
            return None
        self._names.note_entries(name, [self._diagnostics.position(entry[0]) for entry in entries])
        if len(entries[0]) == 2:
            return Table(name, pairs=tuple((str(key), str(entry)) for key, entry in entries))
        return Table(name, entries=tuple(str(entry) for (entry,) in entries))

    def operand(self, table: Tree) -> str:
        """The name of the table; an inline one is added under a new name."""
        if table.data == "reference":
            return str(table.children[0])
        name = f"<dynamic:{len(self._inline)}>"
        self._names.note_table(name, self._diagnostics.position(table))
        if table.data == "one":
            self._names.note_entries(name, [self._diagnostics.position(table)])
            new: Table | None = Table(name, entries=(str(table.children[0]),))
        else:
            new = self._listed(name, table)
        self._inline.append(new or Table(name))
        if new:
            self.by_name[name] = new
        return name

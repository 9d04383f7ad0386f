"""The condition that a row of an envelope has to meet to be in a Selection: SQL and its values.

No text of a selection is part of the SQL: it is a value, and what LIKE would take for a wildcard is escaped.
"""

from collections.abc import Iterator

from smtpd.selection import Selection

ROWS_MAX = 20_000  # rows that one call looks at: some ten milliseconds, in which no attempt can read its envelope

_ESCAPED = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_", "*": "%", "?": "_"})


def condition(selection: Selection) -> tuple[str, list[str | int]]:
    terms, values = [], []
    for term, its_values in _terms(selection):
        terms.append(term)
        values += its_values
    return " AND ".join(["TRUE", *terms]), values


def _terms(selection: Selection) -> Iterator[tuple[str, list[str | int]]]:
    yield from _like(selection.senders, "sender")
    yield from _like(selection.recipients, "recipient", "destination")
    yield from _like(selection.errors, "error")
    if selection.actions:
        yield f"action IN ({', '.join('?' * len(selection.actions))})", [*selection.actions]
    yield "created BETWEEN ? AND ?", [selection.created_since, selection.created_until]
    flags = {"suspended": selection.suspended, "held": selection.held, "retries > 0": selection.tried}
    yield from ((flag if wanted else f"NOT ({flag})", []) for flag, wanted in flags.items() if wanted is not None)


def _like(patterns: list[str], *columns: str) -> Iterator[tuple[str, list[str | int]]]:
    if patterns:
        alternatives = [(column, like(pattern)) for pattern in patterns for column in columns]
        term = " OR ".join(f"{column} LIKE ? ESCAPE '\\'" for column, _ in alternatives)
        yield f"({term})", [value for _, value in alternatives]


def like(pattern: str) -> str:
    """A pattern of a selection as one of SQL."""
    return pattern.translate(_ESCAPED)

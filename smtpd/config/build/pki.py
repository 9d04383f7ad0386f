"""pki NAME cert FILE key FILE dhe WORD, in one sentence or several; ca NAME cert FILE.

The certificates of the server, and the authorities that sign those of clients.  The files are not read here.
"""

from typing import Any

from lark import Token, Tree

from smtpd.config.build import tls_options, value
from smtpd.config.build.diagnostics import Diagnostics, value_of
from smtpd.config.build.names import Names
from smtpd.config.errors import Report, SourcePosition, quoted
from smtpd.config.model import Ca, Pki

FILES = ("cert", "key")


class PkiBuilder:
    def __init__(self, report: Report, diagnostics: Diagnostics, names: Names) -> None:
        self._report = report
        self._diagnostics = diagnostics
        self._names = names
        self._pki: dict[str, dict[str, Any]] = {}
        self._positions: dict[str, list[SourcePosition]] = {}
        self._ca: dict[str, Ca] = {}

    def add_pki(self, token: Token, *options: Tree) -> None:
        name = self._diagnostics.value(value.pki_name, token, "")
        said = self._pki.setdefault(name, {})
        self._positions.setdefault(name, []).append(self._diagnostics.position(token))
        for option in options:
            if option.data in said:
                self._diagnostics.error(option, f"duplicate {option.data} of pki {quoted(name)}")
            said[option.data] = self._pki_word(name, option)

    def _pki_word(self, name: str, option: Tree) -> str:
        token = value_of(option)
        if option.data in FILES:
            return self._file(name, token)
        return self._diagnostics.value(tls_options.dhe, token, "none")

    def add_ca(self, token: Token, file: Token) -> None:
        name = self._diagnostics.value(value.pki_name, token, "")
        self._ca.setdefault(name, Ca(name, self._file(name, file)))

    def _file(self, owner: str, token: Token) -> str:
        path = self._diagnostics.value(value.absolute_path, token, "")
        self._names.note_file(owner, path, self._diagnostics.position(token))
        return path

    def ca(self) -> tuple[Ca, ...]:
        return tuple(self._ca.values())

    def pki(self) -> tuple[Pki, ...]:
        """All of them, when all files are read.  One without a key or a certificate is an error, unless one of its
        sentences had an error, which may have named the file."""
        built = []
        for name, said in self._pki.items():
            missing = [file for file in FILES if file not in said]
            if missing and len(self._positions[name]) == self._names.declarations["pki", name]:
                self._report.add(self._positions[name][0], f"pki {quoted(name)} has no {' and no '.join(missing)}")
            built.append(Pki(name, **dict.fromkeys(FILES, "") | said))
        return tuple(built)

"""All that smtpctl and sendmail may import, imported: for a child that becomes a user who cannot reach the checkout or
the interpreter, as with a checkout below /root.  Many imports stand in functions, to be made when they are needed."""

import ast
import functools
import importlib
import pkgutil
import sys
from pathlib import Path

PACKAGES = ("smtpctl", "mail_local")
OURS = (*PACKAGES, "smtpd")


@functools.cache
def load_programs():
    """Once; what is imported by then stays."""
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    done = set()
    while todo := {name for name in sys.modules if name.partition(".")[0] in OURS} - done:
        for name in todo:
            for wanted in _imports(sys.modules[name]):
                importlib.import_module(wanted)
        done |= todo


def _imports(module):
    """Names of the modules in all import statements of its source."""
    tree = ast.parse(Path(module.__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module

"""Files that the interpreter and its libraries would open when they first need them: loaded before the sandbox.

A traceback reads source files and imports five modules on its way, a time of day reads the zone, a character set is a
module, a thread that is cancelled wants libgcc.  Behind a chroot these fail at the worst moment: while one bad mail is
being reported.
"""

import ast
import contextlib
import ctypes
import encodings.aliases
import encodings.ascii
import encodings.idna
import encodings.latin_1
import encodings.punycode
import encodings.raw_unicode_escape
import encodings.unicode_escape
import encodings.utf_8
import encodings.utf_8_sig
import importlib.machinery
import linecache
import os
import sys
import threading
import time
import tokenize
import traceback
import tracemalloc
import types
import unicodedata
import warnings
from functools import cache

_LOADED = (ast, tokenize, tracemalloc, unicodedata, warnings, encodings)


@cache
def rehearse() -> None:
    """Load what would be loaded late, while files can still be opened.  A process that forks sandboxed children does
    it once for all."""
    os.environ.setdefault("TZ", ":/etc/localtime")  # with TZ unset, glibc looks at that file for every time of day
    time.tzset()
    time.strftime("%c")
    with contextlib.suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1")
    for source in ("a.b", "len.b", "import nothing.of.this.name", "from os import nosuch", "a +", "1 + 'ä'"):
        try:
            exec(compile(source, "<rehearsal>", "exec"), {})
        except Exception as error:
            # The traceback of each kind of error imports what it needs for it, inside of functions.
            "".join(traceback.format_exception(error))
    linecache.clearcache()


def import_nothing_more() -> None:
    """An import that is still to come is a ModuleNotFoundError, an unknown character set a LookupError, without a look
    at the disk."""
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter]


def keep_tracebacks_off_the_disk() -> None:
    """A traceback names file, line and function, and does not show the line."""
    linecache.updatecache = lambda filename, module_globals=None: []
    linecache.checkcache = lambda filename=None: None
    # The built-in hooks are written in C and look for the source on their own.
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _print_unraisable
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _print_of_thread


def _print(_kind: type[BaseException], error: BaseException | None, _trace: types.TracebackType | None) -> None:
    if error is not None and sys.stderr is not None:
        traceback.print_exception(error)


def _print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if sys.stderr is not None:
        print(f"{unraisable.err_msg or 'Exception ignored in'}: {unraisable.object!r}", file=sys.stderr)
    _print(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)


def _print_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit:
        _print(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

"""`smtpd …` is the parent; `smtpd -x ROLE` is the process of that name, which the parent has started."""

import gc
import importlib
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from smtpd import PRODUCT, VERSION

if TYPE_CHECKING:
    from smtpd.parent.start.option import Options


def main() -> int:
    # An import leaves nothing to collect, and a collection traverses all that is loaded: a tenth of a start.
    gc.disable()
    run = load(sys.argv[1:])
    gc.freeze()  # what is loaded now stays
    gc.enable()
    return run()


def load(arguments: list[str]) -> Callable[[], int]:
    """Import the process that `arguments` name, and nothing that only another one needs; what is to be called."""
    import_msgspec()
    from smtpd.imsg import ROLES

    match arguments:
        case ["-x", "config", *rest]:
            from smtpd.config import process as config

            return partial(config.main, rest)
        case ["-x", "nursery"]:
            # The only place that knows all: the nursery forks agents without importing another process.
            from smtpctl import offline_submission
            from smtpd.agent import process as agent
            from smtpd.nursery import process as nursery

            return partial(nursery.main, agent.prepare, offline_submission.OfflineSubmission)
        case ["-x", "password"]:
            from smtpd.password import process as password

            return password.main
        case ["-x", role] if role in ROLES:
            main: Callable[[], int] = importlib.import_module(f"smtpd.{role}.process").main
            return main
        case _:
            return load_command(arguments)


def import_msgspec() -> None:
    """Where typing_extensions happens to be installed, msgspec would take two names from it that `typing` has as well:
    a tenth of what a process loads, `inspect` and `ast` with it."""
    hidden = sys.modules.pop("typing_extensions", None)
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # an import of it fails
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]
    if hidden is not None:
        sys.modules["typing_extensions"] = hidden


def load_command(arguments: list[str]) -> Callable[[], int]:
    """The parent, or what an administrator asks of a configuration."""
    from smtpd.parent.start.option import USAGE, UsageError, read_options

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to put in order before the start begins
    try:
        options = read_options(arguments)
    except UsageError as error:
        print(f"smtpd: {error}\n{USAGE}", end="", file=sys.stderr)
        return lambda: 1
    if options.help or options.version:
        print(USAGE if options.help else f"{PRODUCT} {VERSION}\n", end="")
        return lambda: 0
    if not (options.check_only or options.explain):
        from smtpd.parent import process as parent

        return partial(parent.main, options)
    from smtpd.config import configtest
    from smtpd.ipc.signal_disposition import reset_signals

    reset_signals()
    if options.explain:
        return partial(explain, options)
    return partial(
        configtest.configtest, options.configuration, options.macros, options.verbose, options.insecure_paths
    )


def explain(options: "Options") -> int:
    """`smtpd -n --explain`: lookup's own code, with an agent's way to a .forward."""
    from smtpd.agent.explain_forward import read_forward
    from smtpd.config.configtest import maybe_configure
    from smtpd.lookup import explain as lookup

    made = maybe_configure(options.configuration, options.macros, options.insecure_paths)
    return 1 if made is None else lookup.explain(made.slices.lookup, options.explain, read_forward)


if __name__ == "__main__":
    sys.exit(main())

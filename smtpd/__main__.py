"""`smtpd …` is the parent; `smtpd -x ROLE` is the process of that name, which the parent has started."""

import importlib
import signal
import sys
from typing import TYPE_CHECKING

from smtpd import PRODUCT, VERSION
from smtpd.imsg import ROLES
from smtpd.ipc.signal_disposition import reset_signals

if TYPE_CHECKING:
    from smtpd.parent.start.option import Options


def main() -> int:
    match sys.argv[1:]:
        case ["-x", "config", *arguments]:
            from smtpd.config import process as config

            return config.main(arguments)
        case ["-x", "nursery"]:
            # The only place that knows both: the nursery forks agents without importing another process.
            from smtpd.agent import process as agent
            from smtpd.nursery import process as nursery

            return nursery.main(agent.prepare)
        case ["-x", "password"]:
            from smtpd.password import process as password

            return password.main()
        case ["-x", role] if role in ROLES:
            return importlib.import_module(f"smtpd.{role}.process").main()
        case arguments:
            return start(arguments)


def start(arguments: list[str]) -> int:
    from smtpd.parent.start.option import USAGE, UsageError, read_options

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to put in order before the start begins
    try:
        options = read_options(arguments)
    except UsageError as error:
        print(f"smtpd: {error}\n{USAGE}", end="", file=sys.stderr)
        return 1
    if options.help or options.version:
        print(USAGE if options.help else f"{PRODUCT} {VERSION}\n", end="")
        return 0
    if not (options.check_only or options.explain):
        from smtpd.parent import process as parent

        return parent.main(options)
    reset_signals()
    if options.explain:
        return explain(options)
    from smtpd.config import configtest

    return configtest.configtest(options.configuration, options.macros, options.verbose, options.insecure_paths)


def explain(options: "Options") -> int:
    """`smtpd -n --explain`: lookup's own code, with an agent's way to a .forward."""
    from smtpd.agent.explain_forward import read_forward
    from smtpd.config.configtest import maybe_configure
    from smtpd.lookup import explain as lookup

    made = maybe_configure(options.configuration, options.macros, options.insecure_paths)
    return 1 if made is None else lookup.explain(made.slices.lookup, options.explain, read_forward)


if __name__ == "__main__":
    sys.exit(main())

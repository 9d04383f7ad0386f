"""config -- one shot: reads the configuration for the parent, says what each process has to know, and is gone.

    parent --argv--> config --ConfigurationParsed | ConfigurationRefused--> parent

It reads the file as whoever started it, becomes a user without rights, and only then looks at the machine (interfaces,
names, addresses) and parses.  What the file includes is opened by that user, so it has to be readable for it.

SECURITY
    Reads what root wrote, and the resolver's answers about names in it.  It cannot be pledged, as the C library does
    whatever the system's name service wants; it has the deny filter of all descendants, no capability, its own uid but
    for lookup's, and sees files for reading only.  Taken over, it could give the daemon another configuration: it is
    the one process that the parent believes.
"""

import getopt
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from setproctitle import setproctitle

from smtpd import sandbox
from smtpd.boot import PARENT
from smtpd.config import macro, parser, trust
from smtpd.config.errors import ConfigErrors
from smtpd.config.host import this_host
from smtpd.config.resolve.slice_encoding import PARENT as PARENT_ROLE
from smtpd.config.resolve.slice_encoding import encode_slices
from smtpd.config.resolve.slicing import slice_config
from smtpd.imsg import REPORT_LINE, REPORT_LINES, TABLE, ConfigurationParsed, ConfigurationRefused
from smtpd.ipc.channel import Channel, ChannelClosed
from smtpd.ipc.log import log, take_tracebacks, visible
from smtpd.sandbox import seccomp
from smtpd.slice import Slices
from smtpd.tables.text_file import read_file

USER = "_smtpl"
PLEDGE = "stdio rpath inet unix dns"  # where the system's resolver keeps to it


@dataclass(frozen=True)
class Configuration:
    """A file, and what was made of it."""

    parsed: parser.Parsed
    slices: Slices
    encoded: dict[str, bytes]  # the slices, by role
    warnings: tuple[str, ...]


def configure(
    path: str,
    text: str,
    macros: dict[str, str],
    read: Callable[[str], str],
    check: Callable[[parser.Parsed], None] | None = None,
) -> Configuration:
    """`text` is what `path` holds, `read` is for everything else.  `check` adds to the report of what was parsed, also
    where that has errors already.  Raises ConfigErrors, OSError or ValueError."""
    host = this_host()
    parsed = parser.parse_with_report(path, text=text, macros=macros, read=read)
    sliced = slice_config(parsed, host, read, check)
    return Configuration(parsed, sliced.slices, encode_slices(path, sliced.slices), sliced.warnings)


def main(arguments: list[str]) -> int:
    setproctitle("smtpd: config")
    take_tracebacks(log)
    channel = Channel(socket.socket(fileno=PARENT), TABLE, "config", "parent")
    options, _ = getopt.getopt(arguments, "f:D:", ["insecure-paths"])
    path = dict(options)["-f"]
    macros = dict(macro.split(value) for option, value in options if option == "-D")
    read = file_reader(("--insecure-paths", "") in options)
    answer: ConfigurationParsed | ConfigurationRefused
    try:
        text = read(path)
        included = explain_denial(read)
        missing = confine()
        made = configure(path, text, macros, included)
        slices = dict(made.encoded)
        answer = ConfigurationParsed(slices.pop(PARENT_ROLE), slices, truncate_lines([*missing, *made.warnings]))
    except ConfigErrors as errors:
        answer = ConfigurationRefused(truncate_lines(list(map(str, errors.errors))))
    except (OSError, ValueError, sandbox.SandboxUnavailable) as error:
        answer = ConfigurationRefused(truncate_lines([f"{path}: {reason(error)}"]))
    return send(channel, answer)


def file_reader(insecure_paths: bool) -> Callable[[str], str]:
    """As root only what root wrote; asked once, as whoever was root stays as strict when it is no more."""
    return read_file if insecure_paths or os.geteuid() != 0 else trust.read_text


def explain_denial(read: Callable[[str], str]) -> Callable[[str], str]:
    """What may not be read is so because of whom we have become: say it."""

    def read_and_explain(path: str) -> str:
        try:
            return read(path)
        except PermissionError as error:
            raise PermissionError(error.errno, f"user {USER} has to be able to read it") from None

    return read_and_explain if os.geteuid() == 0 else read


def confine() -> list[str]:
    """Become nobody in particular; returns what this machine could not give."""
    everything_for_reading = [("/", "r")]
    held = sandbox.enter(USER, None, PLEDGE, unveil=everything_for_reading, program=seccomp.compile_denials())
    return [f"sandbox of config: {line}" for line in held if line.startswith("missing: ") and "(not root)" not in line]


def truncate_lines(lines: Sequence[str]) -> list[str]:
    """As much as a log, and the imsg, has room for."""
    more = [f"and {len(lines) - REPORT_LINES} more"] if len(lines) > REPORT_LINES else []
    return [visible(line)[:REPORT_LINE] for line in lines[:REPORT_LINES]] + more


def send(channel: Channel, answer: ConfigurationParsed | ConfigurationRefused) -> int:
    channel.send(answer)
    try:
        channel.flush_within(None)
    except ChannelClosed:
        return 1  # the parent has given up
    return 0


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

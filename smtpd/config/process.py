"""config -- one shot: reads the configuration for the parent, answers with the slice of each process, and ends.

    parent --argv--> config --ConfigurationParsed | ConfigurationRefused--> parent

It reads the file as the user who started the daemon, becomes an unprivileged user, and only then parses and looks at
the machine (interfaces, names, addresses).  Included files are opened by that user, so it must be able to read them.

SECURITY
    Reads what root wrote, and the resolver's answers about names in it.  It cannot be pledged, as the name service
    decides which system calls the C library makes; it has the deny filter of all descendants, no capability, the uid of
    lookup, and sees files for reading only.  Taken over, it could give the daemon another configuration: it is the one
    process that the parent believes.
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
from smtpd.ipc.os_error import error_text
from smtpd.sandbox import seccomp
from smtpd.slice import Slices
from smtpd.tables.text_file import read_file

USER = "_smtpl"
PLEDGE = "stdio rpath inet unix dns"  # on OpenBSD, whose resolver keeps to it


@dataclass(frozen=True)
class Configuration:
    """A parsed file, and the slices made from it."""

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
    """The slices for the configuration `text`, the content of `path`; `read` reads all other files.  `check` may add to
    the report, also if that has errors already.  Raises ConfigErrors, OSError or ValueError."""
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
        answer = ConfigurationRefused(truncate_lines([f"{path}: {error_text(error)}"]))
    return send(channel, answer)


def file_reader(insecure_paths: bool) -> Callable[[str], str]:
    """The function that reads files; for root, only files that root alone can write.  Chosen while the process is still
    root, and as strict afterwards."""
    return read_file if insecure_paths or os.geteuid() != 0 else trust.read_text


def explain_denial(read: Callable[[str], str]) -> Callable[[str], str]:
    """`read`, with an error that names the unprivileged user if that user may not read the file."""

    def read_and_explain(path: str) -> str:
        try:
            return read(path)
        except PermissionError as error:
            raise PermissionError(error.errno, f"user {USER} has to be able to read it") from None

    return read_and_explain if os.geteuid() == 0 else read


def confine() -> list[str]:
    """Become the unprivileged user, sandboxed; returns the protections that this machine lacks."""
    everything_for_reading = [("/", "r")]
    held = sandbox.enter(USER, None, PLEDGE, unveil=everything_for_reading, program=seccomp.compile_denials())
    return [f"sandbox of config: {line}" for line in held if line.startswith("missing: ") and "(not root)" not in line]


def truncate_lines(lines: Sequence[str]) -> list[str]:
    """At most REPORT_LINES lines of REPORT_LINE characters, as the imsg carries them."""
    more = [f"and {len(lines) - REPORT_LINES} more"] if len(lines) > REPORT_LINES else []
    return [visible(line)[:REPORT_LINE] for line in lines[:REPORT_LINES]] + more


def send(channel: Channel, answer: ConfigurationParsed | ConfigurationRefused) -> int:
    channel.send(answer)
    try:
        channel.flush_within(None)
    except ChannelClosed:
        return 1  # the parent has ended, or did not wait
    return 0

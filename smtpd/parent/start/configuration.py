"""The configuration: parsed by a process without rights, which answers with a slice for each role."""

import time

import msgspec

from smtpd.imsg import ROLES, ConfigurationParsed, ConfigurationRefused
from smtpd.ipc.log import log
from smtpd.parent.start.await_child import CannotStart
from smtpd.parent.start.bind import supported
from smtpd.parent.start.check import check_configured
from smtpd.parent.start.spawn import start_logged
from smtpd.parent.start.state import StartState
from smtpd.slice import ParentSlice

CONFIGURATION_TIMEOUT = 30.0  # seconds; names of listeners may have to be resolved


def read_configuration(state: StartState) -> dict[str, bytes]:
    """The slices of the six; our own is kept.  Raises CannotStart, with all errors; trust.Untrusted; OSError."""
    answer = _ask_parser(state)
    if isinstance(answer, ConfigurationRefused):
        raise CannotStart("\n".join(answer.errors))
    for warning in answer.warnings:
        log.warn(warning)
    if set(answer.slices) != set(ROLES):
        raise CannotStart("the configuration process did not answer for every role")
    configured = msgspec.msgpack.decode(answer.parent, type=ParentSlice)
    state.configuration = msgspec.structs.replace(configured, listeners=supported(configured.listeners))
    check_configured(state.options, state.configuration)
    return answer.slices


def _ask_parser(state: StartState) -> ConfigurationParsed | ConfigurationRefused:
    options = state.options
    arguments = ["-f", options.configuration]
    for name, value in options.macros.items():
        arguments += ["-D", f"{name}={value}"]
    if options.insecure_paths:
        arguments.append("--insecure-paths")
    parser = start_logged(state.logs, "config", arguments=tuple(arguments))
    try:
        state.answers.expect(parser, ConfigurationParsed, ConfigurationRefused)
        answer: ConfigurationParsed | ConfigurationRefused
        _, answer = state.answers.next_of([parser], time.monotonic() + CONFIGURATION_TIMEOUT)
        return answer
    finally:
        parser.kill()
        parser.wait()
        parser.channel.close()

"""Delivery by a command: runs the command line of an action with each mail on standard input.

    Deliver --> header --> loop? --> LOOP
                      \\-> sh -c LINE sh VALUE… --exit status--> DELIVERED | DEFERRED | FAILED, with its last lines

The command line comes from the configuration, or (expansion_target.py) from the user's own file.  Values that came by
mail are parameters of the shell, environment variables and standard input, never part of the line
(config/specifier.py, mail_local/command.py).

Each worker runs one command.  When queue closes the agent's socket the commands are killed, and queue will try their
mails again.
"""

import os
import re
import socket
from collections.abc import Callable
from functools import partial

from mail_local import command, trace
from mail_local.command import SHELL, CommandAbandoned, CommandVerdict
from smtpd.agent import mail
from smtpd.agent.maildir_path import recipient_account
from smtpd.agent.worker import Answer, TakenRequest, send_in_progress
from smtpd.config.specifier import Template, TemplateError, parse, values_of, wrap
from smtpd.envelope import Outcome
from smtpd.errand import TEXT_MAX, AgentSpec, Deliver, Request, Result
from smtpd.ipc.log import visible
from smtpd.ipc.os_error import describe_error

WORKERS_MAX = 7  # commands of one user at the same time
PATH = os.confstr("CS_PATH") or os.defpath
ENVIRONMENT_MAX = 1024  # characters in the value of a variable

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OUTCOMES = {
    CommandVerdict.DONE: Outcome.DELIVERED,
    CommandVerdict.LATER: Outcome.DEFERRED,
    CommandVerdict.NEVER: Outcome.FAILED,
}


def environment_of(errand: Deliver, user: str, home: str) -> dict[str, str]:
    """The whole environment of a command, with the variables that OpenSMTPD sets.  Raises TemplateError."""
    local, at, domain = errand.recipient.rpartition("@")
    environment = {
        "PATH": PATH,
        "DOMAIN": domain if at else "",
        "HOME": home,
        "ORIGINAL_RECIPIENT": errand.recipient,
        "RECIPIENT": errand.destination,
        "SHELL": SHELL,
        "LOCAL": local if at else domain,
        "LOGNAME": user,
        "USER": user,
        "SENDER": errand.sender,
    }
    if errand.extension:
        environment["EXTENSION"] = errand.extension
    if any(len(value) > ENVIRONMENT_MAX for value in environment.values()):
        raise TemplateError(f"environment variable of the command would exceed {ENVIRONMENT_MAX} characters")
    return {name: _CONTROL.sub("?", value) for name, value in environment.items()}


class CommandRunner:
    """Runs commands for one user: expands the line, makes the environment, judges the exit status."""

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.user = user
        self.home = home
        self.delimiter = spec.delimiter
        self._spec = spec

    def template(self, line: str) -> Template:
        """The parsed line, inside the action's wrapper if it has one.  Raises TemplateError."""
        inner = parse(line)
        return wrap(parse(self._spec.wrapper, wrapper=True), inner) if self._spec.wrapper else inner

    def values(self, errand: Deliver) -> dict[str, str]:
        """Raises maildir_path.HomeError."""
        user, home = recipient_account(self._spec, errand, self.user, self.home)
        return values_of(errand.sender, errand.recipient, errand.destination, user, home)

    def run(self, template: Template, errand: Deliver, descriptor: int, queue: socket.socket) -> Result:
        """Raises TemplateError, OSError, CommandAbandoned."""
        line, parameters = template.command(self.values(errand), self.delimiter)
        environment = environment_of(errand, self.user, self.home)
        content = mail.content_of(errand, descriptor, trace.added_lines(errand.sender, errand.recipient))
        ending = command.run(line, parameters, environment, content, hangup=queue)
        verdict, cause = command.judge(ending)
        text = _with_output(cause, ending.output) if cause else "Delivered"
        return Result(errand.envelope, _OUTCOMES[verdict], text)


def _with_output(cause: str, output: bytes) -> str:
    """Cause and output in one text of at most TEXT_MAX bytes; of the output as many of its last whole lines as fit."""
    lines = [visible(line) for line in output.decode(errors="replace").split("\n") if line]
    while lines:
        text = f"{cause}: {' / '.join(lines)}"
        if len(text.encode()) <= TEXT_MAX or len(lines) == 1:
            return text
        del lines[0]
    return cause


class OneMailExecutor:
    """Executor for kinds of agent whose workers deliver one mail at a time."""

    def __init__(self, queue: socket.socket, deliver: Callable[[Deliver, int], Result]):
        """`deliver` may raise TemplateError, OSError, CommandAbandoned."""
        self._queue = queue
        self._deliver = deliver

    def execute(self, batch: list[TakenRequest]) -> list[Answer]:
        try:
            for errand, _ in batch:
                send_in_progress(self._queue, errand)
            return [self._result(errand, descriptor) for errand, descriptor in batch if isinstance(errand, Deliver)]
        except CommandAbandoned:
            raise ConnectionAbortedError from None
        except TemplateError as error:  # another attempt would have the same addresses
            return mail.failed(batch, str(error))
        except OSError as error:
            return mail.deferred(batch, describe_error(error))
        except Exception as error:  # a defect in this code delays this mail, and no other mail of the user
            return mail.deferred(batch, mail.defect(error))
        finally:
            mail.close(batch)

    def _result(self, errand: Deliver, descriptor: int) -> Result:
        if trace.was_delivered_to(mail.header_of(errand, descriptor), errand.destination):
            return mail.loop(errand)
        return self._deliver(errand, descriptor)


class CommandAgent:
    """Agent kind that runs the command of an `mda` action."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = WORKERS_MAX
    BATCH_MAX = 1
    BATCH_BYTES = 1
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = True

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.visible_paths: list[tuple[str, str]] = []
        self.draining = False
        self._line = spec.target
        self._runner = CommandRunner(spec, user, home)

    def make_executor(self, queue: socket.socket, *_: object) -> OneMailExecutor:
        return OneMailExecutor(queue, partial(self._deliver, queue))

    def _deliver(self, queue: socket.socket, errand: Deliver, descriptor: int) -> Result:
        return self._runner.run(self._runner.template(self._line), errand, descriptor, queue)

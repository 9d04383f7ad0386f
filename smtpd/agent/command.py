"""Running the command of an action with each mail, on queue's word.

    Deliver --> header --> loop? --> LOOP
                      \\-> sh -c LINE sh VALUE… --exit status--> DELIVERED | DEFERRED | FAILED, with its last lines

The line is the administrator's, or, for a warrant, the user's own; what came by mail is in parameters of the shell, in
the environment, and on standard input (config/specifier.py, mail_local/command.py).

Each hand runs one command.  When queue parts with the agent they are killed: a command without an answer runs again.
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
from smtpd.agent.worker import Answer, TakenRequest, say_at_work
from smtpd.config.specifier import Template, TemplateError, parse, values_of, wrap
from smtpd.envelope import Outcome
from smtpd.errand import TEXT_MAX, AgentSpec, Deliver, Request, Result
from smtpd.ipc.log import visible
from smtpd.ipc.os_error import describe_error

WORKERS_MAX = 7  # commands of one user at the same time: reference 9.1
PATH = os.confstr("CS_PATH") or os.defpath
ENVIRONMENT_MAX = 1024  # characters of one value

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OUTCOMES = {
    CommandVerdict.DONE: Outcome.DELIVERED,
    CommandVerdict.LATER: Outcome.DEFERRED,
    CommandVerdict.NEVER: Outcome.FAILED,
}


def environment_of(errand: Deliver, user: str, home: str) -> dict[str, str]:
    """All of a command's environment: reference 9.1.  Raises Malformed."""
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
        raise TemplateError(f"longer than {ENVIRONMENT_MAX} characters: no variable for a command")
    return {name: _CONTROL.sub("?", value) for name, value in environment.items()}


class CommandRunner:
    """Whoever runs commands for one user, and how."""

    def __init__(self, post: AgentSpec, user: str, home: str):
        self.user = user
        self.home = home
        self.delimiter = post.delimiter
        self._post = post

    def template(self, line: str) -> Template:
        """In the action's wrapper, where it has one.  Raises Malformed."""
        inner = parse(line)
        return wrap(parse(self._post.wrapper, wrapper=True), inner) if self._post.wrapper else inner

    def values(self, errand: Deliver) -> dict[str, str]:
        """Raises Elsewhere."""
        user, home = recipient_account(self._post, errand, self.user, self.home)
        return values_of(errand.sender, errand.recipient, errand.destination, user, home)

    def run(self, template: Template, errand: Deliver, descriptor: int, queue: socket.socket) -> Result:
        """Raises Malformed, OSError, Parted."""
        line, parameters = template.command(self.values(errand), self.delimiter)
        environment = environment_of(errand, self.user, self.home)
        content = mail.content_of(errand, descriptor, trace.added_lines(errand.sender, errand.recipient))
        ending = command.run(line, parameters, environment, content, hangup=queue)
        verdict, cause = command.judge(ending)
        text = _with_output(cause, ending.output) if cause else "Delivered"
        return Result(errand.envelope, _OUTCOMES[verdict], text)


def _with_output(cause: str, output: bytes) -> str:
    """In one line of TEXT_MAX bytes: of the output its end, as far as there is room for whole lines."""
    lines = [visible(line) for line in output.decode(errors="replace").split("\n") if line]
    while lines:
        text = f"{cause}: {' / '.join(lines)}"
        if len(text.encode()) <= TEXT_MAX or len(lines) == 1:
            return text
        del lines[0]
    return cause


class OneMailExecutor:
    """The work of a hand that takes one mail at a time."""

    def __init__(self, queue: socket.socket, deliver: Callable[[Deliver, int], Result]):
        """`deliver` may raise Malformed, OSError, Parted."""
        self._queue = queue
        self._deliver = deliver

    def do(self, batch: list[TakenRequest]) -> list[Answer]:
        try:
            for errand, _ in batch:
                say_at_work(self._queue, errand)
            return [self._result(errand, descriptor) for errand, descriptor in batch if isinstance(errand, Deliver)]
        except CommandAbandoned:
            raise ConnectionAbortedError from None
        except TemplateError as error:  # the same the next time: reference 3
            return mail.failed(batch, str(error))
        except OSError as error:
            return mail.deferred(batch, describe_error(error))
        except Exception as error:  # a defect of ours costs this mail a delay, not the user's other mail
            return mail.deferred(batch, mail.defect(error))
        finally:
            mail.close(batch)

    def _result(self, errand: Deliver, descriptor: int) -> Result:
        if trace.was_delivered_to(mail.header_of(errand, descriptor), errand.destination):
            return mail.loop(errand)
        return self._deliver(errand, descriptor)


class CommandAgent:
    """The trade of an agent that runs its action's command."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = WORKERS_MAX
    BATCH = 1
    BATCH_BYTES = 1
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = True

    def __init__(self, post: AgentSpec, user: str, home: str):
        self.visible_paths: list[tuple[str, str]] = []
        self.draining = False
        self._line = post.target
        self._runner = CommandRunner(post, user, home)

    def work(self, queue: socket.socket, *_: object) -> OneMailExecutor:
        return OneMailExecutor(queue, partial(self._deliver, queue))

    def _deliver(self, queue: socket.socket, errand: Deliver, descriptor: int) -> Result:
        return self._runner.run(self._runner.template(self._line), errand, descriptor, queue)

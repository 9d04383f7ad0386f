"""The sandboxes: what holds for all processes, what each reports to hold, and the parent's own.

    deny                inherited by all processes, before there is one
    SandboxEntered      from each: what holds of its sandbox, and what is missing
    our own             once all others have answered

What is required and missing ends the start.  What is missing and not required is in the log, once for all processes
that lack the same.
"""

import os
import sys
import time

from smtpd import sandbox
from smtpd.errand import OFFLINE, OFFLINE_PROMISES, PROMISES
from smtpd.imsg import EnterSandbox, SandboxEntered, TakeSeccompFilter
from smtpd.ipc.log import PARENT_NAME, log
from smtpd.parent.child import Child
from smtpd.parent.start.await_child import CannotStart, flush
from smtpd.parent.start.certificates import directories
from smtpd.parent.start.spawn import find_common_layout
from smtpd.parent.start.state import StartState
from smtpd.sandbox import landlock, privilege

SANDBOX_TIMEOUT = 30.0  # seconds; queue waits up to 10 for the lock on its spool
PRIVILEGED_PORTS = 1024  # the first one that needs no privilege


def confine_all(state: StartState) -> None:
    """This holds for all descendants; without it, an event loop could use an io_uring, where no filter sees."""
    report(state, "all", sandbox.deny())
    reason = find_common_layout(sys.executable)
    if reason:
        log.warn(f"processes may share addresses in memory: {reason}")


def enter_sandbox(state: StartState, child: Child) -> None:
    """The last of what `child` is handed before it answers."""
    state.answers.expect(child, SandboxEntered)
    child.channel.send(EnterSandbox())
    flush(child)


def await_sandboxes(state: StartState) -> None:
    """Raises CannotStart for what is required and missing, or when a process does not answer in time."""
    deadline = time.monotonic() + SANDBOX_TIMEOUT
    waiting = list(state.children)
    while waiting:
        one, imsg = state.answers.next_of(waiting, deadline)
        report(state, one.title, [*imsg.held, *(f"missing: {line}" for line in imsg.missing)])
        waiting.remove(one)


def send_filters(nursery: Child) -> None:
    """What agents confine themselves with: each filter is compiled once."""
    for kind, promises in (*PROMISES.items(), (OFFLINE, OFFLINE_PROMISES)):
        if promises is None:
            continue
        try:
            filter = sandbox.compile(promises)
        except OSError:
            continue  # there is no libseccomp: the agents say so
        nursery.channel.send(TakeSeccompFilter(kind, filter))


def confine_ourselves(state: StartState) -> None:
    """All that root still has to do is to kill, to remove two files, to connect to syslog, to open keys and
    certificates, to make mailboxes, to list and remove offline mail, and to bind an address that is not there yet."""
    capabilities, places = ["kill"], [(os.path.dirname(state.paths.socket), "c")]
    places += [(directory, "r") for directory in directories(state.configured)]
    if state.offline is not None:
        places.append((state.paths.offline, "rc"))
    if any(listener.port < PRIVILEGED_PORTS for listener in state.late):
        capabilities.append("net_bind_service")
    if state.mailboxes is not None:
        capabilities += ["chown", "dac_override"]  # a new one is its user's, and an old one is not ours to open
        places.append((state.paths.mail, "rwc"))
    held = sandbox.limit_capabilities(capabilities)
    held += landlock.restrict(places)
    privilege.forbid_inspection()
    report(state, PARENT_NAME, [*held, "not dumpable"])


def report(state: StartState, name: str, held: list[str]) -> None:
    """One line for this process, in a verbose log; what is required and does not hold ends the start."""
    missing = [line.removeprefix("missing: ") for line in held if line.startswith("missing: ")]
    log.debug(f"sandbox of {name}: {', '.join(held) or 'nothing'}")
    if not missing:
        return
    state.missing.setdefault(tuple(missing), []).append(name)
    needed = [line for line in missing if sandbox.is_required(line)]
    if needed and state.configuration is not None and state.sandbox_required:
        raise CannotStart(f"sandbox of {name}: {needed[0]} is missing, and the sandbox is required")


def sum_up(state: StartState) -> None:
    """What no sandbox lacks is not worth more than a line; what some lack is, once for all that lack the same."""
    titles = [PARENT_NAME, *(one.title for one in state.children)]
    if not state.missing:
        log.info(f"sandbox: {len(titles)} processes confined, nothing is missing")
    for missing, names in state.missing.items():
        where = "all processes" if len(names) == len(titles) else ", ".join(names)
        log.warn(f"sandbox: missing in {where}: {', '.join(missing)}")

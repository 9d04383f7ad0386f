"""nursery -- root: forks, becomes a user, hands the socket up.  Nothing else.

    parent --LookUpUser, ForkAgent, KillAgent--> nursery --fork--> a child that asks NSS
           <--UserLookedUp, AgentForked, AgentEnded--    --fork--> an agent: that user, in its sandbox
           --ForkTableProgram-->  <--TableProgramForked, TableProgramEnded--      a program that answers for a table
           --SubmitOffline-->   <--OfflineSubmitted--    --fork--> the owner of a mail that was kept, in a sandbox
           --ForkPassword-->                                       the one-shot that asks PAM, which stays root

SECURITY
    Reads imsgs of the parent only: users' names, and paths and commands out of the configuration, which it does not
    look into.  Everything that may hang or read what others wrote (the name service, a home) is done by a child that
    has let go of all descriptors of ours.  It runs no command: an agent does, when it has become its user.
    Keeps the capabilities to become a user and to kill.  Taken over, it is any user; hence it has no configuration,
    no channel but the parent's, and so little code.
    Agents share a memory layout with each other and with the nursery, and with nothing else.
"""

import gc
import os
import signal
from contextlib import suppress
from functools import partial

from smtpd import boot, sandbox
from smtpd.imsg import (
    Begin,
    ForkAgent,
    ForkPassword,
    ForkTableProgram,
    KillAgent,
    LookUpUser,
    NurserySetVerbose,
    Stop,
    SubmitOffline,
    TakeOfflineDirectory,
    TakeSeccompFilter,
)
from smtpd.ipc.channel import Channel, Violation, owned, unexpected
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.nursery.child_main import PASSWORD_CAPABILITIES, Prepare, PrepareOffline
from smtpd.nursery.children import Children
from smtpd.sandbox import privilege
from smtpd.slice import OUR_USERS

# setpcap lets a child give up the rest for good, before it becomes a user.  What the child that asks PAM needs is kept
# even if there will be none, as nothing of the configuration comes here.  What can become any user gains little
# by it.
CAPABILITIES = ["setuid", "setgid", "setpcap", "kill", *PASSWORD_CAPABILITIES]
LOOK_UP_USER = "_smtpl"  # the user that a child becomes while it asks NSS: its answer goes to lookup in the end


def main(prepare: Prepare, offline: PrepareOffline) -> int:
    """`prepare` makes an agent, already as its user, and `offline` hands in a mail, already as its owner: this process
    imports nothing of either."""
    handed = boot.receive("nursery", None)
    loop = SelectorLoop()
    is_root = os.geteuid() == 0
    lookup_ids = sandbox.find_ids(LOOK_UP_USER) if is_root else None
    reserved_uids = sandbox.find_uids(OUR_USERS) if is_root else frozenset[int]()
    children = Children(loop, handed.parent, prepare, offline, lookup_ids, reserved_uids)
    handed.entered(confine())
    loop.on_signal(signal.SIGCHLD, children.reap)
    ChannelSet(loop).add(handed.parent, partial(from_parent, children), ended)
    loop.run_forever()
    return 0


def confine() -> list[str]:
    """What holds.  The deny filter is the parent's, and was inherited."""
    sandbox.rehearse()
    with suppress(OSError):  # without /proc; each child will say so
        sandbox.check_memory()
    gc.freeze()  # a child's garbage collection copies no page of what was there before
    held = sandbox.limit_capabilities(CAPABILITIES)
    privilege.forbid_inspection()
    if privilege.LINUX:
        privilege.die_with(os.getppid())
    return [*held, "not dumpable", "dies with its parent"]


def from_parent(children: Children, channel: Channel, imsg: object, descriptor: int | None) -> None:
    match imsg:
        case TakeSeccompFilter():
            children.take_seccomp_filter(imsg)
        case Begin():
            pass  # it began with its first request; there is none before
        case LookUpUser():
            children.look_up_user(imsg)
        case ForkAgent():
            children.fork_agent(imsg)
        case KillAgent():
            children.kill_agent(imsg)
        case ForkTableProgram():
            children.fork_program(imsg, owned(descriptor))
        case ForkPassword():
            children.fork_password(owned(descriptor))
        case TakeOfflineDirectory():
            children.offline.take_directory(imsg, owned(descriptor))
        case SubmitOffline():
            children.offline.submit(imsg)
        case NurserySetVerbose():
            log.verbose = imsg.verbose
        case Stop():
            children.stop()
        case _:
            unexpected("parent", imsg)


def ended(_channel: Channel, error: Exception) -> None:
    """Without a parent there is no nursery, and without a nursery no agent."""
    if isinstance(error, Violation):
        log.warn(f"fatal: {error}")
    log.flush()
    os._exit(1 if isinstance(error, Violation) else 0)

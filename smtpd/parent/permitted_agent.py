"""Which agent may be asked for, and what it is made for: our own slice of the configuration decides.

    duty        kind                        user                              it has
    READ        forward                     the recipient
    DELIVER     maildir mbox lmtp command   the action's user, else the       what the action says
                                            recipient
    FORWARDED   expansion-target            the recipient                     the action's wrapper
    ALIASED     expansion-target            the user of alias-commands        the wrapper, the alias files
    DISCARD     never an agent's

    A recipient is a user of the system, or, with a userbase whose uids count, of that userbase.
    expand-only has no mailboxes, forward-only no agent but the one that reads.

queue names a user, an action and a duty.  An unknown name is an answer; what our own code would not ask for, as
another user than the action's, is a Violation.
"""

from dataclasses import dataclass

from smtpd.envelope import Duty
from smtpd.errand import AgentSpec
from smtpd.imsg import ForkAgent, StartAgent
from smtpd.ipc.channel import Violation
from smtpd.slice import LMTP_USER, AgentSlice, Method, ParentSlice

KINDS = {Method.MBOX: "mbox", Method.MAILDIR: "maildir", Method.LMTP: "lmtp", Method.MDA: "command"}


class UnknownUser(Exception):
    """The action has a userbase, and that user is not in it."""


@dataclass(frozen=True)
class PermittedAgent:
    """An agent that may be asked for."""

    user: str
    account: tuple[int, int, str] | None  # uid, gid, home, where a userbase has them
    spec: AgentSpec
    share: tuple[str, str]  # the quota of agents that it counts for: a recipient's, or one action's

    def fork(self, request: int) -> ForkAgent:
        spec = self.spec
        return ForkAgent(
            request,
            self.user,
            self.account,
            spec.kind,
            spec.target,
            spec.wrapper,
            spec.junk,
            spec.rcpt_to,
            spec.delimiter,
            list(spec.files),
            spec.shared,
        )


class PermittedAgents:
    def __init__(self, configuration: ParentSlice):
        self._configuration = configuration
        self._actions = {action.name: action for action in configuration.actions}

    def get_permitted(self, asked: StartAgent) -> PermittedAgent:
        """Raises Violation, UnknownUser."""
        if asked.duty is Duty.READ:
            return self._reading(asked)
        action = self._get_action(asked)
        if action.method is Method.FORWARD_ONLY:
            raise _violation(asked, "an action that only forwards")
        if asked.duty is Duty.FORWARDED:
            return self._of_recipient(asked, action, self._warrant(action))
        if asked.duty is Duty.ALIASED:
            return self._aliased(asked, action)
        if asked.duty is Duty.DELIVER and action.method is not Method.EXPAND_ONLY:
            return self._delivering(asked, action)
        raise _violation(asked, "no agent's duty")

    def _get_action(self, asked: StartAgent) -> AgentSlice:
        action = self._actions.get(asked.action)
        if action is None:
            raise _violation(asked, "an action that is not configured")
        return action

    def _reading(self, asked: StartAgent) -> PermittedAgent:
        spec = AgentSpec("forward")
        if not asked.action:
            return PermittedAgent(asked.user, None, spec, (asked.user, ""))
        action = self._get_action(asked)
        if action.accounts is None:
            raise _violation(asked, "an action without users of its own")
        return self._of_recipient(asked, action, spec)

    def _delivering(self, asked: StartAgent, action: AgentSlice) -> PermittedAgent:
        spec = self._spec(action)
        runs_as = action.user or (LMTP_USER if action.method is Method.LMTP else "")
        return self._as_named(asked, runs_as, spec) if runs_as else self._of_recipient(asked, action, spec)

    def _aliased(self, asked: StartAgent, action: AgentSlice) -> PermittedAgent:
        if not self._configuration.alias_commands:
            raise _violation(asked, "commands of alias files, which are not allowed")
        spec = self._warrant(action, self._configuration.alias_files)
        return self._as_named(asked, self._configuration.alias_commands, spec)

    def _as_named(self, asked: StartAgent, user: str, spec: AgentSpec) -> PermittedAgent:
        if asked.user != user:
            raise _violation(asked, "which runs as another user")
        return PermittedAgent(user, None, spec, (user, asked.action))

    def _of_recipient(self, asked: StartAgent, action: AgentSlice, spec: AgentSpec) -> PermittedAgent:
        share = (asked.user, "")
        if action.accounts is None:
            return PermittedAgent(asked.user, None, spec, share)
        account = action.accounts.get(asked.user)
        if account is None:
            raise UnknownUser
        return PermittedAgent(asked.user, (account.uid, account.gid, account.home), spec, share)

    # -- what the agent has ------------------------------------------------------------

    def _spec(self, action: AgentSlice) -> AgentSpec:
        kind = KINDS[action.method]
        if kind == "lmtp" and action.target.startswith("/"):
            kind = "lmtp-unix"
        delimiter = self._configuration.sub_addr_delim
        shared = bool(action.user)
        return AgentSpec(kind, action.target, action.wrapper, action.junk, action.rcpt_to, delimiter, shared=shared)

    def _warrant(self, action: AgentSlice, files: tuple[str, ...] = ()) -> AgentSpec:
        delimiter = self._configuration.sub_addr_delim
        return AgentSpec("expansion-target", wrapper=action.wrapper, delimiter=delimiter, files=files)


def _violation(asked: StartAgent, why: str) -> Violation:
    return Violation(f'queue asks for an agent of {asked.user} to {asked.duty.name} by "{asked.action}": {why}')

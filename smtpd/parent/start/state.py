"""What there is of the daemon during its start, from the command line to Begin."""

import os
from dataclasses import dataclass, field

from smtpd.parent.child import Child
from smtpd.parent.cleanup import Cleanup
from smtpd.parent.start.activation import InheritedSockets
from smtpd.parent.start.await_child import ChildAnswers
from smtpd.parent.start.log_pipes import LogPipes, StderrLog
from smtpd.parent.start.option import Options
from smtpd.paths import Paths
from smtpd.slice import ListenerSlice, ParentSlice


@dataclass
class StartState:
    """What there is so far; each step of the start adds to it."""

    options: Options
    paths: Paths
    logs: StderrLog | LogPipes
    kernel_log: int | None
    inherited: InheritedSockets = field(default_factory=InheritedSockets)  # sockets of the service manager
    cleanup: Cleanup = field(default_factory=Cleanup)  # with the processes that run
    configuration: ParentSlice | None = None
    late: tuple[ListenerSlice, ...] = ()  # whose interface was not there when the others were bound
    mailboxes: int | None = None  # the mail directory, where an action needs it
    offline: int | None = None  # the directory of mail that was kept while the daemon did not run
    missing: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # what sandboxes lack, and which of them
    program_logs: dict[str, int] = field(default_factory=dict)  # by table, for the programs that answer for them

    def __post_init__(self) -> None:
        self.answers = ChildAnswers(self.children, self.kernel_log)

    @property
    def children(self) -> list[Child]:
        """The nursery first."""
        return self.cleanup.children

    @property
    def configured(self) -> ParentSlice:
        assert self.configuration is not None  # it has been read first of all
        return self.configuration

    @property
    def strict(self) -> bool:
        """What root reads has to be root's."""
        return os.geteuid() == 0 and not self.options.insecure_paths

    @property
    def sandbox_required(self) -> bool:
        """`sandbox required` or `optional`; a start as root requires it unless told otherwise."""
        said = self.configured.sandbox_required
        return os.geteuid() == 0 if said is None else said

"""The tasks of one dispatcher that have envelopes without a result, and how they get one."""

from collections import deque
from collections.abc import Iterable

from smtpd.envelope import Outcome, RelayResult
from smtpd.relay.action import RelayAction, Report, Return
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import HostRefused


class Tasks:
    def __init__(self, actions: list[RelayAction]):
        self._actions = actions
        self._tasks: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        self._tasks[task.id] = task

    def take(self, number: int) -> Task | None:
        """Forget a task."""
        return self._tasks.pop(number, None)

    def find(self, number: int) -> Task | None:
        return self._tasks.get(number)

    def withdraw(self, task: Task, envelope: int) -> None:
        """One of its envelopes is given back, untried."""
        task.envelopes.remove(envelope)
        self._actions.append(Return(task.id, (envelope,)))

    def keep_for_retry(self, task: Task) -> bool:
        """Give back what was withdrawn while the task was being sent.  Whether anything is left to send."""
        for envelope in sorted(task.withdrawn & task.envelopes):
            self.withdraw(task, envelope)
        task.withdrawn.clear()
        if task.is_over:
            self._tasks.pop(task.id, None)
        return not task.is_over

    def report(self, task: Task, results: Iterable[RelayResult]) -> None:
        """Results of envelopes of the task; one that has a result already keeps that."""
        new = task.settle(results)
        if new:
            self._actions.append(Report(task.id, new))
        if task.is_over:
            self._tasks.pop(task.id, None)

    def defer(self, task: Task, refusal: HostRefused, remote: str = "", uncertain: bool = False) -> None:
        self.conclude(task, refusal, Outcome.DEFERRED, remote, uncertain)

    def conclude(
        self, task: Task, refusal: HostRefused, outcome: Outcome, remote: str = "", uncertain: bool = False
    ) -> None:
        """One result for all envelopes of the task that have none."""
        text = f"{refusal.code} {refusal.enhanced} {refusal.text}"
        self.report(
            task,
            [
                RelayResult(envelope, outcome, text, refusal.code, refusal.enhanced, remote, uncertain)
                for envelope in sorted(task.envelopes)
            ],
        )

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Give tasks back, untried; a deque of them is empty afterwards."""
        for task in list(tasks):
            left = task.take_all()
            self._tasks.pop(task.id, None)
            if left:
                self._actions.append(Return(task.id, left))
        if isinstance(tasks, deque):
            tasks.clear()

"""Faults on order: a wrapper around a real store or spool that asks before each call whether it is to fail."""

from smtpd.queue.store.store import StoreBroken


class Faulty:
    """Passes every method on to `real`, after `faults[name](*arguments)`, which may raise.  `calls` is what worked."""

    def __init__(self, real):
        self.real = real
        self.faults = {}
        self.calls = []

    def __getattr__(self, name):
        found = getattr(self.real, name)
        if not callable(found):
            return found

        def call(*arguments):
            self.faults.get(name, lambda *_: None)(*arguments)
            result = found(*arguments)
            self.calls.append((name, *arguments))
            return result

        return call

    def called(self, name):
        """The arguments of each call of `name`."""
        return [arguments for called, *arguments in self.calls if called == name]


def refuse(kind, *messages):
    """A fault of `apply` for whatever has to do with `messages`; for everything when none is named."""

    def fault(changes):
        for change in changes:
            id = change.message.id if hasattr(change, "message") else change.envelope >> 32
            if id in messages or not messages:
                raise kind(f"message {id}")

    return fault


def broken(*_arguments):
    raise StoreBroken("Input/output error")


def times(count, kind):
    """A fault that goes away."""
    faults = [kind(f"fault {n}") for n in range(count)]

    def fault(*_arguments):
        if faults:
            raise faults.pop()

    return fault

"""Keys and certificates at the start: as at each later SIGHUP, and what cannot be used ends the start."""

import os
import time
from collections.abc import Sequence

from smtpd.ipc.channel import Channel, Violation
from smtpd.parent.certificate_file import CertificateFileError, open_files
from smtpd.parent.certificate_update import CertificateUpdate, Phase, report
from smtpd.parent.child import Child
from smtpd.parent.start.await_child import CannotStart, ChildAnswers, flush
from smtpd.slice import ParentSlice

STEP_TIMEOUT = 10.0  # seconds for one of them


def directories(configuration: ParentSlice) -> list[str]:
    """Where the files will be looked for, again and again: where they lie now, and where links to them lie.  That is
    enough where a link is bent to a new file beside the old one, or to one in a new directory below the link."""
    paths = [path for pki in configuration.pki for path in (pki.cert, pki.key)] + [ca.cert for ca in configuration.ca]
    found = [os.path.realpath(os.path.dirname(path)) for path in paths]
    found += [os.path.dirname(os.path.realpath(path)) for path in paths]
    return sorted({path for path in found if os.path.isdir(path)})


def update_at_start(configuration: ParentSlice, children: Sequence[Child], strict: bool, answers: ChildAnswers) -> None:
    """Raises CannotStart, with all that is wrong."""
    takers = {child.channel: child for child in children if child.role in ("crypto", "dispatcher")}
    crypto, *dispatchers = sorted(takers, key=lambda channel: channel.peer != "crypto")
    update = CertificateUpdate(configuration, crypto, dispatchers)
    while update.phase is not Phase.DONE:
        if update.subject is not None:
            try:
                update.send_files(open_files(update.subject, len(dispatchers), strict))
            except CertificateFileError as error:
                update.skip(str(error))
        _await_answers(update, takers, answers)
        update.proceed()
    if update.troubles:
        raise CannotStart("\n".join(update.troubles))
    if configuration.pki:
        report(update, configuration)


def _await_answers(update: CertificateUpdate, takers: dict[Channel, Child], answers: ChildAnswers) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT
    for channel, kind in update.asked.items():
        answers.expect(takers[channel], kind)
        flush(takers[channel])
    while update.asked:
        child, imsg = answers.next_of([takers[channel] for channel in update.asked], deadline)
        try:
            update.take(child.channel, imsg)
        except Violation as error:
            raise CannotStart(f"{child.title} broke the rules: {error}") from None

"""Signals as they come to a program, whatever it was started with.

    caller: SIGCHLD ignored, some blocked  --exec-->  reset_signals()  -->  none blocked, those we depend on default

Dispositions that are "ignore", and the mask, outlive exec (POSIX, exec).  Where SIGCHLD is ignored, no child can be
waited for: the kernel forgets its status, and a command that failed would look as if it had done its work.

Few imports: sendmail is started for every mail.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` adds to it is enums

# Set on purpose by the caller (nohup, a shell without job control), or ignored by Python itself.
_CALLERS = {
    number
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGPIPE", "SIGXFSZ")
    if (number := getattr(_signal, name, None)) is not None
}


def reset_signals(waited_for: tuple[int, ...] = ()) -> None:
    """None is ignored but those that the caller may have had a reason for, and none is blocked.

    `waited_for` are ignored for no reason, and stay blocked until they are handled: one that came before is kept.
    """
    for number in _signal.valid_signals() - (_CALLERS - {*waited_for}):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, waited_for)

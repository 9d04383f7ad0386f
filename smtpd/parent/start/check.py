"""What must hold before any process is started: the users exist, and only root can change what root uses.

Each raises CannotStart, trust.Untrusted or OSError.  Skipped when not started as root.
"""

import os
import sys

from smtpd import sandbox
from smtpd.config import trust
from smtpd.ipc.log import log
from smtpd.parent.start.await_child import CannotStart
from smtpd.parent.start.option import Options
from smtpd.paths import Paths
from smtpd.slice import LMTP_USER, PROGRAM_USER, ParentSlice

USERS = ("_smtpd", "_smtpl", "_smtpq", "_smtps", "_smtpc", "_smtpx", LMTP_USER, PROGRAM_USER)


def check_start(options: Options, places: Paths) -> None:
    """The code that root is about to run, and the configuration."""
    if os.geteuid() != 0:
        log.info("not root: all processes share a uid, recipients are this user only")
        if places.state is None:
            raise CannotStart("not root: say --state DIRECTORY")
        return
    _check_users()
    if options.insecure_paths:
        log.warn("insecure paths: code and files that root uses are not checked")
        return
    for entry in {os.path.abspath(entry) for entry in sys.path}:
        if os.path.exists(entry):
            trust.check_path(entry)
    trust.check_path(sys.executable)
    trust.check_tree(os.path.dirname(os.path.dirname(__file__)))
    trust.check_path(options.configuration)
    if places.state is not None:
        trust.check_own_directory(places.state)


def _check_users() -> None:
    """Each process has a uid of its own."""
    found: dict[int, str] = {}
    for name in USERS:
        ids = sandbox.find_ids(name)
        if ids is None:
            raise CannotStart(f"there is no user {name}: etc/setup.sh makes those that are missing")
        if ids.uid == 0 or ids.uid in found:
            raise CannotStart(f"user {name} has the uid of {found.get(ids.uid, 'root')}")
        found[ids.uid] = name


def check_configured(options: Options, configuration: ParentSlice) -> None:
    """The files that the configuration names, and the programs that answer for tables, with theirs."""
    if configuration.passwords and os.geteuid() != 0:
        log.warn("not root: PAM may be unable to check passwords of the system's users")
    if os.geteuid() == 0 and not options.insecure_paths:
        words = [word for program in configuration.programs for word in program.arguments]
        trust.check_named(configuration.files, words)


def check_reachable(options: Options, path: str) -> None:
    """Only root decides what is found under the name `path`.  Who may write into it is checked elsewhere."""
    if os.geteuid() == 0 and not options.insecure_paths:
        trust.check_path(os.path.dirname(os.path.realpath(path)))

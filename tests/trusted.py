"""Whether root may run this checkout: one that others may write to is tested all the same, and that is said."""

import os
import sys
from pathlib import Path

from smtpd.config import trust

TOP = Path(__file__).parent.parent


def why_untrusted():
    """What somebody else than root could change of what root runs here."""
    try:
        for path in {sys.executable, *(path for path in sys.path if Path(path).exists())}:
            trust.check_path(path)
        trust.check_tree(str(TOP / "smtpd"))
    except trust.Untrusted as error:
        return str(error)
    return None


UNTRUSTED = why_untrusted() if os.geteuid() == 0 else None
OPTIONS = ["--insecure-paths"] if UNTRUSTED else []  # of every start that is to succeed

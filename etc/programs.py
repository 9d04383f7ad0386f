"""Writes the programs of a virtual environment that are called often and live shortly: sendmail, smtpctl and others.

    VENV/bin/python etc/programs.py [CHECKOUT]

They start the interpreter without `site` (-S), which takes longer than a mail, and without what the environment of the
caller says to other interpreters (-I).  So they name the directories of the code themselves, and replace the scripts
that pip has made.  With CHECKOUT, the code is run there, and compiled now: a caller may not write there.
"""

import compileall
import os
import sys
import sysconfig
from pathlib import Path

NAMES = ("smtpctl", "sendmail", "send-mail", "mailq", "newaliases", "makemap")
PACKAGES = ("smtpd", "smtpctl", "mail_local")
LONGEST = 127  # bytes of a first line that every kernel reads

TEXT = """\
#!{interpreter} -IS
import sys

sys.path += {path}

from smtpctl.__main__ import main

sys.exit(main())
"""


def main(arguments: list[str]) -> None:
    checkout = os.path.abspath(arguments[0]) if arguments else None
    packages = sysconfig.get_path("purelib")
    if checkout:
        for package in PACKAGES:
            compileall.compile_dir(os.path.join(checkout, package), quiet=1)
    text = TEXT.format(interpreter=sys.executable, path=[checkout, packages] if checkout else [packages])
    if len(text.partition("\n")[0]) <= LONGEST:
        write(Path(sysconfig.get_path("scripts")), text)


def write(folder: Path, text: str) -> None:
    for name in NAMES:
        made = folder / f".{name}"
        made.write_text(text)
        made.chmod(0o755)
        made.rename(folder / name)


if __name__ == "__main__":
    main(sys.argv[1:])

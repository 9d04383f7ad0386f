"""smtpd: a privilege-separated mail server.  Each folder that is named in `process.py` files is a process or a room."""

VERSION = "0.1.0"
PRODUCT = "smtpd"

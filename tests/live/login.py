"""People who log in, with and without knowing the password, one by one or all at once.

Each comes from an address of its own: those that somebody has failed from are answered later and later.
"""

import base64
import itertools
import smtplib
import time
from concurrent.futures import ThreadPoolExecutor

from tests.live.encrypted import careless

_hosts = itertools.count(2)


def elsewhere():
    """An address that nobody has failed from."""
    number = next(_hosts)
    return f"127.1.{number >> 8}.{number & 255}"


def connect(port, source=None, address="127.0.0.1", smtps=True):
    where = {"local_hostname": "client.test", "timeout": 30, "source_address": (source or elsewhere(), 0)}
    if smtps:
        return smtplib.SMTP_SSL(address, port, context=careless(), **where)
    client = smtplib.SMTP(address, port, **where)
    client.starttls(context=careless())
    return client


def encode(*parts):
    return base64.b64encode("\0".join(parts).encode()).decode()


def plain(client, user, password):
    code, text = client.docmd("AUTH", f"PLAIN {encode('', user, password)}")
    return f"{code} {text.decode()}"


def login(client, user, password):
    client.docmd("AUTH", "LOGIN")
    client.docmd(encode(user))
    code, text = client.docmd(encode(password))
    return f"{code} {text.decode()}"


def attempt(port, user, password, mechanism=plain, source=None, address="127.0.0.1"):
    """The answer to the password.  Under TLS from the first byte on."""
    with connect(port, source, address) as client:
        client.ehlo()
        return mechanism(client, user, password)


def all_at_once(attempts):
    """Their answers, and how many seconds each took."""

    def timed(arguments):
        begun = time.monotonic()
        return attempt(*arguments), time.monotonic() - begun

    with ThreadPoolExecutor(len(attempts)) as pool:
        return list(pool.map(timed, attempts))


OK = "235 2.7.0 Authentication succeeded"
NO = "535 5.7.8 Authentication failed"
LATER = "454 4.7.0 Temporary authentication failure"

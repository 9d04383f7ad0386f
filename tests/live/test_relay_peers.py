"""Relaying to Postfix, Exim and OpenSMTPD, and from them: nothing is lost, and content stays as it is.

SMTPD_RELAY_MAILS: how many mails each way; 1000 is the long form.
"""

import base64
import collections
import email
import email.policy
import json
import os
import subprocess
import sys

import pytest

from tests.live import relay_peers
from tests.live.conftest import TOP
from tests.live.relay_peers import CONVERTED, PEERS
from tests.namespace import unshare

COUNT = int(os.environ.get("SMTPD_RELAY_MAILS", "30"))
TIME_MAX = 240 + COUNT  # seconds


@pytest.fixture(scope="module", params=PEERS)
def played(request, ground, users):
    peer = request.param
    if not PEERS[peer].TREE.exists():
        pytest.skip(f"{peer} is not here (tests/peers.sh)")
    directory = ground / f"relay-{peer}"
    directory.mkdir()
    namespaces = unshare("--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    command = [*namespaces, sys.executable, "-P", "-m", relay_peers.__name__, peer]
    order = json.dumps({"directory": str(directory), "peer": peer, "count": COUNT})
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        command, input=order, capture_output=True, text=True, cwd=TOP, env=environment, timeout=TIME_MAX
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    print(f"{peer}: {COUNT} mails each way in {result['seconds']:.1f} s")
    return peer, result


def decoded(content):
    message = email.message_from_bytes(content, policy=email.policy.SMTPUTF8)
    return [message[name] for name in ("X-Number", "Message-ID", "Subject")], message.get_content()


def test_no_mail_is_lost_or_doubled(played):
    _, result = played
    counts = {number: len(result["arrived"].get(number, ())) for number in result["sent"]}
    wrong = {number: (count, *result["sent"][number][:2]) for number, count in counts.items() if count != 1}
    assert not wrong, f"{wrong}\n{result['ours'][-6000:]}\n{result['theirs'][-6000:]}"


def test_content_is_the_same_byte_for_byte_where_nothing_had_to_be_converted(played):
    _, result = played
    changed = collections.Counter()
    for number, (case, _, sent) in result["sent"].items():
        before, after = (base64.b64decode(text) for text in (sent, result["arrived"][number][0]))
        if before.isascii() or case not in CONVERTED:
            assert after == before, (number, case)
        elif after != before:
            changed[number.partition("-")[0]] += 1
            assert after.isascii() and decoded(after) == decoded(before), (number, case)
    expected = {
        number.partition("-")[0]
        for number, (case, _, sent) in result["sent"].items()
        if case in CONVERTED and not base64.b64decode(sent).isascii()
    }
    assert set(changed) == expected


def test_a_host_whose_certificate_is_of_another_authority_gets_no_mail(played):
    _, result = played
    assert (
        "untrusted" not in str(result["arrived"].keys()) and "to=<bench-bob@untrusted.to.test>" not in result["theirs"]
    )
    lines = [line for line in result["ours"].splitlines() if "untrusted.to.test" in line and " mta delivery " in line]
    assert not [line for line in lines if 'result="Ok"' in line]


def test_requests_for_notices_reach_hosts_that_have_the_extension(played):
    peer, result = played
    told, asked = result["reports"]
    if PEERS[peer].REPORTS:
        assert told == asked

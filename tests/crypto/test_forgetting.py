"""What the memory of a process has of a key: nothing, once the key is forgotten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smtpd.parent.start.spawn import OVERWRITE_FREED_MEMORY
from tests.secret import found_in, numbers
from tests.tls.world import key, key_pem

TOP = Path(__file__).parent.parent.parent

# Turn by turn: it waits for a line after each.  A key is tried when it is taken, so it has signed.
CRYPTO = """
import sys
from smtpd.crypto.keyring import Keyring
from smtpd.tls.signing import Operation
waiting = []
ring = Keyring(lambda seconds, function: waiting.append(function))
for number, path in enumerate(sys.argv[1:]):
    with open(path, "rb") as file:
        public = ring.take(file.fileno())
    ring.use_taken()
    print("taken", flush=True)
    sys.stdin.readline()
for function in waiting:
    function()
assert list(ring.keys) == [public]
print("forgotten", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_a_key_that_is_forgotten_is_nowhere_in_memory(tmp_path, kind):
    keys = [key(kind, name) for name in ("old", "new")]
    paths = [tmp_path / name for name in ("old", "new")]
    for path, private in zip(paths, keys, strict=True):
        path.write_bytes(key_pem(private))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    more = {"cwd": TOP, "env": os.environ | OVERWRITE_FREED_MEMORY}
    with subprocess.Popen([sys.executable, "-c", CRYPTO, *map(str, paths)], **pipes, **more) as child:

        def at_its_next_word():
            assert child.stdout.readline()
            found = found_in(child.pid, *keys)
            child.stdin.write(b"\n")
            return {(keys[at], name) for at, name, form in found}

        old, new = ({(private, name) for name in numbers(private)} for private in keys)
        assert at_its_next_word() == old
        assert at_its_next_word() == old | new
        assert at_its_next_word() == new

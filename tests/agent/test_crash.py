"""Exactly once, whatever dies in between."""

import os
import subprocess
import sys
from pathlib import Path

from tests.agent.conftest import TOP


def test_agents_killed_at_any_moment_deliver_each_mail_exactly_once(tmp_path):
    script = Path(__file__).parent / "crash.py"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP)}
    command = [sys.executable, "-P", str(script), str(tmp_path), "30"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr

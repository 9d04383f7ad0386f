#!/bin/sh
# make test: everything that this machine can run; at the end, what it could not run and why.
#
#   as root          unit tests, the sandbox attacked from inside, the live daemon with its users; then a second set as an
#                    ordinary user
#   as anybody else  unit tests and the live daemon as that user
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy

if [ "$(id -u)" = 0 ]; then
    sh tests/peers.sh
    sh etc/setup.sh users
fi
"$python" -m pytest -rs tests "$@"
if [ "$(id -u)" = 0 ]; then
    echo "once more, as an ordinary user"
    sh tests/ordinary.sh
fi

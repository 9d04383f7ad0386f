#!/bin/sh
# make test: everything that this machine can run; at the end, what it could not run and why, and each part's result.
#
#   as root          unit tests, the sandbox attacked from inside, the live daemon with its users; then a second set as an
#                    ordinary user
#   as anybody else  unit tests and the live daemon as that user
#
# A part that fails stops no other part; the exit status is 0 when all have succeeded.
set -eu
umask 022
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d)
export TEST_RESULT="$work/result" # where tests/conftest.py puts the numbers
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM
results=
status=0

# What another user has left, as root after sudo make test, is not ours to write.
for cache in .mypy_cache .ruff_cache .pytest_cache .hypothesis .; do
    if [ -e $cache ] && [ ! -w $cache ]; then
        export MYPY_CACHE_DIR=/dev/null RUFF_NO_CACHE=true PYTEST_ADDOPTS="-p no:cacheprovider"
        export HYPOTHESIS_STORAGE_DIRECTORY="$work/hypothesis"
    fi
done

# title command...
part() {
    title=$1
    shift
    : >"$TEST_RESULT"
    if "$@"; then
        verdict=passed
    else
        verdict=FAILED
        status=1
    fi
    results="$results
  $title: $verdict$(sed 's/^/: /' "$TEST_RESULT")"
}

part "ruff check" "$python" -m ruff check .
part "ruff format" "$python" -m ruff format --check .
part "mypy" "$python" -m mypy
if [ "$(id -u)" = 0 ]; then
    part "other mail programs" sh tests/peers.sh
    part "users of the processes" sh etc/setup.sh users
    part "tests as root" "$python" -m pytest -rfEs tests "$@"
    echo "once more, as an ordinary user"
    part "tests as an ordinary user" sh tests/ordinary.sh
else
    part "tests as $(id -un)" "$python" -m pytest -rfEs tests "$@"
fi
echo "make test:$results"
exit $status

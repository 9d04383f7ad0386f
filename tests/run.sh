#!/bin/sh
# make test: all tests that this machine can run; at the end, a list of the others with the reasons, and each part's
# result.
#
#   sh tests/run.sh [PYTEST OPTIONS]      make test
#   ROOM="queue smtp/test_line.py" …      only these rooms or files below tests/, and neither ruff nor mypy
#
#   as root          the live daemon with its users; then unit tests and the sandbox attacked from inside.  At the same
#                    time, shown afterwards, all that an ordinary user can run, as an ordinary user: the tests that do
#                    not depend on the user (tests/once.py) only there
#   as another user  unit tests and the live daemon as that user
#
# Each part runs its tests side by side, in WORKERS processes (one for each processor); the live tests in twice as many,
# as they wait half of the time.  A part that fails stops no other part; the exit status is 0 when all have succeeded.
set -eu
umask 022
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
export PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d)
export TEST_RESULT="$work/result" # tests/conftest.py writes the numbers there
clean_up() {
    for group in "$work"/*.group; do
        [ -e "$group" ] || continue
        first=$(cat "$group")
        kill -s TERM -- "-$first" 2>/dev/null || kill -s TERM "$first" 2>/dev/null || true # no group of its own yet
    done
    wait
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT HUP TERM
results=
status=0

# Caches of another user, such as root after sudo make test, are not writable.
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

# name command...: starts it in the background
start_beside() {
    name=$1
    shift
    TEST_RESULT="$work/$name.result" "$python" tests/beside.py "$@" >"$work/$name" 2>&1 &
    echo $! >"$work/$name.group"
}

# name: waits for its end; its output, its exit status
end_of() {
    ended=0
    wait "$(cat "$work/$1.group")" || ended=$?
    rm "$work/$1.group"
    cat "$work/$1"
    cat "$work/$1.result" >"$TEST_RESULT" 2>/dev/null || true
    return $ended
}

# pytest's arguments for $1 processes, each file in one of them, as its tests may share a daemon; in the order that
# tests/conftest.py gives them
side_by_side() {
    echo "-n $1 --dist loadfile --no-loadscope-reorder"
}

if [ -z "${ROOM:-}" ]; then
    part "ruff check" "$python" -m ruff check .
    part "ruff format" "$python" -m ruff format --check .
    start_beside mypy "$python" -m mypy
fi
workers=${WORKERS:-$(nproc)}
each=$(side_by_side "$workers")
waiting=$(side_by_side $((2 * workers)))
rooms=tests
# shellcheck disable=SC2086  # rooms and options are words
if [ -n "${ROOM:-}" ]; then
    rooms=$(printf 'tests/%s ' $ROOM)
fi
# Each process of each part collects the tests, and each daemon imports the code: compiled here, once for all of them, as
# an ordinary user may not write there.  pytest compiles a test in a way of its own, when it collects it.
if [ "$(stat -c %u .)" = "$(id -u)" ]; then
    "$python" -m compileall -q smtpd smtpctl mail_local || true
    # shellcheck disable=SC2086  # rooms are words
    env -u PYTHONDONTWRITEBYTECODE "$python" -m pytest -qq --collect-only -p no:cacheprovider $rooms >/dev/null 2>&1 || true
fi

# What is run once is run as root when there is no way to run it as an ordinary user.
ordinary_was_skipped() {
    grep -q '^skipped' "$TEST_RESULT"
}

# shellcheck disable=SC2086
if [ "$(id -u)" = 0 ]; then
    part "other mail programs" sh tests/peers.sh
    part "users of the processes" sh etc/setup.sh users
    if [ -z "${ROOM:-}" ]; then
        rooms="tests --ignore tests/live"
        start_beside ordinary sh tests/ordinary.sh $each "$@"
        echo "the live daemon, as root"
        part "live tests as root" "$python" -m pytest -rfEs $waiting tests/live "$@"
        part "mypy" end_of mypy
        echo "unit tests, as root"
        part "unit tests as root" env TEST_ONCE=without "$python" -m pytest -rfEs $each $rooms "$@"
        echo "as an ordinary user"
        part "tests as an ordinary user" end_of ordinary
    else
        part "tests as root" env TEST_ONCE=without "$python" -m pytest -rfEs $waiting $rooms "$@"
        echo "as an ordinary user"
        part "tests as an ordinary user" sh tests/ordinary.sh $waiting "$@"
    fi
    if ordinary_was_skipped; then
        part "the others, as root" env TEST_ONCE=only "$python" -m pytest -rfEs $each $rooms "$@"
    fi
else
    part "tests as $(id -un)" "$python" -m pytest -rfEs $waiting $rooms "$@"
    [ -n "${ROOM:-}" ] || part "mypy" end_of mypy
fi
echo "make test:$results"
exit $status

#!/bin/sh
# The second set of tests, started by root: the tests that an ordinary user can run, as a new ordinary user.
#
#   sh tests/ordinary.sh [PYTEST OPTIONS]      all of them
#   ROOM="queue smtp/test_line.py" …           those of these rooms or files below tests/
#
# The interpreter or the checkout may lie below a directory that only root enters (/root/…).  Then a mount namespace of
# our own makes that directory accessible to all users, at the same path; the system is not changed.
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
user=smtpd-try-$$
home=/var/tmp/$user
# shellcheck disable=SC2046  # words
set -- $(printf 'tests/%s ' ${ROOM:-}) "$@"

useradd --home-dir "$home" --create-home --skel /nonexistent --shell /bin/sh "$user"
remove_user() {
    for process in /proc/[0-9]*; do
        [ "$(stat -c %U "$process" 2>/dev/null)" != "$user" ] || kill -9 "${process#/proc/}" 2>/dev/null || true
    done
    userdel -r "$user" 2>/dev/null || true
}
trap remove_user EXIT
trap 'exit 130' HUP INT TERM

base=$("$python" -c 'import sys; print(sys.base_prefix)')
export base user home python
status=0
sh tests/unshare.sh sh -eu -c '
    become="setpriv --reuid=$user --regid=$user --clear-groups"

    # Each directory on the path $1 that the user may not enter is replaced with an accessible one of the same content.
    show() {
        way=
        for step in $(echo "$1" | tr / " "); do
            way=$way/$step
            $become test -x "$way" && continue
            aside=$(mktemp -d -p "$home")
            mount --bind "$way" "$aside"
            mount -t tmpfs -o mode=755 tmpfs "$way"
            for entry in "$aside"/* "$aside"/.[!.]*; do
                shown=$way/${entry##*/}
                if [ -d "$entry" ] && [ ! -L "$entry" ]; then mkdir "$shown"; else [ -f "$entry" ] && : >"$shown" || continue; fi
                mount --bind "$entry" "$shown"
            done
        done
    }
    show "$base"
    show "$PWD"
    if ! $become test -r tests/ordinary.sh; then
        echo "skipped: the files of this checkout are readable by root only" | tee "$home/result"
        exit 0
    fi
    exec env -i HOME="$home" PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        HYPOTHESIS_STORAGE_DIRECTORY="$home/hypothesis" TEST_RESULT="$home/result" \
        $become "$python" -m pytest -rfEs -p no:cacheprovider --basetemp "$home/tmp" "$@"
' sh "$@" || status=$?
[ -z "${TEST_RESULT:-}" ] || cat "$home/result" >"$TEST_RESULT" || true
exit $status

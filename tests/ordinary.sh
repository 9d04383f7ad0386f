#!/bin/sh
# The second set of tests: as root, become an ordinary user and run what an ordinary user can.
#
#   sh tests/ordinary.sh [PYTEST ARGUMENTS]      everything, if nothing is said
#
# The interpreter may lie below a directory that only root enters (/root/…).  Then a mount namespace of our own shows it
# to everybody at the same path; nothing of the system changes.
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
user=smtpd-try-$$
[ $# -gt 0 ] || set -- tests

useradd --home-dir "/var/tmp/$user" --create-home --skel /nonexistent --shell /bin/sh "$user"
trap 'pkill -9 -u "$user" || true; userdel -r "$user" 2>/dev/null || true' EXIT

base=$("$python" -c 'import sys; print(sys.base_prefix)')
export base user python
unshare --mount sh -eu -c '
    become="setpriv --reuid=$user --regid=$user --clear-groups"
    home=$(getent passwd "$user" | cut -d: -f6)
    if ! $become test -x "$base/bin"; then
        shown=$home/interpreter
        mkdir "$shown"
        mount --bind "$base" "$shown"
        top=/$(echo "$base" | cut -d/ -f2)
        mount -t tmpfs -o mode=755 tmpfs "$top"
        mkdir -p "$base"
        mount --bind "$shown" "$base"
    fi
    exec env -i HOME="$home" PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        HYPOTHESIS_STORAGE_DIRECTORY="$home/hypothesis" \
        $become "$python" -m pytest -rs -p no:cacheprovider --basetemp "$home/tmp" "$@"
' sh "$@"

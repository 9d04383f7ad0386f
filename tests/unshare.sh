#!/bin/sh
# Runs a command in its own namespaces, with one of mounts: its mounts are not visible outside.  As root.
#
#   sh tests/unshare.sh [OPTIONS OF unshare(1)] COMMAND...
#
# unshare --mount makes all mounts private, beginning with /.  In a chroot / may be no mount point, so that it refuses.
# There each visible mount is made private; a bind mount of / shows whether the mount of / itself is shared.
set -eu

if unshare --mount true 2>/dev/null; then
    exec unshare --mount "$@"
fi

exec unshare --mount --propagation unchanged sh -euc '
    place=$(mktemp -d)
    mount --bind "$place" "$place"
    shared=$(grep -F " $place " /proc/self/mountinfo | grep -c " shared:") || true
    umount "$place"
    rmdir "$place"
    if [ "$shared" != 0 ]; then
        echo "unshare.sh: / is no mount point, and mounts made here would be seen outside" >&2
        exit 1
    fi
    cut -d " " -f 5 /proc/self/mountinfo | while read -r point; do
        mount --make-private "$(printf %b "$point")"
    done
    exec unshare --mount --propagation unchanged "$@"
' sh "$@"

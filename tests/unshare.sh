#!/bin/sh
# A command in namespaces of its own, that of mounts among them: no mount that it makes is seen outside.  As root.
#
#   sh tests/unshare.sh [OPTIONS OF unshare(1)] COMMAND...
#
# unshare --mount makes all mounts private, beginning with /.  In a chroot / may be no mount point, so that it refuses.
# There each mount that can be seen is made private; whether the one that / lies in is shared, a bind mount of it shows.
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

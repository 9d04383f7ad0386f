#!/bin/sh
# A command in namespaces of its own, that of mounts among them: no mount that it makes is seen outside.  As root.
#
#   sh tests/unshare.sh [OPTIONS OF unshare(1)] COMMAND...
#
# unshare --mount makes all mounts private, beginning with /.  In a chroot / may be no mount point, so that it refuses;
# there it is looked whether any mount is shared with others at all.
set -eu

if unshare --mount true 2>/dev/null; then
    exec unshare --mount "$@"
fi

# A bind mount is shared if what it shows is.
unshare --mount --propagation unchanged sh -euc '
    place=$(mktemp -d)
    mount --bind "$place" "$place"
    shared=$(grep -c " shared:" /proc/self/mountinfo) || true
    umount "$place"
    rmdir "$place"
    if [ "$shared" != 0 ]; then
        echo "unshare.sh: / is no mount point, and mounts made here would be seen outside" >&2
        exit 1
    fi
'
exec unshare --mount --propagation unchanged "$@"

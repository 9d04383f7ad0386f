#!/bin/sh
# Creates the users and directories that smtpd needs before its first start.  As root; skips what exists, and prints
# each step.
#
#   sh etc/setup.sh           users, spools, empty directory
#   sh etc/setup.sh users     the users only
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin # su does not change PATH

if [ "$(id -u)" != 0 ]; then
    echo "etc/setup.sh makes users and system directories: run it as root" >&2
    exit 1
fi

# Each process has a uid of its own: with a shared one they could signal and limit each other.
add_user() {
    getent passwd "$1" >/dev/null && return 0
    echo "making user and group $1 ($2)"
    if command -v useradd >/dev/null; then
        getent group "$1" >/dev/null || groupadd --system "$1"
        useradd --system --gid "$1" --no-create-home --home-dir /nonexistent --shell "$nologin" --comment "$2" "$1"
    else
        addgroup -S "$1" 2>/dev/null || true
        adduser -S -D -H -h /nonexistent -s "$nologin" -G "$1" -g "$2" "$1"
    fi
}

# path owner mode: its parent directory must exist; an existing directory is left unchanged
add_directory() {
    [ -d "$1" ] && return 0
    echo "making directory $1 (owner $2, mode $3)"
    mkdir -m 0700 "$1"
    chown "$2" "$1"
    chmod "$3" "$1"
}

nologin=$(command -v nologin || echo /usr/sbin/nologin)
add_user _smtpd "smtpd dispatcher"
add_user _smtpl "smtpd lookup"
add_user _smtpq "smtpd queue"
add_user _smtps "smtpd scheduler"
add_user _smtpc "smtpd crypto"
add_user _smtpx "smtpd control"
add_user _smtpm "smtpd delivery over LMTP"
add_user _smtpf "smtpd filters and table programs"
[ "${1:-}" = users ] && exit 0

add_directory /var/empty root:root 0755
add_directory /var/spool/smtpd _smtpq:_smtpq 0700
# Mail that is handed in while smtpd does not run: any user may make a file, and only root may list them.
add_directory /var/spool/smtpd-offline root:root 1733

#!/bin/sh
# make install and make uninstall, on a system that may be changed: tests/fresh.sh calls it in a new one.
#
#   sh tests/installed.sh USER      USER receives a mail
#
# The installed daemon accepts a mail from the installed sendmail and delivers it; no other user can write to files that
# root runs; afterwards the system is as before, except for the files that uninstall says it leaves.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
user=$1
work=$(mktemp -d)
library=/usr/local/lib/smtpd

listing() {
    find /usr /etc -xdev ! -name '*.pyc' ! -name __pycache__ | sort >"$work/$1"
}
fail() {
    echo "installed: $1" >&2
    exit 1
}
wait_for() { # seconds command...
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "in vain: $*"
        sleep 1
    done
}
is_gone() {
    ! kill -0 "$1"
}

make venv
sh etc/setup.sh users
listing before
make install
make install >"$work/again" # over an existing installation
others=$(find $library /usr/local/sbin/smtpd /etc/smtpd.conf /etc/aliases -perm /022 ! -type l)
[ -z "$others" ] || fail "writable by others: $others"

smtpd -n
mkdir "$work/state"
cat >"$work/smtpd.conf" <<CONF
listen on socket
action "local" maildir
match from local for local action "local"
CONF
chmod 644 "$work/smtpd.conf"
smtpd -d -f "$work/smtpd.conf" >"$work/log" 2>&1 &
daemon=$!
wait_for 60 smtpctl show status
printf 'Subject: installed\n\nThis one came by sendmail.\n' | sendmail "$user"
wait_for 60 grep -rq 'This one came by sendmail' "$(getent passwd "$user" | cut -d: -f6)/Maildir/new"
! make uninstall || fail "uninstalled under a running daemon"
kill "$daemon"
wait_for 60 is_gone "$daemon"

echo '# mine' >>/etc/smtpd.conf
make uninstall
[ -e /etc/smtpd.conf ] || fail "a changed /etc/smtpd.conf is gone"
rm /etc/smtpd.conf
listing after
diff "$work/before" "$work/after" || fail "something is left, or gone"
! make uninstall 2>/dev/null || fail "uninstalled twice"

make install prefix="$work/prefix" >/dev/null
make uninstall prefix="$work/prefix" >/dev/null
[ ! -e "$work/prefix" ] || fail "something is left in a prefix of its own: $(find "$work/prefix")"
rm -rf "$work"
echo "installed: made, used and taken away"

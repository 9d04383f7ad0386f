#!/bin/sh
# make uninstall: takes away what make install has put below $prefix and /etc.  As root, with the same prefix.
#
# What may be yours stays and is named: a configuration that was changed, the queue, and the users.
set -eu
cd "$(dirname "$0")/.."
prefix=${prefix:-/usr/local}
prefix=${prefix%/} # as it stands in the list of what is installed
library=$prefix/lib/smtpd
units=/etc/systemd/system

if [ "$(id -u)" != 0 ]; then
    echo "make uninstall removes from $prefix and /etc: run it as root" >&2
    exit 1
fi
if [ ! -f "$library/installed" ]; then
    echo "nothing of smtpd is installed below $prefix (there is no $library/installed); say prefix= as at make install" >&2
    exit 1
fi

# Where the prefix is another user's, so may be the list; whatever it says, root removes nothing elsewhere.
if [ -z "$(find "$library/installed" -prune -type f -user root)" ]; then
    echo "$library/installed is not root's own file: nothing is removed" >&2
    exit 1
fi
while read -r path; do
    case $path in
    */../* | */..) ;;
    "$prefix"/*) continue ;;
    esac
    echo "$library/installed names $path, which is not below $prefix: nothing is removed" >&2
    exit 1
done <"$library/installed"

is_ours() { # unit
    [ -f "$units/$1" ] && grep -q "^ExecStart=$prefix/sbin/smtpd" "$units/smtpd.service" 2>/dev/null
}
if is_ours smtpd.service && command -v systemctl >/dev/null; then
    systemctl disable --quiet --now smtpd.socket smtpd.service 2>/dev/null || true
fi
pid=$(cat /var/run/smtpd.pid 2>/dev/null || true)
if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    echo "smtpd is running, pid $pid: stop it first (kill $pid)" >&2
    exit 1
fi

remove() {
    echo "removing $1"
    rm -rf "$1"
}
for unit in smtpd.socket smtpd.service; do
    ! is_ours $unit || remove $units/$unit
done
! command -v systemctl >/dev/null || systemctl daemon-reload 2>/dev/null || true
directories=
while read -r path; do
    case $path in
    */)
        directories="$path
$directories"
        continue
        ;;
    esac
    # A link that leads elsewhere is another mail server's by now.
    if [ -L "$path" ] && [ "$(readlink "$path")" != "$library/bin/${path##*/}" ]; then
        echo "$path is not smtpd's any more, and stays"
    else
        remove "$path"
    fi
done <"$library/installed"
remove "$library"
echo "$directories" | while read -r path; do
    [ -z "$path" ] || rmdir "$path" 2>/dev/null || true # others may use it by now
done

for file in smtpd.conf aliases pam.d/smtpd; do
    if [ -e /etc/$file ] && cmp -s /etc/$file etc/$file; then
        remove /etc/$file
    elif [ -e /etc/$file ]; then
        echo "/etc/$file stays: it is not as make install puts it there"
    fi
done
if [ -L /usr/sbin/sendmail ] && [ "$(readlink /usr/sbin/sendmail)" = "$prefix/sbin/sendmail" ]; then
    echo "/usr/sbin/sendmail leads to nothing now: rm /usr/sbin/sendmail"
fi
rmdir /var/spool/smtpd 2>/dev/null || [ ! -e /var/spool/smtpd ] ||
    echo "/var/spool/smtpd stays, and mail that is in there: rm -r /var/spool/smtpd"
for user in _smtpd _smtpl _smtpq _smtps _smtpc _smtpx _smtpm _smtpf; do
    ! getent passwd $user >/dev/null || echo "user $user stays: userdel $user"
done

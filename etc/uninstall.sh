#!/bin/sh
# make uninstall: removes the files that make install has installed below $prefix and /etc.  As root, with the same
# prefix.
#
# A changed configuration, the queue and the users stay, and are listed.
set -eu
cd "$(dirname "$0")/.."
prefix=${prefix:-/usr/local}
prefix=${prefix%/} # as in the list of installed files
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

# The list may belong to another user, as the prefix may; whatever it says, root removes nothing outside of the prefix.
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
    # A link to another program now belongs to another mail server.
    if [ -L "$path" ] && [ "$(readlink "$path")" != "$library/bin/${path##*/}" ]; then
        echo "$path is not smtpd's any more, and stays"
    else
        remove "$path"
    fi
done <"$library/installed"
remove "$library"
echo "$directories" | while read -r path; do
    [ -z "$path" ] || rmdir "$path" 2>/dev/null || true # other programs may have files in it by now
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
rmdir /var/spool/smtpd-offline 2>/dev/null || [ ! -e /var/spool/smtpd-offline ] ||
    echo "/var/spool/smtpd-offline stays, and mail that is in there: rm -r /var/spool/smtpd-offline"
for user in _smtpd _smtpl _smtpq _smtps _smtpc _smtpx _smtpm _smtpf; do
    ! getent passwd $user >/dev/null || echo "user $user stays: userdel $user"
done

#!/bin/sh
# make install: a virtual environment of its own below $prefix/lib/smtpd, commands, manual pages, a first smtpd.conf and
# aliases, a PAM service, and the systemd units where there is a systemd.  As root.  prefix=/usr/local unless set;
# existing configuration stays.  $prefix/lib/smtpd/installed lists the files outside of that directory, for make
# uninstall.
set -eu
umask 022
cd "$(dirname "$0")/.."
prefix=${prefix:-/usr/local}
prefix=${prefix%/} # as in the list of installed files
library=$prefix/lib/smtpd

if [ "$(id -u)" != 0 ]; then
    echo "make install writes to $prefix and /etc: run it as root" >&2
    exit 1
fi

sh etc/setup.sh

# Not this checkout's environment: root runs the code, so root must own it and every directory on its path.
python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
echo "making $library with $python"
before=$(cat "$library/installed" 2>/dev/null || true)
directories=
for directory in "" /lib /sbin /bin /libexec /libexec/smtpd /share /share/doc /share/doc/smtpd \
    /share/man /share/man/man5 /share/man/man8; do
    # Only directories that did not exist before the first make install are listed.
    if [ ! -d "$prefix$directory" ] || echo "$before" | grep -qxF "$prefix$directory/"; then
        mkdir -p "$prefix$directory"
        directories="$directories$prefix$directory/
"
    fi
done
rm -rf "$library"
"$python" -m venv "$library"
"$library/bin/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -r requirements.lock
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
.venv/bin/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$wheel" .
"$library/bin/python" -m pip install -q --disable-pip-version-check --no-deps "$wheel"/*.whl
"$library/bin/python" etc/programs.py

printf '%s' "$directories" >"$library/installed"
installing() {
    echo "installing $1"
    echo "$1" >>"$library/installed"
}
link() {
    [ -e "$library/bin/$1" ] || return 0
    ln -sf "$library/bin/$1" "$2"
    installing "$2"
}
link smtpd "$prefix/sbin/smtpd"
link smtpctl "$prefix/sbin/smtpctl"
link makemap "$prefix/sbin/makemap"
link newaliases "$prefix/bin/newaliases"
# Other mail servers have programs of these names: existing files that are not ours stay.
for name in sbin/sendmail sbin/send-mail bin/mailq; do
    ours=$library/bin/${name#*/}
    if { [ -e "$prefix/$name" ] || [ -L "$prefix/$name" ]; } && [ "$(readlink "$prefix/$name")" != "$ours" ]; then
        echo "$prefix/$name belongs to another mail server, and stays"
    else
        link "${name#*/}" "$prefix/$name"
    fi
done
if [ ! -e /usr/sbin/sendmail ]; then
    echo "many programs look for /usr/sbin/sendmail: ln -s $prefix/sbin/sendmail /usr/sbin/sendmail"
elif [ "$(readlink -f /usr/sbin/sendmail)" != "$(readlink -f "$library/bin/sendmail")" ]; then
    echo "programs that call /usr/sbin/sendmail do not reach smtpd: that belongs to another mail server"
fi
for program in mail.local mail.maildir mail.lmtp mail.mda mail.mboxfile; do
    link $program "$prefix/libexec/smtpd/$program"
done

for page in man/*.[58]; do
    directory=$prefix/share/man/man${page##*.}
    install -m 0644 "$page" "$directory/"
    installing "$directory/${page##*/}"
done
for file in laptop.conf server.conf; do
    install -m 0644 "etc/$file" "$prefix/share/doc/smtpd/"
    installing "$prefix/share/doc/smtpd/$file"
done

for file in smtpd.conf aliases; do
    [ ! -e /etc/$file ] || continue
    install -m 0644 etc/$file /etc/$file
    echo "installing /etc/$file"
    [ $file != aliases ] || echo "say in it who reads root's mail, and so postmaster's; until then it is refused"
done
if [ -d /etc/pam.d ] && [ ! -e /etc/pam.d/smtpd ]; then
    install -m 0644 etc/pam.d/smtpd /etc/pam.d/smtpd
    echo "installing /etc/pam.d/smtpd"
fi
if [ -d /etc/systemd/system ]; then
    sed "s|/usr/local/sbin/smtpd|$prefix/sbin/smtpd|" etc/smtpd.service >/etc/systemd/system/smtpd.service
    install -m 0644 etc/smtpd.socket /etc/systemd/system/smtpd.socket
    chmod 0644 /etc/systemd/system/smtpd.service
    echo "installing /etc/systemd/system/smtpd.service and smtpd.socket; to begin: systemctl enable --now smtpd"
fi

# Remove the files that an earlier version has installed and this one has not.
echo "$before" | while read -r path; do
    case $path in
    '' | */ | */../* | */..) continue ;;
    "$prefix"/*) ;;
    *) continue ;; # whatever the list says, root removes nothing outside of the prefix
    esac
    grep -qxF "$path" "$library/installed" || rm -f "$path"
done

#!/bin/sh
# make run: a trial on 127.0.0.1:2525, in the foreground, for the users of this machine.
#
#   as root               in the system's places, with the users of etc/setup.sh
#   as an ordinary user   everything below ./.run, for this user only
#
# Whose checkout this is, and who else may write to it, is not asked (--insecure-paths).
set -eu
cd "$(dirname "$0")/.."
top=$PWD
python=$top/.venv/bin/python
port=2525
case $top in *[[:space:]]*) echo "the path of this checkout has a blank in it: $top" >&2 && exit 1 ;; esac

# Root never receives mail, so somebody else has to: who became root, or the first ordinary user, or a new one.
find_recipient() {
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        echo "$SUDO_USER"
        return
    fi
    getent passwd | awk -F: '$3 >= 1000 && $3 < 60000 { print $1 ":" $3 ":" $6 }' |
        while IFS=: read -r name uid home; do
            [ -d "$home" ] && [ "$(stat -c %u "$home")" = "$uid" ] && echo "$name" && break
        done
}

if [ "$(id -u)" = 0 ]; then
    sh etc/setup.sh
    recipient=$(find_recipient)
    if [ -z "$recipient" ]; then
        recipient=trymail
        echo "making user $recipient, without a password, as root never receives mail (userdel -r $recipient removes it)"
        useradd --create-home --shell /usr/sbin/nologin "$recipient"
    fi
    state=
else
    recipient=$(id -un)
    [ -d .run ] || echo "making directory $top/.run: spool, control socket and pid file of this trial"
    mkdir -p .run
    state="--state $top/.run"
fi
home=$(getent passwd "$recipient" | cut -d: -f6)

cat <<END

Send a mail, look at the queue, and see where it arrived:

  $python -c 'import smtplib; smtplib.SMTP("127.0.0.1", $port).sendmail("you@localhost", "$recipient@localhost", "Subject: hello\n\nIt works.\n")'
  $top/.venv/bin/smtpctl ${state:+$state }show queue
  cat $home/Maildir/new/*

^C stops it.

END
# shellcheck disable=SC2086  # two words or none
exec "$python" -m smtpd -d --insecure-paths $state -f "$top/etc/try.conf"

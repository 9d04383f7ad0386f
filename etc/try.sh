#!/bin/sh
# make run: a trial on 127.0.0.1:2525, or another PORT, in the foreground, for the users of this machine.
#
#   as root               in the system's directories, with the users of etc/setup.sh
#   as an ordinary user   everything below ./.run, for this user only
#   with another PORT     everything below ./.run-PORT, so that it can run at the same time as the first one
#
# The owner and the modes of the checkout are not checked (--insecure-paths).  The daemon creates the state directory,
# with the modes that it needs.
set -eu
umask 022
cd "$(dirname "$0")/.."
top=$PWD
python=$top/.venv/bin/python
usual=2525
port=${PORT:-$usual}
case $port in *[!0-9]*) echo "PORT=$port: expected a number" >&2 && exit 1 ;; esac

# Root never receives mail, so another user has to: the user who became root, or the first ordinary user, or a new one.
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

if [ "$port" != $usual ]; then
    state=$top/.run-$port
elif [ "$(id -u)" != 0 ]; then
    state=$top/.run
else
    state=
fi
if [ "$(id -u)" = 0 ]; then
    sh etc/setup.sh
    recipient=$(find_recipient)
    if [ -z "$recipient" ]; then
        recipient=trymail
        echo "making user $recipient, without a password, as root never receives mail (userdel -r $recipient removes it)"
        useradd --create-home --shell /usr/sbin/nologin "$recipient"
    fi
else
    recipient=$(id -un)
fi
[ -z "$state" ] || [ -d "$state" ] || echo "making directory $state: spool, control socket and pid file of this trial"
home=$(getent passwd "$recipient" | cut -d: -f6)

cat <<END

Send a mail, look at the queue, and see where it arrived:

  $python -c 'import smtplib; smtplib.SMTP("127.0.0.1", $port).sendmail("you@localhost", "$recipient@localhost", "Subject: hello\n\nIt works.\n")'
  $top/.venv/bin/smtpctl ${state:+--state $state }show queue
  cat $home/Maildir/new/*

^C stops it; make run PORT=2526 takes another port.

END
# shellcheck disable=SC2086  # two words or none
exec "$python" -m smtpd -d --insecure-paths ${state:+--state $state} -D trial_port="$port" -f "$top/etc/try.conf"

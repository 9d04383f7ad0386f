#!/bin/sh
# make fresh: the commands of the README on a new, minimal Debian 13 in a directory of its own.  As root.
#
#   sh tests/fresh.sh run     make run as an ordinary user and as root, with umask 0002 and 0022, below /root and
#                             elsewhere; each time a mail is sent with the printed command, and read, and ^C ends it
#                             (tests/trial.py); then make install and make uninstall (tests/installed.sh)
#   sh tests/fresh.sh test    make test as root and as an ordinary user with umask 0002
#   sh tests/fresh.sh         both; a step that fails stops no other, and each result is shown at the end
#
# debootstrap makes the new system in .cache/fresh/debian, with the packages that the README names and no others.  It is
# kept; each call works in a copy of it, in namespaces of its own, and removes the copy.  The settings that this machine
# needs to reach package archives are copied: resolv.conf, proxies, settings of apt, the configuration of pip with the
# files and directories that it names, and the certificates.  Where no new system can be made, the reason is printed,
# and the exit status is 0.
set -eu
umask 022
cd "$(dirname "$0")/.."
suite=trixie
user=visitor
python=$PWD/.venv/bin/python
fresh=$PWD/.cache/fresh
base=$fresh/debian
certificates=/etc/ssl/certs/ca-certificates.crt
proxies=$(env | grep -iE '^(http|https|no)_proxy=' || true)

skip() {
    echo "fresh: skipped: $1"
    exit 0
}

# -- a new system ------------------------------------------------------------------------------

bootstrap() {
    [ ! -d "$base" ] || return 0
    if ! command -v debootstrap >/dev/null; then
        command -v apt-get >/dev/null || skip "debootstrap is missing, and there is no apt-get to install it with"
        echo "fresh: installing debootstrap"
        install_debootstrap || { apt-get update -qq >/dev/null 2>&1 && install_debootstrap; } ||
            skip "debootstrap could not be installed"
    fi
    packages=$(sed -n 's/.*apt-get install \([a-z0-9 -]*\).*/\1/p' README.md | head -n 1 | tr ' ' ,)
    echo "fresh: making a Debian $suite with $packages, which takes a minute or two"
    rm -rf "$base.making"
    mkdir -p "$base.making"
    # shellcheck disable=SC2046  # one word or none
    debootstrap --variant=minbase --include="$packages" "$suite" "$base.making" $(archive) >"$fresh/log" 2>&1 ||
        skip "debootstrap failed: $(tail -n 1 "$fresh/log")"
    rm -f "$base.making"/var/cache/apt/archives/*.deb
    mv "$base.making" "$base"
}

install_debootstrap() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 \
        debootstrap >/dev/null 2>&1
}

# The Debian archive that apt uses here; empty if there is none: then debootstrap uses its own default.
archive() {
    apt-get indextargets --format '$(SITE)' 2>/dev/null | grep '/debian/*$' | sort -u | head -n 1 || true
}

# -- access to package archives -----------------------------------------------------------------

take_along() { # machine
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|ftp|ForceIPv|Retries|Check-)' \
        >"$1/etc/apt/apt.conf.d/90outside" || true
    pip_configuration >"$1/etc/pip.conf"
    named_in "$1/etc/pip.conf" | while read -r name; do
        show "$name" "$1"
    done
    mkdir -p "$1${certificates%/*}"
    cp -L "${SSL_CERT_FILE:-$certificates}" "$1$certificates" 2>/dev/null || true
}

# pip's settings on this machine, from files and the environment, as one file.
pip_configuration() {
    "$python" -m pip config list | "$python" -c '
import ast, sys
settings = {}
for line in sys.stdin:
    name, _, value = line.rstrip("\n").partition("=")
    section, _, key = name.rpartition(".")
    settings[section.replace(":env:", "global"), key] = ast.literal_eval(value)  # the environment comes last
for section in sorted({section for section, _ in settings}):
    print(f"[{section}]")
    for (its, key), value in settings.items():
        if its == section:
            print(key, "=", value.replace("\n", "\n    "))
'
}

# The files and directories in a pip.conf.  The files of an index may lie beside it, so all of its directory counts.
named_in() {
    sed -n 's/^[^=]* = //p; s/^    //p' "$1" | tr ' ' '\n' | sed -n 's,^file://\(/.*\)/[^/]*/*$,\1,p; /^\//p' | sort -u
}

# A file is copied, a directory is mounted read-only.
show() { # path machine
    if [ -f "$1" ]; then
        mkdir -p "$2${1%/*}"
        cp -L "$1" "$2$1"
    elif [ -d "$1" ] && [ ! -e "$2$1" ]; then
        mkdir -p "$2$1"
        mount --bind -o ro "$1" "$2$1"
    fi
}

# The mounts of a minimal machine: devices, no syslogd, / is no mount point.
mount_all() { # machine
    mount -t proc proc "$1/proc"
    mount -t sysfs sysfs "$1/sys" 2>/dev/null || mount --rbind /sys "$1/sys"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    for name in null zero full random urandom tty kmsg; do
        [ -e "/dev/$name" ] || continue
        : >"$1/dev/$name"
        mount --bind "/dev/$name" "$1/dev/$name"
    done
    mkdir "$1/dev/pts" "$1/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$1/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
    ln -s pts/ptmx "$1/dev/ptmx"
    ln -s /proc/self/fd "$1/dev/fd"
    for number in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${number%:*}" "$1/dev/${number#*:}"
    done
}

# -- steps in it ---------------------------------------------------------------------------------

# user umask directory command..., with the PATH of an ordinary user, and of root after su
as() {
    who=$1 mask=$2 place=$3
    shift 3
    home=/root
    [ "$who" = root ] || home=/home/$who
    # shellcheck disable=SC2016,SC2086  # expanded in there; a word for each
    chroot "$machine" setpriv --reuid="$who" --regid="$who" --init-groups \
        env -i HOME="$home" USER="$who" LOGNAME="$who" SHELL=/bin/sh TERM=xterm PATH=/usr/local/bin:/usr/bin:/bin \
        $proxies \
        sh -c 'ulimit -S -n 1024; umask "$1"; cd "$2"; shift 2; exec "$@"' sh "$mask" "$place" "$@"
}

# user umask directory: this checkout, as git would have written it for that user
check_out() {
    [ ! -d "$machine$3" ] || return 0
    case $2 in 0002) mode=ug=rwX,o=rX ;; *) mode=u=rwX,go=rX ;; esac
    as "$1" "$2" / mkdir -p "$3"
    tar --mode="$mode" --exclude-from=.gitignore --exclude='./.[!cgp]*' --exclude=./.git --exclude=./.cache -cf - . |
        as "$1" "$2" "$3" tar -xpf - --no-same-owner
}

# title user umask directory command...
step() {
    title="$1: as $2, umask $3, in $4"
    echo "fresh: $title"
    check_out "$2" "$3" "$4"
    shift
    if as "$@"; then
        results="$results
  $title: passed"
    else
        results="$results
  $title: FAILED"
        status=1
    fi
}

steps() { # half
    mount_all "$machine"
    take_along "$machine"
    results=
    status=0
    if [ "$1" != test ]; then
        step "make run" root 0022 /root/smtpd python3 tests/trial.py # there is no ordinary user yet
    fi
    as root 0022 / /usr/sbin/useradd --create-home --shell /bin/bash "$user"
    if [ "$1" != test ]; then
        step "make run" "$user" 0002 "/home/$user/smtpd" python3 tests/trial.py
        step "make run" "$user" 0022 "/home/$user/another" python3 tests/trial.py
        step "make run" root 0002 /srv/smtpd python3 tests/trial.py
        step "make install and uninstall" root 0002 /srv/smtpd sh tests/installed.sh "$user"
    fi
    if [ "$1" != run ]; then
        step "make test" root 0022 /root/smtpd make test
        step "make test" "$user" 0002 "/home/$user/smtpd" make test
    fi
    echo "fresh:$results"
    return $status
}

case ${1:-} in
inside)
    machine=$2
    steps "$3"
    exit
    ;;
'' | run | test) ;;
*)
    echo "usage: sh tests/fresh.sh [run | test]" >&2
    exit 2
    ;;
esac
[ -x "$python" ] || { echo "there is no $python: make fresh makes it" >&2 && exit 1; }
[ "$(id -u)" = 0 ] || skip "only root can make a new system"
unshare --mount --pid --fork sh -c 'for kind in proc tmpfs devpts; do mount -t $kind $kind /mnt || exit; done' 2>/dev/null ||
    skip "no namespaces with file systems of their own can be made here"
mkdir -p "$fresh"
probe=$(mktemp -d "$fresh/probe.XXXXXX")
trap 'rm -rf "$probe"' EXIT
trap 'exit 130' HUP INT TERM
"$python" -m pip download -q --retries 1 --no-deps --only-binary :all: --require-hashes --dest "$probe" \
    -r requirements-dev.lock >"$fresh/log" 2>&1 || skip "pip cannot fetch what is needed: $(tail -n 1 "$fresh/log")"
bootstrap
machine=$(mktemp -d "$fresh/machine.XXXXXX")
trap 'rm -rf --one-file-system "$probe" "$machine"' EXIT
cp -a "$base/." "$machine"
unshare --mount --pid --fork --kill-child sh tests/fresh.sh inside "$machine" "${1:-both}"

#!/bin/sh
# Other people's mail programs that the live tests and the bench talk to, fetched from Debian.
#
#   swaks, gdb, dovecot, mutt, s-nail   installed; services are not started; with Perl modules for TLS and some of AUTH
#   testssl.sh with socat, sslscan      likewise
#   haproxy                             likewise
#   msmtp, gsasl, curl                  likewise
#   unbound, knot                       likewise: a DNS of our own
#   ip, ss, openssl, strace             likewise: tools of the tests themselves
#   mailutils, reportbug                likewise; they call sendmail, as do:
#   cron, anacron, git-email, php, logwatch, smartmontools, mdadm
#                                       unpacked below .cache/peers: installed, some would bring services to this machine
#   postfix, opensmtpd, exim            unpacked below .cache/peers (they cannot be installed beside each other), with the
#                                       libraries that this machine lacks; not configured, not started, not in PATH
#
# Idempotent.  Prints each package that is installed or fetched, or cannot be; tests that need a missing one are
# skipped.
set -eu
cd "$(dirname "$0")/.."
peers=$PWD/.cache/peers

if ! command -v apt-get >/dev/null; then
    echo "peers: no apt-get here: what is installed is used, and no more"
    exit 0
fi

fresh=
refresh() {
    [ -n "$fresh" ] || apt-get update -qq >/dev/null 2>&1 || true
    fresh=yes
}

# A package that brings a service would start it, unless the system's policy says no.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    [ ! -e "$policy" ] || return 0
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
}

install_package() { # package program-that-proves-it
    command -v "$2" >/dev/null || install_debian "$1"
}

install_module() { # package module-of-Perl-that-proves-it
    perl -M"$2" -e 1 2>/dev/null || install_debian "$1"
}

install_debian() { # package
    [ "$(id -u)" = 0 ] || { echo "peers: $1 is missing, and only root can install it"; return 0; }
    echo "peers: installing $1"
    forbid_services
    for attempt in as-known refreshed; do
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$1" >/dev/null 2>&1 && return 0
        refresh
    done
    echo "peers: $1 could not be installed"
}

fetch() { # package directory
    (cd "$2" && apt-get download -qq "$1" >/dev/null 2>&1) && return 0
    refresh
    (cd "$2" && apt-get download -qq "$1" >/dev/null 2>&1)
}

unpack() { # package file-that-proves-it
    [ -e "$peers/$1/$2" ] || [ -L "$peers/$1/$2" ] && return 0
    echo "peers: fetching $1 into .cache/peers"
    making=$peers/$1.making
    rm -rf "$making" && mkdir -p "$making"
    if ! fetch "$1" "$making"; then
        echo "peers: $1 could not be fetched"
        rm -rf "$making"
        return 0
    fi
    for library in $(apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: \(lib.*\)/\1/p'); do
        dpkg -s "$library" >/dev/null 2>&1 || fetch "$library" "$making" || echo "peers: $library could not be fetched"
    done
    for archive in "$making"/*.deb; do
        dpkg -x "$archive" "$making" && rm "$archive"
    done
    rm -rf "${peers:?}/$1" && mv "$making" "$peers/$1"
}

# apt-get download as root becomes a user that must be able to write there; without that it warns and goes on
mkdir -p "$peers"
install_package swaks swaks
install_module libnet-ssleay-perl Net::SSLeay
install_module libauthen-sasl-perl Authen::SASL
install_module libauthen-ntlm-perl Authen::NTLM
install_package iproute2 ip
install_package openssl openssl
install_package strace strace
install_package gdb gdb
install_package dovecot-lmtpd /usr/lib/dovecot/lmtp
install_package mutt mutt
install_package s-nail s-nail
install_package testssl.sh testssl
install_package socat socat
install_package sslscan sslscan
install_package haproxy haproxy
install_package msmtp msmtp
install_package gsasl gsasl
install_package curl curl
install_package unbound unbound
install_package knot knotd
unpack postfix usr/sbin/smtp-source
unpack opensmtpd usr/sbin/smtpd
unpack exim4-daemon-light usr/sbin/exim4
install_package mailutils mail.mailutils
install_package reportbug reportbug
unpack cron usr/sbin/cron
unpack anacron usr/sbin/anacron
unpack git-email usr/lib/git-core/git-send-email
unpack libmailtools-perl usr/share/perl5/Mail/Address.pm
unpack logwatch usr/sbin/logwatch
unpack smartmontools usr/share/smartmontools/smartd_warning.sh
unpack mdadm usr/share/doc/mdadm
php=$(apt-cache depends php-cli 2>/dev/null | sed -n 's/^ *Depends: \(php[0-9.]*-cli\)$/\1/p')
[ -z "$php" ] || unpack "$php" usr/share/doc/"$php"

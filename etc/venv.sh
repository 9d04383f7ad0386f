#!/bin/sh
# Creates the virtual environment at $1, with every package pinned, from wheels only.
set -eu
umask 022
venv=$1
cd "$(dirname "$0")/.."

# Checked first: with a blank in the path, the first lines of the installed programs could not name their interpreter.
case $PWD in
*[[:space:]]*)
    echo "the path of this checkout has a blank in it: \"$PWD\"; move it to one without" >&2
    exit 1
    ;;
esac

for python in python3.13 python3.12 python3 python3.14; do
    # sys.executable rather than the name itself: a pyenv shim is a shell script, and the daemon runs the interpreter
    found=$("$python" -c 'import sys; sys.version_info >= (3, 12) and print(sys.executable)' 2>/dev/null) || continue
    [ -n "$found" ] && break
done
if [ -z "${found:-}" ]; then
    echo "smtpd needs Python 3.12 or newer; none of python3.13, python3.12, python3, python3.14 is" >&2
    exit 1
fi
if ! "$found" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing python3-venv, which Debian keeps apart from Python"
        apt-get install -qq -y python3-venv >/dev/null
    else
        echo "$found has no venv module; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi

# Prints the package that pip is working on, a line each.  The exit status of a pipe is that of its last command, so a
# file shows that pip has succeeded.
install() {
    { "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-color --no-deps "$@" &&
        touch "$venv/.installed"; } |
        sed -un -e 's/^Collecting \([^ ]*\).*/  \1/p' -e 's/^Processing .*\/\([^- ]*\)-\([^- ]*\)-.*/  \1==\2/p' \
            -e 's/^\(Installing collected packages\):.*/  \1/p'
    rm "$venv/.installed" 2>/dev/null
}

echo "making $venv with $found; this takes a minute"
rm -rf "$venv"
"$found" -m venv "$venv"
install --only-binary :all: --require-hashes -r requirements-dev.lock
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
"$venv/bin/python" etc/programs.py "$PWD"
touch "$venv/.complete"
echo "$venv is complete"

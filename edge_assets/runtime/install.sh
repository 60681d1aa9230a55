#!/bin/sh
# Builds the Python environment of the inference component from the wheels beside this file, without network.
#
#   install.sh install WORK_FOLDER VERSION    builds WORK_FOLDER/venv-VERSION, or keeps it when it is complete
#   install.sh activate WORK_FOLDER VERSION   writes its path to WORK_FOLDER/current, which the inference component reads
#
# Ends with 0 when it is done, else with 1 and the reason on standard error.
set -eu

fail() {
    printf 'runtime: %s\n' "$1" >&2
    exit 1
}

[ $# -eq 3 ] || fail "usage: install.sh install|activate WORK_FOLDER VERSION, got $# arguments"
step=$1
work=${2%/}
version=$3
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$work/venv-$version
# The mark lies inside the environment, so that it can't outlive it.
mark=$venv/.complete

# Prints the first interpreter of the version that the wheels are made for.
find_python() {
    read -r wanted architecture <"$here/target" || fail "$here/target must hold '<python version> <architecture>'"
    [ "$(uname -m)" = "$architecture" ] ||
        fail "the wheels are for $architecture, this device is $(uname -m): deploy the runtime built for it"
    for candidate in "python$wanted" python3 /usr/bin/python3; do
        found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if [ "$found" = "$wanted" ]; then
            command -v "$candidate"
            return
        fi
    done
    fail "the wheels are for Python $wanted, which this device lacks: install it, or deploy the runtime for its python3"
}

build() {
    if [ -f "$mark" ]; then
        printf 'runtime: %s is complete already\n' "$venv"
        return
    fi
    python=$(find_python) || exit 1
    partial=$work/partial-$version
    mkdir -p "$work"
    rm -rf "$partial" "$venv"
    "$python" -m venv --without-pip "$partial" || fail "$python cannot make a virtual environment in $partial"
    modules="awsiot.greengrasscoreipc, numpy, onnxruntime, PIL.Image"
    set -- "$here/requirements.lock"
    # Only devices that serve the Edge Manager agent's clients get its packages.
    if [ -f "$here/agent.lock" ]; then
        modules="$modules, grpc, google.protobuf.message"
        set -- "$@" "$here/agent.lock"
    fi
    "$partial/bin/python" "$here/install_wheels.py" "$@" || fail "the wheels could not be installed (the reason is above)"
    "$partial/bin/python" -c "import $modules" ||
        fail "the installed packages cannot be imported on this device (the reason is above)"
    : >"$partial/.complete"
    mv "$partial" "$venv"
    printf 'runtime: built %s\n' "$venv"
}

activate() {
    [ -f "$mark" ] || fail "$venv is not complete: run the install step first"
    previous=
    [ ! -f "$work/current" ] || read -r previous <"$work/current" || :
    printf '%s\n' "$venv" >"$work/current.new"
    mv -f "$work/current.new" "$work/current"
    # The environment before this one stays: the inference component may still run in it.
    for old in "$work"/venv-* "$work"/partial-*; do
        case $old in
            "$venv" | "$previous" | *'*') ;;
            *) rm -rf "$old" ;;
        esac
    done
    printf 'runtime: %s is current\n' "$venv"
}

case $step in
    install) build ;;
    activate) activate ;;
    *) fail "the step must be install or activate, got '$step'" ;;
esac

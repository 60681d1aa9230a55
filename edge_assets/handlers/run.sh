#!/bin/sh
# Starts the handler component in the environment of the runtime component.
#
#   run.sh WORK_ROOT RUNTIME_COMPONENT DEPENDENCIES [WAIT_SECONDS]
#
# WORK_ROOT holds the work folders of all components, DEPENDENCIES the packages bundled for the function. The runtime may be
# installing still: its pointer file is waited for WAIT_SECONDS (default 120); without it this ends with 1, and the device
# tries again.
set -eu

fail() {
    printf 'handler: %s\n' "$1" >&2
    exit 1
}

[ $# -ge 3 ] && [ $# -le 4 ] || fail "usage: run.sh WORK_ROOT RUNTIME_COMPONENT DEPENDENCIES [WAIT_SECONDS], got $# arguments"
pointer=${1%/}/$2/current
dependencies=${3%/}/dependencies
wait_s=${4:-120}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

waited_s=0
venv=
while :; do
    [ ! -r "$pointer" ] || read -r venv <"$pointer" || :
    [ -z "$venv" ] || [ ! -x "$venv/bin/python" ] || break
    [ "$waited_s" -lt "$wait_s" ] ||
        fail "$pointer must name a complete environment within $wait_s s, got '$venv': is $2 deployed and healthy?"
    sleep 1
    waited_s=$((waited_s + 1))
done

PYTHONPATH=$here exec "$venv/bin/python" -m v1_handler --function "$here/function" --dependencies "$dependencies"

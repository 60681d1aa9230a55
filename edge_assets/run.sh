#!/bin/sh
# Starts a component's Python module in the environment of the runtime component.
#
#   run.sh WORK_ROOT RUNTIME_COMPONENT MODULE [ARGUMENT...]
#
# WORK_ROOT holds the work folders of all components, MODULE lies beside this file. The runtime may be installing still: its
# pointer file is waited for RUNTIME_WAIT_S seconds (default 120); without it this ends with 1, and the device tries again.
set -eu

fail() {
    printf 'run.sh: %s\n' "$1" >&2
    exit 1
}

[ $# -ge 3 ] || fail "usage: run.sh WORK_ROOT RUNTIME_COMPONENT MODULE [ARGUMENT...], got $# arguments"
pointer=${1%/}/$2/current
runtime=$2
module=$3
shift 3
wait_s=${RUNTIME_WAIT_S:-120}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

waited_s=0
venv=
while :; do
    [ ! -r "$pointer" ] || read -r venv <"$pointer" || :
    [ -z "$venv" ] || [ ! -x "$venv/bin/python" ] || break
    [ "$waited_s" -lt "$wait_s" ] ||
        fail "$pointer must name a complete environment within $wait_s s, got '$venv': is $runtime deployed and healthy?"
    sleep 1
    waited_s=$((waited_s + 1))
done

# Fewer heaps for the threads, no threads for a BLAS that nothing here uses: 5 MB and more.
export MALLOC_ARENA_MAX=2 OPENBLAS_NUM_THREADS=1
PYTHONPATH=$here exec "$venv/bin/python" -m "$module" --runtime-pointer "$pointer" "$@"

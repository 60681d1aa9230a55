#!/bin/sh
# scikit-image 0.26.0 cannot be imported without its type stubs: lazy_loader 0.4 reads .pyi files at run time.
# What trims packages for small devices takes .pyi files for a matter of type checkers; here they say what the package has.
# Seen with numpy 2.4.6, CPython 3.11:
#   with stubs: 0.26.0; without: ValueError: Cannot load imports from non-existent stub '…/skimage/__init__.pyi'
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check scikit-image==0.26.0 lazy_loader==0.4 numpy==2.4.6
with=$("$python" -c 'import skimage; print(skimage.__version__)')
find "$folder/venv" -path '*/skimage/*' -name '*.pyi' -delete
without=$("$python" -c 'import skimage' 2>&1 || true)
last=$(printf '%s\n' "$without" | tail -n 1)
printf 'with stubs: %s; without: %s\n' "$with" "$last"
[ "$with" = 0.26.0 ]
case $last in
    *stub*__init__.pyi*) ;;
    *) exit 1 ;;
esac

#!/usr/bin/env bash
# What `make gpu` needs on a GPU machine without a network: bash benchmarks/wheels.sh [FOLDER, build/wheels], where pip works. For Python 3.12 on
# Linux, x86-64, whatever this machine is. torch, torchvision, numpy, scipy, pandas, pyarrow, scikit-learn, safetensors are expected there
# with what they need themselves. Versions are constraints.txt's. Prints how to install the folder there.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/wheels}
pip="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)} -m pip"
most=$((64 * 1024 * 1024))

# kit's own and what each of them needs; then for the tests, then what is measured beside kit
names="pydantic pydantic-core annotated-types typing-inspection typing-extensions tqdm
    pooch platformdirs requests urllib3 certifi idna charset-normalizer
    optuna alembic Mako colorlog SQLAlchemy greenlet PyYAML
    pytest iniconfig pluggy Pygments
    kornia kornia_rs loss-landscapes"

platforms=""
for glibc in 39 35 34 31 28 27 24 17; do platforms="$platforms --platform manylinux_2_${glibc}_x86_64"; done
rm -rf "$folder"
mkdir -p "$folder"
# shellcheck disable=SC2086
$pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
    --platform manylinux2014_x86_64 --constraint constraints.txt --dest "$folder" $names

size=$(cat "$folder"/*.whl | wc -c)
echo "$folder: $(ls "$folder"/*.whl | wc -l) wheels, $((size / 1024 / 1024)) MiB"
if [ "$size" -ge "$most" ]; then
    echo "they are larger than $((most / 1024 / 1024)) MiB together: leave something out" >&2
    exit 1
fi
echo "there: python3 -m pip install --no-index --no-deps --find-links $folder --target build/site $(echo $names)"
echo "       PYTHONPATH=build/site python3 benchmarks/gpu.py"

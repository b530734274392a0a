#!/usr/bin/env bash
# Makes every table of bench/results. Takes about two hours on two quiet cores; OMP_NUM_THREADS=1 and two
# at a time. Each file says by which command, commit and machine it was made.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
mkdir -p bench/results

record() {  # record NAME SCRIPT [ARGUMENT ...]
    name=$1; shift
    {
        printf '# %s\n\n    python bench/%s\n\n' "$name" "$*"
        printf 'Commit %s, %s, %s cores' "$(git rev-parse --short HEAD)" "$(date +%F)" "$(nproc)"
        printf ', %s.\n\n' "$(lscpu | sed -n 's/^Model name: *//p' | head -1)"
        "$python" "bench/$@"
    } > "bench/results/$name.md"
}

{
    record perfect-mlp perfect.py
    record perfect-cnn perfect.py MODEL=cnn
    record speed-mlp speed.py
    record speed-cnn speed.py MODEL=cnn SECONDS=0
} &
{
    record ablations-built-in ablations.py TABLE=built-in
    record ablations-constants ablations.py TABLE=constants
    record ablations-vin ablations.py TABLE=vin
    record ablations-once ablations.py TABLE=once
    record perfect-attention perfect.py SEEDS=5 MODEL=attention
    record perfect-vin perfect.py MODEL=vin
    record window window.py
} &
wait

#!/usr/bin/env bash
# Makes every table of bench/results, in one to two hours on two cores: first the seconds of
# whole runs, alone, then what learns and how well, two at a time with one thread each, and at the
# end, alone again, the time of each stage. Each file says by which command, commit and machine it
# was made. The thousand kills take another half an hour: bench/kills.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
mkdir -p bench/results

record() {  # record NAME SCRIPT [ARGUMENT ...]
    name=$1; shift
    {
        printf '# %s\n\n    python bench/%s\n\n' "$name" "$*"
        printf 'Commit %s, %s, %s cores' "$(git rev-parse --short HEAD)" "$(date +%F)" "$(nproc --all)"
        printf ', %s, ' "$(lscpu | sed -n 's/^Model name: *//p' | head -1)"
        "$python" -c 'import torch; print(f"torch {torch.__version__}.\n")'
        "$python" "bench/$@"
    } > "bench/results/$name.part"
    mv "bench/results/$name.part" "bench/results/$name.md"
}

record seconds seconds.py
{
    record perfect-mlp perfect.py
    record perfect-vin perfect.py MODEL=vin SEEDS=5
    record perfect-cnn perfect.py MODEL=cnn SEEDS=3
    record ablations-once ablations.py TABLE=once SEEDS=1
    record explorers explorers.py MAZES=10000
} &
first=$!
{
    record ablations-built-in ablations.py TABLE=built-in
    record ablations-constants ablations.py TABLE=constants
    "$python" bench/chart.py
    record window window.py
    record perfect-attention perfect.py MODEL=attention SEEDS=3
} &
second=$!
wait $first
wait $second
record speed-cnn speed.py MODEL=cnn SECONDS=0
record speed-mlp speed.py SECONDS=30

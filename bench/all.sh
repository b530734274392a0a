#!/usr/bin/env bash
# Makes every table of bench/results, in an hour or three on two cores: first what is timed, alone;
# then what learns and how well, two at a time, with one thread each. Each file says by which
# command, commit and machine it was made.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
mkdir -p bench/results

record() {  # record NAME SCRIPT [ARGUMENT ...]
    name=$1; shift
    {
        printf '# %s\n\n    python bench/%s\n\n' "$name" "$*"
        "$python" bench/options.py
        echo
        "$python" "bench/$@"
    } > "bench/results/$name.part"
    mv "bench/results/$name.part" "bench/results/$name.md"
}

record seconds seconds.py SEEDS=5
{
    for model in linear mlp cnn; do
        record "perfect-$model" perfect.py "MODEL=$model" HELD_OUT=10000
    done
    record perfect-attention perfect.py MODEL=attention HELD_OUT=10000 FIRST=200
    record window window.py
    record turned-trail turned.py AGENT=trail
    record turned-memory turned.py AGENT=trail BUILT_IN=1 NUM_EPISODES=51200 SEEDS=2
    record explorers explorers.py
    record kills kills.py
} &
first=$!
{
    record plain plain.py
    record plain-by-distance plain.py DISTANCES=1 SEEDS=1 MAZES=2000
    record turned-plain turned.py AGENT=plain
    record ablations ablations.py
    record ladder ladder.py
} &
second=$!
wait $first
wait $second
record speed speed.py
"$python" bench/lab.py  # writes bench/results/lab.md and assets/lab.png; reads those of the windows

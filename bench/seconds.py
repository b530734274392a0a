"""How long do whole runs take, start-up, evaluation and pictures included?

    python bench/seconds.py [SEEDS=10]

The default run with SEEDS seeds, the other models with three, longer runs and more threads or
processes with one, one after the other: run nothing else beside them. Prints median and range of
the seconds, and the worst success and optimal on 10,000 held-out mazes. The first row is a
yardstick for the machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main

COMMANDS = {
    "python": [sys.executable],
    "torchrun --nproc-per-node=2": [
        sys.executable,
        *"-m torch.distributed.run --nproc-per-node=2".split(),
    ],
}


def timed(command, arguments):
    """(seconds of the process, its summary)."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        everything = [*command, main.__file__, *arguments, f"OUT_DIR={folder}"]
        subprocess.run(everything, check=True, capture_output=True)
        with open(os.path.join(folder, "summary.json")) as file:
            return time.perf_counter() - began, json.load(file)


def spread(spent):
    return f"{statistics.median(spent):.1f} ({min(spent):.1f} .. {max(spent):.1f})"


def run(arguments):
    seeds = next((int(a[6:]) for a in arguments if a.startswith("SEEDS=")), 10)
    one, two = COMMANDS
    million = "NUM_EPISODES=1000000 BSZ=8192"
    rows = [(one, "", seeds)]
    rows += [(one, f"MODEL={name}", 3) for name in ("vin", "cnn", "attention")]
    rows += [(one, "THREADS=2", 1), (two, "", 1), (one, "NUM_EPISODES=200000", 1)]
    for settings in (million, f"MODEL=vin {million}"):
        rows += [(one, settings, 1), (two, settings, 1)]
    print("| command | seconds | episodes/s | success | optimal | seeds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    imports = []
    for _ in range(seeds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        imports.append(time.perf_counter() - began)
    print(f'| python -c "import torch" | {spread(imports)} | - | - | - | - |', flush=True)
    for name, settings, number in rows:
        found = [
            timed(COMMANDS[name], [*settings.split(), f"SEED={seed}"]) for seed in range(number)
        ]
        spent = [seconds for seconds, _ in found]
        rate = found[0][1]["episodes"] / statistics.median(spent)
        success, optimal = (min(row[key] for _, row in found) for key in ("success", "optimal"))
        command = f"{name} main.py {settings}".strip()
        print(
            f"| {command} | {spread(spent)} | {rate:,.0f} | {success:.4f} | {optimal:.4f} "
            f"| {number} |",
            flush=True,
        )


if __name__ == "__main__":
    run(sys.argv[1:])

"""How do the agents do that see a window of 5x5 cells?

    python bench/window.py [SEEDS=1] [KEY=VALUE ...]

Trains each by its defaults, `python main.py VISION=2 MEMORY=m SEED=s`, a process of its own, timed
whole; 10,000 held-out mazes. Prints median (worst seed) of each figure.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
AGENTS = ["MEMORY=map", "MEMORY=none", "MEMORY=trail", "MEMORY=gru"]
COLUMNS = dict(success=(min, 3), optimal=(min, 3), spl=(min, 3), loops=(max, 3), seconds=(max, 0))


def summary(*arguments):
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, f"{ROOT}/main.py", f"OUT_DIR={out}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(f"{out}/summary.json") as file:
            return json.load(file)


def run(arguments):
    seeds = next((int(a[6:]) for a in arguments if a.startswith("SEEDS=")), 1)
    others = [a for a in arguments if not a.startswith("SEEDS=")]
    print(f"| VISION=2 | weights | {' | '.join(COLUMNS)} | seeds |\n| --- |{' ---: |' * 7}")
    for agent in AGENTS:
        runs = [summary("VISION=2", agent, f"SEED={seed}", *others) for seed in range(seeds)]
        cells = [agent, f"{runs[0]['params']:,}"]
        for name, (worst, digits) in COLUMNS.items():
            values = [found[name] for found in runs]
            cells.append(f"{statistics.median(values):.{digits}f} ({worst(values):.{digits}f})")
        print(f"| {' | '.join(cells)} | {seeds} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

"""How long do whole runs take, start-up, evaluation and pictures included?

    python bench/seconds.py [SEEDS=10] [LARGEST=1001]

The default run with SEEDS seeds, other models and longer runs with fewer, one after the other: run
nothing else beside them. Then `solve`, with the agent of a default run, of one perfect maze of
255x255 cells and one of LARGEST x LARGEST, from the cell that is farthest from the goal. The first
row is a yardstick for the machine: Python, torch and matplotlib, only imported; "x": times its
median. Prints median (range) of the seconds, and of the runs the worst success.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import maze
from support.mazefile import as_text

PYTHON = [sys.executable]
IMPORTS = "import torch, matplotlib.pyplot"
LONG = "UNTIL_PROVED=False NUM_EPISODES=200000"
MILLION = "UNTIL_PROVED=False NUM_EPISODES=1000000 BSZ=8192"


def timed(command):
    """Seconds of a process, and what it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def trained(arguments):
    """(seconds of a run, its summary)."""
    with tempfile.TemporaryDirectory() as folder:
        spent, _ = timed([*PYTHON, main.__file__, *arguments, f"OUT_DIR={folder}"])
        with open(f"{folder}/summary.json") as file:
            return spent, json.load(file)


def far_apart(grid):
    """A perfect maze as text, its start farthest from the goal, and the steps between them."""
    generator = torch.Generator().manual_seed(grid)
    walls = maze.unpack(maze.make_mazes(1, grid, generator), grid, grid)
    goal = maze.choose(~walls, generator)
    distance = maze.distances(walls, goal).flatten()
    one = maze.Mazes(walls, goal, distance.argmax())
    return as_text(one), int(distance.max())


def print_row(name, spent, yardstick, *others):
    middle = statistics.median(spent)
    within = (
        f"{middle:.1f} ({min(spent):.1f} .. {max(spent):.1f})" if spent[1:] else f"{middle:.1f}"
    )
    cells = name, within, f"{middle / yardstick:.1f}", *others
    print(f"| {' | '.join(cells)} |", flush=True)


def run(arguments):
    options = dict(SEEDS=10, LARGEST=1001)
    options |= {name: int(value) for name, value in (a.split("=") for a in arguments)}
    seeds = options["SEEDS"]
    imports = [timed([*PYTHON, "-c", IMPORTS])[0] for _ in range(seeds)]
    yardstick = statistics.median(imports)
    print(f"torch {torch.__version__}\n\n| command | seconds | x | episodes/s | success | runs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print_row(f'`python -c "{IMPORTS}"`', imports, yardstick, "-", "-", str(seeds))
    few = min(3, seeds)
    rows = [("", seeds), (LONG, few), (MILLION, 1)]
    rows += [(f"MODEL={model}", few) for model in ("linear", "cnn", "attention")]
    rows += [("VISION=2 MEMORY=map", 1)]
    for settings, number in rows:
        found = [trained([*settings.split(), f"SEED={seed}"]) for seed in range(number)]
        rates = [summary["episodes"] / spent for spent, summary in found]
        success = min(summary["success"] for _, summary in found)
        name = f"`python main.py {settings}".strip() + "`"
        rate = f"{statistics.median(rates):,.0f}"
        spent = [seconds for seconds, _ in found]
        print_row(name, spent, yardstick, rate, f"{success:.4f}", str(number))
    with tempfile.TemporaryDirectory() as folder:
        timed([*PYTHON, main.__file__, f"OUT_DIR={folder}"])
        for grid in 255, options["LARGEST"]:
            text, steps = far_apart(grid)
            with open(f"{folder}/maze.txt", "w") as file:
                file.write(text + "\n")
            solve = [*PYTHON, main.__file__, "solve", f"{folder}/maze.txt", f"OUT_DIR={folder}"]
            spent, said = timed(solve)
            assert f"solved in {steps} steps (shortest {steps})" in said, said[-200:]
            name = f"`python main.py solve` of {grid}x{grid}, {steps:,} steps"
            print_row(name, [spent], yardstick, "-", "1", "1")


if __name__ == "__main__":
    run(sys.argv[1:])

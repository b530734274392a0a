"""How do the agents do that see a window of 5x5 cells?

    python bench/window.py [SEEDS=3] [FIRST=100] [KEY=VALUE ...]

Trains each by its defaults, `python main.py VISION=2 MEMORY=m SEED=s`, a process of its own, timed
whole. Then each walks 10,000 held-out mazes of their own seed: success and spl in 100 steps, the
share that goes round for ever, and success in 2 x 16 x 16 steps. Prints median (worst seed).
"""

import json
import os
import subprocess
import sys
import tempfile

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from options import constants, median, split

import main
import maze
from support import files, report

AGENTS = ["MEMORY=map", "MEMORY=none", "MEMORY=trail", "MEMORY=gru"]
COLUMNS = dict(success=min, spl=min, loops=max, longer=min, seconds=max)


def trained(*arguments):
    """(the agent of a run, its summary)."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, main.__file__, f"OUT_DIR={out}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        network, _, _ = files.load_checkpoint(f"{out}/checkpoint.pt", torch.device("cpu"))
        with open(f"{out}/summary.json") as file:
            return network, json.load(file)


def figures(seed, n, *arguments):
    network, summary = trained(*arguments, f"SEED={seed}")
    settings, generator = summary["config"], torch.Generator().manual_seed(10**10 + seed)
    packed = maze.make_mazes(n, settings["GRID"], generator)
    held_out = report.test_set(settings, packed)
    with constants(*arguments):
        found = report.average(main.evaluate(network, *held_out, length=100))
        longer = report.average(main.evaluate(network, *held_out, length=2 * main.GRID**2))
    found |= dict(longer=longer["success"], seconds=summary["seconds"])
    return found | dict(weights=summary["params"], episodes=summary["episodes"])


def run(arguments):
    options, given = split(arguments, SEEDS=3, FIRST=100, MAZES=10_000)
    torch.set_num_threads(1)
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    print("| VISION=2 | weights | episodes | success | spl | loops | success in 512 | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for agent in AGENTS:
        runs = [figures(seed, options["MAZES"], "VISION=2", agent, *given) for seed in seeds]
        cells = [agent, f"{runs[0]['weights']:,}", f"{runs[0]['episodes']:,}"]
        for name, worst in COLUMNS.items():
            digits = 0 if name == "seconds" else 3
            cells.append(median([found[name] for found in runs], worst, digits))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

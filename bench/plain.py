"""How well do plain networks learn, into which nothing is built, from reward alone?

    python bench/plain.py [SEEDS=5] [FIRST=100] [MAZES=100000] [DISTANCES=0] [KEY=VALUE ...]

Each is trained as by `python main.py THINK=False`. Prints the median (worst seed) of: the seconds
of training; success in MAX_EP_LENGTH steps on MAZES held-out mazes of its own size; success in 500
mazes of 31x31 and of 32x32, never trained on, from any start, in as many steps as there are cells;
success, and the share walked by a shortest path, in 2,000 mazes of its own size with half of their
walls. And of the held-out mazes of all seeds together, how many were not walked by a shortest path,
with the 95% interval of that share (Wilson 1927).

DISTANCES=1: the networks on 10x10, by steps to the goal, each beside a twin that was taught: the
same network and updates, but each move is told its exact advantage, by breadth-first search, in
place of what its episode found.
"""

import math
import sys
import time

import torch
from options import median, own, replaced, split, trained

import main
import maze
import model
from support import report
from support.process import UserError

ROWS = {
    "cnn, 10x10": "MODEL=cnn GRID=10",
    "cnn, 16x16": "MODEL=cnn",
    "cnn, 10x10, trained with 0.3 to 1 of the walls": "MODEL=cnn GRID=10 DIFFICULTY_MIN=0.3",
}
BANDS = [f"{first}-{first + 9}" for first in range(1, 42, 10)]


def exact_values(episodes, gamma):
    """In place of `model.episode_values`: minus the true distance."""
    distance = maze.distances(episodes.mazes.walls, episodes.mazes.goal)
    return -maze.along(distance.float(), episodes.cells)


def others(network, grid, share, n):
    """(success, optimal) in n mazes with this share of their walls, from any start, in as many
    steps as there are cells; nan for a network that knows one size."""
    mazes = own(n, grid, share, grid)
    try:
        distance = maze.distances(mazes.walls, mazes.goal)
        found = report.average(main.evaluate(network, mazes, distance, grid * grid))
        return found["success"], found["optimal"]
    except UserError:
        return float("nan"), float("nan")


def results(arguments):
    """The figures of one run, as in the first table; the last: mazes without a shortest path."""
    began = time.perf_counter()
    with trained("THINK=False", *arguments) as (network, _, held_out):
        spent = time.perf_counter() - began
        scores = main.evaluate(network, *report.test_set(main.config(), held_out))
        beyond = [others(network, grid, 1.0, 500)[0] for grid in (31, 32)]
        loops = others(network, main.GRID, 0.5, 2000)
        missed = int((scores["optimal"] == 0).sum())
        return [spent, scores["success"].mean().item(), *beyond, *loops, missed]


def interval(k, n, z=1.96):
    """Wilson's 95% interval of a chance that came true in k of n trials."""
    middle, wide = k / n + z * z / (2 * n), z * math.sqrt(k * (n - k) / n**3 + (z / n / 2) ** 2)
    return [max(0.0, (middle + side * wide) / (1 + z * z / n)) for side in (-1, 1)]


def distances(arguments, taught):
    """Success of one run, all in all and by steps to the goal."""
    by_episode = model.episode_values
    with replaced(model, "episode_values", exact_values if taught else by_episode):
        with trained("THINK=False", *arguments) as (network, _, held_out):
            mazes, distance = report.test_set(main.config(), held_out)
            scores = main.evaluate(network, mazes, distance)
            bands = report.by_distance(scores, maze.shortest(mazes, distance))
            by_band = [bands[band]["success"] if band in bands else 1.0 for band in BANDS]
            return [scores["success"].mean().item(), *by_band]


def row(name, runs, worst, digits, more=""):
    """A row of a table: the median (worst) of each figure. runs: (seeds, figures)."""
    cells = [median(*figure) for figure in zip(zip(*runs), worst, digits)]
    print(f"| {' | '.join([name, *cells])} |{more}".replace("nan (nan)", "-"), flush=True)


def run(arguments):
    options, given = split(arguments, SEEDS=5, FIRST=100, MAZES=100_000, DISTANCES=0)
    torch.set_num_threads(1)
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    given += [f"EVAL_MAZES={options['MAZES']}"]
    if options["DISTANCES"]:
        print(f"| THINK=False GRID=10 | success | {' | '.join(BANDS)} |")
        print("| --- |" + " ---: |" * (1 + len(BANDS)))
        for name in "cnn", "mlp", "attention":
            for taught in False, True:
                words = f"MODEL={name}", "GRID=10", *given
                runs = [distances([*words, f"SEED={seed}"], taught) for seed in seeds]
                row(f"{name}{', taught' * taught}", runs, 6 * [min], 6 * [3])
        return
    print("| THINK=False | seconds | success | 31x31 | 32x32 | loops | loops, optimal | not |")
    print("| --- |" + 7 * " ---: |")
    for name, words in ROWS.items():
        runs = [results([words, *given, f"SEED={seed}"]) for seed in seeds]
        missed, n = sum(found[-1] for found in runs), len(runs) * options["MAZES"]
        low, high = interval(missed, n)
        not_walked = f" {missed:,} of {n:,}, {low:.1e} .. {high:.1e} |"
        row(name, runs, (max, *5 * [min]), (0, 4, 3, 3, 3, 3), not_walked)


if __name__ == "__main__":
    run(sys.argv[1:])

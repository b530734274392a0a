"""How well do plain networks learn, into which nothing is built, from reward alone?

    python bench/plain.py [SEEDS=3] [FIRST=100] [TURNED=0] [KEY=VALUE ...]

TURNED=1: the CNN on 10x10 with one thing turned in each row; the MLP and attention. Each is trained
as by `python main.py THINK=False`. Prints the median (worst seed) of: success in MAX_EP_LENGTH
steps on held-out mazes of its own size, and the share of them that it walked with a detour; success
in 200 perfect mazes of 31x31 and of 32x32, never trained on, from any start, in as many steps as
there are cells; the seconds of training and evaluation. "taught": the same network and updates, but
each move is told its exact advantage, by breadth-first search, in place of what its episode found.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from options import split

import main
import maze
import model
from support import metrics, settings
from support.errors import UserError

DQN = "UNIT=q GAMMA=0.9 STEP_REWARD=0 GOAL_REWARD=1"
ROWS = {
    "cnn, 10x10": ("MODEL=cnn GRID=10", False),
    "cnn, 16x16": ("MODEL=cnn", False),
    "cnn, 10x10, 0.3 to 1 of the walls": ("MODEL=cnn GRID=10 DIFFICULTY_MIN=0.3", False),
}
OTHERS = {"mlp": ("MODEL=mlp", False), "mlp, taught": ("MODEL=mlp", True)}
OTHERS["attention"] = "MODEL=attention", False
OTHERS["attention, taught"] = "MODEL=attention", True
TURNED = (
    "",
    f"CREDIT=step {DQN}",
    f"CREDIT=step {DQN} TARGET_SYNCS=8",
    f"CREDIT=step {DQN} TARGET_SYNCS=8 DOUBLE=True",
    f"CREDIT=lambda {DQN} TARGET_SYNCS=8",
    f"CREDIT=lambda LAMBDA=0.5 {DQN} TARGET_SYNCS=8",
    f"{DQN}",
    f"{DQN} SHAPING=manhattan",
    "CURRICULUM=off",
    "EPSILON=0.1",
    "WIDTH=8",
    "WIDTH=24",
    "LOOKS=8",
    "UPDATES=8",
    "REPLAY=uniform",
    "REPLAY=prioritized",
)


def exact_values(episodes, gamma):
    """In place of `model.episode_values`: minus the true distance."""
    distance = maze.distances(episodes.mazes.walls, episodes.mazes.goal)
    return -maze.along(distance.float(), episodes.cells)


def one_run(arguments, taught):
    """The figures of one run."""
    before, by_episode = main.config(), model.episode_values
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            own = "THINK=False", f"OUT_DIR={folder}", *arguments
            vars(main).update(settings.of_run(before, main.AGENTS, own))
            settings.check(main.config())
            model.episode_values = exact_values if taught else by_episode
            with contextlib.redirect_stdout(io.StringIO()):
                network, _, _, held_out = main.train(torch.device("cpu"))
            scores = main.evaluate(network, *metrics.test_set(main.config(), held_out))
            scores = metrics.average(scores)
            spent = time.perf_counter() - began
            sizes = [beyond(network, grid) for grid in (31, 32)]
            detours = scores["success"] - scores["optimal"]
            return [scores["success"], detours, *sizes, spent], main.config(), network
    finally:
        vars(main).update(before)
        model.episode_values = by_episode


def beyond(network, grid, n=200):
    """Success in larger mazes; nan for a network that knows one size."""
    generator = torch.Generator().manual_seed(grid)
    packed = maze.make_mazes(n, grid, generator)
    mazes = maze.draw(packed, grid, 1.0, grid * grid, "random", generator)
    try:
        distance = maze.distances(mazes.walls, mazes.goal)
        return metrics.average(main.evaluate(network, mazes, distance, grid * grid))["success"]
    except UserError:
        return float("nan")


def run(arguments):
    options, common = split(arguments, SEEDS=3, FIRST=100, TURNED=0)
    torch.set_num_threads(1)
    rows = ROWS
    if options["TURNED"]:
        cnn = {turn or "cnn, 10x10": (f"MODEL=cnn {turn}", False) for turn in TURNED}
        rows = {name: (f"{own} GRID=10", taught) for name, (own, taught) in (cnn | OTHERS).items()}
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    print("| THINK=False | weights | episodes | success | detours | 31x31 | 32x32 | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (own, taught) in rows.items():
        runs = [one_run([*own.split(), *common, f"SEED={seed}"], taught) for seed in seeds]
        _, config, network = runs[0]
        weights = sum(w.numel() for w in network.parameters())
        cells = [name, f"{weights:,}", f"{config['NUM_EPISODES']:,}"]
        for i, worst in enumerate((min, max, min, min, max)):
            values = [figures[i] for figures, _, _ in runs]
            digits = 0 if i == 4 else 4 if i < 2 else 3
            cells.append(f"{statistics.median(values):.{digits}f} ({worst(values):.{digits}f})")
        print(f"| {' | '.join(cells)} |".replace("nan (nan)", "-"), flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

"""How perfect is an agent that thinks, and how far beyond its training mazes?

    python bench/perfect.py [SEEDS=10] [FIRST=100] [HELD_OUT=100000] [KEY=VALUE ...]

Trains SEEDS agents, each with `python main.py SEED=s KEY=VALUE ...` in a process of its own. Each
then walks HELD_OUT perfect mazes that it has never seen, and mazes of other sizes and makers.
Prints the median and the worst seed of each figure; failures + detours: mazes that it does not
solve, and those that it solves by a way that is not a shortest one. Needs scipy, as tests/ does.
"""

import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from options import own, split

import main
import maze
from maze import Mazes
from support import files, report

# --------------------------------------------------------------------------------------------------
# Makers of mazes: each returns walls, (H, W) bool


def from_passages(rooms, passages):
    """The maze of rooms x rooms rooms, with a passage between each pair in `passages`."""
    walls = np.ones((2 * rooms - 1, 2 * rooms - 1), bool)
    walls[::2, ::2] = False
    for a, b in passages:
        walls[a // rooms + b // rooms, a % rooms + b % rooms] = False
    return walls


def pairs(rooms):
    number = np.arange(rooms * rooms).reshape(rooms, rooms)
    return np.concatenate(
        [
            np.stack([number[:-1].ravel(), number[1:].ravel()], 1),
            np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1),
        ]
    )


def kruskal(rooms, random):
    edge = pairs(rooms)
    tree = minimum_spanning_tree(
        coo_matrix((1 + random.random(len(edge)), edge.T), shape=(rooms**2,) * 2)
    ).tocoo()
    return from_passages(rooms, zip(tree.row, tree.col))


def wilson(rooms, random):
    """A uniform spanning tree, by loop-erased random walks (Wilson 1996)."""
    beside = {n: [] for n in range(rooms * rooms)}
    for a, b in pairs(rooms).tolist():
        beside[a].append(b)
        beside[b].append(a)
    onward, inside = {}, {0}
    for first in random.permutation(rooms * rooms).tolist():
        room = first
        while room not in inside:
            onward[room] = beside[room][random.integers(len(beside[room]))]
            room = onward[room]
        room = first
        while room not in inside:
            inside.add(room)
            room = onward[room]
    return from_passages(rooms, onward.items())


def binary_tree(rooms, random):
    """Each room opens up or to the left."""
    return from_passages(
        rooms,
        [
            (n, n - 1 if n < rooms or n % rooms and random.random() < 0.5 else n - rooms)
            for n in range(1, rooms * rooms)
        ],
    )


def obstacles(side, random):
    """Open ground with discs, bars and broken frames."""
    walls, (y, x) = np.zeros((side, side), bool), np.mgrid[:side, :side]
    for _ in range(side // 2):
        cy, cx, ry, rx = (
            *random.integers(side, size=2),
            *random.integers(1, max(2, side // 5), size=2),
        )
        kind = random.integers(3)
        if kind == 0:
            walls |= (y - cy) ** 2 * rx**2 + (x - cx) ** 2 * ry**2 <= (rx * ry) ** 2
        elif kind == 1:
            walls |= (abs(y - cy) <= ry * random.integers(2)) & (abs(x - cx) <= rx)
        else:
            frame = np.maximum(abs(y - cy) * rx, abs(x - cx) * ry)
            walls |= (
                (frame > (rx * ry) * 0.7)
                & (frame <= rx * ry)
                & (random.random() * 6 - 3 < np.arctan2(y - cy, x - cx))
            )
    return walls


def cave(side, random):
    """Random walls, smoothed four times: a cell becomes what most of the nine around it are."""
    walls = random.random((side, side)) < 0.45
    for _ in range(4):
        rim = np.pad(walls, 1, constant_values=True)
        walls = (
            sum(rim[y : y + side, x : x + side].astype(int) for y in range(3) for x in range(3))
            >= 5
        )
    return walls


# --------------------------------------------------------------------------------------------------
# Mazes beyond those of training: a goal anywhere, a start anywhere from where it can be reached


def placed(walls, generator):
    """Mazes on these walls (H, W, B), but for those in which nobody can move."""
    walls = walls[..., ~alone(walls).flatten(0, 1).all(0)]
    goal = maze.choose(~alone(walls), generator)
    return Mazes(walls, goal, maze.choose(maze.distances(walls, goal) > 0, generator))


def alone(walls):
    """Which cells are walls, or have only walls beside them."""
    return walls | maze.neighbours(walls, True).all(0)


def some(n, make, *arguments):
    """Mazes on the walls of n calls of make."""
    walls = np.stack([make(*arguments) for _ in range(n)], -1)
    return placed(torch.from_numpy(walls), torch.Generator().manual_seed(n))


def fields(n, side, over, seed):
    """Each cell a wall with a probability from 30 to 50%; kept if the path is longer than `over`.

    Few are: so the goal is an end of a longest way, found by going twice to the farthest cell.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    while sum(len(part.goal) for part in found) < n:
        density = 0.3 + 0.2 * torch.rand(2048, generator=generator)
        walls = torch.rand(side, side, 2048, generator=generator) < density
        goal = maze.choose(~walls, generator)
        for _ in range(2):
            goal = maze.distances(walls, goal).flatten(0, 1).argmax(0)
        far = maze.distances(walls, goal) > over
        kept = far.flatten(0, 1).any(0).nonzero()[:, 0]
        start = maze.choose(far[..., kept], generator)
        found.append(Mazes(walls[..., kept], goal[kept], start))
    return Mazes(*(torch.cat(parts, -1) for parts in zip(*found))).select(slice(n))


def kinds():
    """(name, mazes) for each kind beyond the training mazes, the same for every seed."""
    random = np.random.default_rng(7)
    yield "perfect 31x31", own(1000, 31, 1.0, 31)
    yield "perfect 63x63", own(400, 63, 1.0, 63)
    yield "perfect 127x127", own(100, 127, 1.0, 127)
    for difficulty in 0.3, 0.5, 0.7, 0.9:
        yield f"loops 16x16, walls kept {difficulty}", own(5000, 16, difficulty, 16)
        yield f"loops 63x63, walls kept {difficulty}", own(100, 63, difficulty, 64)
    for make in kruskal, wilson, binary_tree:
        yield f"{make.__name__} 15x15", some(1000, make, 8, random)
        yield f"{make.__name__} 63x63", some(100, make, 32, random)
    yield "obstacles 16x16", some(1000, obstacles, 16, random)
    yield "obstacles 40x40", some(1000, obstacles, 40, random)
    yield "obstacles 64x64", some(200, obstacles, 64, random)
    yield "caves 40x40", some(1000, cave, 40, random)
    yield "empty hall 64x64", some(200, np.zeros, (64, 64), bool)
    yield "random walls 30x30, path over 110", fields(300, 30, 110, 30)


# --------------------------------------------------------------------------------------------------


def failures(network, mazes, distance):
    """(how many of these mazes it does not solve, how many by a detour)."""
    steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest way can have
    scores = main.evaluate(network, mazes, distance, steps)
    success, optimal = (int(scores[name].sum()) for name in ("success", "optimal"))
    return len(mazes.goal) - success, success - optimal


def row(folder, seed, held_out, beyond, arguments):
    """The figures of one agent: {name: number, or (failures, detours)}."""
    command = [sys.executable, main.__file__, f"SEED={seed}", f"OUT_DIR={folder}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(f"{folder}/summary.json") as file:
        summary = json.load(file)
    with open(f"{folder}/metrics.csv") as file:
        right = [
            int(line["episodes"]) for line in csv.DictReader(file) if line["wrong_views"] == "0"
        ]
    found = {
        "batches to the proof": right[0] // summary["config"]["BSZ"] if right else math.inf,
        "seconds to the proof": summary["seconds_to_proof"] or math.inf,
        "wrong views at the end": summary["wrong_views"],
        "q_error, in steps": summary["q_error"],
    }
    network, settings, _ = files.load_checkpoint(f"{folder}/checkpoint.pt", torch.device("cpu"))
    grid, path = settings["GRID"], f"{folder}/{settings['MAZE_CACHE_FILE']}"
    cache = files.load_cache(path, settings["MAZE_CACHE_SIZE"], grid, seed)
    packed = files.make_held_out(held_out, grid, cache, seed=10**10 + seed)
    tests = [(f"held-out {grid}x{grid}", *report.test_set(settings, packed)), *beyond]
    for name, mazes, distance in tests:
        name = f"failures + detours in {len(mazes.goal):,}: {name}"
        found[name] = failures(network, mazes, distance)
    return found


def run(arguments):
    options, given = split(arguments, SEEDS=10, FIRST=100, HELD_OUT=100_000)
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    torch.set_num_threads(1)
    beyond = [(name, few, maze.distances(few.walls, few.goal)) for name, few in kinds()]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(f"{folder}/{seed}", seed, options["HELD_OUT"], beyond, given) for seed in seeds]
    print(f"seeds {seeds[0]} to {seeds[-1]}; of main.py: {' '.join(given) or 'nothing set'}\n")
    print(f"| over {len(seeds)} seeds | median | worst |\n| --- | ---: | ---: |")
    for name in rows[0]:
        values = [found[name] for found in rows]
        if isinstance(values[0], tuple):
            few = [[statistics.median(column), max(column)] for column in zip(*values)]
            median, worst = (f"{failed:g} + {detours:g}" for failed, detours in zip(*few))
        else:
            median, worst = (f"{x:.3g}" for x in (statistics.median(values), max(values)))
        print(f"| {name} | {median} | {worst} |")
    print("\nproved after batches:", *(found["batches to the proof"] for found in rows))


if __name__ == "__main__":
    run(sys.argv[1:])

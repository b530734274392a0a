"""How perfect is the default agent, and how far beyond its training mazes?

    python bench/perfect.py [SEEDS=10] [FIRST=0] [HELD_OUT=100000] [KEY=VALUE ...]

Trains SEEDS agents, each with `python main.py SEED=s`, a process of its own. Each then
walks HELD_OUT perfect mazes that it has never seen, and, by `main.solve`, mazes of other sizes and
other makers. Other KEY=VALUE go to main.py. Prints a line a seed, then for each kind the median and
the worst seed. Needs scipy, as tests/ does.
"""

import contextlib
import io
import json
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
import main
import maze
from support import solving
from support.checkpoint import load_checkpoint
from support.mazefile import FileMaze

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


def placed(walls, random, over=0):
    """A FileMaze on these walls: a random goal, a random start over `over` steps away; or None."""
    is_open = np.flatnonzero(~walls)
    if len(is_open) < 2:
        return None
    goal = int(random.choice(is_open))
    distance = (
        maze.distances(torch.from_numpy(walls)[..., None], torch.tensor([goal])).flatten().numpy()
    )
    starts = np.flatnonzero(distance > over)
    return FileMaze(walls, int(random.choice(starts)), goal) if len(starts) else None


def some(n, make, random, over=0):
    found = []
    while len(found) < n:
        text = placed(make(), random, over)
        found += [text] if text else []
    return found


def own(n, grid, difficulty, seed):
    """The program's own mazes, starts at any distance."""
    generator = torch.Generator().manual_seed(seed)
    drawn = maze.draw(
        maze.make_mazes(n, grid, generator), grid, difficulty, grid * grid, "random", generator
    )
    return [
        FileMaze(drawn.walls[..., i].numpy(), int(drawn.start[i]), int(drawn.goal[i]))
        for i in range(n)
    ]


def fields(n, side, over, seed):
    """Each cell a wall with a probability from 30 to 50%; kept if the path is longer than `over`.

    Few are: so the goal is an end of a longest way, found by going twice to the farthest cell.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    while len(found) < n:
        density = 0.3 + 0.2 * torch.rand(2048, generator=generator)
        walls = torch.rand(side, side, 2048, generator=generator) < density
        goal = maze.choose(~walls, generator)
        for _ in range(2):
            goal = maze.distances(walls, goal).flatten(0, 1).argmax(0)
        far = maze.distances(walls, goal) > over
        kept = far.flatten(0, 1).any(0).nonzero()[:, 0]
        start = maze.choose(far[..., kept], generator) if len(kept) else []
        found += [
            FileMaze(walls[..., k].numpy(), int(s), int(goal[k])) for k, s in zip(kept, start)
        ]
    return found[:n]


def kinds():
    """(name, mazes) for each kind beyond the training mazes, the same for every seed."""
    random = np.random.default_rng(7)
    yield "perfect 31x31", own(1000, 31, 1.0, 31)
    yield "perfect 63x63", own(400, 63, 1.0, 63)
    yield "perfect 127x127", own(100, 127, 1.0, 127)
    for difficulty in 0.3, 0.5, 0.7, 0.9:
        yield f"loops 16x16, difficulty {difficulty}", own(5000, 16, difficulty, 16)
        yield f"loops 63x63, difficulty {difficulty}", own(100, 63, difficulty, 64)
    for make in kruskal, wilson, binary_tree:
        yield f"{make.__name__} 15x15", some(1000, lambda: make(8, random), random)
        yield f"{make.__name__} 63x63", some(100, lambda: make(32, random), random)
    yield "obstacles 16x16", some(1000, lambda: obstacles(16, random), random)
    yield "obstacles 40x40", some(1000, lambda: obstacles(40, random), random)
    yield "obstacles 64x64", some(200, lambda: obstacles(64, random), random)
    yield "caves 40x40", some(1000, lambda: cave(40, random), random)
    yield "empty hall 64x64", some(200, lambda: np.zeros((64, 64), bool), random)
    yield "random walls 30x30, path > 110", fields(300, 30, 110, 30)


# --------------------------------------------------------------------------------------------------


def solve(texts, checkpoint, file):
    """(solved, by a shortest path) of `main.solve` on these mazes, written to `file` first."""
    with open(file, "w") as out:
        out.write("\n\n".join(solving.draw(text) for text in texts) + "\n")
    main.CHECKPOINT = checkpoint
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main.solve(file)
    words = (
        printed.getvalue().splitlines()[-1].replace(",", "").split()
    )  # solved 98 of 100, by a shortest path 97
    return int(words[1]), int(words[-1])


def run(arguments):
    options = dict(SEEDS=10, FIRST=0, HELD_OUT=100_000)
    options.update(
        {
            key: int(value)
            for key, _, value in (a.partition("=") for a in arguments)
            if key in options
        }
    )
    passed = [a for a in arguments if a.partition("=")[0] not in options]
    main.pick_device()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores; "
        f"{options} {passed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        beyond, table = list(kinds()), {}
        for seed in range(options["FIRST"], options["FIRST"] + options["SEEDS"]):
            out = os.path.join(folder, str(seed))
            command = [sys.executable, main.__file__, f"SEED={seed}", f"OUT_DIR={out}", *passed]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            row = {}
            network, config, _ = load_checkpoint(
                os.path.join(out, "checkpoint.pt"), torch.device("cpu")
            )
            with open(os.path.join(out, "summary.json")) as file:
                summary = json.load(file)
            for name in "backup_error", "backup_error_worst":
                row[name] = summary[name]
            main.GRID, main.GAMMA, main.MAX_EP_LENGTH = (
                config["GRID"],
                config["GAMMA"],
                config["MAX_EP_LENGTH"],
            )
            cache = maze.load_cache(
                os.path.join(out, "mazes.npz"), config["MAZE_CACHE_SIZE"], config["GRID"], seed
            )
            held_out = main.test_set(
                maze.held_out(options["HELD_OUT"], main.GRID, 10**10 + seed, cache)
            )
            scores = main.evaluate(network, *held_out)
            row[f"failures in {options['HELD_OUT']:,} held-out"] = int(
                (scores["success"] == 0).sum()
            )
            row["of them solved, but not by a shortest path"] = int(
                (scores["success"] > scores["optimal"]).sum()
            )
            row["q_error"] = scores["q_error"].mean().item()
            for name, texts in beyond:
                _, optimal = solve(
                    texts, os.path.join(out, "checkpoint.pt"), os.path.join(folder, "mazes.txt")
                )
                row[f"{name}: not optimal, of {len(texts):,}"] = len(texts) - optimal
            print(f"seed {seed}: " + "; ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
            for name, value in row.items():
                table.setdefault(name, []).append(value)
    print(f"\n| over {options['SEEDS']} seeds | median | worst |\n| --- | ---: | ---: |")
    for name, values in table.items():
        print(f"| {name} | {statistics.median(values):.3g} | {max(values):.3g} |")


if __name__ == "__main__":
    run(sys.argv[1:])

"""Will a random walk ever see the reward? Exactly, by the transition matrix, and measured."""

import math

import torch

import main
import maze
from panels import (
    COLOURS,
    Table,
    arrived,
    axes_of,
    band,
    constants,
    crossing,
    dashed,
    label,
    mean_by,
    some_mazes,
    trained,
)

QUESTION = "Will a random walk ever see the reward?"
PREDICTION = "dashed: a power of the transition matrix, P^T(start, goal)"
FAR, STEPS = 60, 100
PLAIN = "THINK=False MODEL=cnn EVAL_MAZES=256 EVAL_EVERY=1000 MAZE_CACHE_SIZE=4096"
LEVELS = {"no curriculum": 1.0, "level 0.2": 0.2, "level 0.05": 0.05}


def reach_chance(mazes, steps=STEPS):
    """The chance to be in the goal after `steps` random actions, from each cell: (H, W, B).

    The vector that is 1 in the goal, multiplied `steps` times by the transition matrix.
    """
    blocked, goal = maze.neighbours(mazes.walls, True), mazes.goal[None]
    chance = torch.zeros_like(mazes.walls, dtype=torch.float64)
    chance.flatten(0, 1).scatter_(0, goal, 1.0)
    for _ in range(steps):
        onward = torch.where(blocked, chance, maze.neighbours(chance, 0.0)).mean(0)
        chance = onward.flatten(0, 1).scatter(0, goal, 1.0).view(chance.shape)
    return chance


def by_distance(n, difficulty, walks, seed):
    """({distance: exact chance}, measured): how random walks do from 1 .. FAR - 1 steps away."""
    mazes, distance = some_mazes(n, 16, seed, difficulty=difficulty)
    exact, _ = mean_by(distance.flatten(), reach_chance(mazes).flatten(), FAR)
    more, distance = some_mazes(walks, 16, 100 + seed, difficulty=difficulty)
    generator = torch.Generator().manual_seed(seed)
    walker = Table(torch.zeros(4, 16, 16, 1))
    won = arrived(walker, more, STEPS, torch.ones(walks), generator)
    measured, number = mean_by(maze.shortest(more, distance), won, FAR)
    return exact, torch.where(number >= 20, measured, torch.nan)


def pays(level, batches, seed):
    """Arrivals from each start distance in a batch, (expected, counted), if all acts at random."""
    generator = torch.Generator().manual_seed(seed)
    with constants(PLAIN, "DIFFICULTY_MIN=1"):
        packed = maze.make_mazes(main.BSZ * batches, 16, generator)
        farthest = 1 + round(level * (main.MAX_START_DISTANCE - 1))
        mazes = main.draw(packed, main.BSZ * batches, level, farthest, generator)
        walker = Table(torch.zeros(4, 16, 16, 1))
        won = arrived(walker, mazes, STEPS, torch.ones(len(mazes.goal)), generator)
    far = maze.shortest(mazes, maze.distances(mazes.walls, mazes.goal))
    return [torch.zeros(FAR + 1).index_add(0, far.clamp(max=FAR), x.float())[:FAR] / batches
            for x in (maze.along(reach_chance(mazes), mazes.start[None])[0], won)]  # fmt: skip


def learned(curriculum, batches, seed):
    """The plain CNN's success by distance, after so many batches."""
    mazes, distance = some_mazes(1000, 10, seed)
    own = f"GRID=10 CURRICULUM={curriculum} NUM_EPISODES={batches * 1024} SEED={seed}"
    with constants(PLAIN, own):
        won = arrived(trained(), mazes, STEPS)
    means, number = mean_by(maze.shortest(mazes, distance) // 4, won, FAR // 4)
    return torch.where(number >= 5, means, torch.nan)


def measure(fast, seeds):
    some = range(seeds)
    walks = 4096 if fast else 16384
    data = dict(chance={}, pays={}, learned={}, batches=3 if fast else 8)
    for name, difficulty in ("halls", 0.0), ("mazes", 1.0):
        both = [by_distance(128, difficulty, walks, seed) for seed in some]
        data["chance"][name] = [torch.stack(x) for x in zip(*both)]
    for name, level in LEVELS.items():
        both = [pays(level, 1 if fast else 2, seed) for seed in some]
        data["pays"][name] = [torch.stack(x) for x in zip(*both)]
    for curriculum in "off", "adaptive":
        runs = [learned(curriculum, data["batches"], seed) for seed in range(1 if fast else 3)]
        data["learned"][curriculum] = torch.stack(runs)
    return data


def checks(data):
    rows, d = [], range(1, FAR)
    for name, (exact, measured) in data["chance"].items():
        half = [crossing(d, x.nanmean(0)[1:].tolist()) for x in (exact, measured)]
        rows.append((f"{name}: half of the random walks arrive from up to", *half))
    rows.append(("mazes: the same, by the rule √T / 2", math.sqrt(STEPS) / 2, half[1]))
    return rows + [(f"{name}: random walks of {main.BSZ:,} that arrive",
                    *(x.sum(1).mean().item() for x in both))
                   for name, both in data["pays"].items()]  # fmt: skip


def draw(figure, data):
    left, middle, right = axes_of(figure, 3)
    d = torch.arange(FAR)
    for (exact, measured), colour in zip(data["chance"].values(), COLOURS):
        left.plot(d, measured.nanmean(0), "o", color=colour, ms=3.5)
        dashed(left, d, exact.nanmean(0), colour)
    left.set(xlim=(0, 25), xlabel="steps to the goal", title="random walks that arrive")
    label(left, 6.3, 0.5, "mazes", COLOURS[1])
    label(left, 1.2, 0.22, "empty\nhalls", COLOURS[0])
    left.set_ylabel(f"chance, in {STEPS} steps")
    for (expected, counted), colour in zip(data["pays"].values(), COLOURS[2:]):
        shown = expected.mean(0) > 0
        middle.plot(d[shown], counted.mean(0)[shown].clamp(min=1e-9), "o", color=colour, ms=3.5)
        dashed(middle, d[shown], expected.mean(0)[shown], colour)
    middle.set(yscale="log", ylim=(0.1, 400), xlim=(0, 25), xlabel="steps to the goal")
    middle.set(title=f"of {main.BSZ:,} in a batch")
    label(middle, 1, 0.32, "no curriculum", COLOURS[2])
    label(middle, 10, 22, "curriculum\nat level 0.2", COLOURS[3])
    label(middle, 6.5, 150, "at level 0.05", COLOURS[4])
    for runs, colour in zip(data["learned"].values(), COLOURS[2:]):
        band(right, torch.arange(FAR // 4) * 4 + 2, runs.float(), colour, lw=2)
    right.set(xlabel="steps to the goal", ylim=(-0.04, 1.15))
    right.set(title=f"CNN, 10x10: {data['batches']} batches")
    label(right, 18, 0.3, "curriculum off", COLOURS[2])
    label(right, 18, 1.08, "adaptive", COLOURS[3])


def sentence(data):
    return (
        "A random walk of T steps finds a goal √T/2 cells away every other time and one 2√T away "
        "hardly ever: begin near the goal, and move away as success comes."
    )

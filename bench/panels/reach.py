"""How far does credit reach in one look? Networks that may look a few times only."""

import torch

import maze
from panels import (
    COLOURS,
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

QUESTION = "How far can it see in so many looks?"
PREDICTION = "dashed: 1 if d ≤ LOOKS;  P(d − corners ≤ rounds + 1)"
LOOKS, ROUNDS = (5, 10, 20, 40), (2, 4, 8, 16)
THINKS = "NUM_EPISODES=6144 UNTIL_PROVED=False EVAL_MAZES=256 MAZE_CACHE_SIZE=4096"
PLAIN = "THINK=False MODEL=cnn GRID=10 EVAL_MAZES=256 EVAL_EVERY=1000 MAZE_CACHE_SIZE=4096"
FAR = 61


def king_steps(mazes):
    """Steps to the goal from each cell, if open cells that touch at a corner were neighbours, too.

    That is how a 3x3 convolution carries news, where walls carry none: (H, W, B), inf where none
    arrives. In the first convolution it goes one cell, and one more in each round.
    """
    steps = torch.full(mazes.walls.shape, torch.inf)
    steps.flatten(0, 1).scatter_(0, mazes.goal[None], 0.0)
    before = None
    while before is None or not torch.equal(steps, before):
        before, rim = steps, maze.padded(steps, 1, torch.inf)
        h, w, _ = steps.shape
        near = [rim[i : i + h, j : j + w] for i in range(3) for j in range(3)]
        closest = torch.stack(near).amin(0) + 1
        steps = torch.where(mazes.walls, torch.inf, torch.minimum(steps, closest))
    return steps


def predicted_cnn(rounds, mazes, distance):
    """The share of starts at each distance that news of the goal reaches."""
    king = maze.along(king_steps(mazes), mazes.start[None])[0]
    return mean_by(maze.shortest(mazes, distance), king <= rounds + 1, FAR)[0]


def measure(fast, seeds):
    data = dict(thinker={}, cnn={}, predicted={})
    mazes, distance = some_mazes(1000 if fast else 4000, 16, 0)
    far = maze.shortest(mazes, distance)
    for looks in LOOKS:
        runs = []
        for seed in range(seeds):
            with constants(THINKS, f"LOOKS={looks} SEED={seed}"):
                runs.append(mean_by(far, arrived(trained(), mazes, 150), FAR)[0])
        data["thinker"][looks] = torch.stack(runs)
    mazes, distance = some_mazes(1000 if fast else 4000, 10, 0)
    far = maze.shortest(mazes, distance)
    for rounds in ROUNDS:
        data["predicted"][rounds] = predicted_cnn(rounds, mazes, distance)
        runs = []
        for seed in range(min(seeds, 3)):
            own = f"LOOKS={rounds} NUM_EPISODES={6144 if fast else 61440} SEED={seed}"
            with constants(PLAIN, own):
                runs.append(mean_by(far, arrived(trained(), mazes, 100), FAR)[0])
        data["cnn"][rounds] = torch.stack(runs)
    return data


def checks(data):
    d, rows = range(1, FAR), []
    for looks, runs in data["thinker"].items():
        half = crossing(d, runs.mean(0)[1:].tolist())
        rows.append((f"thinker, LOOKS={looks}: half succeed up to", looks + 0.5, half))
    for rounds, runs in data["cnn"].items():
        half = [crossing(d, x[1:].tolist()) for x in (data["predicted"][rounds], runs.mean(0))]
        rows.append((f"CNN of {rounds} rounds: half succeed up to", *half))
    return rows


def draw(figure, data):
    left, right = axes_of(figure, 2, sharey=True)
    d = torch.arange(FAR)
    for (looks, runs), colour in zip(data["thinker"].items(), COLOURS):
        band(left, d, runs, colour, lw=2)
        dashed(left, d, (d <= looks).float(), "black")
        label(left, looks + 0.3, 1.08, f"{looks}", colour, ha="center")
    for (rounds, runs), colour in zip(data["cnn"].items(), COLOURS):
        band(right, d, runs, colour, lw=2)
        dashed(right, d, data["predicted"][rounds], "black")
        at = crossing(d[1:].tolist(), data["predicted"][rounds][1:].tolist())
        label(right, at + 0.5, 1.08, f"{rounds}", colour, ha="center")
    left.set(xlabel="steps to the goal", ylabel="success", title="thinks, LOOKS =")
    right.set(xlabel="steps to the goal", title="plain CNN, LOOKS =", xlim=(0, 32))
    left.set(ylim=(-0.04, 1.18), xlim=(0, 60))


def sentence(data):
    return (
        "A look, or a round, carries news one cell: what is farther than LOOKS is not there. "
        "The CNN saves a step at each corner, and needs more training than rounds to use it."
    )

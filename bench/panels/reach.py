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
PREDICTION = "dashed: d ≤ LOOKS; d − corners ≤ LOOKS + 1, or all other ways end in sight"
LOOKS, ROUNDS = (5, 10, 20, 40), (2, 4, 8, 16)
THINKS = "NUM_EPISODES=6144 UNTIL_PROVED=False EVAL_MAZES=256 MAZE_CACHE_SIZE=4096"
PLAIN = "THINK=False MODEL=cnn GRID=10 EVAL_MAZES=256 EVAL_EVERY=1000 MAZE_CACHE_SIZE=4096"
FIRST = "first prediction, that it must see the goal"
MISSES = (
    "The first prediction missed: it left out that the goal can be known by exclusion. The second "
    "one, which is drawn, was derived after that had been seen. "
    "Where the way is not known, the CNN guesses, and is often right: the less it sees, the more "
    "of its success is that. The prediction counts only what is known."
)
FAR, NEAR = 61, 32


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


def way_is_known(mazes):
    """How many rounds a cell needs to know where to go in a perfect maze: (H, W, B).

    Either news of the goal arrives: king steps - 1. Or all other ways are seen to be closed, so
    that the goal must be where it is not seen: the king steps to the farthest cell there.
    """
    h, w, b = mazes.walls.shape
    is_open = ~mazes.walls.flatten(0, 1)
    lane, cell = is_open.t().nonzero().unbind(1)  # as many in each maze
    each = mazes.select(lane)._replace(goal=cell)
    shape = h * w, b, len(cell) // b  # (from, B, to)
    king = king_steps(each).flatten(0, 1).view(shape)
    steps = maze.distances(each.walls, each.goal).flatten(0, 1).view(shape)
    best = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal)).argmax(0).flatten(0, 1)
    table = maze.move_table(mazes).view(h * w, 5, b)
    onward = table.gather(1, best[:, None])[:, 0].long()  # (from, B)
    elsewhere = steps.gather(0, onward[..., None].expand(shape)) > steps
    farthest = torch.where(elsewhere & is_open[..., None], king, 0).amax(-1)
    goal = king_steps(mazes).flatten(0, 1)
    return torch.minimum(goal - 1, farthest).view(h, w, b)


def predicted_cnn(n, grid=10):
    """{rounds: the share of starts at each distance, with which the whole way is known}; and the
    share that news of the goal reaches.
    """
    mazes, distance = some_mazes(n, grid, 1)
    far, needs = maze.shortest(mazes, distance), way_is_known(mazes)
    moves = maze.optimal_q(mazes, distance).argmax(0).to(torch.uint8)
    choices = torch.full((int(far.max()), n), 4)
    way = maze.walk(maze.move_table(mazes, moves), mazes.start, choices)
    most = torch.where(way == mazes.goal, 0, maze.along(needs, way)).amax(0)
    king = maze.along(king_steps(mazes), mazes.start[None])[0]
    return [{rounds: mean_by(far, x <= rounds, FAR)[0] for rounds in ROUNDS}
            for x in (most, king - 1)]  # fmt: skip


def measure(fast, seeds):
    data = dict(thinker={}, cnn={})
    data["predicted"], data["goal seen"] = predicted_cnn(150 if fast else 500)
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
        what = f"CNN of {rounds} rounds: mean success, goals 1 to {NEAR} steps away"
        both = data["predicted"][rounds], runs.mean(0)
        rows.append((what, *(x[1 : NEAR + 1].nanmean().item() for x in both)))
    for rounds, runs in data["cnn"].items():
        half = [crossing(d, x[1:].tolist()) for x in (data["goal seen"][rounds], runs.mean(0))]
        rows.append((f"CNN of {rounds} rounds, {FIRST}: half succeed up to", *half))
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
        dashed(right, d, data["predicted"][rounds], colour)
        at = crossing(d[1:].tolist(), data["goal seen"][rounds][1:].tolist())
        right.plot(at, -0.04, "^", color=colour, ms=9, clip_on=False, zorder=6)
        label(right, at, 1.08, f"{rounds}", colour, ha="center")
    label(right, 17.5, 0.87, "▲ half see the goal")
    left.set(xlabel="steps to the goal", ylabel="success", title="thinks, LOOKS =")
    right.set(xlabel="steps to the goal", title="plain CNN, LOOKS =")
    left.set(ylim=(-0.04, 1.18), xlim=(0, 60))
    right.set(xlim=(0, NEAR))


def sentence(data):
    return (
        "A look, or a round, carries news one cell. The CNN comes farther in perfect mazes: it "
        "learns that the goal must be where it has not seen that all ways end."
    )

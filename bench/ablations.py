"""What matters? One thing at a time is turned away from the default run.

    python bench/ablations.py [SEEDS=3] [FIRST=0] [KEY=VALUE ...]

KEY=VALUE: constants of main.py for all runs. Each row: SEEDS runs of `main.train`, as far as the
proof. Prints after how many batches each was proved, median (range); or, if one was not, how many
views each answers wrongly at the end. Then the worst seed's share of mazes that are walked by a
shortest path: of 2,000 held-out ones, and of 500 of 31x31 cells with half of their walls. A row
whose runs end with the very weights of the default run says so.
"""

import contextlib
import itertools
import math
import statistics
import sys

import torch
from options import own, split, trained

import main
import maze
import model
from support import report

# --------------------------------------------------------------------------------------------------
# What is built in, and cannot be turned by a constant


class Turned(model.Thinker):
    """Thinks by the `think` below."""

    unit, clip = 1, 1

    def begin(self, mazes, farthest=None):
        most = 8 + 2 * farthest if farthest else int((~mazes.walls).sum((0, 1)).max()) + 2
        change = (self.table.amax(0) * self.unit).round().clamp(-9 * self.unit, 9 * self.unit)
        how = self.first(mazes.walls), self.unit, self.clip
        return model.Thoughts(self, *think(change.int(), mazes.walls, mazes.goal, most, *how))

    def first(self, walls):
        return torch.zeros_like(walls, dtype=torch.int32)

    def next_value(self, episodes, best=None):
        _, value, next_value = episodes.seen[:, :-1]
        return ((next_value - value) / self.unit).clamp(-self.clip, self.clip)


class Unrounded(Turned):
    """V is not rounded to whole steps; only what a cell sees of it is, since views are numbers."""

    unit = 1024


class BeginsAtRandom(Turned):
    """V is not 0 at first, but in each cell a random number of steps from 0 to -9."""

    def first(self, walls):
        return -torch.randint(10, walls.shape, dtype=torch.int32)


class SeesTwoSteps(Turned):
    """Differences of values are clipped to two steps, not to one: 6^8 = 1,679,616 views."""

    clip = 2


class LearnsFromAllSteps(model.Thinker):
    """Also from those of a minibatch that are alike."""

    def kinds(self, episodes):
        return None


def think(change, walls, goal, most, first, unit=1, clip=1):
    """`model.think`, but V is `first` at first, and counted in parts of a step, 1 / unit."""
    (h, w, b), base = walls.shape, 2 * clip + 2
    looking = (~walls).flatten(0, 1).scatter(0, goal[None], False).view(h, w, b)
    is_open, value, before = ~maze.padded(walls, 1, True), first * looking, None
    for look in itertools.count():
        view, rim = torch.zeros_like(value), maze.padded(value, 1, 0)
        for k, (i, j) in enumerate(model.AROUND):
            there = slice(1 + i, h + 1 + i), slice(1 + j, w + 1 + j)
            seen = ((rim[there] - value) / unit).round().int().clamp(-clip, clip)
            view += (seen + clip + 1) * is_open[there] * base**k
        view *= looking
        if look == most or (before is not None and torch.equal(view, before)):
            return value, view
        value, before = value + change[view] * looking, view


def planes_of_two_steps(view):
    """`model.planes_of` for SeesTwoSteps."""
    digit = torch.stack([view.div(6**k, rounding_mode="floor") % 6 for k in range(8)])
    return torch.stack([digit == 0, torch.where(digit == 0, 0, digit - 3)]).float()


@contextlib.contextmanager
def with_thinker(kind):
    """Agents of this class in place of `model.Thinker`."""
    before = {name: getattr(model, name) for name in ("Thinker", "VIEWS", "planes_of")}
    model.Thinker = kind
    if kind is SeesTwoSteps:
        model.VIEWS, model.planes_of = 6**8, planes_of_two_steps
    try:
        yield
    finally:
        vars(model).update(before)


BUILT_IN = {
    "V not rounded": Unrounded,
    "V begins at random": BeginsAtRandom,
    "differences clipped to two steps": SeesTwoSteps,
    "every step counts, not one of those alike": LearnsFromAllSteps,
}
CONSTANTS = [
    "CURRICULUM=off",
    "CURRICULUM=linear",
    "DIFFICULTY_MIN=1",
    "MAZE_CACHE_SIZE=64",
    "EPSILON=0.1",
    "BSZ=256",
    "UPDATES=10",
    "WIDTH=8",
    "WIDTH=16",
    "WIDTH=48",
    "LR=0.03",
    "LR=0.0033",
    "HUBER=1",
    "TARGET_SYNCS=10",
    "REPLAY=uniform",
    "REPLAY=prioritized",
    "LOOKS=5",
    "LOOKS=20",
]
ROWS = {"nothing": ("", None)}
ROWS |= {turn: (turn, None) for turn in CONSTANTS} | {
    name: ("", BUILT_IN[name]) for name in BUILT_IN
}


# --------------------------------------------------------------------------------------------------


def one_run(arguments, kind=None):
    """The figures of one `main.train` with these KEY=VALUE, and all its weights, (N,)."""
    with contextlib.ExitStack() as stack:
        if kind:
            stack.enter_context(with_thinker(kind))
        run = trained("EVAL_MAZES=2000", *arguments)
        network, record, held_out = stack.enter_context(run)
        tests = report.test_set(main.config(), held_out), with_loops()
        steps = main.MAX_EP_LENGTH, 961
        held_out, loops = (
            main.evaluate(network, *few, limit)["optimal"] for few, limit in zip(tests, steps)
        )
        row = record["history"][-1]
        proved = row["wrong_views"] == 0 and not main.LOOKS
        return dict(
            batches=row["episodes"] // main.BSZ if proved else math.inf,
            wrong=row["wrong_views"],
            held_out=held_out.mean().item(),
            loops=loops.mean().item(),
            weights=torch.cat([w.detach().flatten() for w in network.parameters()]),
        )


def with_loops(n=500, grid=31):
    """Mazes with half of their walls, larger than those of training, and the distances."""
    mazes = own(n, grid, 0.5, grid)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def words(runs, default):
    """The cells of a row."""
    batches = [found["batches"] for found in runs]
    if max(batches) < math.inf:
        said = f"{statistics.median(batches):g} ({min(batches)} .. {max(batches)})"
    else:
        said = "not proved: " + ", ".join(f"{found['wrong']:,}" for found in runs)
    weights = [[found["weights"] for found in some] for some in (runs, default)]
    if runs is not default and all(map(torch.equal, *weights)):
        said += "; the same weights"
    return said, *(f"{min(found[name] for found in runs):.4f}" for name in ("held_out", "loops"))


def run(arguments):
    options, common = split(arguments, SEEDS=3, FIRST=0)
    torch.set_num_threads(1)
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    print("| turned | batches to the proof, or wrong views | held-out | loops |")
    print("| --- | ---: | ---: | ---: |")
    default = None
    for name, (turn, kind) in ROWS.items():
        runs = [one_run([*common, turn, f"SEED={seed}"], kind) for seed in seeds]
        default = default or runs
        print(f"| {' | '.join([name, *words(runs, default)])} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

"""What matters? One thing at a time is turned away from the default run.

    python bench/ablations.py [SEEDS=3] [TABLE=name ...] [KEY=VALUE ...]

KEY=VALUE: constants of main.py for all runs. TABLE: "built-in", "constants", "vin", "once", "map";
all but "map" if none is named. Each row: SEEDS runs of `main.train`, then 2,000 held-out mazes, and
500 mazes of 31x31 cells with loops (half of the walls kept), which are larger than those of
training.

success and optimal: median (worst seed) on the held-out mazes; loops: share of the mazes with loops
walked by a shortest path, median (worst); backup error: mean and worst of |q - exact| / exact, as
`backup_error` of a run (medians over the seeds); to 99%: episodes until held-out success was 99%
for the first time, median, - if a seed never came there; loss: greatest of the run over that of its
end.
"""

import contextlib
import io
import math
import os
import statistics
import sys
import tempfile
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import maze
import model
from maze import Mazes
from support.metrics import average, one_look, relative_error
from support.settings import check, override

# --------------------------------------------------------------------------------------------------
# What is built in, taken away


class AbsoluteValues(model.Thinker):
    """Sees values as they are, not in units of the greatest within reach."""

    def best_in_reach(self, patch):
        m = super().best_in_reach(patch)
        return torch.where(m > model.NO_VALUE, 0.0, m)


class UnitOfPatch(model.Thinker):
    """The unit is the greatest value of all the patch, whether a step leads there or not."""

    def best_in_reach(self, patch):
        return patch[: self.patch_size].amax(0)


class ValuesInWalls(model.Thinker):
    """Walls think, too, and hold values; the core sees only that they are walls."""

    def think(self, mazes, each_look=None):
        return WallThoughts(self, mazes.walls, mazes.goal).settle(each_look)

    def look(self, patch):
        (worth, kind), m = patch.chunk(2), self.best_in_reach(patch)
        most = self.core.radius * model.GRAIN * self.log2_unit
        value = ((worth - m) * self.log2_unit).clamp(max=most).exp2()
        planes = torch.stack([(kind == model.WALL).to(value.dtype), value])
        return self.core(planes.unflatten(1, (self.side, self.side))), m


class WallThoughts(model.Thoughts):
    def __init__(self, thinker, kind, goal):
        super().__init__(thinker, kind, goal)
        inside = maze.padded(torch.ones_like(kind, dtype=torch.bool), thinker.core.radius, False)
        self.worth[inside.flatten() & (self.worth == model.NO_CELL)] = model.NO_VALUE
        self.may_think = inside.flatten()

    def settle(self, each_look=None):
        kind, self.kind = (
            self.kind,
            torch.where(self.may_think, model.OPEN, model.WALL),
        )  # all may think
        self.shown = kind.int()
        return super().settle(each_look)

    def patches(self, at):
        index = self.patch.view(-1, *[1] * at.dim()) + at
        return torch.cat([self.worth[index], self.shown[index]])


def setting(owner, **values):
    """A function that returns a context, in which attributes of `owner` have these values."""

    @contextlib.contextmanager
    def turned():
        before = {name: getattr(owner, name) for name in values}
        for name, value in values.items():
            setattr(owner, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(owner, name, value)

    return turned


def thinker(kind):
    """Networks of this class in place of `model.Thinker`."""

    def build(settings):
        return kind(settings["MODEL"], settings["WIDTH"], settings["GAMMA"], settings["LOOKS"])

    return setting(main, build=build)


def look_that(clip=1.0, falls=False):
    """`Thoughts.look` with another greatest q, or with values that may fall."""

    def look(self, at, q=None):
        patch = self.patches(at)
        said, m = self.thinker.look(patch)
        gain = (said.amax(0).clamp(0, clip).log2() / self.thinker.log2_unit).round()
        worth = (m + gain).clamp(model.NO_VALUE, -model.NO_VALUE)
        worth = worth.masked_fill(m == model.NO_VALUE, model.NO_VALUE)
        own = patch[self.thinker.here]
        changed = (worth != own) if falls else (worth > own)
        self.worth[at[changed]] = worth[changed]
        if q is not None:
            q[:, at] = said.masked_fill(m == model.NO_VALUE, 0)
        return at[changed]

    return setting(model.Thoughts, look=look)


def misaligned():
    """The grain does not divide a step of the discount."""
    init = model.Thinker.__init__

    def other(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.log2_unit *= 1.06

    return setting(model.Thinker, __init__=other)


NOTHING_HIDDEN = setting(model, as_seen=lambda patch, next_worth, thinker: (patch, next_worth))
BUILT_IN = {
    "nothing": ("", None),
    "looks once (LOOKS=1)": ("LOOKS=1", None),
    "looks 10 times (LOOKS=10)": ("LOOKS=10", None),
    "looks 50 times (LOOKS=50)": ("LOOKS=50", None),
    "v in place of v / m": ("", thinker(AbsoluteValues)),
    "v in place of v / m, GAMMA=0.9": ("GAMMA=0.9", thinker(AbsoluteValues)),
    "m over all cells of the patch": ("", thinker(UnitOfPatch)),
    "walls hold values": ("LOOKS=200", thinker(ValuesInWalls)),
    "no clip at m (LOOKS=200)": ("LOOKS=200", look_that(clip=math.inf)),
    "clip at gamma m: gives the backup away": ("", look_that(clip=0.5)),
    "values may fall (LOOKS=200)": ("LOOKS=200", look_that(falls=True)),
    "values rounded to whole steps": ("", setting(model, GRAIN=1)),
    "values rounded to 1/64 step": ("", setting(model, GRAIN=64)),
    "rounding that does not fit GAMMA": ("", misaligned()),
    "trained on settled values only": ("", NOTHING_HIDDEN),
}
CONSTANTS = [
    "",
    "CURRICULUM=off",
    "CURRICULUM=linear",
    "DIFFICULTY_MIN=1",
    "LAMBDA=0.5",
    "LAMBDA=0.9",
    "TARGET_SYNCS=2",
    "TARGET_SYNCS=5",
    "TARGET_SYNCS=10",
    "DOUBLE=True",
    "DOUBLE=True TARGET_SYNCS=10",
    "GAMMA=0.3",
    "GAMMA=0.9",
    "GAMMA=0.98",
    "HUBER=0.01",
    "HUBER=1",
    "GRAD_CLIP=1e9",
    "LR=0.001",
    "UPDATES=10",
    "REPLAY=uniform",
    "REPLAY=prioritized",
    "BSZ=256",
    "MAZE_CACHE_SIZE=64",
    "EPSILON=0.1",
    "WIDTH=8",
    "WIDTH=16",
    "WIDTH=32",
]
VIN = [
    "CURRICULUM=off",
    "CURRICULUM=linear",
    "LAMBDA=0.9",
    "TARGET_SYNCS=10",
    "DOUBLE=True",
    "GAMMA=0.3",
    "GAMMA=0.9",
    "GAMMA=0.98",
    "HUBER=0.1",
    "HUBER=1",
    "REPLAY=uniform",
    "BSZ=256",
    "MAZE_CACHE_SIZE=64",
    "LOOKS=10",
]


# --------------------------------------------------------------------------------------------------
# Networks that look once: they see the whole maze and must spell the way out in their layers


class LooksOnce(nn.Module):
    """A Q-network of the whole maze: forward(mazes) -> Q of all cells (4, H, W, B)."""

    whole_maze = True

    def think(self, mazes):
        return Once(self(mazes), mazes)

    def q(self, seen, steps=None):
        walls, goal, cells = seen
        q = model.along(self(Mazes(walls, goal, cells[0])), cells)
        return q if steps is None else q.flatten(1).index_select(1, steps)

    def log2_m(self, seen):
        return torch.zeros_like(seen[2], dtype=torch.float32)

    def next_value(self, seen, log2_m, choice=None):
        q = self.q(seen)
        return (q if choice is None else torch.where(choice, q, -math.inf)).amax(0)[1:]


class Once:
    def __init__(self, q, mazes):
        self.q, self.mazes = q, mazes

    def q_values(self):
        return self.q

    def along(self, cells, lanes=slice(None)):
        return self.mazes.walls[..., lanes], self.mazes.goal[lanes], cells


class DilatedCNN(LooksOnce):
    """Residual 3x3 convolutions without pooling; dilated up to 8, a cell sees 23 cells far."""

    def __init__(self, width=12):
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4, 8, 4, 2, 1)
        )
        self.leave = model.zeros(nn.Conv2d(width, 4, 1))

    def forward(self, mazes):
        x = F.relu(self.enter(planes(mazes)))
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.leave(x).permute(1, 2, 3, 0)


class FlattenedMLP(LooksOnce):
    """Walls and goal, flattened, to Q of all cells: each place learns for itself."""

    def __init__(self, grid, width=512):
        super().__init__()
        self.grid = grid
        self.layers = nn.Sequential(
            nn.Linear(2 * grid * grid, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            model.zeros(nn.Linear(width, 4 * grid * grid)),
        )

    def forward(self, mazes):
        walls, goal = planes(mazes)[:, :2].flatten(2).unbind(1)
        x = torch.cat([walls, self.grid * goal], 1)  # louder: one cell among so many is not heard
        return self.layers(x).view(-1, 4, self.grid, self.grid).permute(1, 2, 3, 0)


class Transformer(LooksOnce):
    """Two pre-normed layers of attention over all cells (Vaswani et al. 2017), the tokens."""

    def __init__(self, width=32):
        super().__init__()
        self.enter = nn.Conv2d(5, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 1, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.leave = model.zeros(nn.Linear(width, 4))

    def forward(self, mazes):
        h, w, b = mazes.walls.shape
        y, x = (torch.linspace(-1, 1, n, device=mazes.walls.device) for n in (h, w))
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(b, -1, -1, -1)
        x = self.enter(torch.cat([planes(mazes), place], 1)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.leave(x).permute(2, 1, 0).unflatten(1, (h, w))


def planes(mazes):
    """Walls, goal, and ones whose padding marks the edge: (B, 3, H, W)."""
    goal = torch.zeros_like(mazes.walls).flatten(0, 1).scatter(0, mazes.goal[None], True)
    x = torch.stack([mazes.walls, goal.view_as(mazes.walls), torch.ones_like(mazes.walls)])
    return x.permute(3, 0, 1, 2).float().contiguous(memory_format=torch.channels_last)


ONCE_SETTINGS = "DIFFICULTY_MIN=1 GAMMA=0.9 HUBER=1 LR=0.003 UPDATES=20 CURRICULUM_STEP=0.05 "
ONCE = {
    "dilated CNN": (
        ONCE_SETTINGS + "LAMBDA=0.5 CURRICULUM_SUCCESS=0.5 NUM_EPISODES=102400",
        setting(main, build=lambda settings: DilatedCNN()),
    ),
    "flattened MLP": (
        ONCE_SETTINGS + "LAMBDA=0.5 CURRICULUM_SUCCESS=0.5 LR=0.0003 NUM_EPISODES=204800",
        setting(main, build=lambda settings: FlattenedMLP(settings["GRID"])),
    ),
    "transformer": (
        ONCE_SETTINGS + "LAMBDA=0.9 TARGET_SYNCS=4 CURRICULUM_SUCCESS=0.7 NUM_EPISODES=8192",
        setting(main, build=lambda settings: Transformer()),
    ),
}


# --------------------------------------------------------------------------------------------------


def one_run(arguments, turned=None):
    """A dictionary of figures of one `main.train` with these KEY=VALUE."""
    before = main.config()
    try:
        with tempfile.TemporaryDirectory() as folder, (turned or contextlib.nullcontext)():
            own = [f"OUT_DIR={folder}", "EVAL_MAZES=2000", "EVAL_EVERY=2"]
            vars(main).update(override(before, main.BY_AGENT, [*own, *arguments]))
            check(main.config())
            main.started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                network, run, cache, held_out = main.train(main.pick_device())
            scores = average(main.evaluate(network, *main.test_set(held_out)))
            known = average(main.evaluate(network, *main.test_set(cache[:, :2000])))["success"]
            loops = math.nan
            if not isinstance(network, FlattenedMLP):  # which knows one size of maze
                loops = average(main.evaluate(network, *with_loops(), steps=1000))["optimal"]
            wrong = worst = math.nan
            if type(network) is model.Thinker:  # others see other things
                wrong, worst = relative_error(*one_look(network, n=1000))
            if isinstance(network, AbsoluteValues):  # its Q has another unit
                scores["q_error"] = math.nan
        losses = [row["loss"] for row in run["history"]]
        return dict(
            success=scores["success"],
            optimal=scores["optimal"],
            q_error=scores["q_error"],
            gap=known - scores["success"],
            loops=loops,
            wrong=wrong,
            worst=worst,
            rise=max(losses) / losses[-1],
            seconds=run["history"][-1]["seconds"],
            to_99=next(
                (row["episodes"] for row in run["history"] if row["success"] >= 0.99), math.inf
            ),
        )
    finally:
        vars(main).update(before)


def with_loops():
    """500 mazes of 31x31 with half of their walls, and the exact distances."""
    generator = torch.Generator().manual_seed(31)
    mazes = maze.draw(maze.make_mazes(500, 31, generator), 31, 0.5, 961, "random", generator)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def table(name, rows, common, seeds):
    print(
        f"\n### {name}\n\n| turned | success | optimal | loops | backup error | worst | q_error "
        f"| to 99% | loss | seconds |\n| --- |{' ---: |' * 9}"
    )
    for turn, (settings, turned) in rows.items():
        runs = []
        for seed in range(seeds):
            runs.append(one_run([*common, *settings.split(), f"SEED={seed}"], turned))

        def median(key):
            return statistics.median(run[key] for run in runs)

        def with_worst(key):
            return f"{median(key):.4f} ({min(run[key] for run in runs):.4f})"

        reached = f"{median('to_99'):,.0f}" if all(run["to_99"] < math.inf for run in runs) else "-"
        print(
            f"| {turn} | {with_worst('success')} | {with_worst('optimal')} | {with_worst('loops')} "
            f"| {median('wrong'):.4f} | {median('worst'):.2f} | {median('q_error'):.1e} "
            f"| {reached} | {median('rise'):.0f} | {median('seconds'):.1f} |",
            flush=True,
        )


def plain(turns, model_name=None):
    """Rows that turn constants."""
    also = f"MODEL={model_name} " if model_name else ""
    return {also + turn or "nothing": (also + turn, None) for turn in turns}


TABLES = {
    "built-in": BUILT_IN,
    "constants": plain(CONSTANTS),
    "vin": plain(["", *VIN], "vin"),
    "once": ONCE,
}

if __name__ == "__main__":
    options = [a.partition("=") for a in sys.argv[1:]]
    seeds = next((int(value) for key, _, value in options if key == "SEEDS"), 3)
    names = [value for key, _, value in options if key == "TABLE"] or list(TABLES)
    common = [a for a in sys.argv[1:] if a.partition("=")[0] not in ("SEEDS", "TABLE")]
    main.pick_device()
    print(
        f"{seeds} seeds a row; all rows: {' '.join(common) or 'nothing else'}; torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread, {os.cpu_count()} cores"
    )
    for name in names:
        table(name, TABLES[name], common, seeds)

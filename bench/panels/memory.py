"""What does memory buy? From the saved tables of window.py and explorers.py; and a picture."""

import os

import explorers
import torch

import main
import maze
from panels import COLOURS, axes_of, constants, some_mazes
from support.agents import window
from support.pictures import library

QUESTION = "What does memory buy?"
PREDICTION = "dashed: an explorer by hand that knows as much; gru: between nothing and all"
MISSES = (
    "First, a GRU was to do as well as depth-first search, which knows all that it has seen, and "
    "missed: it has to learn by itself what to keep in 128 numbers. Now only the ends are said."
)
RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "results")
RADIUS = 2
# What each agent knows, at least and at most, by which rows of explorers.md; "": nothing.
SEARCH = "depth-first search"
KNOWS = dict(none=("", ""), trail=(SEARCH, SEARCH), gru=("", SEARCH), map=("optimist", "optimist"))
COLOUR = dict(zip(KNOWS, COLOURS))


def table(name):
    """The rows of a table in bench/results: {first column: {column: (median, worst)}}."""
    with open(os.path.join(RESULTS, f"{name}.md")) as file:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in file if line[0] == "|"]
    heads, _, *rows = rows
    number = lambda text: float(text.replace(",", ""))  # noqa: E731
    return {row[0]: {head: tuple(map(number, cell.rstrip(")").split(" (")))
                     for head, cell in zip(heads[1:], row[1:])} for row in rows}  # fmt: skip


class Forgetful(explorers.Optimist):
    """Walks as if all that it does not see now were open: the optimist, without a memory."""

    def go(self, cells, blocked):
        self.cost.fill_(self.unknown)
        at_goal = maze.in_padded(self.mazes.goal, self.w, self.radius)[None]
        self.cost.scatter_(0, at_goal, 1.0)
        return super().go(cells, blocked)


def forgetful(n, seed):
    """Its success in 100 steps."""
    with constants():
        packed = maze.make_mazes(n, main.GRID, torch.Generator().manual_seed(10**9 + seed))
        mazes, _ = explorers.test_set(main.config(), packed)
        cells = main.rollout(Forgetful(RADIUS, 1.0), mazes, 100)[0].cells
    return (cells[-1] == mazes.goal).float().mean().item()


def lookalikes(mazes, distance, radius=RADIUS):
    """Two places that look the same, of which the shortest ways begin in opposite directions.

    The same window of (2 radius + 1)^2 cells and the same way to the goal as the crow flies. Of all
    such pairs in these mazes, goals out of sight, the one that is nearest to its goals: [(lane,
    cell), (lane, cell)]; None if there is none.
    """
    h, w, b = mazes.walls.shape
    cell = torch.arange(h * w)[:, None].expand(-1, b)
    walls = maze.padded(mazes.walls, radius, True).flatten(0, 1)
    bits = walls.gather(0, window(cell, w, radius).flatten(0, 1)).view(-1, h * w, b).long()
    key = sum(bit << i for i, bit in enumerate(bits))
    down, right = mazes.goal // w - cell // w, mazes.goal % w - cell % w
    key = (key * 2 * h + down + h) * 2 * w + right + w
    in_sight = torch.maximum(down.abs(), right.abs()) <= radius
    action = maze.optimal_q(mazes, distance).argmax(0).flatten(0, 1)
    wanted = (distance.flatten(0, 1) > 0) & ~in_sight
    first, best = {}, None
    order = distance.flatten(0, 1)[wanted].argsort()
    lane = torch.arange(b).expand(h * w, b)
    found = (x[wanted][order].tolist() for x in (key, action, distance.flatten(0, 1), lane, cell))
    for name, move, far, *place in zip(*found):
        before = first.setdefault((name, move), (far, place))
        other = first.get((name, move ^ 1))
        if other and (best is None or before[0] + other[0] < best[0]):
            best = before[0] + other[0], (other[1], before[1])
    return best and best[1]


def measure(fast, seeds):
    mazes, distance = some_mazes(500 if fast else 4000, 16, 0)
    places = lookalikes(mazes, distance)
    pair = [(mazes.select(torch.tensor([lane])), cell) for lane, cell in places]
    return dict(window=table("window"), explorers=table("explorers"), pair=pair,
                forgetful=forgetful(200 if fast else 1000, 0))  # fmt: skip


def predicted(data, memory):
    """The success of the explorers that know as much: one number, or (least, greatest)."""
    of = {name: next(iter(row.values()))[0] for name, row in data["explorers"].items()}
    of[""] = data["forgetful"]
    least, most = (of[explorer] for explorer in KNOWS[memory])
    return most if least == most else (least, most)


def checks(data):
    rows = data["window"]
    found = [(f"{memory}: success", predicted(data, memory), rows[f"MEMORY={memory}"]["success"][0])
             for memory in KNOWS]  # fmt: skip
    none, search = rows["MEMORY=none"], predicted(data, "trail")
    gru = "gru, first prediction, depth-first search: success"
    found += [(gru, search, rows["MEMORY=gru"]["success"][0])]
    return [*found, ("none: every success is a shortest way, so spl = success",
                     none["success"][0], none["spl"][0])]  # fmt: skip


def draw_place(axes, mazes, cell):
    """A maze, the window around the cell, and the way to the goal."""
    w = mazes.walls.shape[1]
    moves = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal)).argmax(0)
    start = torch.tensor([cell])
    way = maze.walk(maze.move_table(mazes, moves.to(torch.uint8)), start, torch.full((300, 1), 4))
    y, x = way[:, 0] // w, way[:, 0] % w
    picture = torch.where(maze.padded(mazes.walls, 9, True)[..., 0], 0.75, 1.0)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(-9.5, w + 8.5, w + 8.5, -9.5))
    axes.plot(x, y, color=COLOURS[0], lw=2)
    axes.plot(x[0], y[0], "o", color=COLOURS[0], ms=6)
    axes.plot(x[-1], y[-1], "*", color=COLOURS[1], ms=11)
    side = 2 * RADIUS + 1
    box = dict(fill=False, ec=COLOURS[2], lw=2.5, zorder=4)
    corner = float(x[0]) - side / 2, float(y[0]) - side / 2
    axes.add_patch(library().patches.Rectangle(corner, side, side, **box))
    across, down = (float(z.min() + z.max()) / 2 for z in (x, y))
    axes.set(xlim=(across - 6, across + 6), ylim=(down + 6, down - 6), xticks=[], yticks=[])


def draw(figure, data):
    left, first, second = axes_of(figure, 3, room=dict(wspace=0.05, width_ratios=[1.25, 1, 1]))
    for y, (memory, colour) in enumerate(COLOUR.items()):
        median, worst = data["window"][f"MEMORY={memory}"]["success"]
        left.barh(y, median, color=colour, alpha=0.85, height=0.62)
        left.plot([worst, median], [y, y], color="black", lw=1)
        at = predicted(data, memory)
        for x in at if isinstance(at, tuple) else [at]:
            left.plot([x, x], [y - 0.42, y + 0.42], color="black", ls=(0, (3, 1.5)), lw=1.6)
    left.set(yticks=range(len(KNOWS)), xlim=(0, 1), ylim=(3.6, -0.6), xlabel="success")
    left.set_yticklabels(KNOWS)
    left.set_title("MEMORY =")
    for axes, (mazes, cell) in zip((first, second), data["pair"]):
        draw_place(axes, mazes, cell)
    first.set_title("looks the same ...")
    second.set_title("... needs the opposite")


def sentence(data):
    return (
        "Two places look the same and need opposite moves: without a memory one of the two is "
        "wrong, however large the network."
    )

"""How far do hand-written explorers come that see what the window agents see?

    python bench/explorers.py [MAZES=2000] [RADIUS=2] [CHECKPOINT ...]

Held-out perfect mazes of 16x16, a window of (2 RADIUS + 1)^2 cells that sees through walls, and the
way to the goal as the crow flies. Each explorer remembers all that it has seen and walks the same
mazes, and so does the agent of each CHECKPOINT. Prints success and spl after 100 steps, and success
after 2 x 16 x 16.
"""

import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import maze
from support.agents import window
from support.files import load_checkpoint
from support.report import test_set
from support.settings import HELD_OUT_SEED


class Explorer:
    """In place of an agent and what it sees in `main.rollout`. go(cells, blocked) moves: (B,)."""

    whole_maze = False

    def begin(self, mazes, farthest=None):
        self.mazes = mazes
        self.h, self.w, self.b = mazes.walls.shape
        self.lane = torch.arange(self.b)
        self.blocked = maze.neighbours(mazes.walls, True).flatten(1, 2)  # (4, H * W, B)
        self.ahead = torch.tensor([-self.w, self.w, -1, 1])[:, None]
        self.start()
        return self

    def start(self):
        pass

    def act(self, cells):
        if (cells == self.mazes.goal).all():
            return torch.zeros_like(cells)
        return self.go(cells, self.blocked[:, cells, self.lane])

    def seen(self, cells):
        return cells[None]  # it does not learn

    def crow(self, cells):
        """Straight distance from cells (..., B) to the goal."""
        goal = self.mazes.goal
        return (
            ((cells // self.w - goal // self.w) ** 2 + (cells % self.w - goal % self.w) ** 2)
            .float()
            .sqrt()
        )


class RandomWalk(Explorer):
    """A random open direction."""

    def go(self, cells, blocked):
        return (torch.rand(4, self.b, generator=GENERATOR) - 2 * blocked).argmax(0)


class WallFollower(Explorer):
    """The right hand on the wall: right if open, else straight on, else left, else back."""

    def start(self):
        self.heading = torch.zeros(self.b, dtype=torch.int64)
        self.round = torch.tensor([0, 3, 1, 2])  # up, right, down, left: clockwise
        self.place = self.round.argsort()

    def go(self, cells, blocked):
        turns = torch.tensor([1, 0, 3, 2])[:, None]  # right, on, left, back
        options = self.round[(self.place[self.heading] + turns) % 4]
        first = (~blocked.gather(0, options)).int().argmax(0)
        self.heading = options.gather(0, first[None])[0]
        return self.heading


class DepthFirst(Explorer):
    """Depth-first search: to the new open neighbour nearest to the goal; else one step back."""

    def start(self):
        self.been = torch.zeros(self.h * self.w, self.b, dtype=torch.bool)
        self.came = torch.full((self.h * self.w, self.b), -1)  # the move that leads back

    def go(self, cells, blocked):
        self.been[cells, self.lane] = True
        there = (cells + self.ahead).clamp(0, self.h * self.w - 1)
        cost = self.crow(there) + 1e6 * (blocked | self.been[there, self.lane])
        best, action = cost.min(0)
        back = self.came[cells, self.lane]
        forward = best < 1e6
        to = there.gather(0, action[None])[0]
        self.came[to[forward], self.lane[forward]] = torch.tensor([1, 0, 3, 2])[action[forward]]
        return torch.where(forward, action, back.clamp(min=0))


class Frontier(Explorer):
    """Walks to the cell, next to one that it has not seen, that has the least score.

    The score: steps to it + beta * its straight distance to the goal. It walks to the goal itself
    once it has seen a way.
    """

    def __init__(self, radius, beta):
        self.radius, self.beta = radius, beta

    def start(self):
        r = self.radius
        self.truth = maze.padded(self.mazes.walls, r, True).flatten(0, 1)
        self.known = maze.padded(torch.zeros_like(self.mazes.walls), r, True).flatten(0, 1)

    def go(self, cells, blocked):
        r = self.radius
        self.known.scatter_(0, window(cells, self.w, r), True)
        known = self.known.view(self.h + 2 * r, self.w + 2 * r, -1)[r:-r, r:-r]
        closed = self.mazes.walls | ~known
        steps = maze.distances(closed, cells)
        edge = ~maze.neighbours(known, True).all(0) & (steps >= 0)
        place = torch.arange(self.h * self.w)[:, None].expand(-1, self.b)
        score = torch.where(
            edge.flatten(0, 1), steps.flatten(0, 1) + self.beta * self.crow(place), 1e6
        )
        goal = self.mazes.goal
        seen = steps.flatten(0, 1).gather(0, goal[None])[0] >= 0
        target = torch.where(seen, goal, score.argmin(0))
        back = maze.distances(closed, target).flatten(0, 1)
        there = (cells + self.ahead).clamp(0, self.h * self.w - 1)
        left = back.gather(0, there)
        return torch.where(blocked | (left < 0), 10**6, left).argmin(0)


class Optimist(Explorer):
    """Walks by the shortest way on its map, where a cell that it has not seen counts as open.

    unknown: as how many steps such a cell counts.
    """

    def __init__(self, radius, unknown):
        self.radius, self.unknown = radius, unknown

    def start(self):
        r = self.radius
        self.truth = maze.padded(self.mazes.walls, r, True).flatten(0, 1).float()
        # Steps to enter a cell, as far as is known; and all of them from a cell to the goal.
        self.cost = torch.full_like(self.truth, self.unknown)
        self.cost = self.cost.scatter(0, maze.in_padded(self.mazes.goal, self.w, r)[None], 1.0)
        self.left = torch.full((self.h * self.w, self.b), torch.inf)
        self.left[self.mazes.goal, self.lane] = 0

    def go(self, cells, blocked):
        r, near = self.radius, window(cells, self.w, self.radius)
        cost = torch.where(self.truth.gather(0, near) > 0, torch.inf, 1.0)
        changed = (self.cost.gather(0, near) != cost).any(0).nonzero()[:, 0]
        self.cost.scatter_(0, near, cost)
        self.plan(changed)
        to = (cells + self.ahead).clamp(0, self.h * self.w - 1)
        there = self.left.gather(0, to) + self.cost.gather(0, maze.in_padded(to, self.w, r))
        return torch.where(blocked, torch.inf, there).argmin(0)

    def plan(self, lanes):
        """The cheapest ways in these mazes, by the steps of all ways of 1, 2, ... cells."""
        r, shape = self.radius, (self.h, self.w, len(lanes))
        cost = self.cost[:, lanes].view(self.h + 2 * r, self.w + 2 * r, -1)[r:-r, r:-r]
        goal = self.mazes.goal[lanes][None]
        left = torch.full((self.h * self.w, len(lanes)), torch.inf).scatter(0, goal, 0)
        before = None
        while before is None or not torch.equal(left, before):
            before = left
            onward = maze.neighbours((left.view(shape) + cost), torch.inf).amin(0)
            left = torch.minimum(left, onward.view(left.shape))
        self.left[:, lanes] = left


GENERATOR = torch.Generator().manual_seed(0)


def run(arguments):
    options = dict(a.split("=") for a in arguments if "=" in a)
    n, radius = int(options.get("MAZES", 2000)), int(options.get("RADIUS", 2))
    torch.set_num_threads(1)
    grid, limit = main.GRID, main.MAX_EP_LENGTH
    packed = maze.make_mazes(n, grid, torch.Generator().manual_seed(HELD_OUT_SEED))
    mazes, distance = test_set(main.config(), packed)
    shortest = maze.shortest(mazes, distance)
    explorers = {
        "random walk": RandomWalk(),
        "right-hand wall follower": WallFollower(),
        "depth-first search": DepthFirst(),
        **{f"frontier, beta {beta}": Frontier(radius, beta) for beta in (1, 2, 3, 4, 6)},
        "optimist": Optimist(radius, 1.0),
        "optimist, unknown cells count as 3 steps": Optimist(radius, 3.0),
    }
    explorers |= {a: load_checkpoint(a, torch.device("cpu"))[0] for a in arguments if "=" not in a}
    print(
        f"{n:,} held-out perfect {grid}x{grid} mazes, window {2 * radius + 1}x{2 * radius + 1}\n\n"
        f"| explorer | success in {limit} steps | spl | success in {2 * grid * grid} steps |\n"
        "| --- | ---: | ---: | ---: |"
    )
    for name, explorer in explorers.items():
        cells = main.rollout(explorer, mazes, 2 * grid * grid)[0].cells
        steps = (cells[:limit] != mazes.goal).sum(0)
        success, later = ((cells[t] == mazes.goal).float() for t in (limit, -1))
        spl = success * shortest / torch.maximum(steps, shortest)
        print(
            f"| {name} | {success.mean():.3f} | {spl.mean():.3f} | {later.mean():.3f} |", flush=True
        )


if __name__ == "__main__":
    run(sys.argv[1:])

"""How far do hand-written explorers come that see what the window agents see?

    python bench/explorers.py [MAZES=2000] [RADIUS=2] [CHECKPOINT ...]

Held-out perfect mazes, a window of (2 RADIUS + 1)^2 cells that sees through walls, the way to the
goal as the crow flies, 100 steps. Each explorer remembers all that it has seen and walks the same
mazes, and so does the agent of each CHECKPOINT. Prints success and spl.
"""

import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import maze
from support import mapper
from support.checkpoint import load_checkpoint
from support.settings import HELD_OUT_SEED


class Explorer:
    """In place of a network in main.rollout: see(cells) rates the four moves, (4, B)."""

    whole_maze = False

    def begin(self, mazes, learning=False):
        self.mazes, self.step = mazes, 0
        self.h, self.w, self.b = mazes.walls.shape
        self.lane = torch.arange(self.b)
        self.blocked = maze.neighbours(mazes.walls, True).flatten(1, 2)  # (4, H * W, B)
        self.ahead = torch.tensor([-self.w, self.w, -1, 1])[:, None]
        self.start()
        return self

    def start(self):
        pass

    def see(self, cells):
        action = self.act(cells, self.blocked[:, cells, self.lane])
        self.step += 1
        return torch.eye(4)[:, action]

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

    def act(self, cells, blocked):
        return (torch.rand(4, self.b, generator=GENERATOR) - 2 * blocked).argmax(0)


class WallFollower(Explorer):
    """The right hand on the wall: right if open, else straight on, else left, else back."""

    def start(self):
        self.heading = torch.zeros(self.b, dtype=torch.int64)
        self.round = torch.tensor([0, 3, 1, 2])  # up, right, down, left: clockwise
        self.place = self.round.argsort()

    def act(self, cells, blocked):
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

    def act(self, cells, blocked):
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

    def act(self, cells, blocked):
        r = self.radius
        self.known.scatter_(0, mapper.around(cells, self.w, r), True)
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


GENERATOR = torch.Generator().manual_seed(0)


def run(arguments):
    options = dict(a.split("=") for a in arguments if "=" in a)
    n, radius = int(options.get("MAZES", 2000)), int(options.get("RADIUS", 2))
    torch.set_num_threads(1)
    main.GRID = 16
    mazes, distance = main.test_set(
        maze.make_mazes(n, 16, torch.Generator().manual_seed(HELD_OUT_SEED))
    )
    shortest = maze.shortest(mazes, distance)
    explorers = [
        ("random walk", RandomWalk()),
        ("right-hand wall follower", WallFollower()),
        ("depth-first search", DepthFirst()),
    ]
    explorers += [
        (f"frontier, beta {beta}", Frontier(radius, beta)) for beta in (1.0, 2.0, 3.0, 4.0, 6.0)
    ]
    explorers += [(path, load_checkpoint(path, "cpu")[0]) for path in arguments if "=" not in path]
    print(
        f"{n:,} held-out perfect 16x16 mazes, window {2 * radius + 1}x{2 * radius + 1}, "
        f"{main.MAX_EP_LENGTH} steps\n\n"
        "| explorer | success | spl |\n| --- | ---: | ---: |"
    )
    for name, explorer in explorers:
        cells = main.rollout(explorer, mazes, main.MAX_EP_LENGTH)[0].cells
        steps, success = (cells[:-1] != mazes.goal).sum(0), (cells[-1] == mazes.goal).float()
        spl = success * shortest / torch.maximum(steps, shortest)
        print(f"| {name} | {success.mean():.3f} | {spl.mean():.3f} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

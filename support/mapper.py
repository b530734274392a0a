"""An agent that draws all it sees into a map, and thinks about that as about a whole maze."""

from collections import deque

import torch
import torch.nn as nn

from maze import in_padded, padded
from model import UNKNOWN, WALL, Thinker, Thoughts, as_seen


def around(cells, w: int, radius: int) -> torch.Tensor:
    """The window of (2 radius + 1)^2 cells around each of `cells` (...), row by row.

    As cells of a `padded` maze whose own width is w: ((2 radius + 1)^2, ...).
    """
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    window = reach[:, None] * (w + 2 * radius) + reach
    return in_padded(cells, w, radius) + window.view(-1, *[1] * cells.dim())


class Mapper(nn.Module):
    """Draws all it sees into a map of open, wall and unknown cells; thinks anew at every step."""

    whole_maze = False

    def __init__(self, core, width, gamma, looks, radius):
        super().__init__()
        self.thinker, self.radius = Thinker(core, width, gamma, looks, kinds=3), radius

    def q(self, seen, steps=None):
        return self.thinker.q(seen, steps)

    def log2_m(self, seen):
        return self.thinker.log2_m(seen)

    def next_value(self, seen, log2_m, choice=None):
        return self.thinker.next_value(seen, log2_m, choice)

    def begin(self, mazes, learning=False):
        return Map(self, mazes, learning)


class Map:
    """What a Mapper knows along the way.

    From a map on which all is known it can't learn what unknown cells are worth. So, when it
    learns, every other agent learns its moves from its map of some steps ago: then it was not known
    whether the move would succeed, and now it is.
    """

    def __init__(self, network, mazes, learning, steps_ago=8):
        self.network, self.mazes = network, mazes
        b, device = len(mazes.goal), mazes.goal.device
        self.late = torch.arange(b, device=device) % 2 == 1 if learning else None
        self.truth = padded(mazes.walls.to(torch.uint8), network.radius, WALL).flatten(0, 1)
        self.known = padded(
            torch.full_like(mazes.walls, UNKNOWN, dtype=torch.uint8), network.radius, WALL
        )
        self.thoughts = Thoughts(network.thinker, self.inner(), mazes.goal)
        self.before = deque(maxlen=steps_ago + 1)  # (values, map) of the last steps
        self.patches, self.next_worth = [], []

    def inner(self):
        """The map (H, W, B), without the rim."""
        h, w, _ = self.mazes.walls.shape
        return self.known[
            self.network.radius : self.network.radius + h,
            self.network.radius : self.network.radius + w,
        ]

    @torch.no_grad()
    def see(self, cells):
        at = self.thoughts.index(cells)
        if self.patches:
            self.next_worth.append(
                self.as_then(self.thoughts.worth[at], lambda: self.thoughts.worth[at])
            )
        near, flat = (
            around(cells, self.mazes.walls.shape[1], self.network.radius),
            self.known.flatten(0, 1),
        )
        news = self.truth.gather(0, near)
        changed = (flat.gather(0, near) != news).any(0)
        flat.scatter_(0, near, news)
        self.think(changed.nonzero()[:, 0] if self.patches else self.thoughts.lane)
        if self.late is not None:
            self.before.append((self.thoughts.worth.clone(), self.thoughts.kind.clone()))
        patch = self.thoughts.patches(at)
        q, _ = self.network.thinker.look(patch)
        self.patches.append(self.as_then(patch, lambda: self.thoughts.patches(at)))
        return q

    def think(self, lanes):
        """Thinks anew in the mazes whose map has changed."""
        if not len(lanes):
            return
        part = Thoughts(
            self.network.thinker, self.inner()[..., lanes], self.mazes.goal[lanes]
        ).settle()
        b = self.thoughts.shape[2]
        self.thoughts.worth.view(-1, b)[:, lanes] = part.worth.view(-1, len(lanes))
        self.thoughts.kind.view(-1, b)[:, lanes] = part.kind.view(-1, len(lanes))

    def as_then(self, now, ask):
        """now; for every other agent that learns, what `ask` finds in the oldest map kept."""
        if self.late is None or not self.before:
            return now
        present = self.thoughts.worth, self.thoughts.kind
        self.thoughts.worth, self.thoughts.kind = self.before[0]
        then = ask()
        self.thoughts.worth, self.thoughts.kind = present
        return torch.where(self.late, then, now)

    def along(self, cells, lanes=slice(None)):
        """What was seen in `lanes`, to learn from: as by `Thoughts.along`."""
        patches, next_worth = torch.stack(self.patches, 1), torch.stack(self.next_worth)
        if self.late is not None:
            patches, next_worth = as_seen(patches, next_worth, self.network.thinker)
        return patches[..., lanes], next_worth[..., lanes]

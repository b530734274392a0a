"""Agents that see a window: the (2 radius + 1)^2 cells around them, through walls.

What they know depends on where they have been, so they are asked step by step: begin(mazes) gives a
memory, memory.see(cells) tells Q (4, B) where the agents now stand, and memory.along(cells) is what
there was to see on the way. As in model.py, the batch is the last axis.
"""
from collections import deque

import torch
import torch.nn as nn
import torch.nn.functional as F

from maze import around, in_padded, padded
from model import UNKNOWN, WALL, Thinker, Thoughts, as_seen, zeros

MEMORIES = "none", "trail", "gru", "map"


def build(settings):
    """The network that these settings, a dictionary of main.py's constants, ask for."""
    core, width, gamma = settings["MODEL"], settings["WIDTH"], settings["GAMMA"]
    if not settings["VISION"]:
        return Thinker(core, width, gamma, settings["LOOKS"])
    if settings["MEMORY"] == "map":
        return Mapper(core, width, gamma, settings["LOOKS"], settings["VISION"])
    return Local(width, settings["VISION"], settings["COMPASS"], settings["MEMORY"])


class Local(nn.Module):
    """An MLP on the window around the agent and the way to the goal, as the crow flies.

    memory: "none"; "trail", how often and how lately it was in each cell of the window; "gru", a
    recurrent state.
    """

    whole_maze = False

    def __init__(self, width, radius, compass, memory):
        super().__init__()
        width = width or 128
        self.radius, self.compass, self.trail = radius, compass, memory == "trail"
        self.enter = nn.Linear((2 + 2 * self.trail) * (2 * radius + 1) ** 2 + 4, width)
        self.hidden = nn.GRU(width, width) if memory == "gru" else nn.Linear(width, width)
        self.leave = zeros(nn.Linear(width, 4))

    def begin(self, mazes, learning=False):
        return Sight(self, mazes)

    def forward(self, seen, state=None):
        """seen (F, T, B) -> Q (4, T, B), and the recurrent state after it."""
        x = F.relu(self.enter(seen.permute(1, 2, 0)))
        if isinstance(self.hidden, nn.GRU):
            x, state = self.hidden(x, state)
        else:
            x = F.relu(self.hidden(x))
        return self.leave(x).permute(2, 0, 1), state

    def q(self, seen, steps=None):
        """Q in all visited cells (4, T + 1, B), or in those of `steps` only (4, N)."""
        q, _ = self(seen[0])
        return q if steps is None else q.flatten(1).index_select(1, steps)

    def log2_m(self, seen):
        """The log2 of the unit of Q, which is 1: (T + 1, B)."""
        return torch.zeros_like(seen[0][0])

    def next_value(self, seen, log2_m, choice=None):
        """The greatest Q in the next cell (T, B), or that of another network's choice."""
        q = self.q(seen)
        return (q if choice is None else torch.where(choice, q, -torch.inf)).amax(0)[1:]


class Sight:
    """What a Local agent sees along the way."""

    def __init__(self, network, mazes):
        self.network, self.mazes, self.seen, self.state = network, mazes, [], None
        walls = padded(mazes.walls, network.radius, True)
        self.walls = walls.flatten(0, 1).float()
        self.times = torch.zeros_like(self.walls)
        self.last = torch.full_like(self.walls, -torch.inf)

    @torch.no_grad()
    def see(self, cells):
        w, network, goal = self.mazes.walls.shape[1], self.network, self.mazes.goal
        near = around(cells, w, network.radius)
        at_goal = near == in_padded(goal, w, network.radius)
        seen = [self.walls.gather(0, near), at_goal.float()]
        if network.trail:
            here = in_padded(cells, w, network.radius)[None]
            self.times.scatter_add_(0, here, torch.ones_like(here, dtype=torch.float32))
            self.last.scatter_(0, here, float(len(self.seen)))
            lately = 0.9 ** (len(self.seen) - self.last.gather(0, near))
            seen += [(self.times.gather(0, near) / 4).clamp(max=1), lately]
        y, x = goal.div(w, rounding_mode="floor") - cells.div(w, rounding_mode="floor"), goal % w - cells % w
        away = torch.stack([y, x]).float() * network.compass
        seen += [away / 16, away / away.norm(dim=0).clamp(min=1)]
        self.seen.append(torch.cat(seen))
        q, self.state = network(self.seen[-1][:, None], self.state)
        return q[:, 0]

    def along(self, cells, lanes=slice(None)):
        """What was seen in `lanes`, to learn from: (F, T + 1, B), alone in a tuple."""
        return (torch.stack(self.seen, 1)[..., lanes],)


class Mapper(nn.Module):
    """Draws all it sees into a map of open, wall and unknown cells, and thinks anew at every step."""

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

    Of cells that it has seen it can learn nothing about the unknown. So, when it learns, every second
    agent is asked what it would have thought of its move with the map that it had some steps ago:
    then it was not known whether the move would succeed, and now it is.
    """

    def __init__(self, network, mazes, learning, steps_ago=8):
        self.network, self.mazes = network, mazes
        b, device = len(mazes.goal), mazes.goal.device
        self.late = torch.arange(b, device=device) % 2 == 1 if learning else None
        self.truth = padded(mazes.walls.to(torch.uint8), network.radius, WALL).flatten(0, 1)
        self.known = padded(torch.full_like(mazes.walls, UNKNOWN, dtype=torch.uint8), network.radius, WALL)
        self.thoughts = Thoughts(network.thinker, self.inner(), mazes.goal)
        self.before = deque(maxlen=steps_ago + 1)  # (values, map) of the last steps
        self.patches, self.next_worth = [], []

    def inner(self):
        """The map (H, W, B), without the rim."""
        h, w, _ = self.mazes.walls.shape
        return self.known[self.network.radius:self.network.radius + h, self.network.radius:self.network.radius + w]

    @torch.no_grad()
    def see(self, cells):
        at = self.thoughts.index(cells)
        if self.patches:
            self.next_worth.append(self.as_then(self.thoughts.worth[at], lambda: self.thoughts.worth[at]))
        near, flat = around(cells, self.mazes.walls.shape[1], self.network.radius), self.known.flatten(0, 1)
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
        part = Thoughts(self.network.thinker, self.inner()[..., lanes], self.mazes.goal[lanes]).settle()
        b = self.thoughts.shape[2]
        self.thoughts.worth.view(-1, b)[:, lanes] = part.worth.view(-1, len(lanes))
        self.thoughts.kind.view(-1, b)[:, lanes] = part.kind.view(-1, len(lanes))

    def as_then(self, now, ask):
        """now; for every second agent that learns, what `ask` finds in the oldest map of those kept."""
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

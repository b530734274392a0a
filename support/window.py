"""Agents that see a window: the (2 radius + 1)^2 cells around them, through walls.

What they know depends on where they have been, so they are asked step by step: begin(mazes) gives a
memory, memory.see(cells) tells Q (4, B) where the agents now stand, and memory.along(cells) is what
there was to see on the way. As in model.py, the batch is the last axis.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from maze import in_padded, padded
from model import zeros
from support.mapper import around

MEMORIES = "none", "trail", "gru", "map"


class Local(nn.Module):
    """An MLP on the window around the agent and the way to the goal, as the crow flies.

    memory: "none"; "trail", how often and how lately it was in each cell of the window; "gru", a
    recurrent state.
    """

    whole_maze = False

    def __init__(self, width, radius, compass, memory):
        super().__init__()
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
        y, x = (
            goal.div(w, rounding_mode="floor") - cells.div(w, rounding_mode="floor"),
            goal % w - cells % w,
        )
        away = torch.stack([y, x]).float() * network.compass
        seen += [away / 16, away / away.norm(dim=0).clamp(min=1)]
        self.seen.append(torch.cat(seen))
        q, self.state = network(self.seen[-1][:, None], self.state)
        return q[:, 0]

    def along(self, cells, lanes=slice(None)):
        """What was seen in `lanes`, to learn from: (F, T + 1, B), alone in a tuple."""
        return (torch.stack(self.seen, 1)[..., lanes],)

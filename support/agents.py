"""All agents, built from main.py's constants; and those that see a window of the maze.

A window: the (2 radius + 1)^2 cells around the agent, seen through walls. What such an agent knows
depends on where it has been, so it is asked step by step: see "What training asks of an agent" in
model.py.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

import model
from maze import along, in_padded, padded
from support import lazy


def build(settings):
    """The agent that these settings, a dictionary of main.py's constants, ask for."""
    radius, memory, width = settings["VISION"], settings["MEMORY"], settings["WIDTH"]
    if radius and memory != "map":
        return Window(width, radius, settings["COMPASS"], memory, returns(settings))
    core = model.CORES[settings["MODEL"]](width)
    thinker = model.Thinker(core, settings["LOOKS"], lazy.think)
    return Mapper(thinker, radius) if radius else thinker


def returns(settings):
    """(the least, the greatest) return of an episode, shaping left out."""
    step, goal, steps = (settings[name] for name in ("STEP_REWARD", "GOAL_REWARD", "MAX_EP_LENGTH"))
    most = max(0, step + settings["NOVELTY"]) * steps + max(0, goal)
    return min(0, step) * steps + min(0, goal), most


def recall(agent, episodes, most_looks=None):
    """The episodes with what there was to see along them, as this agent sees it."""
    sight = agent.begin(episodes.mazes, most_looks)
    if not agent.whole_maze:
        for cells in episodes.cells:
            sight.act(cells)
    return episodes._replace(seen=sight.seen(episodes.cells))


def window(cells, w: int, radius: int) -> torch.Tensor:
    """The window around each of `cells` (...), row by row: ((2 radius + 1)^2, ...).

    As cells of a `padded` maze whose own width is w.
    """
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    offset = reach[:, None] * (w + 2 * radius) + reach
    return in_padded(cells, w, radius) + offset.view(-1, *[1] * cells.dim())


# --------------------------------------------------------------------------------------------------
# An MLP or a recurrent network on what the window shows


class Window(nn.Module):
    """Q from the window around the agent and the way to the goal, as the crow flies.

    memory: "none"; "trail", how often and how lately it was in each cell of the window; "gru", a
    recurrent state. limits: the least and the greatest return; no target is beyond.
    """

    whole_maze = False

    def __init__(self, width, radius, compass, memory, limits):
        super().__init__()
        self.radius, self.compass, self.limits = radius, compass, limits
        self.trail = memory == "trail"
        self.enter = nn.Linear((2 + 2 * self.trail) * (2 * radius + 1) ** 2 + 4, width)
        self.hidden = nn.GRU(width, width) if memory == "gru" else nn.Linear(width, width)
        self.leave = model.zeros(nn.Linear(width, 4))

    def begin(self, mazes, most=None):
        return WindowSight(self, mazes)

    def forward(self, seen, state=None):
        """seen (F, T, B) -> Q (4, T, B), and the recurrent state after it."""
        x = F.relu(self.enter(seen.permute(1, 2, 0)))
        if isinstance(self.hidden, nn.GRU):
            x, state = self.hidden(x, state)
        else:
            x = F.relu(self.hidden(x))
        return self.leave(x).permute(2, 0, 1), state

    def q(self, episodes, steps=None):
        """Q in all visited cells (4, T + 1, B), or in N of the steps (4, N)."""
        q, _ = self(episodes.seen)
        return q if steps is None else q.flatten(1).index_select(1, steps)

    def counts(self, episodes, parts):
        """Which steps to learn from: (T, B) bool."""
        return episodes.cells[:-1] != episodes.mazes.goal

    def next_value(self, episodes, choice=None):
        """The greatest Q in the next cell (T, B), or that of another network's choice."""
        q = self.q(episodes)
        value = (q if choice is None else torch.where(choice, q, -torch.inf)).amax(0)[1:]
        # Overestimates can't feed on themselves: Q is less the potential, but no return is beyond.
        potential = episodes.potential[1:]
        value = (value + potential).clamp(*self.limits) - potential
        return value * (episodes.cells[1:] != episodes.mazes.goal)


class WindowSight:
    """What a Window agent sees along the way."""

    def __init__(self, agent, mazes):
        self.agent, self.mazes, self.notes, self.state = agent, mazes, [], None
        self.walls = padded(mazes.walls, agent.radius, True).flatten(0, 1).float()
        self.times = torch.zeros_like(self.walls)
        self.last = torch.full_like(self.walls, -torch.inf)

    @torch.no_grad()
    def act(self, cells):
        w, agent, goal = self.mazes.walls.shape[1], self.agent, self.mazes.goal
        near = window(cells, w, agent.radius)
        at_goal = near == in_padded(goal, w, agent.radius)
        seen = [self.walls.gather(0, near), at_goal.float()]
        if agent.trail:
            here = in_padded(cells, w, agent.radius)[None]
            self.times.scatter_add_(0, here, torch.ones_like(here, dtype=torch.float32))
            self.last.scatter_(0, here, float(len(self.notes)))
            lately = 0.9 ** (len(self.notes) - self.last.gather(0, near))
            seen += [(self.times.gather(0, near) / 4).clamp(max=1), lately]
        down = goal.div(w, rounding_mode="floor") - cells.div(w, rounding_mode="floor")
        away = torch.stack([down, goal % w - cells % w]).float() * agent.compass
        seen += [away / 16, away / away.norm(dim=0).clamp(min=1)]
        self.notes.append(torch.cat(seen))
        q, self.state = agent(self.notes[-1][:, None], self.state)
        return q[:, 0].argmax(0)

    def seen(self, cells):
        """What there was to see: (F, T + 1, B)."""
        return torch.stack(self.notes, 1)

    def q(self):
        """Q in the visited cells: (4, T + 1, B)."""
        return self.agent(self.seen(None))[0]


# --------------------------------------------------------------------------------------------------
# A thinker on a map


class Mapper(nn.Module):
    """Draws all it sees into a map, and thinks about that, anew at every step, as about a maze.

    What it has not seen yet counts as open.
    """

    whole_maze = False

    def __init__(self, thinker, radius):
        super().__init__()
        self.thinker, self.radius = thinker, radius

    def q(self, episodes, steps):
        return self.thinker.q(episodes, steps)

    def counts(self, episodes, parts):
        return self.thinker.counts(episodes, parts)

    def next_value(self, episodes, choice=None):
        return self.thinker.next_value(episodes)

    def begin(self, mazes, most=None):
        return MapSight(self, mazes, most)


class MapSight:
    """What a Mapper knows along the way."""

    def __init__(self, agent, mazes, most):
        self.agent, self.mazes, self.most = agent, mazes, most
        self.truth = padded(mazes.walls, agent.radius, True).flatten(0, 1)
        self.map = torch.zeros_like(self.truth)  # the walls that it knows of
        self.map_shape = padded(mazes.walls, agent.radius, True).shape
        self.value = torch.zeros(mazes.walls.shape, dtype=torch.int32, device=mazes.goal.device)
        self.view, self.notes, self.next = torch.zeros_like(self.value), [], []

    @torch.no_grad()
    def act(self, cells):
        r, lanes = self.agent.radius, torch.arange(len(cells), device=cells.device)
        if self.notes:  # what the map said of this cell, before it came here
            self.next.append(along(self.value, cells[None])[0])
        near = window(cells, self.mazes.walls.shape[1], r)
        walls = self.truth.gather(0, near)
        changed = (self.map.gather(0, near) != walls).any(0)
        self.map.scatter_(0, near, walls)
        if self.notes:
            lanes = changed.nonzero()[:, 0]
        known = self.map.view(self.map_shape)[r:-r, r:-r]
        mazes = self.mazes._replace(walls=known).select(lanes)
        if len(lanes):
            thoughts = self.agent.thinker.begin(mazes, self.most)
            self.value[..., lanes], self.view[..., lanes] = thoughts.value, thoughts.view
        view, value = along(torch.stack([self.view, self.value]), cells[None])[:, 0]
        self.notes.append(torch.stack([view, value]))
        return self.agent.thinker.action[view].long()

    def seen(self, cells):
        """As by `Thoughts.seen`, each cell as it looked on the map when the agent stood there."""
        now = torch.stack(self.notes, 1)
        return torch.cat([now, torch.stack([*self.next, now[1, -1]])[None]])

    def q(self):
        """Q in the visited cells: (4, T + 1, B)."""
        view, value, _ = self.seen(None)
        return value + self.agent.thinker.table[:, view]

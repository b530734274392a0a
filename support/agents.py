"""All agents, built from main.py's constants; and those that see a window of the maze.

What training asks of an agent, an nn.Module, for B episodes of T steps in B mazes of H x W cells:

  agent.begin(mazes, farthest) -> sight    what it knows as the episodes begin
  sight.greedy() -> (H, W, B)           the greedy action in every cell, if agent.whole_maze; else
  sight.act(cells (B,)) -> (B,)         where the episodes stand; it is asked step by step
  sight.q() -> (4, H, W, B)             Q in all cells; or in the visited ones, (4, T + 1, B)
  sight.seen(cells) -> (F, T + 1, B)    what there was to see on the way, to learn from
  agent.kinds(episodes) -> (T, B)       numbers; of equal steps a minibatch needs one; or None
  agent.q(episodes, steps) -> (4, N)    Q in N of the steps, time * B + lane, with gradient
  agent.next_value(episodes) -> (T, B)  V(s'), 0 in the goal; like q, less V(s) if it thinks
  agent.eval()                          is called when its weights have changed

A window: the (2 radius + 1)^2 cells around the agent, seen through walls. What such an agent knows
depends on where it has been, so it is asked step by step.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

import model
from maze import along, in_padded, padded
from model import AROUND
from support import plain


def build(settings):
    """The agent that these settings, a dictionary of main.py's constants, ask for."""
    radius, memory, width = settings["VISION"], settings["MEMORY"], settings["WIDTH"]
    if radius and memory != "map":
        return MEMORIES[memory](width, radius, settings["COMPASS"], returns(settings))
    if not settings["THINK"] and not radius:
        network = plain.NETWORKS[settings["MODEL"]](width, settings["GRID"], settings["LOOKS"])
        return plain.Plain(network, returns(settings))
    how = model.CORES[settings["MODEL"]](width), settings["LOOKS"], think_lazily
    return Mapper(radius, *how) if radius else model.Thinker(*how)


def returns(settings):
    """(the least, the greatest) return of an episode, shaping left out."""
    step, length = settings["STEP_REWARD"], settings["MAX_EP_LENGTH"]
    return step * length, max(0, step + settings["NOVELTY"]) * length + settings["GOAL_REWARD"]


@torch.no_grad()
def recall(agent, episodes, farthest=None):
    """The episodes with what there was to see along them, as this agent sees it."""
    sight = agent.begin(episodes.mazes, farthest)
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


class Window(plain.QNetwork):
    """Q from the window around the agent and the way to the goal, as the crow flies; no memory.

    A memory is a subclass: what it shows of the way so far, `remembered`, or what it carries from
    step to step, `carry`.
    """

    whole_maze = False
    planes = 2  # of the window: the walls, the goal

    def __init__(self, width, radius, compass, limits):
        super().__init__(limits)
        self.radius, self.compass = radius, compass
        self.enter = nn.Linear(self.planes * (2 * radius + 1) ** 2 + 4, width)
        self.hidden = nn.Linear(width, width)
        self.leave = model.zeros(nn.Linear(width, 4))

    def remembered(self, sight, near):
        """More planes of the window `near` ((2 radius + 1)^2, B), a list; sight: `WindowSight`."""
        return []

    def carry(self, x, state):
        """The hidden layer: x (T, B, width) -> the same, and the state after it."""
        return F.relu(self.hidden(x)), None

    def forward(self, seen, state=None):
        """seen (F, T, B) -> Q (4, T, B), and the state after it."""
        x, state = self.carry(F.relu(self.enter(seen.permute(1, 2, 0))), state)
        return self.leave(x).permute(2, 0, 1), state

    def begin(self, mazes, farthest=None):
        return WindowSight(self, mazes)

    def visited(self, episodes):
        return self(episodes.seen)[0]


class Trail(Window):
    """It knows how often, and how lately, it was in each cell of the window."""

    planes = 4

    def remembered(self, sight, near):
        # By logarithms: of two ways left long ago it has to tell the older one, to go back.
        ago = (len(sight.notes) - sight.last.gather(0, near)).log1p()
        return [sight.times.gather(0, near).log1p() / 2, (1 - ago / 5).clamp(min=0)]


class Recurrent(Window):
    """It carries a state of its own making: a gated recurrent unit (Cho et al. 2014)."""

    def __init__(self, width, radius, compass, limits):
        super().__init__(width, radius, compass, limits)
        self.hidden = nn.GRU(width, width)

    def carry(self, x, state):
        return self.hidden(x, state)


MEMORIES = {"none": Window, "trail": Trail, "gru": Recurrent}


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
        here = in_padded(cells, w, agent.radius)[None]
        self.times.scatter_add_(0, here, torch.ones_like(here, dtype=torch.float32))
        self.last.scatter_(0, here, float(len(self.notes)))
        seen = [self.walls.gather(0, near), at_goal.float(), *agent.remembered(self, near)]
        away = torch.stack([goal // w - cells // w, goal % w - cells % w]).float() * agent.compass
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


class Mapper(model.Thinker):
    """Draws all it sees into a map, and thinks about that, anew at every step, as about a maze.

    What it has not seen yet counts as open.
    """

    whole_maze = False

    def __init__(self, radius, *how):
        super().__init__(*how)
        self.radius = radius

    def begin(self, mazes, farthest=None):
        return MapSight(self, mazes, farthest)


class MapSight:
    """What a Mapper knows along the way."""

    def __init__(self, agent, mazes, farthest):
        self.agent, self.mazes, self.farthest = agent, mazes, farthest
        self.truth = padded(mazes.walls, agent.radius, True)
        self.map = torch.zeros_like(self.truth)  # the walls that it knows of
        shape = 2, *mazes.walls.shape
        self.thoughts = torch.zeros(shape, dtype=torch.int32, device=mazes.goal.device)  # view, V
        self.notes, self.next = [], []

    @torch.no_grad()
    def act(self, cells):
        r, known = self.agent.radius, self.map.flatten(0, 1)
        if self.notes:  # what the map said of this cell, before it came here
            self.next.append(along(self.thoughts[1], cells[None])[0])
        near = window(cells, self.mazes.walls.shape[1], r)
        walls = self.truth.flatten(0, 1).gather(0, near)
        news = (known.gather(0, near) != walls).any(0) | (not self.notes)
        known.scatter_(0, near, walls)  # a view of the map
        lanes = news.nonzero()[:, 0]
        if len(lanes):
            mazes = self.mazes._replace(walls=self.map[r:-r, r:-r]).select(lanes)
            _, value, view = model.Thinker.begin(self.agent, mazes, self.farthest)
            self.thoughts[..., lanes] = torch.stack([view, value])
        self.notes.append(along(self.thoughts, cells[None])[:, 0])
        return self.agent.action[self.notes[-1][0]].long()

    def seen(self, cells):
        """As by `Thoughts.seen`, each cell as it looked on the map when the agent stood there."""
        now = torch.stack(self.notes, 1)
        return torch.cat([now, torch.stack([*self.next, now[1, -1]])[None]])

    def q(self):
        """Q in the visited cells: (4, T + 1, B)."""
        view, value, _ = self.seen(None)
        return value + self.agent.table[:, view]


# --------------------------------------------------------------------------------------------------
# Thinking for less

# A wall is kept as a cell that is far below all others and falls faster: seen once, never news.
WALL_BASE, WALL_SLOPE = -(2**30), -100


@torch.inference_mode()
def think_lazily(change, walls, goal, most: int):
    """(V, view), each (H, W, B) int32, number for number those of `model.think`, for less.

    A cell looks again only when it may see something new: between two looks its value moves by the
    change that it said last. So it is kept as a line over the number of looks, V = base + slope *
    looks, and only the cells at the front of the news are touched: those beside a cell that has
    turned, until the two can't see each other differently any more.
    """
    (h, w, b), device = walls.shape, walls.device
    wall = padded(walls, 1, True)
    looking = ~wall
    looking.view(-1, b).scatter_(0, in_padded(goal, w, 1)[None], False)  # the goal stays worth 0

    # The first look: all values are 0, so all neighbours are walls or alike.
    inside = [(slice(1 + i, h + 1 + i), slice(1 + j, w + 1 + j)) for i, j in AROUND]
    beside_walls = sum(wall[there] * 4**k for k, there in enumerate(inside))  # (H, W, B) int64
    beside_walls = padded(beside_walls.int(), 1, 0)
    alike = sum(2 * 4**k for k in range(8))
    view = (alike - 2 * beside_walls) * looking
    base = torch.where(wall, WALL_BASE, 0).int()
    slope = torch.where(wall, WALL_SLOPE, change[view] * looking).int()
    front = torch.zeros_like(walls)
    for there in inside:
        front |= (slope[there] != slope[1:-1, 1:-1]) & ~wall[there]
    at = (padded(front, 1, False) & looking).view(-1).nonzero()[:, 0]

    # The others, of the cells `at` only: their numbers in the flattened padded maze.
    shape, looking, beside_walls = wall.shape, looking.view(-1), beside_walls.view(-1)
    base, slope, view = base.view(-1), slope.view(-1), view.view(-1)
    ticket = torch.empty_like(base)
    around = torch.tensor([[(i * (w + 2) + j) * b] for i, j in AROUND], device=device)
    power = torch.tensor([[4**k] for k in range(8)], dtype=torch.int32, device=device)
    many = int(looking.sum()) / 3
    for look in range(1, most + 1):
        if look > 2 and len(at) > many:  # of a young network all cells have news all the time
            return model.think(change, walls, goal, most)
        near = (at + around).view(-1)
        difference = base.index_select(0, near).view(8, -1).sub_(base.index_select(0, at))
        drift = slope.index_select(0, near).view(8, -1).sub_(slope.index_select(0, at))
        difference.add_(drift, alpha=look).clamp_(-1, 1)
        seen = (difference * power).sum(0, dtype=torch.int32)
        seen += alike - beside_walls.index_select(0, at)
        if torch.equal(seen, view.index_select(0, at)):
            break
        view.index_copy_(0, at, seen)
        if look == most:
            break
        unsettled = at.masked_select(drift_apart(difference, drift).any(0))
        said, before = change.index_select(0, seen), slope.index_select(0, at)
        turned = (said != before).nonzero()[:, 0]
        news = at.index_select(0, turned)
        said, before = said.index_select(0, turned), before.index_select(0, turned)
        base.index_add_(0, news, (before - said) * look)
        slope.index_copy_(0, news, said)
        near = (news + around).view(-1)
        drift = slope.index_select(0, near).view(8, -1).sub_(said)
        unlike = drift_apart(difference.index_select(1, turned), drift)
        near = near.masked_select(unlike.view(-1))
        near = near.masked_select(looking.index_select(0, near))
        at = torch.cat([unsettled, news.masked_select(unlike.any(0)), near])
        number = torch.arange(len(at), dtype=torch.int32, device=device)
        ticket.index_copy_(0, at, number)  # of a cell that is there twice, one ticket is left
        at = at.masked_select(ticket.index_select(0, at) == number)
    value = (base + slope * look).masked_fill(wall.view(-1), 0)
    return tuple(x.view(shape)[1:-1, 1:-1] for x in (value, view))


def drift_apart(difference, drift):
    """Whether two cells may yet see each other differently: one drifts away from the other.

    Unless the difference, -1, 0 or 1 as it is seen, is clipped already and grows.
    """
    return difference * drift < drift.abs()

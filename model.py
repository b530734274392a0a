"""The agent: networks that think, and the targets that they learn from.

A network that sees the whole maze is a small core that looks at the patch around one cell: which
cells are walls, and what the cells are worth. It gives Q of the four actions there. Thinking is
looking again and again: the best Q of a cell is its new value, which its neighbours see when they
look next, until nothing changes. So values spread from the goal through the maze.

Built in: the value of a cell is the best Q there, as in any Q-learning; the goal's value; walls
hold none; a core sees and says values in units of m, the greatest value within one step, and no
cell is worth more than that; values only rise while the network thinks, and are rounded to half
steps. Learned: which action leads to which cell, that a move into a wall leaves the agent where it
is, what a step costs, and so which way to go.

The batch is the last axis, as in maze.py: values (H, W, B), Q (4, H, W, B).
"""

import math
from typing import NamedTuple

import torch
import torch.nn as nn

from maze import Mazes, in_padded, neighbours, padded

OPEN, WALL, UNKNOWN = range(3)  # kinds of cells; only an agent that draws a map knows the third
GRAIN = 2  # a value V is kept as its logarithm, its worth w: V = GAMMA ** (-w / GRAIN)
NO_VALUE = -(2.0**22)  # the worth of an open cell that no value has reached
NO_CELL = -(2.0**23)  # the worth of a wall


# --------------------------------------------------------------------------------------------------
# Cores: from the patches around n cells, (planes, side, side, n), to Q of the four actions, (4, n).
#
# radius: how far a patch reaches. block: how many cells look at once, to fit a CPU's cache.
#
# The first planes say which cells of the patch are walls (and, on a map, which are unknown). The
# last one is the value of each, in units of the greatest within one step; so is Q. The last layer
# begins with zeros: at first nothing is worth anything (VIN: a move succeeds half the time).


class MLP(nn.Module):
    """A multilayer perceptron on the nine cells of a 3x3 patch: 1,108 weights."""

    radius, block = 1, 8192

    def __init__(self, planes, width, gamma):
        super().__init__()
        self.hidden = nn.Linear(9 * planes, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        return layer(self.q, layer(self.hidden, x.flatten(0, 2)).relu_())


class CNN(nn.Module):
    """Two 3x3 convolutions, without padding or pooling, on a patch of 5x5 cells: 5,764 weights.

    A convolution is a matrix product on each 3x3 window. Written so, it takes a quarter of the
    time of torch's own on images as small as these.
    """

    radius, block = 2, 2048

    def __init__(self, planes, width, gamma):
        super().__init__()
        self.first = nn.Linear(9 * planes, width)
        self.second = nn.Linear(9 * width, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        x = x.unfold(1, 3, 1).unfold(2, 3, 1)  # (planes, 3, 3, n, 3, 3)
        x = x.permute(1, 2, 0, 4, 5, 3).flatten(0, 1).flatten(1, 3)  # (9 windows, 9 * planes, n)
        x = layer(self.first, x).relu_()  # (9 windows, width, n)
        return layer(self.q, layer(self.second, x.flatten(0, 1)).relu_())


class Attention(nn.Module):
    """Attention over the nine cells of a 3x3 patch (Vaswani et al. 2017), with four heads.

    A cell is a token: what it is, and a learned vector for its place in the patch. What each head
    asks for is learned and always the same, so that one linear layer scores the tokens.
    """

    radius, block = 1, 1024

    def __init__(self, planes, width, gamma):
        super().__init__()
        self.token = nn.Linear(planes, width)
        self.place = nn.Parameter(0.5 * torch.randn(width, 9))
        self.score = nn.Linear(width, 4, bias=False)
        self.value = nn.Linear(width, width)
        self.hidden = nn.Linear(4 * width, 2 * width)
        self.q = zeros(nn.Linear(2 * width, 4))

    def forward(self, x):
        x = x.flatten(1, 2)  # (planes, 9, n)
        tokens = layer(self.token, x.flatten(1)).unflatten(1, x.shape[1:])
        tokens = tokens.add_(self.place[..., None]).relu_()  # (width, 9, n)
        score = self.score.weight @ tokens.flatten(1)
        attention = score.unflatten(1, x.shape[1:]).softmax(1)  # (4, 9, n)
        heads = layer(self.value, (attention[:, None] * tokens).sum(2))  # (4, width, n)
        return layer(self.q, layer(self.hidden, heads.flatten(0, 1)).relu_())


class VIN(nn.Module):
    """A value iteration network (Tamar et al. 2016): the backup is built in, all but one thing.

    Two layers look at the walls and give p, the probability that each move succeeds; a move that
    fails leaves the agent where it is: Q(s, a) = gamma * (p * V(s') + (1 - p) * V(s)).
    """

    radius, block = 1, 8192

    def __init__(self, planes, width, gamma):
        super().__init__()
        self.gamma = gamma
        self.hidden = nn.Linear(9 * (planes - 1), width)
        self.p = zeros(nn.Linear(width, 4))

    def forward(self, x):
        # A hard sigmoid.
        p = 0.5 + layer(self.p, layer(self.hidden, x[:-1].flatten(0, 2)).relu_()) / 6
        # Only an exact 0 or 1 stays right over a thousand steps, so p is clipped, not squashed. The
        # gradient passes the clip: a p that is certain and wrong is mended (straight-through).
        p = p.clamp(0, 1) if not p.requires_grad else p + (p.clamp(0, 1) - p).detach()
        value = x[-1].flatten(0, 1)
        there = torch.stack([value[1], value[7], value[3], value[5]])  # up, down, left, right
        return self.gamma * torch.lerp(value[4:5], there, p)


def layer(linear, x):
    """What nn.Linear does to the features of x, (features, n) or (B, features, n)."""
    bias, weight = linear.bias[:, None], linear.weight
    if x.dim() == 2:
        return torch.addmm(bias, weight, x)
    return torch.baddbmm(bias, weight.expand(len(x), -1, -1), x)


def zeros(linear):
    """The layer, with all its weights 0."""
    for weights in linear.parameters():
        nn.init.zeros_(weights)
    return linear


CORES = {"mlp": MLP, "cnn": CNN, "attention": Attention, "vin": VIN}


# --------------------------------------------------------------------------------------------------
# Thinking


class Thinker(nn.Module):
    """A core that thinks: a Q-network for mazes of any size.

    looks: the most rounds of looking; 0: until no value changes.
    kinds: 2, if all cells are open or walls; 3, if some are unknown.
    """

    whole_maze = True

    def __init__(self, core, width, gamma, looks=0, kinds=2):
        super().__init__()
        self.core = CORES[core](kinds, width, gamma)
        self.looks, self.kinds = looks, kinds
        self.log2_unit = math.log2(1 / gamma) / GRAIN  # the log2 of a value is its worth times this
        self.side = 2 * self.core.radius + 1
        self.patch_size = self.side**2
        self.here = self.patch_size // 2  # the cell itself, in its patch

    def think(self, mazes, each_look=None):
        """What this network thinks of the mazes: `Thoughts`, settled. each_look: see `settle`."""
        return Thoughts(self, mazes.walls, mazes.goal).settle(each_look)

    def look(self, patch):
        """(Q of the four actions (4, N) in units of m, the worth of m (N,)).

        patch (F, N): the worth of the cells of N patches; on a map, then also their kinds.
        """
        worth, kind = patch.split([self.patch_size, len(patch) - self.patch_size])
        planes = torch.empty(self.kinds, *worth.shape, device=worth.device)
        torch.eq(worth, NO_CELL, out=planes[0])
        if self.kinds == 3:
            torch.eq(kind, UNKNOWN, out=planes[1])
        m = self.best_in_reach(patch)
        value = torch.sub(worth, m, out=planes[-1])
        # Values far above m are cut: such a cell is out of reach, behind a wall.
        value.mul_(self.log2_unit).clamp_(max=self.core.radius * GRAIN * self.log2_unit).exp2_()
        return self.core(planes.unflatten(1, (self.side, self.side))), m

    def best_in_reach(self, patch):
        """The worth of m, the greatest value that one step can reach: patch (F, ...) -> (...)."""
        column = patch[self.here - self.side : self.here + self.side + 1 : self.side]
        row = patch[self.here - 1 : self.here + 2]
        return torch.maximum(column.amax(0), row.amax(0))

    def q(self, seen, steps=None):
        """Q in units of m: in all visited cells (4, T + 1, B), or in those of `steps` only (4, N).

        seen: as by `Thoughts.along`. steps (N,) int64: time * B + episode.
        """
        patch = seen[0].flatten(1)
        if steps is None:
            return self.look(patch)[0].unflatten(1, seen[0].shape[1:])
        return self.look(patch.index_select(1, steps))[0]

    def log2_m(self, seen):
        """The log2 of m in each visited cell (T + 1, B), -inf where no value has come."""
        m = self.best_in_reach(seen[0])
        return torch.where(m > NO_VALUE, m * self.log2_unit, -math.inf)

    def next_value(self, seen, log2_m, choice=None):
        """V(s') (T, B), on which this network settled, in units of the m of s.

        choice (4, T + 1, B) bool: the actions that another network would take; then it is what this
        network thinks of taking those in s' (double DQN, van Hasselt et al. 2016).
        """
        value = (seen[1] * self.log2_unit - log2_m[:-1]).exp2()
        if choice is not None:
            q = self.q(seen)
            value = value * torch.where(choice, q, 0).amax(0)[1:] / q.amax(0)[1:].clamp(min=1e-3)
        return value


class Thoughts:
    """What a `Thinker` thinks of a batch of mazes: what each cell is worth, and Q.

    kind (H, W, B): OPEN, WALL or UNKNOWN, or just whether it is a wall; goal (B,). Attributes:
    worth (cells * B,): of the cells of the `padded` maze, in half steps (GRAIN);
    q (4, H, W, B): what the cells said when they last looked, in units of m; 0 in walls and goals;
    looked_at (cells * B,): the worth that they saw then.
    """

    def __init__(self, thinker, kind, goal):
        (h, w, b), r, device = kind.shape, thinker.core.radius, goal.device
        self.thinker, self.shape = thinker, (h + 2 * r, w + 2 * r, b)
        self.kind = padded(kind.int(), r, WALL).flatten()
        self.worth = torch.where(self.kind == WALL, NO_CELL, NO_VALUE)
        self.lane = torch.arange(b, device=device)
        self.goal = self.index(goal)
        self.worth.index_fill_(0, self.goal, GRAIN)  # 1 / gamma: a step into the goal is worth 1
        line = torch.arange(-r, r + 1, device=device)
        self.patch = (line[:, None] * (w + 2 * r) + line).view(-1, 1) * b  # offsets of its cells
        beside = [thinker.here + step for step in (-thinker.side, thinker.side, -1, 1)]
        self.beside = self.patch[beside]
        self.block = thinker.core.block * (1 if device.type == "cpu" else 256)  # a GPU is for more
        self.ticket = torch.empty(len(self.worth), dtype=torch.int32, device=device)  # for `wake`

    def index(self, cells, lanes=slice(None)):
        """Where `cells` (..., B) of the mazes `lanes` stand in `worth`."""
        r = self.thinker.core.radius
        return in_padded(cells, self.shape[1] - 2 * r, r) * self.shape[2] + self.lane[lanes]

    @torch.inference_mode()
    def settle(self, each_look=None):
        """Thinks until no value changes, or for as many rounds of looking as the network may take.

        First values spread from the goal, one step with every round but the last. Then every open
        cell looks, whatever it sees. Where some rise even then, their values spread, too, and all
        cells look again that see a change. It ends, as values only rise, up to the goal's.
        each_look: a function to call with these thoughts after each round in which values spread.
        """
        is_open = (self.kind != WALL).index_fill_(0, self.goal, False)
        q = torch.zeros(4, len(self.worth), device=self.worth.device)
        self.rounds_left = self.thinker.looks or math.inf
        self.spread(self.goal, each_look)
        due = is_open.nonzero()[:, 0]
        while True:
            self.looked_at = self.worth.clone()
            risen = self.look(due, q)
            if self.rounds_left <= 1 or not len(risen):
                break
            self.rounds_left -= 1
            risen = self.spread(risen, each_look)
            changed = torch.zeros_like(is_open).index_fill_(0, (self.patch + risen).flatten(), True)
            due = (changed & is_open).nonzero()[:, 0]
        self.q = self.inside(q)
        return self

    def spread(self, risen, each_look=None):
        """Lets the cells look that may gain by the rise of these, and so on; returns all risen."""
        changed = [risen]
        while self.rounds_left > 1 and len(awake := self.wake(changed[-1])):
            changed.append(self.look(awake))
            self.rounds_left -= 1
            if each_look:
                each_look(self)
        return torch.cat(changed)

    def look(self, at, q=None):
        """The cells `at` (N,) look, all at once: returns those whose value rises by it.

        q (4, cells * B): where what they say is written, if anywhere.
        """
        parts = []
        for part in at.split(self.block):
            patch = self.patches(part)
            said, m = self.thinker.look(patch)
            gain = said.amax(0).clamp_(0, 1).log2_().div_(self.thinker.log2_unit).round_()
            worth = m + gain
            rows = (worth > patch[self.thinker.here]).nonzero()[:, 0]
            parts.append((part.index_select(0, rows), worth.index_select(0, rows)))
            if q is not None:
                q.scatter_(1, part.expand(4, -1), said.masked_fill_(m == NO_VALUE, 0))
        risen, worth = (torch.cat(several) for several in zip(*parts))
        self.worth.scatter_(0, risen, worth)  # now that all have looked
        return risen

    def wake(self, risen):
        """The neighbours of these cells that are worth less than they are."""
        near = self.beside + risen
        worth = self.worth.index_select(0, near.flatten()).view_as(near)
        lower = worth < self.worth.index_select(0, risen)
        near = near.masked_select(lower & (worth != NO_CELL))
        # Where two wake the same cell, one ticket is left.
        number = torch.arange(len(near), dtype=torch.int32, device=near.device)
        self.ticket.scatter_(0, near, number)
        return near.masked_select(self.ticket.index_select(0, near) == number)

    def patches(self, at):
        """What the cells `at` (...) see: the worth of all cells of their patch, (F, ...).

        On a map also their kind.
        """
        index = self.patch.view(-1, *[1] * at.dim()) + at
        worth = self.worth.index_select(0, index.flatten()).view(index.shape)
        if self.thinker.kinds == 2:
            return worth
        return torch.cat([worth, self.kind.index_select(0, index.flatten()).view(index.shape)])

    def inside(self, x):
        """x (..., cells * B) without the maze's rim: (..., H, W, B)."""
        (h, w, _), r = self.shape, self.thinker.core.radius
        return x.unflatten(-1, self.shape)[..., r : h - r, r : w - r, :]

    def steps_away(self):
        """How far from the goal each cell seems to be: (H, W, B), inf where no value has come."""
        worth = self.inside(self.worth)
        return torch.where(worth > NO_VALUE, 1 - worth / GRAIN, math.inf)

    def log2_m(self):
        """The log2 of m, the unit of q: (H, W, B)."""
        # m is one of the four beside it: no cell but the goal is worth more than all of them.
        return neighbours(self.inside(self.looked_at), NO_CELL).amax(0) * self.thinker.log2_unit

    def q_values(self):
        """Q of all cells, in its own unit: (4, H, W, B)."""
        return self.q * self.log2_m().exp2()

    def q_steps(self):
        """How far from the goal each action seems to lead, log Q / log GAMMA: (4, H, W, B)."""
        return -(self.q.clamp(min=0).log2() + self.log2_m()) / (GRAIN * self.thinker.log2_unit)

    def along(self, cells, lanes=slice(None)):
        """What learning needs of a walk over `cells` (T + 1, B) in `lanes`: see `as_seen`."""
        at = self.index(cells, lanes)
        return as_seen(self.patches(at), self.worth[at[1:]], self.thinker)


def as_seen(patch, next_worth, thinker):
    """(the patch in each visited cell (F, T + 1, B), worth of the next one (T, B)), to learn from.

    When a cell first looks, only cells nearer to the goal have a value; later, all have. A value
    too high at first would stay. So it learns both: in every second step of a walk, cells worth no
    more than its own have no value, neither for the network nor for its target.
    """
    worth = patch[: thinker.patch_size]
    own = worth[thinker.here]
    t, lane = (torch.arange(size, device=patch.device) for size in own.shape)
    early = (t[:, None] + lane) % 2 == 0
    hidden = early & (worth <= own) & (worth != NO_CELL)
    patch = torch.cat([worth.masked_fill(hidden, NO_VALUE), patch[thinker.patch_size :]])
    return patch, next_worth.masked_fill(early[:-1] & (next_worth <= own[:-1]), NO_VALUE)


# --------------------------------------------------------------------------------------------------
# Learning


class Episodes(NamedTuple):
    """B trajectories of at most T steps, each in a maze of its own. No step leaves the goal.

    cells (T + 1, B), actions (T, B) int64; reward (T, B); potential (T + 1, B): of reward shaping.
    """

    mazes: Mazes
    cells: torch.Tensor
    actions: torch.Tensor
    reward: torch.Tensor
    potential: torch.Tensor

    def select(self, index):
        """The episodes at `index`: a slice or a (N,) int64 tensor."""
        return Episodes(self.mazes.select(index), *(x[:, index] for x in self[1:]))


def along(q, cells):
    """Q in each visited cell: q (..., H, W, B), cells (T + 1, B) -> (..., T + 1, B)."""
    index = cells * cells.shape[1] + torch.arange(cells.shape[1], device=cells.device)
    return q.flatten(-3).index_select(-1, index.flatten()).unflatten(-1, cells.shape)


def q_lambda_targets(reward, done, value, greedy, gamma, lam, rescale=1.0):
    """Watkins's Q(lambda) returns, all (T, B). value[t]: V(s[t + 1]); greedy[t]: whether a[t] was.

        G[t] = reward[t] + gamma * (1 - done[t]) * ((1 - c[t + 1]) * value[t] + c[t + 1] * G[t + 1])

    with c[t] = lam * greedy[t]: the return is cut at the first action that the greedy policy would
    not have taken. The last step of a trajectory bootstraps from its value, so that running out of
    time is not mistaken for the end. rescale (T - 1, B): what G[t + 1] is multiplied by, to be in
    the units of G[t].
    """
    c_next = torch.zeros_like(value)
    c_next[:-1] = lam * greedy[1:]
    onward = gamma * ~done
    target, slope = reward + onward * (1 - c_next) * value, (onward * c_next)[:-1] * rescale
    if lam:
        for t in reversed(range(len(target) - 1)):
            target[t] += slope[t] * target[t + 1]
    return target


@torch.no_grad()
def td_targets(online, target, seen, episodes, gamma, lam, double, bounds=(0.0, 1.0)):
    """The target of Q(s, a) in each step, and which steps count: both (T, B).

    It is r + gamma * V(s'), V of the target network; with lam > 0, Q(lambda) returns. All in units
    of the m of s (see the top), which is 1 for an agent with a window. seen: what there was to
    see along the episodes. bounds: of a return. Steps count until the goal is reached, and where a
    value has come. double: the online network picks the next action (double DQN).
    """
    reached = episodes.cells == episodes.mazes.goal
    log2_m = target.log2_m(seen)
    counts = ~reached[:-1] & (log2_m[:-1] > -torch.inf)
    log2_m = log2_m.masked_fill(log2_m == -torch.inf, 0)  # of steps that don't count
    choice = greedy = None
    if lam or double:
        q = online.q(seen)
        choice = q == q.amax(0)
        greedy = choice[:, :-1].gather(0, episodes.actions[None])[0]
    value = target.next_value(seen, log2_m, choice if double else None)
    # No return is out of bounds, less the potential: overestimates can't feed on themselves.
    potential = episodes.potential[1:]
    value = (value + potential).clamp(*bounds) - potential
    paid = episodes.reward != 0  # elsewhere 1 / m may be inf
    reward = torch.where(paid & counts, episodes.reward * (-log2_m[:-1]).exp2(), 0)
    if not lam:
        return reward + gamma * ~reached[1:] * value, counts
    rescale = (log2_m[1:-1] - log2_m[:-2]).exp2().clamp(max=gamma**-2)  # if exact, <= 1 / gamma
    return q_lambda_targets(reward, reached[1:], value, greedy, gamma, lam, rescale), counts

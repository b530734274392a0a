"""The agent: Q-networks, the targets that they learn from, replay memory, saving and loading.

A network that sees the whole maze gives Q-values for every cell and action at once, (4, H, W, B): a maze does not change
during an episode, so one forward pass is the policy for all of it. One that sees a window gives them step by step, from
what it remembers. The layout is that of maze.py: batch last.
"""
import hashlib
import io
import warnings
from collections import deque
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from maze import Mazes, UserError, ahead, around, beside, in_padded, pack, padded, replacing, unpack

CHECKPOINT_FORMAT = 4


# ----------------------------------------------------------------------------------------------------------------------
# Q-networks that see the whole maze


class WholeMaze(nn.Module):
    """A Q-network that sees the whole maze: forward(mazes, plan) -> Q of every cell and action, (4, H, W, B)."""

    def begin(self, mazes, learning=False):
        """No memory: a maze does not change during an episode, so that one look at it is enough."""

    def plan(self, mazes):
        """What acting and learning can share, found without gradient: a tuple of tensors whose last axis is the batch."""
        return ()

    def visited(self, episodes, plan):
        """What learning from these episodes needs of the plan, the same in every update: a tuple, batch last."""
        return ()

    def along(self, episodes, visited):
        """Q in each visited cell: (4, T + 1, B)."""
        return along(self(episodes.mazes), episodes.cells)


class VIN(WholeMaze):
    """A value iteration network (Tamar et al. 2016), iterated to its fixed point.

    A 3x3 convolution, ReLU and a 1x1 convolution on the walls, turned so that the move leads up, give p(s, a), the probability
    that it succeeds; a move that fails leaves the agent in place. With a learned reward at the goal, the value of being in a cell is
        u(s) = max(reward(s), gamma * max_a Q(s, a)),   Q(s, a) = p(s, a) * u(s') + (1 - p(s, a)) * u(s).
    All cells, all backups and all four directions share the weights, so it runs on a maze of any size, and what is found out
    about a move is found out about the same move in a maze that is turned.
    """

    def __init__(self, grid, width, gamma, windows=None):
        super().__init__()
        self.gamma = gamma
        # A window of nine cells, each wall or not, has only 512 forms: the layers run on these, and cells look theirs up.
        self.register_buffer("windows", one_hot(2) if windows is None else windows, persistent=False)
        self.register_buffer("turned", turns(2) if windows is None else None, persistent=False)
        self.look = nn.Linear(self.windows.shape[1], width or 64)  # the 3x3 convolution, as a function of one cell's window
        self.judge = nn.Linear(width or 64, 4 if self.turned is None else 1)  # the 1x1 convolution
        nn.init.constant_(self.judge.bias, 2.0)  # moves mostly succeed, until found not to
        self.reward = nn.Parameter(torch.tensor(0.5))

    def success(self):
        """p for each action in each window: (4, 512); digit 3 * y + x of a window's number is its cell in row y, column x.

        Clipped to [0, 1], not squashed: only an exact 0 or 1 stays right over a thousand steps. The gradient passes the
        clip unhindered, so that a p which is certain and wrong can still be mended (straight-through estimator).
        """
        p = self.judge(F.relu(self.look(self.windows))).t() / 6 + 0.5
        if self.turned is not None:
            p = p.flatten().index_select(0, self.turned.flatten()).view(self.turned.shape)
        return p.clamp(0, 1).detach() + (p - p.detach())

    def worth(self, p):
        """What a move is worth, in values of the cell it leads to, if tried until it succeeds: x = gamma (p + (1 - p) x)."""
        return self.gamma * p / (1 - self.gamma * (1 - p))

    @torch.no_grad()
    def plan(self, mazes):
        """u at the fixed point, `padded` by 1, and the window that each cell sees (H, W, B)."""
        window = windows_seen(mazes.walls)
        return self.values(mazes.goal, look_up(self.worth(self.success()), window)), window

    def values(self, goal, worth):
        """u at the fixed point, with a rim of zeros: (H + 2, W + 2, B).

        Value iteration in Gauss-Seidel order, row by row and column by column in each direction: value crosses a corridor
        in one sweep, so that a round is needed for each few turns of the way to the goal, not for each of its steps.
        """
        _, h, w, b = worth.shape
        with torch.inference_mode():  # a call costs a fifth less
            u = torch.zeros(h * w, b, device=worth.device).scatter_(0, goal[None], self.reward.expand(1, b)).view(h, w, b)
            row, column = u.unbind(0), u.unbind(1)
            up, down, left, right = worth[0].unbind(0), worth[1].unbind(0), worth[2].unbind(1), worth[3].unbind(1)
            row_, column_ = torch.empty_like(row[0]), torch.empty_like(column[0])  # scratch
            sweeps = [(row[y - 1], up[y], row_, row[y]) for y in range(1, h)]
            sweeps += [(column[x - 1], left[x], column_, column[x]) for x in range(1, w)]
            sweeps += [(row[y + 1], down[y], row_, row[y]) for y in reversed(range(h - 1))]
            sweeps += [(column[x + 1], right[x], column_, column[x]) for x in reversed(range(w - 1))]
            before = torch.empty_like(u)
            for _ in range(h * w):
                before.copy_(u)
                for there, move, scratch, here in sweeps:
                    torch.mul(there, move, out=scratch)
                    torch.maximum(here, scratch, out=here)
                if torch.equal(u, before):
                    break
        return padded(u, 1, 0.0)

    # The plan carries no gradient; the one backup on it does: it is what a semi-gradient TD step follows anyway.

    def forward(self, mazes, plan=None):
        u, window = self.plan(mazes) if plan is None else plan
        goal = in_padded(mazes.goal, window.shape[1], 1)[None]
        u = u.flatten(0, 1).scatter(0, goal, self.reward.expand(goal.shape)).view(u.shape)
        return torch.lerp(u[1:-1, 1:-1], ahead(u), look_up(self.success(), window))

    def visited(self, episodes, plan):
        """u in each visited cell, and where each action leads unless that is the goal (5, T + 1, B); where it is, 1, else 0
        (4, T + 1, B); the window in the cell (T + 1, B)."""
        u, window = plan
        goal = torch.zeros_like(u).flatten(0, 1)
        goal = goal.scatter_(0, in_padded(episodes.mazes.goal, window.shape[1], 1)[None], 1.0).view(u.shape)
        near, to_goal = beside(episodes.cells, u, goal)
        near[1:].addcmul_(near[1:], to_goal[1:], value=-1)
        return near, to_goal[1:], along(window, episodes.cells)

    def along(self, episodes, visited):  # far fewer cells than all; in the goal nothing is learned
        near, to_goal, window = visited
        return torch.lerp(near[:1], torch.addcmul(near[1:], to_goal, self.reward), look_up(self.success(), window))


def digits(base):
    """The numbers of nine digits to this base, the least first: (base ** 9, 9)."""
    return torch.arange(base ** 9)[:, None] // base ** torch.arange(9) % base


def one_hot(base):
    """The same as 0 and 1: (base ** 9, 9 (base - 1)). Digit i is a 1 in place 9 (d - 1) + i if it is d > 0."""
    return torch.cat([digits(base) == kind for kind in range(1, base)], 1).float()


def turns(base):
    """For each action and each 3x3 window, a number of nine digits, the number of the window when turned so that the action
    leads up: (4, base ** 9)."""
    turned = [torch.arange(9).view(3, 3).rot90(quarters).flatten() for quarters in (0, 2, -1, 1)]
    return torch.stack([(digits(base)[:, cells] * base ** torch.arange(9)).sum(1) for cells in turned])


def windows_seen(cells, states=2):
    """The 3x3 window around each cell (H, W, B), as a number to the base `states`: (H, W, B) int64. Outside is wall."""
    rim = padded(cells.to(torch.int16), 1, 1)
    rows = rim[:, :-2] + states * rim[:, 1:-1] + states ** 2 * rim[:, 2:]
    return (rows[:-2] + states ** 3 * rows[1:-1] + states ** 6 * rows[2:]).long()


def look_up(table, window):
    """table (4, N) at each of `window` (...): (4, ...)."""
    return table.index_select(1, window.flatten()).unflatten(1, window.shape)


class CNN(WholeMaze):
    """Residual 3x3 convolutions without pooling; with dilations up to 8 a cell sees 23 cells far, all of a maze up to GRID=24."""

    def __init__(self, grid, width, gamma):
        super().__init__()
        width = width or 12
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4, 8, 4, 2, 1))
        self.leave = zeros(nn.Conv2d(width, 4, 1))

    def forward(self, mazes, plan=None):
        x = F.relu(self.enter(planes(mazes)))
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.leave(x).permute(1, 2, 3, 0)


class MLP(WholeMaze):
    """Walls and goal, flattened, to Q of all cells: what it learns about one place it doesn't know about another."""

    def __init__(self, grid, width, gamma):
        super().__init__()
        width = width or 512
        self.grid = grid
        self.layers = nn.Sequential(nn.Linear(2 * grid * grid, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                    zeros(nn.Linear(width, 4 * grid * grid)))

    def forward(self, mazes, plan=None):
        walls, goal = planes(mazes)[:, :2].flatten(2).unbind(1)
        x = torch.cat([walls, self.grid * goal], 1)  # one cell among so many is not heard if it isn't louder
        return self.layers(x).view(-1, 4, self.grid, self.grid).permute(1, 2, 3, 0)


class Attention(WholeMaze):
    """A transformer (Vaswani et al. 2017): two layers of pre-normed attention. Each cell is a token, which knows its place and, as a
    first convolution helps attention to see (Xiao et al. 2021), its 3x3 window."""

    def __init__(self, grid, width, gamma):
        super().__init__()
        width = width or 32
        self.enter = nn.Conv2d(5, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 1, 2 * width, 0.0, batch_first=True, norm_first=True)
                                    for _ in range(2))
        self.leave = zeros(nn.Linear(width, 4))

    def forward(self, mazes, plan=None):
        h, w, b = mazes.walls.shape
        y, x = (torch.linspace(-1, 1, n, device=mazes.walls.device) for n in (h, w))
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(b, -1, -1, -1)
        x = self.enter(torch.cat([planes(mazes), place], 1)).flatten(2).transpose(1, 2)  # (B, H * W, width)
        for block in self.blocks:
            x = block(x)
        return self.leave(x).permute(2, 1, 0).unflatten(1, (h, w))


def zeros(layer):
    """The layer, with all weights 0: a network that ends so begins with Q = 0, not with noise that bootstraps itself."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer


def planes(mazes):
    """What CNN, MLP and Attention look at: walls, goal, and a plane of ones whose padding marks the edge: (B, 3, H, W)."""
    goal = torch.zeros_like(mazes.walls).flatten(0, 1).scatter(0, mazes.goal[None], True).view_as(mazes.walls)
    x = torch.stack([mazes.walls, goal, torch.ones_like(goal)]).permute(3, 0, 1, 2).float()
    return x.contiguous(memory_format=torch.channels_last)  # convolutions on a CPU then train up to twice as fast


MODELS = {"vin": VIN, "cnn": CNN, "mlp": MLP, "attention": Attention}
MEMORIES = "none", "trail", "gru", "map"


def build(settings):
    """The network that these settings, a dictionary of main.py's constants, ask for."""
    grid, width, gamma, radius = (settings[name] for name in ("GRID", "WIDTH", "GAMMA", "VISION"))
    if not radius:
        return MODELS[settings["MODEL"]](grid, width, gamma)
    if settings["MEMORY"] == "map":
        return Mapper(width, gamma, radius)
    return Local(width, radius, settings["COMPASS"], settings["MEMORY"])


# ----------------------------------------------------------------------------------------------------------------------
# Q-networks that see a window. What they know depends on where they have been, so Q is found step by step: begin(mazes)
# gives a memory, memory.see(cells) tells Q (4, B) where the agents now stand, memory.plan() is what learning can share (and,
# where `learning` is all that it is for, need not be what the agent acted on).


class Local(nn.Module):
    """Q from the (2 radius + 1)^2 window around the agent and the way to the goal, as the crow flies.

    memory: "none"; "trail", how often and how lately it was in each cell of the window; "gru", a recurrent state.
    """

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

    def visited(self, episodes, plan):
        return plan

    def along(self, episodes, visited):
        return self(visited[0])[0]


class Sight:
    """What a Local agent observes along the way."""

    def __init__(self, network, mazes):
        self.network, self.mazes, self.seen, self.state = network, mazes, [], None
        walls = padded(mazes.walls, network.radius, True)
        self.walls = walls.flatten(0, 1).float()
        self.times, self.last = torch.zeros_like(self.walls), torch.full_like(self.walls, -torch.inf)

    @torch.no_grad()
    def see(self, cells):
        w, network, goal = self.mazes.walls.shape[1], self.network, self.mazes.goal
        near = around(cells, w, network.radius)
        seen = [self.walls.gather(0, near), (near == in_padded(goal, w, network.radius)).float()]
        if network.trail:
            here = in_padded(cells, w, network.radius)[None]
            self.times.scatter_add_(0, here, torch.ones_like(here, dtype=torch.float32))
            self.last.scatter_(0, here, float(len(self.seen)))
            seen += [(self.times.gather(0, near) / 4).clamp(max=1), 0.9 ** (len(self.seen) - self.last.gather(0, near))]
        away = torch.stack([goal.div(w, rounding_mode="floor") - cells.div(w, rounding_mode="floor"), goal % w - cells % w]).float()
        seen += [away / 16 * network.compass, away / away.norm(dim=0).clamp(min=1) * network.compass]
        self.seen.append(torch.cat(seen))
        q, self.state = network(self.seen[-1][:, None], self.state)
        return q[:, 0]

    def plan(self):
        return torch.stack(self.seen, 1),  # (F, T + 1, B)


class Mapper(VIN):
    """A value iteration network on the agent's own map of what it has seen: open, wall or unknown, planned anew at each step.

    A window's number has nine digits to the base 3, and before them whether its middle is in an even row and column: that
    is where the rooms of a maze are, and what may be hoped of cells that nobody has seen hangs on it. The four directions have
    weights of their own: with shared ones one agent in three ended with hopes that swung to and fro.
    """

    def __init__(self, width, gamma, radius):
        place = torch.eye(4).repeat_interleave(3 ** 9, 0)
        super().__init__(None, width, gamma, torch.cat([one_hot(3).repeat(4, 1), place], 1))
        self.radius = radius
        with torch.no_grad():
            self.look.weight[:, 9:] = 0  # at first, what is unknown is held to be open
        unknown = torch.stack([self.windows[:, 9 + bit] for bit in (1, 7, 3, 5)])
        self.register_buffer("hope", 0.05 * unknown, persistent=False)
        self.register_buffer("guessed", self.windows[:, 9:18].any(1), persistent=False)

    def success(self):
        """(4, 4 * 3 ** 9). A move to where nobody has looked is never hopeless: no plan would lead there again, to find out."""
        p = super().success()
        return torch.maximum(p, self.hope).detach() + (p - p.detach())

    def begin(self, mazes, learning=False):
        return Map(self, mazes, learning)

    def visited(self, episodes, plan):
        return plan

    def along(self, episodes, visited):
        near, window, path = visited
        p = self.success()
        q = torch.lerp(near[:1], near[1:], look_up(p, window))
        # One backup says nothing about places that the agent has not been to. On the way that its plan takes, u is the reward
        # times what each move is worth, so each p there moves Q by Q * d log(worth) / dp. That is 1 - gamma where p is 1, which
        # stands for all: it has the right sign, and the hopeless moves, where it is hundreds, don't drown the rest.
        way = (1 - self.gamma) * torch.cat([p.flatten(), p.new_zeros(1)])[path].sum(0) + self.reward.log()
        return q * (1 + way - way.detach())


class Map:
    """What a Mapper knows along the way.

    Learning, every second agent is asked what it thinks of a move with the map that it had some steps ago: then it
    wasn't yet known whether the move would succeed, and now it is. So it learns what to expect of places unseen.
    """

    def __init__(self, network, mazes, learning, steps_ago=8):
        self.network, self.mazes, self.seen, self.paths, self.maps = network, mazes, [], [], deque(maxlen=steps_ago + 1)
        self.late = torch.arange(len(mazes.goal), device=mazes.goal.device) % 2 == 1 if learning else None
        self.truth = padded(mazes.walls, network.radius, True).flatten(0, 1).to(torch.uint8)
        h, w, _ = mazes.walls.shape
        self.known = padded(torch.full_like(mazes.walls, 2, dtype=torch.uint8), network.radius, 1).flatten(0, 1)
        y, x = torch.arange(h, device=mazes.goal.device), torch.arange(w, device=mazes.goal.device)
        self.place = 3 ** 9 * (2 * (y[:, None, None] % 2) + x[:, None] % 2)
        with torch.no_grad():
            self.p = network.success()
            self.worth = network.worth(self.p)

    @torch.no_grad()
    def see(self, cells):
        (h, w, b), r = self.mazes.walls.shape, self.network.radius
        if len(self.seen) % 4 == 1:  # one step in four tells enough of what the plans hope for
            self.paths.append(self.way(cells))
        near = around(cells, w, r)
        self.known.scatter_(0, near, self.truth.gather(0, near))
        self.window = windows_seen(self.known.view(h + 2 * r, w + 2 * r, b)[r:-r, r:-r], 3) + self.place
        self.ahead = look_up(self.worth, self.window)
        self.u = self.network.values(self.mazes.goal, self.ahead)
        near, window = self.here(cells, self.u, self.window)
        q = torch.lerp(near[:1], near[1:], look_up(self.p, window))
        if self.late is not None:
            self.maps.append((self.u, self.window))
            near_then, window_then = self.here(cells, *self.maps[0])
            near, window = torch.where(self.late, near_then, near), torch.where(self.late, window_then, window)
        self.seen.append((near, window))
        return q

    def here(self, cells, u, window):
        """(u in the cell and where each action leads (5, B), the cell's window (B,))."""
        return beside(cells[None], u)[0][:, 0], along(window, cells[None])[0]

    def way(self, cells, steps=48):
        """The moves of the plan from `cells` to the goal through places that it has not wholly seen, as places in the table of
        p, flattened; the place after its end stands for none."""
        (h, w, b), table = self.mazes.walls.shape, self.worth.shape[1]
        u, ahead, window, moves = self.u.view(-1), self.ahead.reshape(-1), self.window.view(-1), []
        lane, action = torch.arange(b, device=cells.device), torch.arange(4, device=cells.device)[:, None]
        step = torch.tensor([-w, w, -1, 1], device=cells.device) * b  # in the maze, and below in its padded form
        rim = torch.tensor([-w - 2, w + 2, -1, 1], device=cells.device) * b
        here, there, goal = cells * b + lane, in_padded(cells, w, 1) * b + lane, self.mazes.goal * b + lane
        for _ in range(steps):
            worth = u[there + rim[:, None]] * ahead[here + action * (h * w * b)]
            best, choice = worth.max(0)
            moving = (here != goal) & (best > 0)
            guess = moving & self.network.guessed[window[here]]  # of places that it has seen, the step there will tell
            if self.late is not None:
                guess &= ~self.late
            moves.append(torch.where(guess, choice * table + window[here], 4 * table))
            here = torch.where(moving, here + step[choice], here)
            there = torch.where(moving, there + rim[choice], there)
        return torch.stack(moves).int()

    def plan(self):
        near, window = zip(*self.seen)
        none = torch.full_like(self.paths[0], 4 * self.worth.shape[1])
        paths = [self.paths[t // 4] if t % 4 == 0 and t // 4 < len(self.paths) else none for t in range(len(self.seen))]
        return torch.stack(near, 1), torch.stack(window), torch.stack(paths, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Learning


class Episodes(NamedTuple):
    """B trajectories of at most T steps, each in a maze of its own. After the goal is reached the agent stays there.

    cells (T + 1, B) int64; actions (T, B) int64; reward (T, B) and potential (T + 1, B) as by `pay`.
    """
    mazes: Mazes
    cells: torch.Tensor
    actions: torch.Tensor
    reward: torch.Tensor
    potential: torch.Tensor

    def select(self, index):
        """The episodes at `index`: a slice or a (N,) int64 tensor."""
        return Episodes(self.mazes.select(index), *(x[:, index] for x in self[1:]))


def pay(mazes, cells, potential=None, gamma=1.0, novelty=0.0):
    """What the steps between `cells` (T + 1, B) earn: (reward (T, B), the potential where the agent was (T + 1, B)).

    Reaching the goal pays 1. The first visit of a cell in an episode pays `novelty`: walking to and fro earns nothing more.
    A potential (H, W, B) adds gamma * potential(s') - potential(s), 0 in the goal: the best policy stays the best, and its
    Q is less by potential(s) (Ng, Harada and Russell 1999).
    """
    reached = cells == mazes.goal
    reward = reached[1:].float()
    if novelty:
        t = torch.arange(len(cells), device=cells.device)[:, None].expand_as(cells)
        first = torch.full(mazes.walls.shape, len(cells), device=cells.device).flatten(0, 1)
        first.scatter_reduce_(0, cells, t, "amin")
        reward += novelty * ((first.gather(0, cells) == t)[1:] & ~reached[:-1])
    if potential is None:
        return reward, torch.zeros((), device=cells.device).expand(cells.shape)
    potential = along(potential, cells) * ~reached
    return reward + gamma * potential[1:] - potential[:-1], potential


def along(q, cells):
    """Q in each visited cell: q (..., H, W, B), cells (T + 1, B) -> (..., T + 1, B)."""
    index = cells * cells.shape[1] + torch.arange(cells.shape[1], device=cells.device)
    return q.flatten(-3).index_select(-1, index.flatten()).unflatten(-1, cells.shape)


def q_lambda_targets(reward, done, value, greedy, gamma, lam):
    """Watkins's Q(lambda) returns, all (T, B). value[t] is max_a Q(s[t + 1], a), greedy[t] says whether a[t] was greedy.

        G[t] = reward[t] + gamma * (1 - done[t]) * ((1 - c[t + 1]) * value[t] + c[t + 1] * G[t + 1])

    with c[t] = lam * greedy[t]: the return is cut at the first action that the greedy policy would not have taken. The
    last step of a trajectory bootstraps from its value, so that running out of time is not mistaken for the end.
    """
    c = torch.zeros_like(value)
    c[:-1] = lam * greedy[1:]
    onward = gamma * ~done
    target, slope = reward + onward * (1 - c) * value, (onward * c)[:-1]
    # target[t] += slope[t] * target[t + 1] from the last t to the first, in log2(T) steps instead of T.
    step = 1
    while step < len(target):
        target[:-step].add_(slope * target[step:])
        slope = slope[:-step] * slope[step:]
        step *= 2
    return target


def td_error(q, q_target, episodes, gamma, lam, double, most=1.0):
    """Q(s, a) minus its target for each step, and which steps were taken before the goal was reached: both (T, B).

    q, q_target (4, T + 1, B): of the online and the target network, along the trajectories. most: the greatest return.
    """
    reached = episodes.cells == episodes.mazes.goal
    alive, done = ~reached[:-1], reached[1:]
    taken = q.gather(0, episodes.actions[None])[0]
    with torch.no_grad():
        best = q.amax(0)
        # Double DQN (van Hasselt et al. 2016): the online network picks the action, the target network says its value.
        value = torch.where(q == best, q_target, -torch.inf).amax(0) if double and q_target is not q else q_target.amax(0)
        # No return is outside 0..most, less the potential: a network that overestimates can't feed on itself.
        value = ((value + episodes.potential).clamp(0, most) - episodes.potential)[1:]
        target = q_lambda_targets(episodes.reward, done, value, taken >= best[:-1], gamma, lam)
    return taken - target, alive


def recall(network, episodes):
    """The plan with which the network walks along these episodes."""
    memory = network.begin(episodes.mazes, learning=True)
    if memory is None:
        return network.plan(episodes.mazes)
    for cells in episodes.cells:
        memory.see(cells)
    return memory.plan()


class Adam:
    """Adam (Kingma and Ba 2015). torch.optim's does the same, but the first one in a process takes 2.5 s to load a compiler."""

    def __init__(self, weights, lr):
        self.weights, self.lr, self.steps = list(weights), lr, 0
        self.sizes = [w.numel() for w in self.weights]
        self.mean, self.square = (torch.zeros(sum(self.sizes), device=self.weights[0].device) for _ in range(2))

    @torch.no_grad()
    def step(self, gradient, beta1=0.9, beta2=0.999, epsilon=1e-8):
        """gradient: of all weights, one after the other, flattened. As one vector they take as many operations as one of them."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (self.square / (1 - beta2 ** self.steps)).sqrt_().add_(epsilon)
        change = (self.mean / root).mul_(-self.lr / (1 - beta1 ** self.steps))
        for w, part in zip(self.weights, change.split(self.sizes)):
            w += part.view_as(w)

    def state(self):
        """All of it, to be saved; `restore` takes it back."""
        return dict(steps=self.steps, mean=self.mean, square=self.square)

    def restore(self, state):
        self.steps, self.mean, self.square = state["steps"], state["mean"], state["square"]


class Replay:
    """The last `size` episodes, on the device, as cells and actions of a bit-packed maze: about 3 bytes a step.

    Drawn with probability priority ** alpha / sum (Schaul et al. 2016); alpha 0: uniformly.
    """

    def __init__(self, size, grid, steps, alpha, device):
        self.size, self.grid, self.alpha, self.stored, self.next = size, grid, alpha, 0, 0
        cell = torch.int16 if grid * grid < 2 ** 15 else torch.int32
        self.walls = torch.empty(-(-grid * grid // 8), size, dtype=torch.uint8, device=device)
        self.goal = torch.empty(size, dtype=cell, device=device)
        self.cells = torch.empty(steps + 1, size, dtype=cell, device=device)
        self.actions = torch.empty(steps, size, dtype=torch.uint8, device=device)
        self.priority = torch.zeros(size, device=device)

    def add(self, mazes, cells, actions):
        """Stores episodes, over the oldest ones where it is full; not more than `size` at once. New ones have top priority."""
        n = len(mazes.goal)
        place = torch.arange(self.next, self.next + n, device=self.goal.device) % self.size
        self.walls[:, place] = pack(mazes.walls)
        self.goal[place] = mazes.goal.to(self.goal.dtype)
        self.cells[:, place] = cells.to(self.cells.dtype)
        self.actions[:, place] = actions.to(torch.uint8)
        self.priority[place] = self.priority.max() if self.stored else 1.0
        self.next = (self.next + n) % self.size
        self.stored = min(self.stored + n, self.size)

    def sample(self, n, generator, beta=0.0):
        """(mazes, cells, actions, index, weight) of n stored episodes, with replacement. weight (n,): the importance
        weights (stored * probability) ** -beta over the greatest of them."""
        share = self.priority[:self.stored] ** self.alpha
        heap = share.cumsum(0, dtype=torch.float32 if share.device.type == "mps" else torch.float64)
        dice = torch.rand(n, generator=generator, device=share.device, dtype=heap.dtype) * heap[-1]
        index = torch.searchsorted(heap, dice, right=True).clamp(max=self.stored - 1)
        weight = share[index] ** -beta
        cells = self.cells[:, index].long()
        mazes = Mazes(unpack(self.walls[:, index], self.grid, self.grid), self.goal[index].long(), cells[0])
        return mazes, cells, self.actions[:, index].long(), index, weight / weight.max()

    def learn(self, index, error):
        """Sets the priorities of the episodes at `index` from their TD errors (T, n), 0 where there is none: mostly the
        greatest, in part the mean, as in R2D2 (Kapturowski et al. 2019)."""
        self.priority[index] = 0.9 * error.abs().amax(0) + 0.1 * error.abs().mean(0) + 1e-6

    def state(self):
        """All of it, to be saved; `restore` takes it back."""
        return dict(stored=self.stored, next=self.next, **{name: getattr(self, name)[..., :self.stored].clone()
                    for name in ("walls", "goal", "cells", "actions", "priority")})

    def restore(self, state):
        self.stored, self.next = state["stored"], state["next"]
        for name in ("walls", "goal", "cells", "actions", "priority"):
            getattr(self, name)[..., :self.stored] = state[name]


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, network, config, **progress):
    """Writes the network's weights with the settings that made it, and what a run needs to go on, atomically."""
    file = io.BytesIO()  # in memory first: a disk that fills up is then an OSError, which torch's own writer hides
    torch.save(dict(format=CHECKPOINT_FORMAT, config=config, weights=network.state_dict(), progress=progress), file)
    data = file.getvalue()
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(hashlib.sha256(data).digest() + data)


def sane(settings, weights):
    """Whether `build` can take these settings of a file that may come from anywhere, and won't ask for more memory than there is."""
    widest = max(size for tensor in weights.values() for size in tensor.shape)
    whole = all(type(settings[name]) is int and low <= settings[name] <= high
                for name, low, high in (("GRID", 5, 256), ("WIDTH", 0, widest), ("VISION", 0, settings["GRID"] - 1)))
    return (whole and type(settings["GAMMA"]) is float and 0 < settings["GAMMA"] < 1 and type(settings["COMPASS"]) is bool
            and settings["MODEL"] in MODELS and settings["MEMORY"] in MEMORIES)


def load_checkpoint(path, device):
    """(network, config, progress) of a file that `save_checkpoint` wrote. It is read as plain data: no code in it can run."""
    foreign = UserError(f"{path} is not a checkpoint of this program, or is damaged: train one with `python main.py`")
    try:
        with open(path, "rb") as file:
            digest, data = file.read(32), file.read()
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}: train one with `python main.py`, or name another, CHECKPOINT=file") from None
    if hashlib.sha256(data).digest() != digest:
        raise foreign
    try:
        with warnings.catch_warnings():  # about formats; whatever the file is, one line says what is wrong with it
            warnings.simplefilter("ignore")
            saved = dict(torch.load(io.BytesIO(data), map_location=device, weights_only=True))
        if saved["format"] != CHECKPOINT_FORMAT:
            raise UserError(f"{path} is a checkpoint of format {saved['format']}, this program reads {CHECKPOINT_FORMAT}: train again")
        if not sane(saved["config"], saved["weights"]):
            raise foreign
        network = build(saved["config"])
        network.load_state_dict(saved["weights"])
        return network.to(device), saved["config"], saved["progress"]
    except UserError:
        raise
    except Exception:  # a foreign file can make the unpickler raise anything
        raise foreign from None

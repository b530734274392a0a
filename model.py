"""The agent: Q-networks, the targets that they learn from, replay memory, saving and loading.

Every network maps a batch of whole mazes to Q-values for every cell and action at once, (4, H, W, B): a maze does not
change during an episode, so one forward pass is the policy for all of it. The layout is that of maze.py: batch last.
"""
import warnings
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from maze import Mazes, UserError, neighbours, pack, replacing, unpack

CHECKPOINT_FORMAT = 1


# ----------------------------------------------------------------------------------------------------------------------
# Q-networks: forward(mazes, plan) -> Q (4, H, W, B). plan(mazes) does, without gradient, the part of the work that acting
# and learning can share: a tuple of tensors whose last axis is the batch.


class VIN(nn.Module):
    """A value iteration network (Tamar et al. 2016), iterated to its fixed point.

    A 3x3 convolution, ReLU and a 1x1 convolution on the walls give p(s, a), the probability that the move succeeds; a
    move that fails leaves the agent in place. With a learned reward at the goal, the value of being in a cell is
        u(s) = max(reward(s), gamma * max_a Q(s, a)),   Q(s, a) = p(s, a) * u(s') + (1 - p(s, a)) * u(s).
    All cells and all backups share the weights, so it runs on a maze of any size.
    """

    def __init__(self, grid, width, gamma):
        super().__init__()
        self.gamma = gamma
        self.look = nn.Linear(9, width or 64)  # the 3x3 convolution, as a function of one cell's window
        self.judge = nn.Linear(width or 64, 4)  # the 1x1 convolution
        nn.init.constant_(self.judge.bias, 2.0)  # moves mostly succeed, until found not to
        self.reward = nn.Parameter(torch.tensor(0.5))
        # A window of nine cells, each wall or not, has only 512 forms: the layers run on these, and cells look theirs up.
        self.register_buffer("windows", (torch.arange(512)[:, None] >> torch.arange(9) & 1).float(), persistent=False)

    def success(self):
        """p for each action in each of the 512 windows, (4, 512); bit 3 * y + x of a window is its cell in row y, column x.

        Clipped to [0, 1], not squashed: only an exact 0 or 1 stays right over a thousand steps. The gradient passes the
        clip unhindered, so that a p which is certain and wrong can still be mended (straight-through estimator).
        """
        p = self.judge(F.relu(self.look(self.windows))).t() / 6 + 0.5
        return p.clamp(0, 1).detach() + (p - p.detach())

    @torch.no_grad()
    def plan(self, mazes):
        """u at the fixed point, and which of the 512 windows each cell sees: both (H, W, B)."""
        p, window = self.success(), windows_seen(mazes.walls)
        # A move is worth x * u(s') if tried until it succeeds: x = gamma * (p + (1 - p) * x), solved for x.
        worth = self.gamma * p / (1 - self.gamma * (1 - p))
        u = self.with_reward(torch.zeros(mazes.walls.shape, device=p.device), mazes.goal)
        return fixed_point(u, look_up(worth, window)), window

    def forward(self, mazes, plan=None):
        # The plan carries no gradient, the one backup on it does: it is what a semi-gradient TD step follows anyway.
        u, window = self.plan(mazes) if plan is None else plan
        u = self.with_reward(u, mazes.goal)
        return torch.lerp(u, neighbours(u, 0.0), look_up(self.success(), window))

    def with_reward(self, u, goal):
        return u.flatten(0, 1).scatter(0, goal[None], self.reward.expand(1, len(goal))).view_as(u)


def windows_seen(walls):
    """The 3x3 window of walls around each cell, as a number under 512: (H, W, B) int64."""
    h, w, b = walls.shape
    rim = torch.ones(h + 2, w + 2, b, dtype=torch.int16, device=walls.device)
    rim[1:-1, 1:-1] = walls
    rows = rim[:, :-2] + 2 * rim[:, 1:-1] + 4 * rim[:, 2:]
    return (rows[:-2] + 8 * rows[1:-1] + 64 * rows[2:]).long()


def look_up(table, window):
    """table (4, 512) at each cell's window (H, W, B): (4, H, W, B)."""
    return table.gather(1, window.flatten().expand(4, -1)).unflatten(1, window.shape)


def fixed_point(u, worth):
    """Raises u (H, W, B), in place, to the least fixed point of u(s) = max(u(s), max_a worth(s, a) * u(s')).

    Value iteration in Gauss-Seidel order, row by row and column by column in each direction: value crosses a corridor
    in one sweep, so that a round is needed for each few turns of the way to the goal, not for each of its steps.
    """
    row, column = u.unbind(0), u.unbind(1)
    up, down, left, right = worth[0].unbind(0), worth[1].unbind(0), worth[2].unbind(1), worth[3].unbind(1)
    h, w = len(row), len(column)
    row_, column_ = torch.empty_like(u[0]), torch.empty_like(u[:, 0])  # scratch
    sweeps = [(row[y - 1], up[y], row_, row[y]) for y in range(1, h)]
    sweeps += [(column[x - 1], left[x], column_, column[x]) for x in range(1, w)]
    sweeps += [(row[y + 1], down[y], row_, row[y]) for y in reversed(range(h - 1))]
    sweeps += [(column[x + 1], right[x], column_, column[x]) for x in reversed(range(w - 1))]
    before = torch.empty_like(u)
    for _ in range(h * w):
        before.copy_(u)
        for ahead, by, scratch, here in sweeps:
            torch.mul(ahead, by, out=scratch)
            torch.maximum(here, scratch, out=here)
        if torch.equal(u, before):
            break
    return u


class CNN(nn.Module):
    """Residual 3x3 convolutions without pooling; dilations up to 8 let every cell see the whole maze."""

    def __init__(self, grid, width, gamma):
        super().__init__()
        width = width or 12
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4, 8, 4, 2, 1))
        self.leave = zeros(nn.Conv2d(width, 4, 1))

    def plan(self, mazes):
        return ()

    def forward(self, mazes, plan=None):
        x = F.relu(self.enter(planes(mazes)))
        for block in self.blocks:
            x = x + F.relu(block(x))
        return self.leave(x).permute(1, 2, 3, 0)


class MLP(nn.Module):
    """Walls and goal, flattened, to Q of all cells: what it learns about one place it doesn't know about another."""

    def __init__(self, grid, width, gamma):
        super().__init__()
        width = width or 512
        self.grid = grid
        self.layers = nn.Sequential(nn.Linear(2 * grid * grid, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                    zeros(nn.Linear(width, 4 * grid * grid)))

    def plan(self, mazes):
        return ()

    def forward(self, mazes, plan=None):
        x = planes(mazes)[:, :2].flatten(1)
        return self.layers(x).view(-1, 4, self.grid, self.grid).permute(1, 2, 3, 0)


def zeros(layer):
    """The layer, with all weights 0: a network that ends so begins with Q = 0, not with noise that bootstraps itself."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
    return layer


def planes(mazes):
    """What the CNN and the MLP look at: walls, goal, and a plane of ones whose padding marks the edge: (B, 3, H, W)."""
    goal = torch.zeros_like(mazes.walls).flatten(0, 1).scatter(0, mazes.goal[None], True).view_as(mazes.walls)
    x = torch.stack([mazes.walls, goal, torch.ones_like(goal)]).permute(3, 0, 1, 2).float()
    return x.contiguous(memory_format=torch.channels_last)  # convolutions on a CPU then train up to twice as fast


MODELS = {"vin": VIN, "cnn": CNN, "mlp": MLP}


# ----------------------------------------------------------------------------------------------------------------------
# Learning


class Episodes(NamedTuple):
    """B trajectories of at most T steps, each in a maze of its own. After the goal is reached the agent stays there.

    cells (T + 1, B) int64; actions (T, B) int64.
    """
    mazes: Mazes
    cells: torch.Tensor
    actions: torch.Tensor

    def select(self, index):
        """The episodes at `index`: a slice or a (N,) int64 tensor."""
        return Episodes(self.mazes.select(index), self.cells[:, index], self.actions[:, index])


def along(q, cells):
    """Q in each visited cell: q (4, H, W, B), cells (T + 1, B) -> (4, T + 1, B)."""
    return q.flatten(1, 2).gather(1, cells.expand(4, -1, -1))


def q_lambda_targets(reward, done, value, greedy, gamma, lam):
    """Watkins's Q(lambda) returns, all (T, B). value[t] is max_a Q(s[t + 1], a), greedy[t] says whether a[t] was greedy.

        G[t] = reward[t] + gamma * (1 - done[t]) * ((1 - c[t + 1]) * value[t] + c[t + 1] * G[t + 1])

    with c[t] = lam * greedy[t]: the return is cut at the first action that the greedy policy would not have taken. The
    last step of a trajectory bootstraps from its value, so that running out of time is not mistaken for the end.
    """
    c = torch.zeros_like(value)
    c[:-1] = lam * greedy[1:]
    onward = gamma * ~done
    target, slope = reward + onward * (1 - c) * value, onward * c
    # target[t] += slope[t] * target[t + 1] from the last t to the first, in log2(T) steps instead of T.
    step = 1
    while step < len(target):
        target = torch.cat([target[:-step] + slope[:-step] * target[step:], target[-step:]])
        slope = torch.cat([slope[:-step] * slope[step:], torch.zeros_like(slope[-step:])])
        step *= 2
    return target


def td_error(q, q_target, episodes, gamma, lam, double):
    """Q(s, a) minus its target for each step, and which steps were taken before the goal was reached: both (T, B).

    q, q_target (4, T + 1, B): of the online and the target network, along the trajectories.
    """
    goal = episodes.mazes.goal
    reached = episodes.cells == goal
    alive, done = ~reached[:-1], reached[1:]
    taken = q[:, :-1].gather(0, episodes.actions[None])[0]
    with torch.no_grad():
        best = q.max(0).values
        # Double DQN (van Hasselt et al. 2016): the online network picks the action, the target network says its value.
        value = torch.where(q == best, q_target, -torch.inf).amax(0) if double else q_target.amax(0)
        value = value[1:].clamp(0, 1)  # no return is outside: a network that overestimates can't feed on itself
        target = q_lambda_targets(done.float(), done, value, taken >= best[:-1], gamma, lam)
    return taken - target, alive


class Replay:
    """The last `size` episodes, on the device, as cells and actions of a bit-packed maze: about 3 bytes a step."""

    def __init__(self, size, grid, steps, device):
        self.size, self.grid, self.stored, self.next = size, grid, 0, 0
        cell = torch.int16 if grid * grid < 2 ** 15 else torch.int32
        self.walls = torch.empty(-(-grid * grid // 8), size, dtype=torch.uint8, device=device)
        self.goal = torch.empty(size, dtype=cell, device=device)
        self.cells = torch.empty(steps + 1, size, dtype=cell, device=device)
        self.actions = torch.empty(steps, size, dtype=torch.uint8, device=device)

    def add(self, episodes):
        """Stores the episodes, over the oldest ones where it is full. Not more than `size` at once."""
        n = len(episodes.mazes.goal)
        place = torch.arange(self.next, self.next + n, device=self.goal.device) % self.size
        self.walls[:, place] = pack(episodes.mazes.walls)
        self.goal[place] = episodes.mazes.goal.to(self.goal.dtype)
        self.cells[:, place] = episodes.cells.to(self.cells.dtype)
        self.actions[:, place] = episodes.actions.to(torch.uint8)
        self.next = (self.next + n) % self.size
        self.stored = min(self.stored + n, self.size)

    def sample(self, n, generator):
        """n stored episodes, uniformly with replacement."""
        index = torch.randint(self.stored, (n,), generator=generator, device=self.goal.device)
        walls = unpack(self.walls[:, index], self.grid, self.grid)
        cells = self.cells[:, index].long()
        return Episodes(Mazes(walls, self.goal[index].long(), cells[0]), cells, self.actions[:, index].long())


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, network, config):
    """Writes the network's weights with the settings that made it, atomically."""
    with replacing(path) as beside:
        torch.save(dict(format=CHECKPOINT_FORMAT, config=config, weights=network.state_dict()), beside)


def load_checkpoint(path, device):
    """(network, config) of a file that `save_checkpoint` wrote. It is read as plain data: no code in it can run."""
    try:
        with warnings.catch_warnings():  # about formats; whatever the file is, one line says what is wrong with it
            warnings.simplefilter("ignore")
            saved = dict(torch.load(path, map_location=device, weights_only=True))
        if saved["format"] != CHECKPOINT_FORMAT:
            raise UserError(f"{path} is a checkpoint of format {saved['format']}, this program reads {CHECKPOINT_FORMAT}: train again")
        config = saved["config"]
        network = MODELS[config["MODEL"]](config["GRID"], config["WIDTH"], config["GAMMA"])
        network.load_state_dict(saved["weights"])
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}: train one with `python main.py`, or name another, CHECKPOINT=file") from None
    except Exception:  # a foreign or damaged file can make the unpickler raise anything
        raise UserError(f"{path} is not a checkpoint of this program, or is damaged: train one with `python main.py`") from None
    return network.to(device), config

"""Plain networks, which everybody tries first: the whole maze goes in, Q of every cell comes out,
and nothing is built in.

A network: mazes -> Q, or advantages, of all cells, (4, H, W, B). farthest: how many steps away the
goal is at most, while it learns; None: it may be anywhere. To add one: a class, and its name in
NETWORKS.
"""

from typing import NamedTuple

import torch
import torch.nn as nn

from maze import along
from model import zeros
from support.process import UserError


def images(mazes):
    """What a plain network is shown: which cells are open, and the goal, (B, 2, H, W) float."""
    goal = torch.zeros_like(mazes.walls).flatten(0, 1).scatter_(0, mazes.goal[None], True)
    x = torch.stack([~mazes.walls, goal.view_as(mazes.walls)]).permute(3, 0, 1, 2)
    return x.float().contiguous(memory_format=torch.channels_last)


class CNN(nn.Module):
    """Convolutions with shared weights, again and again, the maze always in sight; no pooling.

    A round carries news one cell farther. While it learns, a random number of rounds goes without
    gradient, the last few with it: the state must be right whenever it stops, and errors of any age
    are mended (progressive training, Bansal et al. 2022). Walls have no state, nor has what is
    outside, so that both look alike. rounds: the most; 0: until no greedy action changes.
    """

    with_gradient, patience = 16, 32  # rounds

    def __init__(self, width, grid, rounds):
        super().__init__()
        self.enter = nn.Conv2d(2, width, 3, padding=1)
        self.again = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.leave = zeros(nn.Conv2d(width, 4, 1))
        self.to(memory_format=torch.channels_last)
        self.rounds = rounds

    def entered(self, mazes):
        x = images(mazes)
        return torch.where(x[:, :1] > 0, self.enter(x), -1e3)  # relu makes it 0 in walls

    def forward(self, mazes, farthest=None):
        entered, action = self.entered(mazes), None
        state = torch.relu(entered)
        most = self.rounds or int((~mazes.walls).sum((0, 1)).max()) + self.patience
        rounds = min(most, farthest + 2) if farthest else most
        if torch.is_grad_enabled():
            free = max(0, rounds - self.with_gradient)
            with torch.no_grad():
                for _ in range(int(torch.randint(free + 1, ()))):
                    state = torch.relu(self.again(state) + entered)
            rounds -= free
        for i in range(rounds):
            state = torch.relu(self.again(state) + entered)
            if not farthest and i % self.patience == 0:  # has it come to rest?
                before, action = action, self.leave(state).argmax(1)
                if before is not None and torch.equal(before, action):
                    break
        return self.leave(state).permute(1, 2, 3, 0)


def check_size(mazes, grid):
    h, w, _ = mazes.walls.shape
    if (h, w) != (grid, grid):
        raise UserError(
            f"this network was made for mazes of {grid}x{grid}, GRID={grid}, and this one has {h} "
            f"rows and {w} columns; THINK=False MODEL=cnn, or THINK=True, takes any size"
        )


class MLP(nn.Module):
    """The flattened maze through two layers: for one size of maze."""

    def __init__(self, width, grid, rounds):
        super().__init__()
        self.grid = grid
        self.enter, self.hidden = nn.Linear(2 * grid * grid, width), nn.Linear(width, width)
        self.leave = zeros(nn.Linear(width, 4 * grid * grid))

    def forward(self, mazes, farthest=None):
        check_size(mazes, self.grid)
        x = torch.relu(self.enter(images(mazes).flatten(1)))
        x = self.leave(torch.relu(self.hidden(x)))
        return x.t().reshape(4, *mazes.walls.shape)


class Attention(nn.Module):
    """Each cell is a token, with a learned vector for its place: for one size of maze. Four heads.

    The same layer of attention (Vaswani et al. 2017) again and again, the maze always in sight.
    rounds: how often; 0: 12 times.
    """

    def __init__(self, width, grid, rounds):
        super().__init__()
        if width % 4:
            raise UserError(f"WIDTH={width}: four heads share it; choose a multiple of 4")
        self.enter, self.place = nn.Linear(2, width), nn.Parameter(torch.randn(grid * grid, width))
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(2 * width, width)
        self.norm, self.leave = nn.LayerNorm(width), zeros(nn.Linear(width, 4))
        self.grid, self.rounds = grid, rounds or 12

    def forward(self, mazes, farthest=None):
        check_size(mazes, self.grid)
        entered = self.enter(images(mazes).flatten(2).mT) + self.place  # (B, H * W, width)
        state = self.norm(entered)
        for _ in range(self.rounds):
            q, k, v = self.project(state).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
            brought = nn.functional.scaled_dot_product_attention(q, k, v)  # (B, 4 heads, H * W, ..)
            brought = brought.transpose(1, 2).flatten(2)
            state = self.norm(entered + torch.relu(self.mix(torch.cat([state, brought], 2))))
        return self.leave(state).permute(2, 1, 0).unflatten(1, mazes.walls.shape[:2])


NETWORKS = {"cnn": CNN, "mlp": MLP, "attention": Attention}


# --------------------------------------------------------------------------------------------------


class QNetwork(nn.Module):
    """An agent that says Q, or advantages, of the cells that it visits: `visited`.

    limits: the least and the greatest return; no target is beyond.
    """

    def __init__(self, limits=(-torch.inf, torch.inf)):
        super().__init__()
        self.limits = limits

    def q(self, episodes, steps=None):
        """Q in all visited cells (4, T + 1, B), or in N of the steps (4, N)."""
        q = self.visited(episodes)
        return q if steps is None else q.flatten(1).index_select(1, steps)

    def kinds(self, episodes):
        return None

    def next_value(self, episodes, best=None):
        """The greatest Q in the next cell (T, B); of those that are best, a mask (4, T + 1, B).

        Overestimates can't feed on themselves: Q is less the potential, but no return is beyond.
        """
        q = self.q(episodes)
        value = (q if best is None else torch.where(best, q, -torch.inf)).amax(0)[1:]
        potential = episodes.potential[1:]
        value = (value + potential).clamp(*self.limits) - potential
        return value * (episodes.cells[1:] != episodes.mazes.goal)


class Plain(QNetwork):
    """A plain network as an agent."""

    whole_maze = True

    def __init__(self, network, limits):
        super().__init__(limits)
        self.network = network

    def begin(self, mazes, farthest=None):
        parts = range(0, len(mazes.goal), 64)  # as many as fit a CPU's cache
        answers = [self.network(mazes.select(slice(i, i + 64)), farthest) for i in parts]
        return Answers(torch.cat(answers, 3).contiguous(), farthest or 0)

    def visited(self, episodes):
        farthest = int(episodes.seen[0, 0, 0]) or None
        return along(self.network(episodes.mazes, farthest), episodes.cells)


class Answers(NamedTuple):
    """What a plain network says of B mazes at once: answers (4, H, W, B)."""

    answers: torch.Tensor
    farthest: int

    def greedy(self):
        return self.answers.max(0).indices.to(torch.uint8)

    def q(self):
        return self.answers

    def seen(self, cells):
        """How far the goal may be, in every step: (1, T + 1, B); the mazes say the rest."""
        return torch.full((1, *cells.shape), self.farthest, device=cells.device)

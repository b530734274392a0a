"""The agent: a network that thinks, the proof that it is right, and the targets it learns from.

Every step costs 1, so the value V of a cell is minus the number of steps to the goal. A cell sees
its eight neighbours: which are walls, and whether V of the others is greater than its own, equal,
or less. That is one of 4^8 = 65,536 different things, a `view`. The core, a small network, answers
it with Q(s, a) - V(s) for the four actions a. The agent thinks: V is 0 everywhere at first; then
all cells look at once, V += round(max_a (Q - V)), again and again, until no cell sees anything new.
The core can be asked 65,536 questions only, so its answers are a table.

Built in: the value of a cell is its best Q; the goal is worth 0; the same core looks at every cell,
and sees its eight neighbours only, as differences of values, clipped to one step; values are whole
steps and begin at 0. Learned: which action leads where, that walls stop it, what a step costs.
"""

from collections import deque
from typing import NamedTuple

import torch
import torch.nn as nn

from maze import Mazes, along, padded

AROUND = (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)  # (down, right)
NEXT = [1, 6, 3, 4]  # the neighbours that up, down, left and right lead to
VIEWS = 4**8


def planes_of(view) -> torch.Tensor:
    """What the core is shown of each view (n,): (2, 8, n) float, for the eight neighbours in turn.

    The first plane: is it a wall? The second: its value less that of the cell, clipped to -1, 0, 1;
    0 for a wall. Neighbour k is digit k of the view in base 4: 0 a wall, else the difference + 2.
    """
    digit = torch.stack([view.div(4**k, rounding_mode="floor") % 4 for k in range(8)])
    wall = digit == 0
    return torch.stack([wall, torch.where(wall, 0, digit - 2)]).float()


# --------------------------------------------------------------------------------------------------
# Cores: planes of n views (2, 8, n) -> Q - V of the four actions (4, n). The last layer, `q`, is of
# zeros at first: nothing costs anything yet.


class Linear(nn.Module):
    """68 weights, and they can be read: what it learns is the Bellman backup itself."""

    def __init__(self, width):
        super().__init__()
        self.q = zeros(nn.Linear(16, 4))

    def forward(self, x):
        return layer(self.q, x.flatten(0, 1))


class MLP(nn.Module):
    """A multilayer perceptron."""

    def __init__(self, width):
        super().__init__()
        self.hidden = nn.Linear(16, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        return layer(self.q, layer(self.hidden, x.flatten(0, 1)).relu_())


class CNN(nn.Module):
    """Two 2x2 convolutions on the 3x3 cells, no pooling; written as matrix products for speed."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(2 * 4, width)
        self.second = nn.Linear(4 * width, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        x = torch.cat([x[:, :4], torch.zeros_like(x[:, :1]), x[:, 4:]], 1)  # (2, 9, n)
        x = x.unflatten(1, (3, 3)).unfold(1, 2, 1).unfold(2, 2, 1)  # (2, 2, 2, n, 2, 2)
        x = x.permute(1, 2, 0, 4, 5, 3).flatten(0, 1).flatten(1, 3)  # (4 windows, 2 * 4, n)
        x = layer(self.first, x).relu_()  # (4 windows, width, n)
        return layer(self.q, layer(self.second, x.flatten(0, 1)).relu_())


class Attention(nn.Module):
    """Attention over the eight neighbours (Vaswani et al. 2017), with a learned query an action.

    A neighbour is a token: what it is, and a learned vector for its place.
    """

    def __init__(self, width):
        super().__init__()
        self.token = nn.Linear(2, width)
        self.place = nn.Parameter(torch.randn(width, 8, 1))
        self.query = nn.Parameter(torch.zeros(4, width))  # at first it asks for all alike
        self.hidden = nn.Linear(width, width)
        self.q = zeros(nn.Linear(width, 1))

    def forward(self, x):
        shape = x.shape[1:]  # (8, n)
        token = layer(self.token, x.flatten(1)).unflatten(1, shape) + self.place  # (width, 8, n)
        weight = (self.query @ token.flatten(1)).unflatten(1, shape).softmax(1)  # (4, 8, n)
        brought = (weight[:, None] * token).sum(2)  # (4, width, n)
        return layer(self.q, layer(self.hidden, brought).relu_())[:, 0]


def layer(linear, x):
    """What nn.Linear does to the features of x, (features, n) or (B, features, n)."""
    return linear.weight @ x + linear.bias[:, None]


def zeros(linear):
    """The layer, with all its weights 0."""
    for weights in linear.parameters():
        nn.init.zeros_(weights)
    return linear


CORES = {"linear": Linear, "mlp": MLP, "cnn": CNN, "attention": Attention}


# --------------------------------------------------------------------------------------------------
# Thinking


def looks(change, walls, goal, most: int):
    """Thinks about B mazes: yields (V, view) as they are at first and after each look.

    It looks until no view changes, or `most` times. change (65536,) int32: what a cell that sees
    this view adds to its value. walls (H, W, B) bool, goal (B,). V and view (H, W, B) int32, 0 in
    walls and goals; V is the same tensor every time.
    """
    h, w, b = walls.shape
    values = torch.zeros(h + 2, w + 2, b, dtype=torch.int32, device=walls.device)
    around = [(slice(1 + i, h + 1 + i), slice(1 + j, w + 1 + j)) for i, j in AROUND]
    is_open = (~padded(walls, 1, True)).int()
    looking = ~walls
    looking.view(h * w, b).scatter_(0, goal[None], False)  # the goal stays worth 0
    value, view = values[1:-1, 1:-1], None
    for look in range(most + 1):
        before = view
        if look:
            value += change[before] * looking
        view = torch.zeros_like(value)
        for k, there in enumerate(around):
            view += ((values[there] - value).clamp(-1, 1) + 2) * is_open[there] * 4**k
        view *= looking
        yield value, view
        if look and torch.equal(view, before):
            break


def think(change, walls, goal, most: int):
    """(V, view) after the last of the `looks`."""
    return deque(looks(change, walls, goal, most), maxlen=1)[0]


class Thinker(nn.Module):
    """A core that thinks. most_looks: 0: any number. think: as above, or one that does the same."""

    whole_maze = True

    def __init__(self, core, most_looks=0, think=think):
        super().__init__()
        self.core, self.most_looks, self.think = core, most_looks, think
        # The core's answer to each view, Q - V; the change of V, in whole steps; the greedy action.
        # Saved with the weights: what was proved is what acts.
        self.register_buffer("table", torch.zeros(4, VIEWS))
        self.register_buffer("change", torch.zeros(VIEWS, dtype=torch.int32))
        self.register_buffer("action", torch.zeros(VIEWS, dtype=torch.uint8))
        self.register_buffer("planes", planes_of(torch.arange(VIEWS)), persistent=False)

    def train(self, mode=True):
        """As of any nn.Module; `eval()`, after learning, asks the core all there is to ask."""
        if not mode:
            with torch.no_grad():  # in parts that fit a CPU's cache
                answers = [self.core(part) for part in self.planes.split(4096, -1)]
                self.table.copy_(torch.cat(answers, 1))
                self.table[:, self.planes[0, NEXT].all(0)] = -1  # walled in: set, not learned
                best, action = self.table.max(0)  # right is -2 to 0; V must not overflow
                self.change.copy_(best.round().clamp(-9, 9))
                self.action.copy_(action)
        return super().train(mode)

    def begin(self, mazes, farthest=None):
        """What this agent thinks of the mazes. farthest: of all starts, in steps."""
        most = int((~mazes.walls).sum((0, 1)).max()) + 2
        if farthest:  # a network that has not learned yet may never come to rest
            most = 8 + 2 * farthest
        most = min(most, self.most_looks or most)
        return Thoughts(self, *self.think(self.change, mazes.walls, mazes.goal, most))

    def q(self, episodes, steps):
        """Q(s, a) - V(s), not Q, in N of the steps, each time * B + lane: (4, N)."""
        view = episodes.seen[0].flatten().index_select(0, steps)
        return self.core(self.planes.index_select(2, view))

    def kinds(self, episodes):
        """Numbers of the steps (T, B): of those with the same view and action one is enough."""
        return 4 * episodes.seen[0, :-1] + episodes.actions

    def next_value(self, episodes, best=None):
        """V(s') - V(s), not V(s'), in each step, as far as a cell can see it: -1..1, (T, B)."""
        _, value, next_value = episodes.seen[:, :-1]
        return (next_value - value).clamp(-1, 1).float()


class Thoughts(NamedTuple):
    """What a `Thinker` thinks of B mazes."""

    thinker: Thinker
    value: torch.Tensor  # (H, W, B) int32
    view: torch.Tensor  # (H, W, B) int32

    def greedy(self):
        """The greedy action in each cell: (H, W, B) uint8."""
        return self.thinker.action[self.view]

    def q(self):
        """Q of all cells: (4, H, W, B)."""
        return self.value + self.thinker.table[:, self.view]

    def seen(self, cells):
        """What learning needs of a walk over `cells` (T + 1, B): (3, T + 1, B) int32.

        The view and V in each visited cell, and V in the next one (the last: in itself).
        """
        value = along(self.value, cells)
        return torch.stack([along(self.view, cells), value, torch.cat([value[1:], value[-1:]])])


# --------------------------------------------------------------------------------------------------
# The proof


def wrong_views(thinker) -> torch.Tensor:
    """Which views are answered wrongly: (65536,) bool. If none is, every maze is walked perfectly.

    A view is answered rightly if (1) the change of V is -1 + the greatest difference that one of
    the four moves leads to: that of the neighbour, or 0 where a wall stops the move; and (2) the
    greedy action is one that leads to it.

    Theorem. If all views are answered rightly and LOOKS sets no limit, the agent walks every maze,
    of any size and shape, from every cell from which the goal can be reached, by a shortest path.

    Proof. Let d(s) be the number of steps from s to the goal, infinite where it can't be reached.
    After k looks V_k(s) = -min(k, d(s)) in every open cell. This holds for k = 0. If it holds for
    k, the values of adjacent open cells differ by at most 1, since their distances do. So no
    difference that counts is clipped, and by (1) the look is the exact backup, V_{k+1}(s) = -1 +
    max over the moves of V_k(s') = -min(k + 1, d(s)); the goal stays 0. Thinking does not stop too
    early: while some cell is k + 1 steps away, it sees a neighbour that is k away become nearer
    than itself between the looks k and k + 1. It does stop, before the `most` looks of
    `begin`: after as many looks as the farthest cell has steps, only cells that can't reach the
    goal change, by -1 a look; they touch others only across corners, and what is seen there is
    clipped after two looks more. Then V = -d
    where the goal can be reached; only neighbours one step nearer reach the greatest difference,
    and by (2) the agent goes to one of them: each step brings it one step nearer. QED.

    What is checked are the very numbers that the agent acts by, `change` and `action`.
    """
    right = backup(thinker.planes)
    best = right.amax(0)
    reached = right.gather(0, thinker.action.long()[None])[0]
    return (thinker.change != best) | (reached != best)


def backup(planes) -> torch.Tensor:
    """The right answer to each view, -1 + V(s') - V(s) for the four actions: (4, n)."""
    return planes[1, NEXT] - 1


# --------------------------------------------------------------------------------------------------
# Learning


class Episodes(NamedTuple):
    """B trajectories of T steps, each in a maze of its own. No step leaves the goal."""

    mazes: Mazes
    cells: torch.Tensor  # (T + 1, B) int64
    actions: torch.Tensor  # (T, B) int64
    reward: torch.Tensor  # (T, B)
    potential: torch.Tensor  # (T + 1, B), of reward shaping
    seen: torch.Tensor  # (F, T + 1, B), what the agent saw: F numbers in each cell

    def select(self, index):
        """The episodes at `index`: a slice or a (N,) int64 tensor."""
        return Episodes(self.mazes.select(index), *(x[..., index] for x in self[1:]))


def q_lambda_targets(reward, value, greedy, gamma, lam):
    """Watkins's Q(lambda) returns, all (T, B). value[t]: V(s[t + 1]); greedy[t]: whether a[t] was.

        G[t] = reward[t] + gamma * ((1 - c[t + 1]) * value[t] + c[t + 1] * G[t + 1])

    with c[t] = lam * greedy[t]. In the goal V and all that follows are 0. The last step bootstraps:
    running out of time is not the end.
    """
    c_next = torch.zeros_like(value)
    c_next[:-1] = lam * greedy[1:]
    target = reward + gamma * (1 - c_next) * value
    for t in reversed(range(len(target) - 1)):
        target[t] += gamma * c_next[t] * target[t + 1]
    return target


def episode_values(episodes, gamma):
    """V in the visited cells by what the episode itself found out: (T + 1, B).

    Dynamic programming over its own moves, as in episodic backward update (Lee et al. 2019): the
    best of r + gamma * V(s') over the moves it made in s. -inf in episodes that did not arrive.
    """
    cells, shape = episodes.cells, episodes.mazes.walls.shape
    value = torch.full((shape[0] * shape[1], shape[2]), -torch.inf, device=cells.device)
    value.scatter_(0, episodes.mazes.goal[None], 0.0)
    steps = list(zip(cells[:-1, None], cells[1:, None], episodes.reward))
    before = None
    while before is None or not torch.equal(before, value):
        before = value.clone()
        for here, there, reward in reversed(steps):
            better = torch.maximum(value.gather(0, here), reward + gamma * value.gather(0, there))
            value.scatter_(0, here, better)
    return value.gather(0, cells)


@torch.no_grad()
def td_targets(online, target, episodes, gamma, credit="step", lam=0.0, double=False, less_v=False):
    """The targets of Q(s, a), r + gamma * V(s'), (T, B), and which of them count, (T, B).

    An agent that thinks learns Q - V: its V(s') is less V(s). V is that of the target network;
    credit "lambda": Q(lambda) returns; "episode": what the episode itself found out. double: the
    online network picks the next action (double DQN, van Hasselt et al. 2016). less_v: targets of
    advantages, less V(s), and clipped to one step.
    """
    arrived = episodes.cells == episodes.mazes.goal
    counts = ~arrived[:-1]
    if credit == "episode":
        value = episode_values(episodes, gamma)
        counts &= value[1:].isfinite()
        value = (value[1:] - value[:-1]).clamp(-1, 1) if less_v else value[1:]
        return torch.where(counts, episodes.reward + gamma * value, 0), counts
    best = None
    if credit == "lambda" or double:
        q = online.q(episodes)
        best = q == q.amax(0)
    value = target.next_value(episodes, best if double else None)
    if credit == "step":
        return episodes.reward + gamma * value, counts
    greedy = best[:, :-1].gather(0, episodes.actions[None])[0]
    return q_lambda_targets(episodes.reward, value, greedy, gamma, lam), counts

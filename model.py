"""The agent: networks that think, and the targets that they learn from.

A network that sees the whole maze is a small core that looks at the patch around one cell: which
cells are walls, and what the cells are worth. It gives Q of the four actions there. Thinking is
looking again and again: the best Q of a cell is its new value, which its neighbours see when they
look next, until nothing changes. So values spread from the goal through the maze.

Built in: the value of a cell is the best Q there, as in any Q-learning; the goal's value; walls
hold none; a core sees and says values in units of the greatest value within one step, and no cell
is worth more than that; values only rise while the network thinks, and are rounded to whole eighths
of a step's discount. Learned: which action leads to which cell, that a move into a wall leaves the
agent where it is, what a step costs, and so which way to go.

The batch is the last axis, as in maze.py: values (H, W, B), Q (4, H, W, B).
"""
import math
from typing import NamedTuple

import torch
import torch.nn as nn

from maze import Mazes, ahead, in_padded, padded

OPEN, WALL, UNKNOWN = range(3)  # kinds of cells; only an agent that draws a map knows the third
GRAIN = 8                       # a value is kept as a whole number n: it is GAMMA ** (-n / GRAIN)
NO_VALUE = -(2 ** 28)           # the n of an open cell that no value has reached
NO_CELL = -(2 ** 29)            # the n of a wall
LEAST_Q = 1e-3                  # in units of m; less than that is no value at all


# --------------------------------------------------------------------------------------------------
# Cores: from the patches around n cells, (planes, side, side, n), to Q of the four actions, (4, n).
#
# The first planes say which cells of the patch are walls (and, on a map, which are unknown). The
# last one is the value of each, in units of the greatest within one step; so is Q. The last layer
# begins with zeros: at first nothing is worth anything.


class MLP(nn.Module):
    """A multilayer perceptron on the nine cells around and under the agent: 1,108 weights."""

    radius = 1

    def __init__(self, planes, width, gamma):
        super().__init__()
        width = width or 48
        self.hidden = nn.Linear(9 * planes, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        return layer(self.q, layer(self.hidden, x.flatten(0, 2)).relu_())


class CNN(nn.Module):
    """Two 3x3 convolutions, without padding or pooling, on a patch of 5x5 cells: 9,988 weights.

    A convolution is a matrix product on each 3x3 window. Written so it takes a quarter of the time
    that torch's own takes on images as small as these.
    """

    radius = 2

    def __init__(self, planes, width, gamma):
        super().__init__()
        width = width or 32
        self.first = nn.Linear(9 * planes, width)
        self.second = nn.Linear(9 * width, width)
        self.q = zeros(nn.Linear(width, 4))

    def forward(self, x):
        x = x.unfold(1, 3, 1).unfold(2, 3, 1)                      # (planes, 3, 3, n, 3, 3)
        x = x.permute(1, 2, 0, 4, 5, 3).flatten(0, 1).flatten(1, 3)  # (9 windows, 9 planes, n)
        x = layer(self.first, x).relu_()                           # (9 windows, width, n)
        return layer(self.q, layer(self.second, x.flatten(0, 1)).relu_())


class Attention(nn.Module):
    """Attention over the nine cells of a 3x3 patch (Vaswani et al. 2017), with four heads.

    A cell is a token: what it is, and a learned vector for its place in the patch. What each head
    asks for is learned and always the same, so that one linear layer scores the tokens.
    """

    radius = 1

    def __init__(self, planes, width, gamma):
        super().__init__()
        width = width or 32
        self.token = nn.Linear(planes, width)
        self.place = nn.Parameter(0.5 * torch.randn(width, 9))
        self.score = nn.Linear(width, 4, bias=False)
        self.value = nn.Linear(width, width)
        self.hidden = nn.Linear(4 * width, 2 * width)
        self.q = zeros(nn.Linear(2 * width, 4))

    def forward(self, x):
        x = x.flatten(1, 2)                                                      # (planes, 9, n)
        tokens = layer(self.token, x.flatten(1)).unflatten(1, x.shape[1:])
        tokens = tokens.add_(self.place[..., None]).relu_()                      # (width, 9, n)
        score = self.score.weight @ tokens.flatten(1)
        attention = score.unflatten(1, x.shape[1:]).softmax(1)                   # (4, 9, n)
        heads = layer(self.value, (attention[:, None] * tokens).sum(2))          # (4, width, n)
        return layer(self.q, layer(self.hidden, heads.flatten(0, 1)).relu_())


class VIN(nn.Module):
    """A value iteration network (Tamar et al. 2016): the backup is built in, all but one thing.

    Two layers look at the walls and give p, the probability that each move succeeds; a move that
    fails leaves the agent where it is: Q(s, a) = gamma * (p * V(s') + (1 - p) * V(s)).
    """

    radius = 1

    def __init__(self, planes, width, gamma):
        super().__init__()
        width = width or 64
        self.gamma = gamma
        self.hidden = nn.Linear(9 * (planes - 1), width)
        self.p = zeros(nn.Linear(width, 4))

    def forward(self, x):
        p = 0.5 + layer(self.p, layer(self.hidden, x[:-1].flatten(0, 2)).relu_()) / 6
        # Only an exact 0 or 1 stays right over a thousand steps, so p is clipped, not squashed. The
        # gradient passes the clip: a p that is certain and wrong is mended (straight-through).
        p = p.clamp(0, 1).detach() + (p - p.detach())
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

    looks: how often a cell looks at most; 0: until no value changes.
    kinds: 2, if all cells are open or walls; 3, if some are unknown.
    """

    whole_maze = True

    def __init__(self, core, width, gamma, looks=0, kinds=2):
        super().__init__()
        self.core = CORES[core](kinds, width, gamma)
        self.gamma, self.looks, self.kinds = gamma, looks, kinds
        self.log_unit = math.log(1 / gamma) / GRAIN  # the log of a value is n times this
        side = 2 * self.core.radius + 1
        self.patch_size, here = side * side, side * side // 2
        self.here = here  # in the patch, as are the cells beside it: up, down, left, right
        self.beside = [here - side, here + side, here - 1, here + 1]
        self.reach = [here, *self.beside]

    def think(self, mazes):
        """What this network thinks of the mazes, settled: `Thoughts`."""
        return Thoughts(self, mazes.walls, mazes.goal).settle()

    def look(self, patch):
        """Q of the four actions (4, n) in units of m, and m (n,): the greatest value in reach.

        patch (F, n) int32, as by `Thoughts.patches`.
        """
        worth = patch[:self.patch_size]
        m = torch.stack([worth[i] for i in self.reach]).amax(0)
        # Cells of the patch are worth at most gamma ** -radius times m, or are cut off from here.
        most = self.core.radius * GRAIN * self.log_unit
        value = ((worth - m) * self.log_unit).clamp_(-30, most).exp_()
        planes = [(worth == NO_CELL).to(value.dtype)]
        if self.kinds == 3:
            planes.append((patch[self.patch_size:] == UNKNOWN).to(value.dtype))
        side = 2 * self.core.radius + 1
        return self.core(torch.stack([*planes, value]).unflatten(1, (side, side))), m

    def q(self, seen):
        """Q (4, T + 1, B) in each visited cell, in units of m; log m (T + 1, B), -inf for m = 0.

        seen: as by `Thoughts.along`.
        """
        patch, _ = seen
        q, m = self.look(patch.flatten(1))
        log_m = torch.where(m > NO_VALUE, m * self.log_unit, -math.inf)
        return q.unflatten(1, patch.shape[1:]), log_m.view(patch.shape[1:])

    def next_value(self, seen, log_m, choice=None):
        """V(s') (T, B), on which this network settled, in units of the m of s.

        choice (4, T + 1, B) bool: the actions that another network would take; then it is what this
        network thinks of taking those in s' (double DQN, van Hasselt et al. 2016).
        """
        value = (seen[1] * self.log_unit - log_m[:-1]).exp()
        if choice is not None:
            q, _ = self.q(seen)
            value = value * torch.where(choice, q, 0).amax(0)[1:] / q.amax(0)[1:].clamp(min=1e-3)
        return value


class Thoughts:
    """What a `Thinker` thinks of a batch of mazes: what each cell is worth, and Q.

    kind (H, W, B): OPEN, WALL or UNKNOWN; goal (B,). Attributes:
    n (cells * B,) int32: what the cells of the `padded` maze are worth, in GRAIN;
    q (4, H, W, B): what the cells saw when they last looked, in units of m; 0 in walls and goals.
    """

    def __init__(self, thinker, kind, goal):
        (h, w, b), r, device = kind.shape, thinker.core.radius, goal.device
        self.thinker, self.shape = thinker, (h + 2 * r, w + 2 * r, b)
        self.kind = padded(kind.int(), r, WALL).flatten()
        self.n = torch.where(self.kind == WALL, NO_CELL, NO_VALUE).int()
        self.lane = torch.arange(b, device=device)
        self.goal = self.index(goal)
        self.n.index_fill_(0, self.goal, GRAIN)  # 1 / gamma: a step into the goal is worth 1
        line = torch.arange(-r, r + 1, device=device)
        self.patch = (line[:, None] * (w + 2 * r) + line).view(-1, 1) * b  # steps to its cells
        self.beside = torch.stack([self.patch[i] for i in thinker.beside])
        self.ticket = torch.empty_like(self.n)  # scratch for `wake`

    def index(self, cells):
        """Where `cells` (..., B) stand in n."""
        r = self.thinker.core.radius
        return in_padded(cells, self.shape[1] - 2 * r, r) * self.shape[2] + self.lane

    @torch.no_grad()
    def settle(self):
        """Thinks until no value changes, or for as many looks as the network may take.

        First values spread from the goal, one step with every round. Then every cell looks once
        more, whatever it sees. Where some rise even then, their values spread, too, and all cells
        look again that see a change. It comes to an end, as values only rise.
        """
        is_open = (self.kind != WALL).index_fill_(0, self.goal, False)
        q_of_all = torch.zeros(4, len(self.n), device=self.n.device)
        self.looks = self.thinker.looks or math.inf
        self.spread(self.goal)
        due = is_open.nonzero()[:, 0]
        while True:
            q, risen = self.look(due)
            q_of_all[:, due] = q
            if self.looks <= 1 or not len(risen):
                break
            self.looks -= 1
            changed = torch.zeros_like(is_open)
            changed.index_fill_(0, (self.patch + self.spread(risen)).flatten(), True)
            due = (changed & is_open).nonzero()[:, 0]
        self.q = self.inside(q_of_all)
        return self

    def spread(self, risen):
        """Lets the cells look that may gain by the rise of these, and so on; returns all risen."""
        changed = [risen]
        while self.looks > 1 and len(awake := self.wake(changed[-1])):
            changed.append(self.look(awake)[1])
            self.looks -= 1
        return torch.cat(changed)

    def look(self, at, block=4096):
        """The cells `at` (N,) look, all at once: (Q (4, N), the cells whose value rises by it)."""
        q, n = [], []
        for part in at.split(block):  # small enough to stay in a CPU's cache
            part_q, m = self.thinker.look(self.patches(part))
            best = part_q.amax(0).clamp(LEAST_Q, 1)
            gain = (best.log() / self.thinker.log_unit).round().int()
            n.append((m + gain).masked_fill_(best <= LEAST_Q, NO_VALUE))
            q.append(part_q.masked_fill(m == NO_VALUE, 0))
        n = torch.cat(n)
        higher = n > self.n[at]
        risen = at.masked_select(higher)
        self.n[risen] = n.masked_select(higher)
        return torch.cat(q, 1), risen

    def wake(self, risen):
        """The neighbours of these cells that are worth less than they are."""
        near = (self.beside + risen).flatten()
        n = self.n[near]
        near = near.masked_select((n < self.n[risen].repeat(4)) & (n != NO_CELL))
        number = torch.arange(len(near), dtype=torch.int32, device=near.device)
        self.ticket[near] = number  # where two wake the same cell, one ticket is left
        return near.masked_select(self.ticket[near] == number)

    def patches(self, at):
        """What the cells `at` (...) see: n of all cells of the patch, on a map their kind: (F, ...)."""
        index = self.patch.view(-1, *[1] * at.dim()) + at
        found = self.n.index_select(0, index.flatten()).view(index.shape)
        if self.thinker.kinds == 2:
            return found
        return torch.cat([found, self.kind.index_select(0, index.flatten()).view(index.shape)])

    def inside(self, x, rim=0):
        """x (..., cells * B) without the maze's rim, or with `rim` cells of it: (..., H, W, B)."""
        cut = self.thinker.core.radius - rim
        return x.unflatten(-1, self.shape)[..., cut:self.shape[0] - cut, cut:self.shape[1] - cut, :]

    def values(self):
        """What the cells are worth, 0 where no value has come: (H, W, B)."""
        return (self.inside(self.n) * self.thinker.log_unit).exp()

    def q_values(self):
        """Q of all cells, in its own unit: (4, H, W, B)."""
        m = ahead(self.inside(self.n, rim=1)).amax(0)  # no cell is worth more than all beside it
        return self.q * (m * self.thinker.log_unit).exp()

    def along(self, cells):
        """What learning needs of a walk over `cells` (T + 1, B): see `as_seen`."""
        at = self.index(cells)
        return as_seen(self.patches(at), self.n[at[1:]], self.thinker)


def as_seen(patch, next_n, thinker):
    """(the patch in each visited cell (F, T + 1, B), n of the next one (T, B)), to learn from.

    The first time that a cell looks, only the cells on its way to the goal have a value. To judge
    right even then, every second step is learned as at that moment: what is not worth more than the
    cell itself has no value yet, neither for the network nor for its target.
    """
    worth = patch[:thinker.patch_size]
    own = worth[thinker.here]
    t, lane = (torch.arange(size, device=patch.device) for size in own.shape)
    first = (t[:, None] + lane) % 2 == 0
    hidden = first & (worth <= own) & (worth != NO_CELL)
    patch = torch.cat([worth.masked_fill(hidden, NO_VALUE), patch[thinker.patch_size:]])
    return patch, next_n.masked_fill(first[:-1] & (next_n <= own[:-1]), NO_VALUE)


# --------------------------------------------------------------------------------------------------
# Learning

@torch.no_grad()
def learned_backup(thinker, mazes, distance):
    """(Q of one look, exact Q), both (4, N), in units of m, where all that the core sees is exact.

    exact: gamma * V*(s') for each action in each cell, but the goal, from which it can be reached.
    mazes of random walls show all that a patch can be. distance (H, W, B): the exact one.
    """
    thoughts = Thoughts(thinker, mazes.walls, mazes.goal)
    exact = torch.where(distance < 0, NO_VALUE, GRAIN * (1 - distance)).int()
    thoughts.inside(thoughts.n).copy_(exact.masked_fill(mazes.walls, NO_CELL))
    cell, lane = (distance > 0).flatten(0, 1).nonzero().t()
    at = in_padded(cell, mazes.walls.shape[1], thinker.core.radius) * thoughts.shape[2] + lane
    learned, m = (torch.cat(parts, -1) for parts in zip(*[
        thinker.look(thoughts.patches(part)) for part in at.split(4096)]))
    there = thoughts.n[at + thoughts.beside]
    there = torch.where(there == NO_CELL, thoughts.n[at], there)  # a wall: the agent stays
    return learned, ((there - GRAIN - m) * thinker.log_unit).exp()


class Episodes(NamedTuple):
    """B trajectories of at most T steps, each in a maze of its own. No step leaves the goal.

    cells (T + 1, B), actions (T, B) int64; reward (T, B) and potential (T + 1, B) as by `pay`.
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
    """What the steps between `cells` (T + 1, B) earn (T, B), and the potential there (T + 1, B).

    Reaching the goal pays 1. The first visit of a cell in an episode pays `novelty`: walking to and
    fro earns nothing more. A potential (H, W, B) adds gamma * potential(s') - potential(s), 0 in
    the goal: the best policy stays the best, its Q is less by potential(s) (Ng et al. 1999).
    """
    reached = cells == mazes.goal
    reward = (reached[1:] & ~reached[:-1]).float()
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


def q_lambda_targets(reward, done, value, greedy, gamma, lam, rescale=1.0):
    """Watkins's Q(lambda) returns, all (T, B). value[t]: V(s[t + 1]); greedy[t]: whether a[t] was.

        G[t] = reward[t] + gamma * (1 - done[t]) * ((1 - c[t + 1]) * value[t] + c[t + 1] * G[t + 1])

    with c[t] = lam * greedy[t]: the return is cut at the first action that the greedy policy would
    not have taken. The last step of a trajectory bootstraps from its value, so that running out of
    time is not mistaken for the end. rescale (T - 1, B): what G[t + 1] is multiplied by, to be in
    the units of G[t].
    """
    c = torch.zeros_like(value)
    c[:-1] = lam * greedy[1:]
    onward = gamma * ~done
    target, slope = reward + onward * (1 - c) * value, (onward * c)[:-1] * rescale
    # target[t] += slope[t] * target[t + 1], from the last t to the first, in log2(T) operations.
    step = 1
    while step < len(target) and lam:
        target[:-step].add_(slope * target[step:])
        slope = slope[:-step] * slope[step:]
        step *= 2
    return target


def td_error(online, target, seen, episodes, gamma, lam, double, most=1.0):
    """Q(s, a) minus its target in each step, and which steps count: both (T, B).

    The target is r + gamma * V(s'), V of the target network; with lam > 0, Q(lambda) returns. All
    in units of the m of s (see `Thinker`), which is 1 for an agent with a window. seen: what there
    was to see along the episodes. most: the greatest return. Steps count until the goal is
    reached, and where a value has come.
    """
    reached = episodes.cells == episodes.mazes.goal
    q, log_m = online.q(seen)
    counts = ~reached[:-1] & (log_m[:-1] > -torch.inf)
    taken = q[:, :-1].gather(0, episodes.actions[None])[0]
    with torch.no_grad():
        rescale = log_m[1:-1]
        log_m = log_m.masked_fill(log_m == -torch.inf, 0)  # of steps that don't count
        rescale = (rescale - log_m[:-2]).exp().clamp(max=gamma ** -2)
        best = q.amax(0)
        value = target.next_value(seen, log_m, q == best if double else None)
        # No return is outside 0..most, less the potential: overestimates can't feed on themselves.
        potential = episodes.potential[1:]
        value = (value + potential).clamp(0, most) - potential
        paid = episodes.reward != 0  # elsewhere m may be too small for a number
        reward = torch.where(paid & counts, episodes.reward * (-log_m[:-1]).exp(), 0)
        greedy = taken >= best[:-1]
        td_target = q_lambda_targets(reward, reached[1:], value, greedy, gamma, lam, rescale)
    return taken - td_target, counts


def q_along(network, episodes, thoughts):
    """Q in the visited cells (4, T + 1, B), in its own unit, without the potential of shaping."""
    q, log_m = network.q(thoughts.along(episodes.cells))
    return q * log_m.exp() + episodes.potential


class Adam:
    """Adam (Kingma and Ba 2015). torch.optim's does the same, but takes seconds to be imported."""

    def __init__(self, weights, lr):
        self.weights, self.lr, self.steps = list(weights), lr, 0
        self.sizes = [w.numel() for w in self.weights]
        self.mean = torch.zeros(sum(self.sizes), device=self.weights[0].device)
        self.square = torch.zeros_like(self.mean)

    @torch.no_grad()
    def step(self, gradient, beta1=0.9, beta2=0.999, epsilon=1e-8):
        """gradient: of all weights, flattened, one after the other: as one vector they are fast."""
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

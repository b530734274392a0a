"""Slow and obvious versions of what the program does fast, for one maze at a time, and helpers
to make test mazes."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

import main
import maze
import model
from support import settings


def override(arguments):
    """Sets main's constants from KEY=VALUE arguments, as the command line does."""
    vars(main).update(settings.override(main.config(), main.BY_AGENT, arguments))


def check():
    settings.check(main.config(), main.WORLD)


STEPS = (-1, 0), (1, 0), (0, -1), (0, 1)


def random_mazes(b, h, w, seed=0, share=0.3):
    """B random mazes with loops; goal and start are open, but the start may be cut off."""
    generator = torch.Generator().manual_seed(seed)
    walls = torch.rand(h, w, b, generator=generator, dtype=torch.float32) < share
    goal, start = (torch.randint(h * w, (b,), generator=generator) for _ in range(2))
    walls.view(-1, b)[goal, torch.arange(b)] = False
    walls.view(-1, b)[start, torch.arange(b)] = False
    return maze.Mazes(walls, goal, start)


def corridor(length, start, goal):
    """One maze of a single row."""
    return maze.Mazes(
        torch.zeros(1, length, 1, dtype=torch.bool), torch.tensor([goal]), torch.tensor([start])
    )


def serpentine(size):
    """Walls (size, size) of a corridor that goes to and fro through all rows."""
    walls = np.zeros((size, size), bool)
    walls[1::4, :-1] = True
    walls[3::4, 1:] = True
    return walls


def step(walls, goal, cell, action):
    """The cell after one action."""
    h, w = walls.shape
    y, x = cell // w + STEPS[action][0], cell % w + STEPS[action][1]
    stays = cell == goal or not (0 <= y < h and 0 <= x < w) or walls[y, x]
    return cell if stays else y * w + x


def walk(walls, goal, start, actions):
    cells = [int(start)]
    for action in actions:
        cells.append(step(walls, goal, cells[-1], action))
    return cells


def graph(walls):
    """The open cells, joined to their open neighbours."""
    joined = nx.grid_2d_graph(*walls.shape)
    joined.remove_nodes_from(list(zip(*np.nonzero(walls))))
    return joined


def distances(walls, goal):
    """Steps from every cell to the goal, by scipy: (H, W) int, -1 where it can't be reached."""
    h, w = walls.shape
    numbered = np.arange(h * w).reshape(h, w)
    pairs = [
        (numbered[:-1], numbered[1:], ~walls[:-1] & ~walls[1:]),
        (numbered[:, :-1], numbered[:, 1:], ~walls[:, :-1] & ~walls[:, 1:]),
    ]
    a, b = (np.concatenate([pair[i][pair[2]] for pair in pairs]) for i in (0, 1))
    edges = csr_matrix((np.ones(len(a)), (a, b)), (h * w, h * w))
    found = shortest_path(edges, directed=False, unweighted=True, indices=int(goal)).reshape(h, w)
    return np.where(np.isinf(found), -1, found).astype(int)


def optimal_q(walls, goal, gamma):
    """Q* by value iteration, straight from the rewards: (4, H, W), right in the open cells."""
    h, w = walls.shape
    after = np.array(
        [[step(walls, -1, cell, action) for cell in range(h * w)] for action in range(4)]
    )
    q = np.zeros((4, h * w))
    while True:
        new = np.where(after == goal, 1.0, gamma * q.max(0)[after])
        if np.array_equal(new, q):
            return q.reshape(4, h, w)
        q = new


def dfs_trees(side):
    """The chance of each spanning tree of side x side rooms under randomized depth-first search
    from a uniform root."""
    chances = {}

    def visit(stack, visited, tree, chance):
        while stack:
            y, x = stack[-1]
            options = [
                (y + dy, x + dx) for dy, dx in STEPS if 0 <= y + dy < side and 0 <= x + dx < side
            ]
            options = [room for room in options if room not in visited]
            if options:
                for room in options:
                    visit(
                        stack + [room],
                        visited | {room},
                        tree | {frozenset([(y, x), room])},
                        chance / len(options),
                    )
                return
            stack = stack[:-1]
        chances[tree] = chances.get(tree, 0) + chance

    for root in np.ndindex(side, side):
        visit([root], frozenset([root]), frozenset(), 1 / side**2)
    return chances


def lambda_targets(reward, done, value, greedy, gamma, lam):
    """Watkins's Q(lambda) for one episode of T steps, as it is defined: from the last step to
    the first."""
    g = value[-1]
    targets = []
    for t in reversed(range(len(reward))):
        if t + 1 < len(reward):
            g = (1 - lam * greedy[t + 1]) * value[t] + lam * greedy[t + 1] * g
        g = reward[t] + gamma * (1 - done[t]) * g
        targets.append(g)
    return targets[::-1]


def potential(walls, goal, gamma, shaping):
    """What a way of shaping holds each cell to be worth, a list: nothing in the goal and where
    the goal can't be reached."""
    h, w = walls.shape
    away = distances(walls, goal).flatten().tolist()
    if shaping == "manhattan":
        away = [abs(cell // w - goal // w) + abs(cell % w - goal % w) for cell in range(h * w)]
    return [gamma ** (steps - 1) if steps > 0 and shaping != "none" else 0.0 for steps in away]


def rewards(walls, goal, cells, gamma, shaping="none", novelty=0.0):
    """What each step of a walk pays, a list; the steps after the goal are left out."""
    phi, visited, paid = potential(walls, goal, gamma, shaping), {cells[0]}, []
    for here, there in zip(cells, cells[1:]):
        if here == goal:
            break
        paid.append(
            float(there == goal) + novelty * (there not in visited) + gamma * phi[there] - phi[here]
        )
        visited.add(there)
    return paid


def td_targets(q, q_target, episodes, gamma, lam, double, shaping="none", novelty=0.0):
    """The target of each step, (T, B), from Q along the trajectories (4, T + 1, B); values are
    bounded as returns are."""
    columns = []
    most = 1 + novelty * len(episodes.actions)
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        online, late = q[:, :, b].double(), q_target[:, :, b].double()
        cells, actions = episodes.cells[:, b].tolist(), episodes.actions[:, b].tolist()
        walls = episodes.mazes.walls[..., b].numpy()
        phi, paid = (
            potential(walls, goal, gamma, shaping),
            rewards(walls, goal, cells, gamma, shaping, novelty),
        )
        reward, done = (
            paid + [0.0] * (len(actions) - len(paid)),
            [float(cell == goal) for cell in cells[1:]],
        )
        value = [
            float(late[online[:, t].argmax(), t] if double else late[:, t].max())
            for t in range(1, len(cells))
        ]
        value = [min(max(v, -phi[cell]), most - phi[cell]) for v, cell in zip(value, cells[1:])]
        greedy = [
            float(online[action, t] == online[:, t].max()) for t, action in enumerate(actions)
        ]
        columns.append(lambda_targets(reward, done, value, greedy, gamma, lam))
    return torch.tensor(columns).t()


def window(walls, cell, radius, outside=True):
    """The cells around a cell of (H, W), cut out of a padded copy: (2 radius + 1, 2 radius + 1)."""
    y, x = divmod(int(cell), walls.shape[1])
    return np.pad(walls, radius, constant_values=outside)[
        y : y + 2 * radius + 1, x : x + 2 * radius + 1
    ]


def in_windows(shape, cells, radius):
    """Which cells of (H, W) lie in a window around one of `cells`."""
    seen = np.zeros(shape, bool)
    for y, x in (divmod(int(cell), shape[1]) for cell in cells):
        seen[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    return seen


def goes_round(cells):
    """Whether the end of a walk, a list of cells, is the same round twice over."""
    steps = len(cells) - 1
    for period in range(1, steps // 2 + 1):
        end = cells[steps - 2 * period :]
        if end[:period] == end[period : 2 * period] and end[0] == end[-1]:
            return True
    return False


# Networks that think, one maze and one cell at a time. n: what the cells (y, x) are worth, in half
# steps, a dictionary of those that have a value. kind: an array (H, W), 0 open, 1 wall or 2
# unknown.

GRAIN = 2  # half steps in a step


def kind_at(kind, y, x):
    """Outside is wall."""
    inside = 0 <= y < kind.shape[0] and 0 <= x < kind.shape[1]
    return int(kind[y, x]) if inside else 1


def look(thinker, gamma, kind, n, y, x):
    """(Q of the four actions in units of m, m) in a cell; None if nothing in reach has a value."""
    near = [n.get((y + dy, x + dx)) for dy, dx in [(0, 0), *STEPS]]
    m = max((worth for worth in near if worth is not None), default=None)
    if m is None:
        return None
    r, kinds = thinker.core.radius, range(1, thinker.kinds)
    square = [[(y + dy, x + dx) for dx in range(-r, r + 1)] for dy in range(-r, r + 1)]
    planes = [
        [[float(kind_at(kind, *cell) == one) for cell in line] for line in square] for one in kinds
    ]
    worth = [
        [min(gamma ** ((m - n[cell]) / GRAIN), gamma**-r) if cell in n else 0.0 for cell in line]
        for line in square
    ]
    x = torch.tensor([*planes, worth], dtype=torch.get_default_dtype())
    with torch.no_grad():
        return thinker.core(x[..., None])[:, 0].tolist(), m


def rises(thinker, gamma, kind, n, cells):
    """Which of these cells, all looking at the same moment, would be worth more, and how much."""
    risen = {}
    for cell in cells:
        seen = look(thinker, gamma, kind, n, *cell)
        best = min(max(seen[0]), 1.0) if seen else 0.0
        if best > 0:
            worth = seen[1] + round(math.log(best) / math.log(1 / gamma) * GRAIN)
            if cell not in n or worth > n[cell]:
                risen[cell] = worth
    return risen


def open_cells(kind, goal):
    """All but walls and the goal, as (y, x)."""
    return [(y, x) for y, x in np.ndindex(kind.shape) if kind[y, x] != 1 and (y, x) != goal]


def think(thinker, gamma, kind, goal, looks=0):
    """n as the network finds it: who rises wakes the neighbours; when all are asleep, all look."""
    goal = divmod(int(goal), kind.shape[1])
    n, cells, looked = {goal: GRAIN}, open_cells(kind, goal), 1

    def awake(risen):
        woken = {
            (y + dy, x + dx)
            for y, x in risen
            for dy, dx in STEPS
            if n.get((y + dy, x + dx), -math.inf) < n[y, x]
        }
        return [cell for cell in woken if kind_at(kind, *cell) != 1]

    looking = awake([goal])
    while not looks or looked < looks:
        everyone = not looking
        risen = rises(thinker, gamma, kind, n, cells if everyone else looking)
        if everyone and not risen:
            break
        n.update(risen)
        looking, looked = awake(risen), looked + 1
    return n


def think_in_any_order(thinker, gamma, kind, goal, chance):
    """n where the cells look one after another, in random order, until none of them rises."""
    goal = divmod(int(goal), kind.shape[1])
    n, cells, changed = {goal: GRAIN}, open_cells(kind, goal), True
    while changed:
        changed = False
        for i in chance.permutation(len(cells)):
            risen = rises(thinker, gamma, kind, n, [cells[i]])
            n.update(risen)
            changed |= bool(risen)
    return n


def thinker_of(core, gamma, looks=0, kinds=2):
    """A network that thinks with this core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.CORES, "given", lambda *_: core)
        return model.Thinker("given", 0, gamma, looks, kinds)


class Exact(torch.nn.Module):
    """A core that has nothing to learn: gamma times what the cell is worth that a move leads to."""

    def __init__(self, gamma, radius=1):
        super().__init__()
        self.gamma, self.radius, self.block = gamma, radius, 7  # blocks smaller than a maze

    def forward(self, x):
        r = self.radius
        ways = [(x[0, r + dy, r + dx], x[-1, r + dy, r + dx]) for dy, dx in STEPS]
        found = [torch.where(wall > 0, x[-1, r, r], worth) for wall, worth in ways]
        return self.gamma * torch.stack(found)


@torch.no_grad()
def make_exact(network):
    """Sets the weights of a VIN by hand, so that p is 1 where the way is open, else 0."""
    core = network.core
    for weights in core.parameters():
        weights.zero_()
    for action, place in enumerate((1, 7, 3, 5)):  # in the first plane, which says what is wall
        core.hidden.weight[action, place] = -1
        core.hidden.bias[action] = 1
        core.p.weight[action, action] = 100
    core.p.bias.fill_(-50)
    return network


def thinker_targets(q, q_target, n, episodes, gamma, lam, double):
    """Of networks that think: the target of each step (T, B), in units of m, and which steps count.

    In absolute values, double precision, from the last step to the first. q, q_target (4, T + 1, B)
    are in units of m; n (H, W, B): what the cells are worth to the target network; -inf: nothing.
    """
    (steps, b), (h, w, _) = episodes.actions.shape, n.shape
    targets = torch.zeros(steps, b, dtype=torch.float64)
    counts = torch.zeros(steps, b, dtype=torch.bool)
    for i in range(b):
        goal, cells = int(episodes.mazes.goal[i]), episodes.cells[:, i].tolist()
        m, value = [], []
        for t, cell in enumerate(cells):
            y, x = divmod(cell, w)
            near = [(y + dy, x + dx) for dy, dx in [(0, 0), *STEPS]]
            near = [n[y, x, i].item() for y, x in near if 0 <= y < h and 0 <= x < w]
            # On half of the steps it is as at the first look: only what is worth more counts.
            least = near[0] if (t + i) % 2 == 0 else -math.inf
            m.append(max((worth for worth in near if worth > least), default=-math.inf))
            if t < steps:
                worth = n.flatten(0, 1)[cells[t + 1], i].item()
                value.append(gamma ** (-worth / GRAIN) if worth > least else 0.0)
        for t in range(steps if double else 0):
            there = q_target[:, t + 1, i]
            chosen = max(0.0, there[q[:, t + 1, i] == q[:, t + 1, i].max()].max().item())
            value[t] *= chosen / max(1e-3, there.max().item())
        reward = [float(there == goal != here) for here, there in zip(cells, cells[1:])]
        done = [float(cell == goal) for cell in cells[1:]]
        greedy = [
            float(q[action, t, i] == q[:, t, i].max())
            for t, action in enumerate(episodes.actions[:, i].tolist())
        ]
        for t, target in enumerate(lambda_targets(reward, done, value, greedy, gamma, lam)):
            counts[t, i] = cells[t] != goal and m[t] > -math.inf
            targets[t, i] = target * gamma ** (m[t] / GRAIN) if counts[t, i] else 0.0
    return targets, counts


# Agents with a Q of their own, in place of a network


class Table(torch.nn.Module):
    """An agent that holds this q right, (4, H, W, B) or, in every maze, (4, H, W)."""

    whole_maze = True

    def __init__(self, q):
        super().__init__()
        self.table = torch.nn.Parameter(q.float())

    def think(self, mazes):
        q, b = self.table.detach(), len(mazes.goal)
        if q.dim() == 3:
            return Opinion(q[..., None].expand(-1, -1, -1, b), lambda cells, lanes=None: (cells,))
        lane = torch.arange(b)
        return Opinion(q, lambda cells, lanes=slice(None): (cells * b + lane[lanes],))

    def q(self, seen, steps=None):
        at = seen[0] if steps is None else seen[0].flatten()[steps]
        return self.table.flatten(1)[:, at]

    def log2_m(self, seen):
        return torch.zeros(seen[0].shape)

    def next_value(self, seen, log2_m, choice=None):
        q = self.q(seen)
        return (q if choice is None else torch.where(choice, q, -torch.inf)).amax(0)[1:]


class Opinion:
    """What an agent holds of mazes, found without thinking."""

    def __init__(self, q, along):
        self.q, self.along = q, along

    def q_values(self):
        return self.q


class Stepwise(torch.nn.Module):
    """The same agent as this one that sees the whole maze, but it is asked step by step."""

    whole_maze = False

    def __init__(self, network):
        super().__init__()
        self.network = network

    def begin(self, mazes, learning=False):
        return Steps(self.network.think(mazes))

    def q(self, seen, steps=None):
        return self.network.q(seen, steps)

    def log2_m(self, seen):
        return self.network.log2_m(seen)


class Steps:
    def __init__(self, opinion):
        self.opinion, self.along = opinion, opinion.along

    def see(self, cells):
        return model.along(self.opinion.q, cells[None])[:, 0]


def walked(mazes, q, steps, epsilon=None, generator=None):
    """The episodes of an agent with this q (4, H, W, B)."""
    return main.rollout(Table(q), mazes, steps, epsilon, generator)[0]


def td_error(online, target, seen, episodes, *how):
    """(Q(s, a) minus its target in each step, which steps count), both (T, B); how: see
    `model.td_targets`."""
    td_target, counts = model.td_targets(online, target, seen, episodes, *how)
    return online.q(seen)[:, :-1].gather(0, episodes.actions[None])[0] - td_target, counts


def update(online, target, optimizer, episodes, seen, weight=None):
    """One `main.update` on all of these episodes: (loss, norm of the gradient, TD errors (T,
    B))."""
    most = main.bounds(main.NOVELTY, main.MAX_EP_LENGTH)
    td_target, counts = model.td_targets(
        online, target, seen, episodes, main.GAMMA, main.LAMBDA, main.DOUBLE, most
    )
    ((_, steps),) = main.minibatches(counts, 1)
    weight = torch.ones(counts.shape[1]) if weight is None else weight
    by_step = [
        x.flatten()[steps] for x in (episodes.actions, td_target, weight.expand_as(td_target))
    ]
    loss, norm, error = main.update(online, optimizer, seen, steps, *by_step)
    return loss, norm, torch.zeros(counts.numel()).index_copy(0, steps, error).view(counts.shape)

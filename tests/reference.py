"""Slow and obvious versions of what the program does fast, for one maze at a time, and helpers to make test mazes."""
import networkx as nx
import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

import main
import maze
import model

STEPS = (-1, 0), (1, 0), (0, -1), (0, 1)


def random_mazes(b, h, w, seed=0, share=0.3):
    """B random mazes with loops; goal and start are open, but the start may be cut off."""
    generator = torch.Generator().manual_seed(seed)
    walls = torch.rand(h, w, b, generator=generator) < share
    goal, start = (torch.randint(h * w, (b,), generator=generator) for _ in range(2))
    walls.view(-1, b)[goal, torch.arange(b)] = False
    walls.view(-1, b)[start, torch.arange(b)] = False
    return maze.Mazes(walls, goal, start)


def corridor(length, start, goal):
    """One maze of a single row."""
    return maze.Mazes(torch.zeros(1, length, 1, dtype=torch.bool), torch.tensor([goal]), torch.tensor([start]))


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
    pairs = [(numbered[:-1], numbered[1:], ~walls[:-1] & ~walls[1:]),
             (numbered[:, :-1], numbered[:, 1:], ~walls[:, :-1] & ~walls[:, 1:])]
    a, b = (np.concatenate([pair[i][pair[2]] for pair in pairs]) for i in (0, 1))
    edges = csr_matrix((np.ones(len(a)), (a, b)), (h * w, h * w))
    found = shortest_path(edges, directed=False, unweighted=True, indices=int(goal)).reshape(h, w)
    return np.where(np.isinf(found), -1, found).astype(int)


def optimal_q(walls, goal, gamma):
    """Q* by value iteration, straight from the rewards: (4, H, W), right in the open cells."""
    h, w = walls.shape
    after = np.array([[step(walls, -1, cell, action) for cell in range(h * w)] for action in range(4)])
    q = np.zeros((4, h * w))
    while True:
        new = np.where(after == goal, 1.0, gamma * q.max(0)[after])
        if np.array_equal(new, q):
            return q.reshape(4, h, w)
        q = new


def dfs_trees(side):
    """The chance of each spanning tree of side x side rooms under randomized depth-first search from a uniform root."""
    chances = {}

    def visit(stack, visited, tree, chance):
        while stack:
            y, x = stack[-1]
            options = [(y + dy, x + dx) for dy, dx in STEPS if 0 <= y + dy < side and 0 <= x + dx < side]
            options = [room for room in options if room not in visited]
            if options:
                for room in options:
                    visit(stack + [room], visited | {room}, tree | {frozenset([(y, x), room])}, chance / len(options))
                return
            stack = stack[:-1]
        chances[tree] = chances.get(tree, 0) + chance

    for root in np.ndindex(side, side):
        visit([root], frozenset([root]), frozenset(), 1 / side ** 2)
    return chances


def lambda_targets(reward, done, value, greedy, gamma, lam):
    """Watkins's Q(lambda) for one episode of T steps, as it is defined: from the last step to the first."""
    g = value[-1]
    targets = []
    for t in reversed(range(len(reward))):
        if t + 1 < len(reward):
            g = (1 - lam * greedy[t + 1]) * value[t] + lam * greedy[t + 1] * g
        g = reward[t] + gamma * (1 - done[t]) * g
        targets.append(g)
    return targets[::-1]


def potential(walls, goal, gamma, shaping):
    """What a way of shaping holds each cell to be worth, a list: nothing in the goal and where the goal can't be reached."""
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
        paid.append(float(there == goal) + novelty * (there not in visited) + gamma * phi[there] - phi[here])
        visited.add(there)
    return paid


def td_targets(q, q_target, episodes, gamma, lam, double, shaping="none", novelty=0.0):
    """The target of each step, (T, B), from Q along the trajectories (4, T + 1, B); values are bounded as returns are."""
    columns = []
    most = 1 + novelty * len(episodes.actions)
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        online, late = q[:, :, b].double(), q_target[:, :, b].double()
        cells, actions = episodes.cells[:, b].tolist(), episodes.actions[:, b].tolist()
        walls = episodes.mazes.walls[..., b].numpy()
        phi, paid = potential(walls, goal, gamma, shaping), rewards(walls, goal, cells, gamma, shaping, novelty)
        reward, done = paid + [0.0] * (len(actions) - len(paid)), [float(cell == goal) for cell in cells[1:]]
        value = [float(late[online[:, t].argmax(), t] if double else late[:, t].max()) for t in range(1, len(cells))]
        value = [min(max(v, -phi[cell]), most - phi[cell]) for v, cell in zip(value, cells[1:])]
        greedy = [float(online[action, t] == online[:, t].max()) for t, action in enumerate(actions)]
        columns.append(lambda_targets(reward, done, value, greedy, gamma, lam))
    return torch.tensor(columns).t()


def conv_raw_success(network, cells):
    """A VIN's p for every cell and action before it is clipped, (4, H, W, B), as convolutions over the cells, which are
    0 open, 1 wall or 2 unknown; outside is wall. A VIN looks at each action in a maze that is turned until it leads up. A Mapper
    doesn't, and its p depends also on whether a row and a column are even."""
    kinds = network.look.weight.shape[1] // 9
    found = []
    for action, quarters in enumerate((0, 2, 3, 1) if kinds == 1 else (0, 0, 0, 0)):
        turned = torch.rot90(torch.as_tensor(cells), quarters)
        rim = torch.nn.functional.pad(turned.long().permute(2, 0, 1), (1, 1, 1, 1), value=1)
        x = torch.stack([rim == kind for kind in range(1, kinds + 1)], 1).to(network.reward.dtype)
        x = torch.conv2d(x, network.look.weight[:, :9 * kinds].view(-1, kinds, 3, 3), network.look.bias)
        if kinds == 2:
            for y, column in np.ndindex(cells.shape[:2]):
                x[:, :, y, column] += network.look.weight[:, 18 + 2 * (y % 2) + column % 2]
        x = torch.conv2d(x.relu(), network.judge.weight[:, :, None, None], network.judge.bias)
        found.append(torch.rot90(x[:, 0 if kinds == 1 else action].permute(1, 2, 0), -quarters))
    return (torch.stack(found) / 6 + 0.5).detach()


def conv_success(network, cells):
    """The p that plans are made with: clipped, and never under 0.05 where nobody has looked."""
    p = conv_raw_success(network, cells).clamp(0, 1)
    if network.look.weight.shape[1] > 9:
        rim = np.pad(cells, [(1, 1), (1, 1), (0, 0)], constant_values=1)
        ahead = np.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])
        p = torch.where(torch.from_numpy(ahead == 2), p.clamp(min=0.05), p)
    return p


def window(walls, cell, radius, outside=True):
    """The cells around a cell of (H, W), cut out of a padded copy: (2 radius + 1, 2 radius + 1)."""
    y, x = divmod(int(cell), walls.shape[1])
    return np.pad(walls, radius, constant_values=outside)[y:y + 2 * radius + 1, x:x + 2 * radius + 1]


def in_windows(shape, cells, radius):
    """Which cells of (H, W) lie in a window around one of `cells`."""
    seen = np.zeros(shape, bool)
    for y, x in (divmod(int(cell), shape[1]) for cell in cells):
        seen[max(0, y - radius):y + radius + 1, max(0, x - radius):x + radius + 1] = True
    return seen


def goes_round(cells):
    """Whether the end of a walk, a list of cells, is the same round twice over."""
    steps = len(cells) - 1
    for period in range(1, steps // 2 + 1):
        end = cells[steps - 2 * period:]
        if end[:period] == end[period:2 * period] and end[0] == end[-1]:
            return True
    return False


def fixed_point(p, reward, goal, gamma):
    """u and Q of the VIN's equation in one maze, by plain value iteration: p (4, H, W) -> (H, W), (4, H, W)."""
    h, w = p.shape[1:]
    u, here = np.zeros((h, w)), np.zeros((h, w))
    here.flat[goal] = reward
    while True:
        rim = np.pad(u, 1)
        ahead = np.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])
        q = p * ahead + (1 - p) * u
        new = np.maximum(here, gamma * q.max(0))
        if np.abs(new - u).max() < 1e-12:
            return u, q
        u = new


@torch.no_grad()
def make_exact(network):
    """Sets a VIN's weights by hand, so that p is 1 where the way is open, else 0, and the reward 1."""
    for weights in network.parameters():
        weights.zero_()
    for action, place in enumerate((1, 7, 3, 5)[:len(network.judge.bias)]):  # one direction, up, may stand for all
        network.look.weight[action, place] = -1
        network.look.bias[action] = 1
        network.judge.weight[action, action] = 100
    network.judge.bias.fill_(-50)
    network.reward.fill_(1)
    return network


class Given(model.WholeMaze):
    """A network that holds this q (4, H, W, B) right, whatever it is shown."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, mazes, plan=None):
        return self.q


class Stepwise(torch.nn.Module):
    """The same agent as this whole-maze network, but it is asked step by step."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def begin(self, mazes, learning=False):
        return Steps(self.network(mazes))

    def visited(self, episodes, plan):
        return plan

    def along(self, episodes, visited):
        return model.along(visited[0], episodes.cells)


class Steps:
    def __init__(self, q):
        self.q = q

    def see(self, cells):
        return model.along(self.q, cells[None])[:, 0]

    def plan(self):
        return self.q,


def walked(mazes, q, steps, epsilon=None, generator=None):
    """The episodes of an agent with this q (4, H, W, B)."""
    return main.rollout(Given(q), mazes, steps, epsilon, generator)[0]

"""Slow and obvious versions of what the program does fast, and helpers to make test mazes."""

import networkx as nx
import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

import main
import maze
from support import plain

STEPS = (-1, 0), (1, 0), (0, -1), (0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_mazes(b, h, w, seed=0, share=0.3):
    """B random mazes with loops; goal and start are open, but the start may be cut off."""
    generator = seeded(seed)
    walls = torch.rand(h, w, b, generator=generator) < share
    goal, start = (torch.randint(h * w, (b,), generator=generator) for _ in range(2))
    walls.view(-1, b)[torch.stack([goal, start]), torch.arange(b)] = False
    return maze.Mazes(walls, goal, start)


def drawn(b, grid=8, difficulty=1.0):
    """B mazes as training draws them; perfect ones, if all walls are kept."""
    packed = maze.make_mazes(b, grid, seeded())
    return maze.draw(packed, grid, difficulty, 100, "random", seeded(1))


def corridor(length, start, goal):
    """One maze of a single row."""
    walls = torch.zeros(1, length, 1, dtype=torch.bool)
    return maze.Mazes(walls, torch.tensor([goal]), torch.tensor([start]))


def serpentine(size):
    """Walls (size, size) of a corridor that goes to and fro through all rows."""
    walls = np.zeros((size, size), bool)
    walls[1::4, :-1] = True
    walls[3::4, 1:] = True
    return walls


def one_by_one(mazes):
    """(walls (H, W), goal) of each of B mazes."""
    return zip(mazes.walls.permute(2, 0, 1).numpy(), mazes.goal.tolist())


def graph(walls):
    """The open cells, joined to their open neighbours."""
    joined = nx.grid_2d_graph(*walls.shape)
    joined.remove_nodes_from(list(zip(*np.nonzero(walls))))
    return joined


def dfs_trees(side):
    """The chance of each spanning tree of side x side rooms by randomized depth-first search."""
    rooms, chances = nx.grid_2d_graph(side, side), {}
    begun = [([root], {root}, frozenset(), 1 / side**2) for root in rooms]
    while begun:
        stack, visited, tree, chance = begun.pop()
        free = [room for room in rooms[stack[-1]] if room not in visited]
        for room in free:
            grown = tree | {frozenset([stack[-1], room])}
            begun.append(([*stack, room], visited | {room}, grown, chance / len(free)))
        if not free and len(stack) > 1:
            begun.append((stack[:-1], visited, tree, chance))
        elif not free:
            chances[tree] = chances.get(tree, 0) + chance
    return chances


def step(walls, goal, cell, action):
    """The cell after one action."""
    h, w = walls.shape
    y, x = cell // w + STEPS[action][0], cell % w + STEPS[action][1]
    stays = cell == goal or not (0 <= y < h and 0 <= x < w) or walls[y, x]
    return cell if stays else y * w + x


def moves(walls):
    """Where each action leads from each cell, were no cell a goal: (4, H * W)."""
    cells = range(walls.size)
    return np.array([[step(walls, -1, cell, action) for cell in cells] for action in range(4)])


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


def to_goal(mazes):
    """The same of B mazes: a tensor (H, W, B)."""
    return torch.from_numpy(np.stack([distances(*one) for one in one_by_one(mazes)], -1))


def optimal_q(walls, goal, gamma=1.0, step=-1.0, bonus=0.0):
    """Q* (4, H, W) by value iteration, right in the open cells but the goal. bonus: for reaching
    the goal. Where nothing is discounted, only a way that ends counts: without one, Q is -inf."""
    after = moves(walls)
    reward = step + bonus * (after == goal)
    q, before = np.full(after.shape, 0.0 if gamma < 1 else -np.inf), None
    while before is None or not np.allclose(q, before, rtol=0, atol=1e-12):
        value, before = q.max(0), q
        value[goal] = 0
        q = reward + gamma * value[after]
    return q.reshape(4, *walls.shape)


def in_windows(shape, cells, radius):
    """Which cells of (H, W) lie in a window around one of `cells`."""
    seen = np.zeros(shape, bool)
    for y, x in (divmod(int(cell), shape[1]) for cell in cells):
        seen[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = True
    return seen


def potential(walls, goal, gamma, shaping):
    """What a way of shaping holds each cell to be worth, a list: nothing in the goal and where
    the goal can't be reached."""
    h, w = walls.shape
    away = distances(walls, goal).flatten().tolist()
    if shaping == "manhattan":
        away = [abs(cell // w - goal // w) + abs(cell % w - goal % w) for cell in range(h * w)]
    return [gamma ** (steps - 1) if steps > 0 and shaping != "none" else 0.0 for steps in away]


def td_targets(q, q_target, episodes, gamma, lam, double):
    """The target of each step, (T, B), from Q along the trajectories (4, T + 1, B): Watkins's
    Q(lambda) as it is defined, from the last step to the first."""
    targets = np.zeros(episodes.reward.shape)
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        online, late = q[:, :, b].double(), q_target[:, :, b].double()
        best = (online if double else late).argmax(0)
        for t in reversed(range(len(targets))):
            value = float(late[best[t + 1], t + 1])
            if t + 1 < len(targets):  # of what the next step led to, if that was greedy
                chosen = episodes.actions[t + 1, b]
                share = lam * float(online[chosen, t + 1] == online[:, t + 1].max())
                value = (1 - share) * value + share * targets[t + 1, b]
            arrived = episodes.cells[t + 1, b] == goal
            targets[t, b] = episodes.reward[t, b] + (0.0 if arrived else gamma * value)
    return torch.from_numpy(targets)


def own_values(cells, reward, goal, gamma):
    """What the best way earns that is made of moves of this walk: {cell: V}, of the cells from
    which it found a way to the goal. By value iteration over the moves."""
    value, moves_made = {goal: 0.0}, [*zip(cells, cells[1:], reward)]
    for here, there, earned in moves_made * len(cells):
        if here != goal and there in value:
            value[here] = max(value.get(here, -np.inf), earned + gamma * value[there])
    return value


class Table(plain.QNetwork):
    """An agent that holds this q right, (4, H, W, B) or, in every maze, (4, H, W)."""

    whole_maze = True

    def __init__(self, q):
        super().__init__()
        self.table = torch.nn.Parameter(q.float())

    def everywhere(self, mazes):
        shared = self.table.dim() == 3
        return self.table[..., None].expand(4, *mazes.walls.shape) if shared else self.table

    def begin(self, mazes, farthest=None):
        return plain.Answers(self.everywhere(mazes).detach(), 0)

    def visited(self, episodes):
        return maze.along(self.everywhere(episodes.mazes), episodes.cells)


class Stepwise(torch.nn.Module):
    """The same agent, but it is asked step by step."""

    whole_maze = False

    def __init__(self, agent):
        super().__init__()
        self.agent = agent

    def begin(self, mazes, farthest=None):
        return Steps(self.agent.begin(mazes, farthest))


class Steps:
    def __init__(self, sight):
        self.sight, self.cells = sight, []

    def act(self, cells):
        self.cells.append(cells)
        return maze.along(self.sight.q(), cells[None])[:, 0].argmax(0)

    def seen(self, cells):
        return self.sight.seen(torch.stack(self.cells))

    def q(self):
        return maze.along(self.sight.q(), torch.stack(self.cells))


def walked(mazes, q, steps, epsilon=None, generator=None):
    """The episodes of an agent with this q (4, H, W, B)."""
    return main.rollout(Table(q), mazes, steps, epsilon, generator)[0]

import math

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from reference import drawn, one_by_one, seeded, to_goal
from scipy.stats import chisquare

import maze
from support import report


@pytest.mark.parametrize("grid", [5, 6, 15, 16, 31])
def test_perfect_mazes_are_spanning_trees_of_the_rooms(grid):
    carved, side = maze.carve(20, grid, seeded()), (grid + 1) // 2
    assert carved.shape == (grid, grid, 20) and carved.dtype == torch.bool
    assert not carved[: 2 * side : 2, : 2 * side : 2].any()  # the rooms are open
    assert carved[1::2, 1::2].all()  # between four rooms stands a pillar
    assert grid % 2 or (carved[-1].all() and carved[:, -1].all())
    assert all(nx.is_tree(reference.graph(walls)) for walls in carved.permute(2, 0, 1).numpy())


def test_trees_come_with_the_chances_of_depth_first_search():
    n, chances = 50_000, reference.dfs_trees(3)
    packed, counts = maze.make_mazes(n, 5, seeded()).unique(dim=1, return_counts=True)
    seen = dict.fromkeys(chances, 0)
    for walls, count in zip(maze.unpack(packed, 5, 5).unbind(-1), counts.tolist()):
        ways = [(y, x) for y, x in (~walls).nonzero().tolist() if (y + x) % 2]
        ends = [((y // 2, x // 2), ((y + 1) // 2, (x + 1) // 2)) for y, x in ways]
        seen[frozenset(map(frozenset, ends))] += count
    assert chisquare(list(seen.values()), [n * chance for chance in chances.values()]).pvalue > 1e-6


@pytest.mark.parametrize("goal, farthest", [("random", 100), ("random", 3), ("corner", 5)])
def test_goals_and_starts_are_uniform_over_the_cells_that_may_be_chosen(goal, farthest):
    """In two parts that are not joined, of 6 and 5 cells, and a cell on its own, never a goal."""
    rows = "....#", "#.#.#", ".####", "###.#", "#...."
    walls = np.array([[cell == "#" for cell in row] for row in rows])
    packed = maze.pack(torch.from_numpy(walls)[..., None]).expand(-1, 30_000)
    mazes = maze.draw(packed, 5, 1.0, farthest, goal, seeded(1))
    joined = reference.graph(walls)
    goals = [cell for cell, degree in joined.degree if degree] if goal == "random" else [(4, 4)]
    chance = np.zeros((25, 25))
    for y, x in goals:
        distance = reference.distances(walls, 5 * y + x).flatten()
        near = (distance > 0) & (distance <= farthest)
        chance[5 * y + x, near] = 1 / len(goals) / near.sum()
    seen = np.bincount(25 * mazes.goal + mazes.start, minlength=625)
    possible = chance.flatten() > 0
    assert seen[possible].sum() == 30_000
    assert chisquare(seen[possible], 30_000 * chance.flatten()[possible]).pvalue > 1e-6


def test_difficulty_is_the_chance_of_each_wall_to_stay_on_its_own():
    one, n = maze.make_mazes(1, 8, seeded()), 20_000
    perfect, each = maze.unpack(one, 8, 8), torch.tensor([0.0, 0.3, 1.0]).repeat(n)
    walls = maze.draw(one.expand(-1, 3 * n), 8, each, 100, "random", seeded(1)).walls
    assert not (walls & ~perfect).any()
    none, kept, every = walls.flatten(0, 1)[perfect.flatten()].view(-1, n, 3).double().unbind(-1)
    assert not none.any() and every.all()
    assert ((kept.mean(1) - 0.3).abs() < 6 * 0.46 / math.sqrt(n)).all()
    together = np.corrcoef(kept.numpy())[np.triu_indices(len(kept), 1)]
    assert np.abs(together).max() < 6 / math.sqrt(n)


WORLDS = [drawn(30, 16), drawn(30, 16, 0.7)]  # perfect mazes, loops, a hall, caves, corridors
WORLDS += [
    reference.random_mazes(30, 5, 19, share=0),
    reference.random_mazes(30, 16, 16, share=0.4),
]
WORLDS += [reference.random_mazes(30, *shape, share=0.2) for shape in ((23, 4), (1, 12), (12, 1))]
WORLDS += [reference.random_mazes(30, 1, 1)]
LONG = torch.from_numpy(reference.serpentine(61))[..., None].expand(-1, -1, 30)  # 1,900 steps
WORLDS += [maze.Mazes(LONG, torch.zeros(30).long(), torch.full((30,), 3720))]


@pytest.mark.parametrize("mazes", WORLDS, ids=lambda mazes: "x".join(map(str, mazes.walls.shape)))
def test_distances_are_those_of_scipy(mazes):
    walls, wanted = mazes.walls.clone(), to_goal(mazes)
    found = maze.distances(mazes.walls, mazes.goal)
    assert torch.equal(found.long(), wanted) and torch.equal(mazes.walls, walls)
    for most in (0, 2, 30):
        near = maze.distances(mazes.walls, mazes.goal, most)
        assert torch.equal(near.long(), torch.where(wanted <= most, wanted, -1))
    shortest = wanted.flatten(0, 1)[mazes.start, range(30)]
    assert torch.equal(maze.shortest(mazes, found).long(), shortest)


KINDS = (1.0, -1.0, 0.0), (1.0, -2.0, 10.0), (0.98, 0.0, 1.0), (0.9, -0.5, 3.0), (0.95, -1.0, 0.0)


@pytest.mark.parametrize("gamma, step, goal", KINDS)
@pytest.mark.parametrize("h, w", [(8, 8), (5, 11), (1, 6)])
def test_optimal_q_is_what_value_iteration_finds(h, w, gamma, step, goal):
    """Also where the goal can't be reached; and the steps that a Q stands for are found again."""
    mazes = reference.random_mazes(12, h, w, share=0.25)
    d = maze.distances(mazes.walls, mazes.goal)
    assert (d[~mazes.walls] < 0).any()
    q = maze.optimal_q(mazes, d, gamma, step, goal)
    away = report.steps_of_q(q, gamma, step, goal)
    for i, (walls, end) in enumerate(one_by_one(mazes)):
        cells = ~walls & (d[..., i].numpy() != 0)  # nothing is chosen in the goal
        slow = reference.optimal_q(walls, end, gamma, step, goal)[:, cells]
        assert np.allclose(q[..., i].numpy()[:, cells], slow, rtol=1e-5, atol=1e-5)
        after = reference.moves(walls).reshape(4, h, w)[:, cells]
        steps = reference.distances(walls, end).flat[after]
        steps = np.where(steps < 0, np.inf, steps)
        assert np.allclose(away[..., i].numpy()[:, cells], steps, rtol=0, atol=0.01)


def rewards(walls, goal, cells, step, bonus, novelty, shaping, gamma):
    """What each step of a walk pays, a list; nothing, once the goal is reached."""
    phi, paid = reference.potential(walls, goal, gamma, shaping), []
    for t, (here, there) in enumerate(zip(cells, cells[1:])):
        extra = bonus * (there == goal) + novelty * (there not in cells[: t + 1])
        paid.append(0.0 if here == goal else step + extra + gamma * phi[there] - phi[here])
    return paid


@pytest.mark.parametrize("shaping", ["none", "manhattan", "oracle"])
@pytest.mark.parametrize(
    "step, bonus, novelty, gamma",
    [(-1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.3, 0.9), (-0.5, 2.0, 0.1, 0.98)],
)
def test_rewards_are_what_a_slow_count_says(step, bonus, novelty, shaping, gamma):
    mazes = reference.random_mazes(60, 6, 6, share=0.1)
    choices = torch.randint(4, (30, 60), generator=seeded(3), dtype=torch.int32)
    cells = maze.walk(maze.move_table(mazes), mazes.start, choices)
    assert 10 < (cells[-1] == mazes.goal).sum() < 50 and (cells[0] == mazes.goal).any()
    how = step, bonus, novelty, shaping, gamma
    reward, phi = maze.rewards(mazes, cells, *how)
    for i, (walls, goal) in enumerate(one_by_one(mazes)):
        way, worth = cells[:, i].tolist(), reference.potential(walls, goal, gamma, shaping)
        assert reward[:, i].tolist() == pytest.approx(rewards(walls, goal, way, *how), abs=1e-5)
        assert phi[:, i].tolist() == pytest.approx([worth[cell] for cell in way], abs=1e-6)

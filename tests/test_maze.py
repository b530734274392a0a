import math

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from scipy.stats import binomtest, chisquare

import maze
from support import mazefile, metrics
from support.processes import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(walls):
    return np.moveaxis(walls.numpy(), -1, 0)


def each(x, function):
    """function(walls, goal) of each maze, stacked along the last axis."""
    return np.stack([function(*one) for one in zip(one_by_one(x.walls), x.goal.tolist())], -1)


# Generation


@pytest.mark.parametrize("grid", [5, 6, 15, 16, 31])
def test_perfect_mazes_are_spanning_trees_of_the_rooms(grid):
    carved, side = maze.carve(20, grid, seeded()), (grid + 1) // 2
    assert carved.shape == (grid, grid, 20) and carved.dtype == torch.bool
    assert not carved[: 2 * side : 2, : 2 * side : 2].any()  # the rooms are open
    assert carved[1::2, 1::2].all()  # between four rooms stands a pillar
    assert grid % 2 or (carved[-1].all() and carved[:, -1].all())
    assert all(nx.is_tree(reference.graph(walls)) for walls in one_by_one(carved))


@pytest.mark.parametrize("n", [1, 7, 8, 20])
def test_chunks_make_as_many_mazes_all_different_and_the_same_by_the_same_seed(n):
    packed, again, other = (maze.make_mazes(n, 15, seeded(s), chunk=7) for s in (1, 1, 2))
    assert packed.shape == (math.ceil(15 * 15 / 8), n) and torch.equal(packed, again)
    assert len(torch.cat([packed, other], 1).unique(dim=1).t()) == 2 * n


def test_trees_come_with_the_chances_of_depth_first_search():
    n, chances = 50_000, reference.dfs_trees(3)
    packed, counts = maze.make_mazes(n, 5, seeded()).unique(dim=1, return_counts=True)
    seen = dict.fromkeys(chances, 0)
    for walls, count in zip(one_by_one(maze.unpack(packed, 5, 5)), counts.tolist()):
        ways = [(y, x) for y, x in np.argwhere(~walls).tolist() if (y + x) % 2]
        ends = [((y // 2, x // 2), ((y + 1) // 2, (x + 1) // 2)) for y, x in ways]
        seen[frozenset(map(frozenset, ends))] += count
    assert chisquare(list(seen.values()), [n * chance for chance in chances.values()]).pvalue > 1e-6


def test_no_direction_is_preferred():
    walls = maze.carve(2000, 15, seeded())
    more = ((~walls[::2, 1::2]).sum((0, 1)) - (~walls[1::2, ::2]).sum((0, 1))).double()
    assert more.std() > 0
    assert abs(more.mean()) < 5 * more.std() / math.sqrt(2000)


@pytest.mark.parametrize("h, w, b", [(1, 1, 1), (3, 5, 4), (4, 4, 9), (7, 9, 1)])
def test_packing_loses_nothing(h, w, b):
    walls = torch.rand(h, w, b, generator=seeded()) < 0.5
    packed = maze.pack(walls)
    assert packed.dtype == torch.uint8 and packed.shape == (math.ceil(h * w / 8), b)
    assert torch.equal(maze.unpack(packed, h, w), walls)


# Drawing


@pytest.mark.parametrize("farthest", [1, 7, 100])
@pytest.mark.parametrize("goal", ["random", "corner"])
@pytest.mark.parametrize("grid, difficulty", [(16, 0.0), (15, 1.0), (8, "each its own")])
def test_every_start_reaches_its_goal_in_time(grid, difficulty, goal, farthest):
    b = 60
    share = torch.linspace(0, 1, b) if difficulty == "each its own" else difficulty
    mazes = maze.draw(maze.make_mazes(b, grid, seeded()), grid, share, farthest, goal, seeded(1))
    steps = each(mazes, reference.distances).reshape(-1, b)[mazes.start, range(b)]
    assert 1 <= steps.min() and steps.max() <= farthest
    assert farthest > 30 or (steps == farthest).any()  # as far as that, too
    assert not mazes.walls.flatten(0, 1).gather(0, torch.stack([mazes.start, mazes.goal])).any()
    corner = (grid - 1) // 2 * 2
    assert goal == "random" or (mazes.goal == corner * grid + corner).all()


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


def test_difficulty_is_the_chance_of_each_wall_to_stay():
    """One number for all mazes, or a number for each."""
    perfect = maze.unpack(packed := maze.make_mazes(400, 16, seeded()), 16, 16)
    shares = [0.0, 0.1, 0.3, 0.7, 1.0]
    for difficulty in *shares, torch.tensor(shares).repeat(80):
        walls = maze.draw(packed, 16, difficulty, 100, "random", seeded(1)).walls
        assert not (walls & ~perfect).any()
        for lane, share in enumerate(shares):
            if isinstance(difficulty, torch.Tensor) or share == difficulty:
                kept, of = (int(x[..., lane::5].sum()) for x in (walls, perfect))
                assert binomtest(kept, of, share).pvalue > 1e-6


def test_walls_go_in_all_places_alike_and_each_on_its_own():
    packed = maze.make_mazes(1, 8, seeded())
    walls = maze.draw(packed.expand(-1, 20_000), 8, 0.5, 100, "random", seeded(1)).walls
    kept = walls.flatten(0, 1)[maze.unpack(packed, 8, 8).flatten()].double()
    assert ((kept.mean(1) - 0.5).abs() < 6 * 0.5 / math.sqrt(20_000)).all()
    together = np.corrcoef(kept.numpy())[np.triu_indices(len(kept), 1)]
    assert np.abs(together).max() < 6 / math.sqrt(20_000)


def test_drawing_leaves_the_cache_as_it_was_and_follows_its_generator():
    packed = maze.make_mazes(50, 8, seeded())
    before = packed.clone()
    first, again, other = (maze.draw(packed, 8, 0.5, 20, "random", seeded(s)) for s in (1, 1, 2))
    assert torch.equal(packed, before)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


# Moving


SHAPES = [(5, 5), (3, 9), (9, 2), (1, 6), (6, 1)]


@pytest.mark.parametrize("h, w", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_padding_is_that_of_numpy_and_cells_are_found_in_it(h, w, radius):
    x = torch.randint(1, 1000, (h, w, 3), generator=seeded())
    rim = maze.padded(x, radius, -1)
    assert (
        rim.numpy() == np.pad(x, [(radius,) * 2, (radius,) * 2, (0, 0)], constant_values=-1)
    ).all()
    cells = torch.arange(h * w)
    assert torch.equal(rim.flatten(0, 1)[maze.in_padded(cells, w, radius)], x.flatten(0, 1))
    for action, (dy, dx) in enumerate(reference.STEPS):  # what the actions lead to
        ahead = rim[radius + dy :, radius + dx :][:h, :w]
        assert torch.equal(maze.neighbours(x, -1)[action], ahead)


@pytest.mark.parametrize("h, w", SHAPES)
@pytest.mark.parametrize("asked", ["at once", "step by step"])
def test_walk_is_that_of_a_slow_simulator(h, w, asked):
    b, steps = 40, 30
    mazes = reference.random_mazes(b, h, w)
    greedy = torch.randint(4, (h, w, b), generator=seeded(1), dtype=torch.uint8)
    given = torch.randint(5, (steps, b), generator=seeded(2), dtype=torch.int32)
    taken, was_at = given.clone(), []

    def act(cells):
        was_at.append(cells)
        return greedy.flatten(0, 1)[cells, range(b)].long()

    table = maze.move_table(mazes, greedy if asked == "at once" else None)
    cells = maze.walk(table, mazes.start, taken, act if asked == "step by step" else None)
    assert cells.shape == (steps + 1, b) and cells.dtype == torch.int64
    assert torch.equal(cells[0], mazes.start)
    for t, i in np.ndindex(steps, b):
        walls, cell, action = mazes.walls[..., i].numpy(), int(cells[t, i]), int(given[t, i])
        action = int(greedy[cell // w, cell % w, i]) if action == 4 else action
        assert cells[t + 1, i] == reference.step(walls, int(mazes.goal[i]), cell, action)
        assert taken[t, i] == (action if asked == "step by step" else given[t, i])
    assert asked == "at once" or torch.equal(torch.stack(was_at), cells[:-1])
    assert (cells == mazes.goal).any() and not (cells[-1] == mazes.goal).all()


def test_along_reads_what_is_in_the_visited_cells():
    x = torch.randn(2, 4, 6, 5, 40, generator=seeded())
    cells = torch.randint(30, (13, 40), generator=seeded(1))
    for some in x, x[0], x[0, 0]:
        found = maze.along(some, cells)
        assert found.shape == (*some.shape[:-3], 13, 40)
        assert (found.numpy() == some.numpy()[..., cells // 5, cells % 5, range(40)]).all()


# The exact answers


def drawn(grid, difficulty, b):
    generator = seeded(grid)
    packed = maze.make_mazes(b, grid, generator)
    return maze.draw(packed, grid, difficulty, 100, "random", generator)


def worlds():
    """Mazes, with and without loops; halls; caves, and other places with parts cut off; corridors,
    lying and upright; a single cell."""
    for difficulty in (1.0, 0.7):
        yield drawn(16, difficulty, 30)
    for h, w, share in [
        (5, 19, 0),
        (16, 16, 0.4),
        (23, 4, 0.3),
        (1, 12, 0.1),
        (12, 1, 0.1),
        (1, 1, 0),
    ]:
        yield reference.random_mazes(30, h, w, share=share)


@pytest.mark.parametrize(
    "mazes", [*worlds()], ids=lambda mazes: "x".join(map(str, mazes.walls.shape))
)
def test_distances_are_those_of_scipy(mazes):
    walls, wanted = mazes.walls.clone(), each(mazes, reference.distances)
    found = maze.distances(mazes.walls, mazes.goal)
    assert (found.numpy() == wanted).all()
    assert torch.equal(mazes.walls, walls)
    for most in (0, 1, 2, 7, 30, 10_000):
        near = maze.distances(mazes.walls, mazes.goal, most)
        assert (near.numpy() == np.where(wanted <= most, wanted, -1)).all()
    shortest = wanted.reshape(-1, len(mazes.goal))[mazes.start, range(len(mazes.goal))]
    assert (maze.shortest(mazes, found).numpy() == shortest).all()


def test_distances_in_mazes_of_301x301_and_along_a_corridor_of_1900_steps():
    perfect, long = maze.carve(1, 301, seeded()), torch.from_numpy(reference.serpentine(61))
    corners = torch.tensor([0, 61 * 61 - 1])
    for mazes, farthest in [
        (maze.Mazes(perfect, corners[:1], None), 5_000),
        (reference.random_mazes(1, 301, 301, share=0.3), 400),
        (maze.Mazes(long[..., None].expand(-1, -1, 2), corners, None), 1_800),
    ]:
        found, wanted = maze.distances(*mazes[:2]), each(mazes, reference.distances)
        assert (found.numpy() == wanted).all() and wanted.max() > farthest


KINDS = (1.0, -1.0, 0.0), (1.0, -2.0, 10.0), (0.98, 0.0, 1.0), (0.9, -0.5, 3.0), (0.95, -1.0, 0.0)


@pytest.mark.parametrize("gamma, step, goal", KINDS)
@pytest.mark.parametrize("h, w", [(8, 8), (5, 11), (1, 6)])
def test_optimal_q_is_what_value_iteration_finds(h, w, gamma, step, goal):
    """Also where the goal can't be reached; and the steps that a Q stands for are found again."""
    mazes = reference.random_mazes(12, h, w, share=0.25)
    d = maze.distances(mazes.walls, mazes.goal)
    assert (d[~mazes.walls] < 0).any()
    q = maze.optimal_q(mazes, d, gamma, step, goal)
    away = metrics.steps_of_q(q, gamma, step, goal)
    for i, walls in enumerate(one_by_one(mazes.walls)):
        cells = ~walls & (d[..., i].numpy() != 0)  # nothing is chosen in the goal
        slow = reference.optimal_q(walls, int(mazes.goal[i]), gamma, step, goal)[:, cells]
        assert np.allclose(q[..., i].numpy()[:, cells], slow, rtol=1e-5, atol=1e-5)
        after = reference.moves(walls).reshape(4, h, w)[:, cells]
        steps = reference.distances(walls, mazes.goal[i]).flat[after]
        steps = np.where(steps < 0, np.inf, steps)
        assert np.allclose(away[..., i].numpy()[:, cells], steps, rtol=0, atol=0.01)


# Rewards


def random_walks(b=60, steps=30):
    """(mazes, cells): some reach the goal."""
    mazes = reference.random_mazes(b, 6, 6, share=0.1)
    choices = torch.randint(4, (steps, b), generator=seeded(3), dtype=torch.int32)
    cells = maze.walk(maze.move_table(mazes), mazes.start, choices)
    assert 10 < (cells[-1] == mazes.goal).sum() < b - 10 and (cells[0] == mazes.goal).any()
    return mazes, cells


@pytest.mark.parametrize("shaping", ["none", "manhattan", "oracle"])
@pytest.mark.parametrize(
    "step, goal, novelty, gamma",
    [(-1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.3, 0.9), (-0.5, 2.0, 0.1, 0.98)],
)
def test_rewards_are_what_a_slow_count_says(step, goal, novelty, shaping, gamma):
    mazes, cells = random_walks()
    reward, phi = maze.rewards(mazes, cells, step, goal, novelty, shaping, gamma)
    assert reward.shape == (30, 60) and phi.shape == (31, 60)
    for i, (walls, end, way) in enumerate(
        zip(one_by_one(mazes.walls), mazes.goal.tolist(), cells.t().tolist())
    ):
        paid = reference.rewards(walls, end, way, gamma, shaping, novelty, step, goal)
        paid += [0.0] * (30 - len(paid))  # nothing, once the goal is reached
        assert reward[:, i].tolist() == pytest.approx(paid, abs=1e-5)
        worth = reference.potential(walls, end, gamma, shaping)
        assert phi[:, i].tolist() == pytest.approx([worth[cell] for cell in way], abs=1e-6)


def test_novelty_is_earned_once_for_each_cell_so_walking_to_and_fro_earns_nothing():
    mazes, cells = random_walks()
    paid, _ = maze.rewards(mazes, cells, 0.0, 0.0, novelty=0.125)
    assert paid.sum(0).tolist() == [0.125 * (len(set(way)) - 1) for way in cells.t().tolist()]
    to_and_fro = torch.tensor([4, 5, 4, 5, 4, 3, 4, 4, 3, 2, 3])[:, None]
    paid, _ = maze.rewards(reference.corridor(9, 4, 8), to_and_fro, 0.0, 0.0, novelty=0.25)
    assert paid[:, 0].tolist() == [0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.25, 0]


@pytest.mark.parametrize("gamma, step, goal", KINDS)
@pytest.mark.parametrize("shaping", ["manhattan", "oracle", "anything"])
def test_shaping_keeps_the_best_policy_and_takes_the_potential_from_its_q(
    monkeypatch, shaping, gamma, step, goal
):
    """By value iteration with the reward of each step; any potential will do."""
    h, w, mazes = 5, 6, reference.random_mazes(4, 5, 6, share=0.2)
    if shaping == "anything":
        noise = torch.randn(h, w, 1, generator=seeded(5)).expand(-1, -1, 4 * h * w)
        monkeypatch.setattr(maze, "potential", lambda *_: noise)
    for i, (walls, end) in enumerate(zip(one_by_one(mazes.walls), mazes.goal.tolist())):
        after = reference.moves(walls)
        steps = torch.stack([torch.arange(h * w).expand(4, -1), torch.from_numpy(after)])
        lanes = torch.full((4 * h * w,), i)
        paid, phi = maze.rewards(
            mazes.select(lanes), steps.flatten(1), step, goal, 0.0, shaping, gamma
        )
        paid, phi = (x.double().numpy() for x in (paid[0].view(4, -1), phi[0, : h * w]))
        d = reference.distances(walls, end).flatten()
        plain = reference.optimal_q(walls, end, gamma, step, goal).reshape(4, -1)[:, d > 0]
        shaped = reference.best_q(after, paid, end, gamma)[:, d > 0]
        assert np.allclose(shaped, plain - phi[d > 0], atol=1e-4)
        assert phi[end] == 0 and not paid[:, end].any()
        assert ((shaped > shaped.max(0) - 1e-3) == (plain > plain.max(0) - 1e-3)).all()
        assert np.ptp(phi[d > 0]) > 0 or gamma == 1


# Mazes as text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("letter, between", [(".", "\n"), (" ", "\n\n\n")])
def test_mazes_of_any_size_survive_being_written_and_read(tmp_path, newline, letter, between):
    wanted = []
    for seed, (h, w) in enumerate([(4, 7), (1, 2), (16, 16), (5, 1), (4, 7)]):
        mazes = reference.random_mazes(20, h, w, seed)
        i = int((mazes.start != mazes.goal).nonzero()[0])
        one = mazes.walls[..., i].numpy(), int(mazes.start[i]), int(mazes.goal[i])
        wanted.append(mazefile.FileMaze(*one))
    text = between.join(mazefile.as_text(one) + "\n" for one in wanted).replace(".", letter)
    path = tmp_path / "mazes.txt"
    path.write_bytes(text.replace("\n", newline).encode())
    read = mazefile.read(str(path))
    assert [one[1:] for one in read] == [one[1:] for one in wanted]
    assert all(np.array_equal(one.walls, other.walls) for one, other in zip(read, wanted))


def test_text_shows_the_walk_between_start_and_goal():
    one = mazefile.FileMaze(np.array([[0, 0, 1], [1, 0, 0]], bool), 0, 5)
    assert mazefile.as_text(one) == "S.#\n#.G"
    assert mazefile.as_text(one, [0, 1, 4, 5]) == "S*#\n#*G"


MALFORMED = [
    (b"#.G\n...\n", "line 1", "no start"),
    (b"S.G\n\n\nS..\n", "line 4", "no goal"),
    (b"SS\n.G\n", "line 1", "2 starts"),
    (b"S.G\n.x.\n", "line 2", "'x'"),
    (b"S.G\n\tab", "line 2", "'\\t'"),
    (b"S.G\n\nS.\n..G\n", "line 3", "line 4 has 3"),
    (b"\n\n\n", "mazes.txt", "no maze"),
    (b"\x89PNG\xff\xfe\x00", "mazes.txt", "not a text file"),
]


@pytest.mark.parametrize("content, where, what", MALFORMED)
def test_malformed_maze_file_is_refused_with_its_line(tmp_path, content, where, what):
    (tmp_path / "mazes.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        mazefile.read(str(tmp_path / "mazes.txt"))
    assert all(part in str(error.value) for part in (where, what, "mazes.txt"))

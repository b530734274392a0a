import math

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from scipy.stats import binomtest, chisquare

import maze
from support import mapper, mazefile, metrics, solving
from support.errors import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_by_one(walls):
    return np.moveaxis(walls.numpy(), -1, 0)


# Generation


@pytest.mark.parametrize("grid", [5, 6, 8, 15, 16, 31])
def test_perfect_mazes_are_spanning_trees(grid):
    for walls in one_by_one(maze.carve(40, grid, seeded())):
        joined = reference.graph(walls)
        assert nx.is_connected(joined)
        assert joined.number_of_edges() == joined.number_of_nodes() - 1


@pytest.mark.parametrize("grid", [5, 6, 15, 16])
def test_rooms_are_open_and_pillars_and_the_even_edge_are_wall(grid):
    walls = maze.unpack(maze.make_mazes(50, grid, seeded()), grid, grid)
    side = (grid + 1) // 2
    assert not walls[: 2 * side : 2, : 2 * side : 2].any()
    assert walls[1::2, 1::2].all()
    assert ((~walls).sum((0, 1)) == 2 * side**2 - 1).all()
    if grid % 2 == 0:
        assert walls[-1].all() and walls[:, -1].all()


def test_mazes_differ_from_one_another_and_by_seed():
    first, again, other = (
        maze.fingerprints(maze.make_mazes(500, 16, seeded(seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert len(set(first + other)) == 1000


@pytest.mark.parametrize("n", [1, 6, 7, 8, 20])
def test_chunks_make_as_many_mazes_all_different(n):
    packed = maze.make_mazes(n, 15, seeded(), chunk=7)
    assert packed.shape == (math.ceil(15 * 15 / 8), n)
    assert len(set(maze.fingerprints(packed))) == n


def test_trees_come_with_the_chances_of_depth_first_search():
    n, chances = 50_000, reference.dfs_trees(3)
    seen = dict.fromkeys(chances, 0)
    for walls in one_by_one(maze.carve(n, 5, seeded())):
        passages = [(y, x) for y, x in zip(*np.nonzero(~walls)) if (y + x) % 2]
        seen[
            frozenset(
                frozenset([(y // 2, x // 2), ((y + 1) // 2, (x + 1) // 2)]) for y, x in passages
            )
        ] += 1
    assert chisquare(list(seen.values()), [n * chance for chance in chances.values()]).pvalue > 1e-6


def test_no_direction_is_preferred():
    walls = maze.carve(2000, 15, seeded())
    more = ((~walls[::2, 1::2]).sum((0, 1)) - (~walls[1::2, ::2]).sum((0, 1))).double()
    assert more.std() > 0
    assert abs(more.mean()) < 5 * more.std() / math.sqrt(2000)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 4), (4, 4, 9), (16, 16, 3), (7, 9, 1)])
def test_packing_loses_nothing(shape):
    walls = torch.rand(shape, generator=seeded()) < 0.5
    packed = maze.pack(walls)
    assert packed.dtype == torch.uint8 and packed.shape == (
        math.ceil(shape[0] * shape[1] / 8),
        shape[2],
    )
    assert torch.equal(maze.unpack(packed, *shape[:2]), walls)


# The cache and the mazes held out from it


@pytest.fixture
def cache(tmp_path):
    """(a function that loads the cache and returns the mazes and what was said, its file)"""
    path = tmp_path / "mazes.npz"

    def load(n=40, grid=8, seed=3):
        said = []
        return maze.load_cache(str(path), n, grid, seed, say=said.append), said

    return load, path


def test_cache_is_made_once_and_then_reused(cache):
    load, path = cache
    made, said = load()
    assert len(said) == 1 and "making 40 mazes of 8x8" in said[0]
    before = path.read_bytes()
    read, said = load()
    assert not said
    assert path.read_bytes() == before
    assert torch.equal(read, made)
    assert torch.equal(made, maze.make_mazes(40, 8, seeded(3)))


@pytest.mark.parametrize("other", [dict(grid=15), dict(n=41), dict(n=39), dict(seed=4)])
def test_cache_with_other_settings_is_made_again(cache, other):
    load, path = cache
    load()
    made, said = load(**other)
    assert len(said) == 1 and "other settings" in said[0] and str(path) in said[0]
    wanted = dict(n=40, grid=8, seed=3) | other
    assert torch.equal(made, maze.make_mazes(wanted["n"], wanted["grid"], seeded(wanted["seed"])))
    assert load(**other)[1] == []


def test_cache_of_another_format_is_made_again(cache, monkeypatch):
    load, _ = cache
    made, _ = load()
    monkeypatch.setattr(maze, "CACHE_FORMAT", maze.CACHE_FORMAT + 1)
    again, said = load()
    assert len(said) == 1 and "other settings" in said[0]
    assert torch.equal(again, made)


def test_cache_whose_mazes_do_not_fit_its_settings_is_made_again(cache):
    load, path = cache
    made, _ = load()
    with np.load(path) as file:
        settings = file["settings"]
    for wrong in (made[:, :-1], made[:-1], made.int()):
        np.savez(path, settings=settings, packed=wrong.numpy())
        again, said = load()
        assert len(said) == 1
        assert torch.equal(again, made)


def test_cut_off_or_foreign_cache_is_made_again(cache):
    load, path = cache
    made, _ = load()
    whole = path.read_bytes()
    for content in [whole[:keep] for keep in range(0, len(whole), 37)] + [b"not a zip", bytes(500)]:
        path.write_bytes(content)
        again, said = load()
        assert len(said) == 1 and "cannot be read" in said[0] and str(path) in said[0]
        assert torch.equal(again, made)


def test_damaged_byte_anywhere_in_the_cache_does_no_harm(cache, monkeypatch):
    load, path = cache
    made, _ = load(n=2, grid=5)
    monkeypatch.setattr(maze, "make_mazes", lambda *_: made)
    whole = path.read_bytes()
    damage = np.random.default_rng(0).integers(0, 8, len(whole))
    noticed = 0
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << int(damage[place])]) + whole[place + 1 :]
        )
        again, said = load(n=2, grid=5)
        noticed += len(said)
        assert torch.equal(again, made), f"byte {place}"
    assert noticed >= made.numel()


@pytest.mark.parametrize("seed", [5, 9])
def test_held_out_mazes_share_none_with_the_cache(seed):
    """Seed 5 is the training mazes' own: each of them must then be made anew."""
    known, said = maze.make_mazes(300, 8, seeded(5)), []
    assert set(maze.fingerprints(maze.make_mazes(300, 8, seeded(seed)))) & set(
        maze.fingerprints(known)
    )
    held_out = maze.held_out(300, 8, seed, known, say=said.append)
    assert not said
    assert held_out.shape == (8, 300)
    assert not set(maze.fingerprints(held_out)) & set(maze.fingerprints(known))
    for walls in one_by_one(maze.unpack(held_out, 8, 8))[::20]:
        assert nx.is_tree(reference.graph(walls))


def test_held_out_mazes_are_the_same_each_time():
    known = maze.make_mazes(100, 8, seeded(5))
    first, again, other = (
        maze.fingerprints(maze.held_out(200, 8, seed, known)) for seed in (9, 9, 10)
    )
    assert first == again
    assert len(set(first) & set(other)) < 20


def test_grid_with_too_few_mazes_says_so():
    known, said = maze.make_mazes(5000, 5, seeded(5)), []
    held_out = maze.held_out(100, 5, 9, known, say=said.append)
    shared = sum(one in set(maze.fingerprints(known)) for one in maze.fingerprints(held_out))
    assert (
        len(said) == 1
        and "GRID=5 has too few different mazes" in said[0]
        and f"{shared} of 100" in said[0]
    )


# Drawing


@pytest.mark.parametrize("farthest", [1, 7, 100])
@pytest.mark.parametrize("goal", ["random", "corner"])
@pytest.mark.parametrize("grid, difficulty", [(16, 0.0), (16, 0.3), (15, 1.0), (8, "each its own")])
def test_every_start_reaches_its_goal_in_time(grid, difficulty, goal, farthest):
    b = 60
    share = torch.linspace(0, 1, b) if difficulty == "each its own" else difficulty
    mazes = maze.draw(maze.make_mazes(b, grid, seeded()), grid, share, farthest, goal, seeded(1))
    corner = (grid - 1) // 2 * 2
    for i, walls in enumerate(one_by_one(mazes.walls)):
        start, end = int(mazes.start[i]), int(mazes.goal[i])
        assert not walls.flat[start] and not walls.flat[end]
        assert 1 <= reference.distances(walls, end).flat[start] <= farthest
        assert goal == "random" or end == corner * grid + corner


def test_starts_and_goals_are_uniform():
    packed = maze.make_mazes(1, 5, seeded())
    mazes = maze.draw(packed.expand(-1, 30_000), 5, 1.0, 100, "random", seeded(1))
    cells = (~maze.unpack(packed, 5, 5)).flatten().nonzero()[:, 0]
    pairs = torch.stack(
        [
            torch.stack([mazes.goal == goal, mazes.start == start]).all(0).sum()
            for goal in cells
            for start in cells
            if goal != start
        ]
    )
    assert pairs.sum() == 30_000
    assert chisquare(pairs.numpy()).pvalue > 1e-6


def test_starts_are_uniform_over_the_cells_within_reach():
    packed = maze.make_mazes(1, 15, seeded())
    mazes = maze.draw(packed.expand(-1, 20_000), 15, 1.0, 12, "corner", seeded(1))
    distance = reference.distances(mazes.walls[..., 0].numpy(), int(mazes.goal[0])).flatten()
    allowed = np.nonzero((distance > 0) & (distance <= 12))[0]
    seen = np.bincount(mazes.start, minlength=len(distance))
    assert seen[allowed].sum() == 20_000
    assert chisquare(seen[allowed]).pvalue > 1e-6


def test_difficulty_is_the_share_of_walls_kept():
    packed = maze.make_mazes(400, 16, seeded())
    perfect = maze.unpack(packed, 16, 16)
    kept = []
    for difficulty in (0.0, 0.1, 0.3, 0.7, 0.95, 1.0):
        walls = maze.draw(packed, 16, difficulty, 100, "random", seeded(1)).walls
        assert not (walls & ~perfect).any()
        kept.append(int(walls.sum()))
        assert binomtest(kept[-1], int(perfect.sum()), difficulty).pvalue > 1e-6
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == perfect.sum()


def test_each_maze_can_have_its_own_difficulty():
    packed = maze.make_mazes(6, 16, seeded()).repeat_interleave(200, 1)
    perfect, shares = maze.unpack(packed, 16, 16), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    walls = maze.draw(packed, 16, shares.repeat_interleave(200), 100, "random", seeded(1)).walls
    assert not (walls & ~perfect).any()
    for i, share in enumerate(shares.tolist()):
        part = slice(200 * i, 200 * (i + 1))
        assert (
            binomtest(
                int(walls[..., part].sum()), int(perfect[..., part].sum()), round(share, 1)
            ).pvalue
            > 1e-6
        )


def test_walls_go_in_all_places_alike():
    packed = maze.make_mazes(1, 8, seeded())
    walls = maze.draw(packed.expand(-1, 20_000), 8, 0.5, 100, "random", seeded(1)).walls
    kept = walls.flatten(0, 1)[maze.unpack(packed, 8, 8).flatten()].double()
    assert ((kept.mean(1) - 0.5).abs() < 6 * 0.5 / math.sqrt(20_000)).all()
    together = np.corrcoef(kept.numpy())[np.triu_indices(len(kept), 1)]
    assert np.abs(together).max() < 6 / math.sqrt(20_000)


@pytest.mark.parametrize("most", [0.3, 0.7])
def test_random_walls_are_of_all_shares_and_stand_anywhere(most):
    mazes = metrics.random_walls(20_000, 7, seeded(), most)
    at_goal = mazes.walls.flatten(0, 1).gather(0, mazes.goal[None])
    assert torch.equal(mazes.start, mazes.goal)
    assert not at_goal.any() and not mazes.walls[0, 0].any()
    share = mazes.walls.flatten(0, 1)[1:].float().mean(0)
    assert share.mean().item() == pytest.approx(most / 2, abs=0.01)
    between = share.var().item() - (share * (1 - share) / 48).mean().item()  # less what chance adds
    assert between == pytest.approx(most**2 / 12, rel=0.1)
    per_cell = mazes.walls.flatten(0, 1)[1:].sum(1)
    assert per_cell.max() - per_cell.min() < 8 * (20_000 * most / 4) ** 0.5
    open_at_goal = torch.bincount(mazes.goal, minlength=49)
    assert open_at_goal.min() > 0
    again, other = (metrics.random_walls(50, 7, seeded(seed), most) for seed in (0, 1))
    assert torch.equal(again.walls, metrics.random_walls(50, 7, seeded(), most).walls)
    assert not torch.equal(again.walls, other.walls)


def test_drawing_leaves_the_cache_as_it_was_and_follows_its_generator():
    packed = maze.make_mazes(50, 8, seeded())
    before = packed.clone()
    first, again, other = (
        maze.draw(packed, 8, 0.5, 20, "random", seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(packed, before)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


# Moving and the exact answers


@pytest.mark.parametrize("h, w", [(5, 5), (3, 9), (11, 4), (1, 7), (16, 16)])
def test_neighbours_are_the_cells_that_the_actions_lead_to(h, w):
    x = torch.randint(1, 1000, (h, w, 3), generator=seeded())
    ahead = maze.neighbours(x, -1)
    for action, (dy, dx) in enumerate(reference.STEPS):
        for y, x_ in np.ndindex(h, w):
            inside = 0 <= y + dy < h and 0 <= x_ + dx < w
            assert ahead[action, y, x_].tolist() == (
                x[y + dy, x_ + dx].tolist() if inside else [-1] * 3
            )


@pytest.mark.parametrize("h, w", [(5, 5), (3, 9), (9, 2), (1, 6)])
@pytest.mark.parametrize("radius", [1, 2, 5])
def test_windows_are_those_cut_out_of_a_padded_maze(h, w, radius):
    x = torch.randint(1, 1000, (h, w, 3), generator=seeded())
    rim = maze.padded(x, radius, -1)
    assert (
        rim.numpy() == np.pad(x, [(radius, radius), (radius, radius), (0, 0)], constant_values=-1)
    ).all()
    windows = rim.flatten(0, 1)[mapper.around(torch.arange(h * w).view(h, w), w, radius)]
    for cell in range(h * w):
        for i in range(3):
            wanted = reference.window(x[..., i].numpy(), cell, radius, -1)
            assert windows[:, cell // w, cell % w, i].tolist() == wanted.flatten().tolist()


@pytest.mark.parametrize("h, w", [(5, 5), (3, 9), (9, 2), (1, 6)])
def test_move_table_is_the_slow_step(h, w):
    b = 8
    mazes, q = reference.random_mazes(b, h, w), torch.randn(4, h, w, b, generator=seeded())
    q[3, 0], q[2, 0] = q[1, 0], q[0, 0]  # of equals, the first
    table, greedy = maze.move_table(mazes, q)
    assert torch.equal(greedy, q.argmax(0).to(torch.uint8))
    best = greedy.flatten(0, 1)
    cells = table.view(h * w, 5, b)
    for i, walls in enumerate(one_by_one(mazes.walls)):
        for cell in np.nonzero(~walls.flatten())[0]:
            after = [
                reference.step(walls, int(mazes.goal[i]), int(cell), action) for action in range(4)
            ]
            assert cells[cell, :, i].tolist() == after + [after[best[cell, i]]]


@pytest.mark.parametrize("h, w", [(16, 16), (5, 19), (23, 4), (1, 12), (40, 3)])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_distances_are_those_of_scipy(h, w, share):
    mazes = reference.random_mazes(40, h, w, share=share)
    fast = maze.distances(mazes.walls, mazes.goal)
    assert share == 0 or (fast[~mazes.walls] == -1).any()
    for i, walls in enumerate(one_by_one(mazes.walls)):
        assert (fast[..., i].numpy() == reference.distances(walls, mazes.goal[i])).all()


@pytest.mark.parametrize("h, w, b", [(16, 16, 70), (5, 19, 64), (1, 12, 1), (40, 3, 130)])
def test_within_is_where_the_distance_is_at_least_1_and_at_most_that(h, w, b):
    mazes = reference.random_mazes(b, h, w, share=0.3)
    for most in (1, 2, 3, 15, 16, 17, 40, h * w):
        near = maze.within(mazes.walls, mazes.goal, most)
        for i, walls in enumerate(one_by_one(mazes.walls)):
            distance = reference.distances(walls, mazes.goal[i])
            assert (near[..., i].numpy() == ((distance >= 1) & (distance <= most))).all()


@pytest.mark.parametrize("b", [1, 63, 64, 65, 200])
def test_bits_are_the_lanes(b):
    x = torch.rand(7, b, generator=seeded()) < 0.5
    words = maze.to_bits(x)
    assert words.shape == (7, -(-b // 64)) and words.dtype == torch.int64
    for h, w in (1, 6), (7, 0):  # of which from_waves leaves out the last column
        cells = maze.from_waves(words, torch.zeros(h, w, b))
        assert torch.equal(cells.bool(), x.view(h, w + 1, b)[:, :w])


def test_uniform_numbers_are_even_and_never_0_or_1():
    numbers = maze.uniform((300, 1001), seeded())
    assert numbers.shape == (300, 1001) and 0 < numbers.min() and numbers.max() < 1
    steps = numbers.double() * 2**16 - 0.5
    assert torch.equal(steps, steps.round())
    for low, high in ((0, 4), (1, 4), (2, 4), (3, 4)):  # the four of a random number
        part = steps.flatten()[low::high]
        assert 0 <= part.min() < 10 and 2**16 - 10 < part.max() < 2**16
        assert abs(part.mean() + 0.5 - 2**15) < 5 * 2**16 / 12**0.5 / len(part) ** 0.5
        counts = torch.bincount(part.long() // 2**10, minlength=64)
        assert chisquare(counts.numpy()).pvalue > 1e-4
    four = numbers.flatten()[:300_000].view(-1, 4)
    assert abs(torch.corrcoef(four.t()) - torch.eye(4)).max() < 0.02


@pytest.mark.parametrize("side", [41, 181])
def test_distances_along_a_long_corridor(side):
    """Also where a way is longer, and the maze greater, than the counts for small mazes could
    hold."""
    walls = reference.serpentine(side)
    corners = [0, side * side - 1]
    fast = maze.distances(
        torch.from_numpy(np.stack([walls, walls], -1)), torch.tensor(corners)
    ).numpy()
    for i, goal in enumerate(corners):
        wanted = reference.distances(walls, goal)
        assert wanted.max() == (side + 1) // 2 * side + side // 2 - 1
        assert (fast[..., i] == wanted).all()


@pytest.mark.parametrize("h, w", [(8, 8), (5, 11), (1, 6)])
@pytest.mark.parametrize("gamma", [0.9, 0.99])
def test_optimal_q_is_what_value_iteration_finds(h, w, gamma):
    mazes = reference.random_mazes(12, h, w, share=0.25)
    q = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal), gamma)
    for i, walls in enumerate(one_by_one(mazes.walls)):
        slow = reference.optimal_q(walls, int(mazes.goal[i]), gamma)
        assert np.abs(q[..., i].numpy() - slow)[:, ~walls].max() < 1e-6


# Mazes as text


def texts(*sizes):
    """Random TextMazes of these sizes."""
    found = []
    for seed, (h, w) in enumerate(sizes):
        mazes = reference.random_mazes(20, h, w, seed)
        i = int((mazes.start != mazes.goal).nonzero()[0])
        found.append(
            mazefile.FileMaze(mazes.walls[..., i].numpy(), int(mazes.start[i]), int(mazes.goal[i]))
        )
    return found


@pytest.mark.parametrize(
    "between, end", [("\n\n", "\n"), ("\n\n\n\n", ""), ("\r\n\r\n", "\r\n\r\n")]
)
@pytest.mark.parametrize("letter", [".", " "])
def test_mazes_of_any_size_survive_being_written_and_read(tmp_path, between, end, letter):
    wanted = texts((4, 7), (1, 2), (16, 16), (5, 1), (4, 7))
    text = between.join(solving.draw(one) for one in wanted).replace(".", letter)
    text = text.replace("\r\n", "\n").replace("\n", "\r\n") if "\r" in between else text
    (tmp_path / "mazes.txt").write_bytes(("\n" + text + end).encode())
    read = mazefile.read(str(tmp_path / "mazes.txt"))
    assert len(read) == len(wanted)
    for one, other in zip(read, wanted):
        assert (
            (one.walls == other.walls).all() and one.start == other.start and one.goal == other.goal
        )


def test_format_shows_the_walk_between_start_and_goal():
    one = mazefile.FileMaze(np.array([[0, 0, 1], [1, 0, 0]], bool), 0, 5)
    assert solving.draw(one) == "S.#\n#.G"
    assert solving.draw(one, [0, 1, 4, 5]) == "S*#\n#*G"


def test_stack_keeps_every_maze():
    wanted = texts((4, 6), (4, 6), (4, 6))
    mazes = solving.stack(wanted)
    assert mazes.walls.shape == (4, 6, 3)
    for i, one in enumerate(wanted):
        assert (mazes.walls[..., i].numpy() == one.walls).all()
        assert mazes.start[i] == one.start and mazes.goal[i] == one.goal


MALFORMED = [
    ("#.G\n...\n", "line 1", "no start"),
    ("S..\n...\n", "line 1", "no goal"),
    ("S.G\n\n\nS..\n", "line 4", "no goal"),
    ("S.G\n..G\n", "line 2", "second goal"),
    ("SS\n.G\n", "line 1", "second start"),
    ("S.G\n.x.\n", "line 2", "'x'"),
    ("S.G\n\tab", "line 2", "'\\t'"),
    ("S.G\n..\n", "line 2", "2 characters"),
    ("S.G\n\nS.\n..G\n", "line 4", "3 characters"),
    ("", "mazes.txt", "no maze"),
    ("\n\n\n", "mazes.txt", "no maze"),
]


@pytest.mark.parametrize("text, where, what", MALFORMED)
def test_malformed_maze_file_is_refused_with_its_line(tmp_path, text, where, what):
    (tmp_path / "mazes.txt").write_text(text)
    with pytest.raises(UserError) as error:
        mazefile.read(str(tmp_path / "mazes.txt"))
    assert (
        where in str(error.value) and what in str(error.value) and "mazes.txt" in str(error.value)
    )


def test_binary_file_is_no_maze_file(tmp_path):
    (tmp_path / "mazes.txt").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        mazefile.read(str(tmp_path / "mazes.txt"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), maze.replacing(str(path)) as beside:
        with open(beside, "w") as file:
            file.write("ne")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with maze.replacing(str(path)) as beside:
        with open(beside, "w") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]

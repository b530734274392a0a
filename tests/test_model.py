import copy
import hashlib
import io
import os
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import main
import maze
import model
import reference
from maze import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name, grid=8, width=8, gamma=0.9):
    """A network with random weights, in layers that begin with zeros, too."""
    torch.manual_seed(0)
    return lively(model.MODELS[name](grid, width, gamma))


def lively(network):
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.1)
    return network


def random_vin(gamma=0.9):
    """A VIN whose p takes all values from 0 to 1, the ends included."""
    network = build("vin", gamma=gamma)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.randn(weights.shape, generator=seeded(1)) * 1.5)
        network.reward.fill_(0.8)
    return network


def random_episodes(b=40, h=6, w=6, steps=12, epsilon=0.5):
    """(episodes that walk in random mazes, the Q in which they are partly greedy)"""
    mazes, q = reference.random_mazes(b, h, w, share=0.1), torch.randn(4, h, w, b, generator=seeded(2))
    episodes = reference.walked(mazes, q, steps, torch.full((b,), epsilon), seeded(3))
    assert 5 < (episodes.cells[-1] == mazes.goal).sum() < b - 5
    return episodes, q


# Networks


@pytest.mark.parametrize("h, w", [(7, 7), (5, 12), (1, 6), (9, 2)])
def test_vin_finds_the_fixed_point_of_its_equation(h, w):
    network, mazes = random_vin(), reference.random_mazes(10, h, w)
    p = reference.conv_success(network, mazes.walls).double().numpy()
    plan = network.plan(mazes)
    q = network(mazes, plan).detach()
    for i, goal in enumerate(mazes.goal.tolist()):
        slow_u, slow_q = reference.fixed_point(p[..., i], network.reward.item(), goal, network.gamma)
        assert np.abs(plan[0][..., i].numpy() - np.pad(slow_u, 1)).max() < 1e-5
        assert np.abs(q[..., i].numpy() - slow_q).max() < 1e-5


def test_vin_success_is_a_convolution_of_the_window():
    network = random_vin()
    walls = torch.rand(7, 9, 20, generator=seeded()) < 0.5
    rim = np.pad(walls.numpy(), [(1, 1), (1, 1), (0, 0)], constant_values=True)
    windows = sum((1 << 3 * y + x) * rim[y:y + 7, x:x + 9].astype(int) for y in range(3) for x in range(3))
    assert network.success().shape == (4, 512)
    p = network.success().detach()
    assert (p == 0).any() and (p == 1).any() and ((p > 0) & (p < 1)).any()
    looked_up = network.success().detach()[:, torch.from_numpy(windows)]
    assert (looked_up - reference.conv_success(network, walls)).abs().max() < 1e-6


@pytest.mark.parametrize("h, w", [(16, 16), (4, 21), (1, 5)])
def test_vin_that_knows_walls_has_the_optimal_q(h, w):
    network, mazes = reference.make_exact(build("vin", gamma=0.99)), reference.random_mazes(30, h, w)
    q = network(mazes).detach()
    exact = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal), 0.99)
    assert (q - exact)[:, ~mazes.walls].abs().max() < 1e-5


def test_vin_that_knows_walls_is_exact_along_a_long_corridor():
    walls = torch.from_numpy(reference.serpentine(25))[..., None]
    mazes = maze.Mazes(walls, torch.tensor([0]), torch.tensor([624]))
    q = reference.make_exact(build("vin", gamma=0.99))(mazes).detach()
    exact = maze.optimal_q(mazes, maze.distances(walls, mazes.goal), 0.99)
    assert (q - exact)[:, ~walls].abs().max() < 1e-5


@pytest.mark.parametrize("name, sizes", [("vin", [(8, 8), (3, 14), (21, 5)]), ("cnn", [(8, 8), (3, 14), (21, 5)]),
                                         ("mlp", [(8, 8)]), ("attention", [(8, 8), (3, 14), (21, 5)])])
def test_network_gives_q_for_every_cell_and_action_whatever_else_is_in_the_batch(name, sizes):
    network = build(name)
    for h, w in sizes:
        mazes = reference.random_mazes(9, h, w)
        plan = network.plan(mazes)
        q = network(mazes, plan)
        assert q.shape == (4, h, w, 9) and q.requires_grad and q.isfinite().all()
        assert torch.allclose(network(mazes), q)
        part = torch.tensor([7, 2, 2])
        assert torch.allclose(network(mazes.select(part), [x[..., part] for x in plan]), q[..., part], atol=1e-6)
        assert torch.allclose(network(mazes.select(part)), q[..., part], atol=1e-6)


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp", "attention"])
def test_network_looks_at_walls_and_goal(name):
    network, mazes = build(name, width=32), reference.random_mazes(20, 8, 8, share=0.2)
    q = network(mazes)
    assert not torch.allclose(network(mazes._replace(walls=mazes.walls.flip(0))), q)
    assert not torch.allclose(network(mazes._replace(goal=mazes.goal.flip(0))), q)
    assert torch.equal(network(mazes._replace(start=mazes.goal)), q)


@pytest.mark.parametrize("cell", [0, 15, 8 * 16 + 7])
def test_cnn_sees_the_whole_maze_from_every_cell(cell):
    network = build("cnn", 16, 0)
    one = torch.zeros(256, 1, dtype=torch.bool)
    walls = torch.cat([one, one ^ torch.eye(256, dtype=torch.bool)], 1).view(16, 16, 257)
    here = torch.full((257,), cell)
    with torch.no_grad():
        q = network(maze.Mazes(walls, here, here)).flatten(1, 2)[:, cell]
    assert (q[:, 1:] != q[:, :1]).any(0).all()


def test_cnn_mlp_and_attention_tell_where_in_the_maze_they_are():
    """An open hall looks the same around every inner cell."""
    mazes = maze.Mazes(torch.zeros(12, 12, 1, dtype=torch.bool), torch.tensor([6 * 12 + 6]), torch.tensor([0]))
    for name in ("cnn", "mlp", "attention"):
        q = build(name, grid=12)(mazes).flatten(1)
        assert len(torch.unique(q, dim=1).t()) > 100


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp", "attention"])
def test_gradient_reaches_every_weight(name):
    network, mazes = build(name), reference.random_mazes(60, 8, 8)
    network(mazes).pow(2).sum().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in network.parameters())


def test_vin_along_a_walk_is_its_q_in_the_visited_cells():
    """So is every gradient where there is something left to learn: before the goal, whose value has a gradient of its own."""
    network, (episodes, _) = random_vin(), random_episodes()
    plan = network.plan(episodes.mazes)
    away = episodes.cells != episodes.mazes.goal
    assert 0 < away.sum() < away.numel()
    several = torch.randn(4, 13, 40, generator=seeded(4)) * away
    found = []
    for q in (network.along(episodes, network.visited(episodes, plan)), super(model.VIN, network).along(episodes, ())):
        network.zero_grad()
        (q * several).sum().backward()
        found.append([q] + [weights.grad for weights in network.parameters()])
    for fast, slow in zip(*found):
        assert slow.abs().max() > 0
        assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("h, w", [(1, 6), (9, 2)])
def test_vin_along_a_walk_at_the_border(h, w):
    network, mazes = random_vin(), reference.random_mazes(30, h, w, share=0.1)
    episodes = reference.walked(mazes, torch.zeros(4, h, w, 30), 10, torch.ones(30), seeded())
    plan = network.plan(mazes)
    q = network.along(episodes, network.visited(episodes, plan))
    assert torch.allclose(q, model.along(network(mazes, plan), episodes.cells), atol=1e-6)


# Agents that see a window


MEMORIES = ["none", "trail", "gru", "map"]


def window_agent(memory, radius=1, compass=True, grid=8, width=16, gamma=0.9, late=False):
    """late: whether a map is asked for what it said some steps ago, as it is where it learns."""
    torch.manual_seed(1)
    network = lively(model.build(main.config() | dict(VISION=radius, MEMORY=memory, COMPASS=compass, GRID=grid, WIDTH=width,
                                                      GAMMA=gamma, MODEL="vin" if memory == "map" else "mlp")))
    with torch.no_grad():
        if memory == "map":  # moves that surely succeed, that surely fail, and some between
            network.judge.weight.mul_(12)
            if not late:
                network.begin = lambda mazes, learning=False: model.Map(network, mazes, False)
        else:  # an agent that doesn't do the same everywhere
            network.leave.weight.mul_(20)
            network.leave.bias.zero_()
    return network


def step_by_step(network, mazes, cells):
    """Q as the agent finds it on its way: (4, T + 1, B)."""
    memory = network.begin(mazes)
    return torch.stack([memory.see(now) for now in cells], 1)


def explored(memory, steps=20, b=30, h=7, w=6, epsilon=0.3, **settings):
    network, mazes = window_agent(memory, **settings), reference.random_mazes(b, h, w, share=0.2)
    episodes, plan = main.rollout(network, mazes, steps, torch.full((b,), epsilon), seeded(3))
    return network, episodes, plan


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("memory", MEMORIES)
def test_agent_with_a_window_learns_from_the_q_that_it_saw(memory, radius):
    network, episodes, plan = explored(memory, radius=radius)
    assert len(set(map(tuple, episodes.cells.t().tolist()))) > 20
    q = network.along(episodes, plan)
    assert q.shape == (4, 21, 30) and q.requires_grad
    assert torch.allclose(step_by_step(network, episodes.mazes, episodes.cells), q, atol=1e-5)
    assert q.std(1).mean() > 1e-3


@pytest.mark.parametrize("memory", MEMORIES)
def test_agent_with_a_window_takes_its_best_action(memory):
    network, episodes, plan = explored(memory, epsilon=0.0)
    q = network.along(episodes, plan)[:, :-1]
    taken = q.gather(0, episodes.actions[None])[0]
    assert (taken >= q.max(0).values - 1e-5).all()
    assert len(episodes.actions.unique()) > 1


@pytest.mark.parametrize("memory", MEMORIES + ["whole maze"])
def test_recall_is_the_plan_of_the_walk(memory):
    network, episodes, plan = explored(memory) if memory in MEMORIES else explored("none")
    if memory not in MEMORIES:
        network, plan = random_vin(), random_vin().plan(episodes.mazes)
    again = model.recall(network, episodes)
    assert len(again) == len(plan) > 0
    assert all(map(torch.equal, again, plan))


@pytest.mark.parametrize("memory", MEMORIES)
def test_plan_of_a_part_of_the_batch_is_its_part_of_the_plan(memory):
    network, episodes, plan = explored(memory)
    part = slice(7, 15)
    q = network.along(episodes.select(part), [x[..., part] for x in plan])
    assert torch.allclose(q, network.along(episodes, plan)[..., part], atol=1e-6)
    assert torch.allclose(model.recall(network, episodes.select(part))[0], plan[0][..., part], atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("memory", MEMORIES)
def test_walls_outside_of_all_windows_change_nothing(memory, radius):
    network, episodes, _ = explored(memory, radius=radius, steps=6, h=9, w=9)
    mazes, dice = episodes.mazes, seeded(5)
    other, inside = mazes.walls.clone(), mazes.walls.clone()
    for b in range(30):
        seen = torch.from_numpy(reference.in_windows((9, 9), episodes.cells[:, b], radius))
        assert not seen.all()
        other[..., b] ^= ~seen & (torch.rand(9, 9, generator=dice) < 0.5)
        seen.view(-1)[episodes.cells[:, b]] = False
        inside[..., b] ^= seen
    q, same, changed = (step_by_step(network, mazes._replace(walls=walls), episodes.cells) for walls in (mazes.walls, other, inside))
    assert not torch.equal(other, mazes.walls)
    assert torch.equal(q, same)
    assert not torch.allclose(q, changed)


@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
@pytest.mark.parametrize("compass", [True, False])
def test_place_in_the_maze_is_not_seen(memory, compass):
    """A maze in the middle of a wall looks the same from inside."""
    network, episodes, plan = explored(memory, radius=2, compass=compass)
    mazes, move = episodes.mazes, lambda cells: (cells // 6 + 3) * 11 + cells % 6 + 4
    walls = torch.ones(12, 11, 30, dtype=torch.bool)
    walls[3:10, 4:10] = mazes.walls
    moved = maze.Mazes(walls, move(mazes.goal), move(mazes.start))
    assert torch.equal(step_by_step(network, moved, move(episodes.cells)), step_by_step(network, mazes, episodes.cells))


@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
def test_without_a_compass_a_goal_out_of_sight_is_nowhere(memory):
    _, episodes, _ = explored("none", steps=8, h=9, w=9)
    mazes, other = episodes.mazes, episodes.mazes.goal.clone()
    for b in range(30):
        unseen = ~reference.in_windows((9, 9), episodes.cells[:, b].tolist() + [int(mazes.goal[b])], 1)
        other[b] = int(np.nonzero(unseen.flatten())[0][b % unseen.sum()])
    away = torch.tensor([not reference.in_windows((9, 9), episodes.cells[:, b], 1).flat[int(mazes.goal[b])] for b in range(30)])
    assert 5 < away.sum() < 30
    for compass in (True, False):
        network = window_agent(memory, compass=compass)
        q, moved = (step_by_step(network, mazes._replace(goal=goal), episodes.cells) for goal in (mazes.goal, other))
        same = (q == moved).flatten(0, 1).all(0)
        assert not same.any() if compass else torch.equal(same, away)


def test_what_is_seen_is_the_window_the_goal_and_the_way_to_it():
    network, episodes, (seen,) = explored("none", radius=2)
    assert seen.shape == (54, 21, 30)
    for t, b in np.ndindex(21, 30):
        walls, goal, cell = episodes.mazes.walls[..., b].numpy(), int(episodes.mazes.goal[b]), int(episodes.cells[t, b])
        there = np.zeros_like(walls)
        there.flat[goal] = True
        way = np.array([goal // 6 - cell // 6, goal % 6 - cell % 6])
        wanted = [reference.window(walls, cell, 2).flatten(), reference.window(there, cell, 2, False).flatten(),
                  way / 16, way / max(1, np.hypot(*way))]
        assert seen[:, t, b].tolist() == pytest.approx(np.concatenate(wanted), abs=1e-6)


def test_trail_is_how_often_and_how_lately_each_cell_in_sight_was_visited():
    network, episodes, (seen,) = explored("trail")
    assert seen.shape == (40, 21, 30)
    for b in range(30):
        times, last = np.zeros((7, 6)), np.full((7, 6), -np.inf)
        for t, cell in enumerate(episodes.cells[:, b].tolist()):
            times.flat[cell] += 1
            last.flat[cell] = t
            wanted = [reference.window(np.minimum(1, times / 4), cell, 1, 0), reference.window(0.9 ** (t - last), cell, 1, 0)]
            assert seen[18:36, t, b].tolist() == pytest.approx(np.stack(wanted).flatten(), abs=1e-6)


HISTORIES = dict(far=[0, 40], farther=[8, 40], near=[39, 40], twice=[40, 40])


@pytest.mark.parametrize("memory, unlike", [("none", []), ("trail", ["near", "twice"]), ("gru", ["farther", "near", "twice"])])
def test_what_was_seen_before_counts_as_far_as_it_is_remembered(memory, unlike):
    """In an open hall, with the goal in the corner."""
    mazes = maze.Mazes(torch.zeros(9, 9, 1, dtype=torch.bool), torch.tensor([80]), torch.tensor([0]))
    network = window_agent(memory)
    q = {name: step_by_step(network, mazes, torch.tensor(cells)[:, None])[:, -1] for name, cells in HISTORIES.items()}
    assert [name for name in q if not torch.equal(q[name], q["far"])] == unlike


def test_batch_mates_do_not_share_a_memory():
    for memory in MEMORIES:
        network, episodes, _ = explored(memory)
        alone = step_by_step(network, episodes.mazes.select(slice(4, 5)), episodes.cells[:, 4:5])
        assert torch.allclose(alone, step_by_step(network, episodes.mazes, episodes.cells)[..., 4:5], atol=1e-5)


# The map


def known_maps(episodes, radius):
    """What has been seen before each step, slowly: 0 open, 1 wall, 2 unknown, (T + 1, H, W, B)."""
    shape = episodes.mazes.walls.shape
    maps = np.full((len(episodes.cells), *shape), 2)
    for t, b in np.ndindex(*episodes.cells.shape):
        seen = reference.in_windows(shape[:2], episodes.cells[:t + 1, b], radius)
        maps[t, ..., b][seen] = episodes.mazes.walls[..., b].numpy()[seen]
    return torch.from_numpy(maps)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("h, w", [(7, 6), (3, 11)])
def test_map_is_all_that_was_in_sight_and_never_wrong(radius, h, w):
    network, episodes, _ = explored("map", radius=radius, h=h, w=w)
    memory, maps = network.begin(episodes.mazes), known_maps(episodes, radius)
    for cells, known in zip(episodes.cells, maps):
        memory.see(cells)
        whole = memory.known.view(h + 2 * radius, w + 2 * radius, 30)
        assert torch.equal(whole[radius:-radius, radius:-radius].long(), known)
        assert (whole.sum() - known.sum()) == 30 * ((h + 2 * radius) * (w + 2 * radius) - h * w)
    assert (maps[-1] == 2).any() and (maps[-1] != maps[0]).any()


def test_map_plans_to_the_fixed_point_of_what_it_knows():
    network, episodes, plan = explored("map", steps=9, b=6, h=6, w=5)
    q, maps = network.along(episodes, plan).detach(), known_maps(episodes, 1)
    for t, b in np.ndindex(10, 6):
        p = reference.conv_success(network, maps[t, ..., b:b + 1])[..., 0].double().numpy()
        slow = reference.fixed_point(p, network.reward.item(), int(episodes.mazes.goal[b]), network.gamma)[1]
        assert np.abs(q[:, t, b].numpy() - slow.reshape(4, -1)[:, int(episodes.cells[t, b])]).max() < 1e-5


def test_learning_asks_every_second_map_what_it_held_of_the_move_eight_steps_ago():
    network, mazes = window_agent("map", late=True), maze.draw(maze.make_mazes(12, 8, seeded()), 8, 1.0, 30, "random", seeded(1))
    episodes, (near, window, path) = main.rollout(network, mazes, 25, torch.full((12,), 0.5), seeded(3))
    memory, then = model.Map(network, mazes, False), []
    for t, cells in enumerate(episodes.cells):
        memory.see(cells)
        then.append((memory.u, memory.window))
        for b, lag in enumerate([0, 8] * 6):
            wanted = [x[..., b] for x in memory.here(cells, *then[max(0, t - lag)])]
            assert torch.equal(near[:, t, b], wanted[0]) and window[t, b] == wanted[1]
    none = 16 * 3 ** 9
    assert (path[..., 1::2] == none).all() and (path[..., ::2] < none).any()
    assert (network.windows[window[:, 1::2], 9:18] > 0).any()  # moves in places that were not yet known


def test_map_that_is_complete_plans_as_if_it_saw_the_whole_maze():
    network, mazes = window_agent("map"), reference.random_mazes(8, 6, 7, share=0.25)
    memory, p = network.begin(mazes), reference.conv_success(network, mazes.walls).double().numpy()
    for cell in range(42):
        memory.see(torch.full((8,), cell))
    q = torch.stack([memory.see(torch.full((8,), cell)) for cell in range(42)], 1)
    for b, goal in enumerate(mazes.goal.tolist()):
        slow = reference.fixed_point(p[..., b], network.reward.item(), goal, network.gamma)[1]
        assert np.abs(q[..., b].numpy() - slow.reshape(4, -1)).max() < 1e-5


def test_gradient_of_a_plan_on_the_map_is_that_of_its_fixed_point():
    """Held against finite differences, in double precision, where a step's moves are recorded. What the clip of p does to
    the gradient, let it pass, is done to the differences, too. It is the gradient of the move that the agent takes, and of those
    that it plans from cells whose surroundings it has not wholly seen: of these, as if log(worth) rose by 1 - gamma with p."""
    network, mazes = window_agent("map"), maze.draw(maze.make_mazes(14, 7, seeded()), 7, 1.0, 20, "random", seeded(1))
    noise = [torch.randn(x.shape, generator=seeded(7)) * 0.005 for x in network.parameters()]
    reference.make_exact(network)
    with torch.no_grad():
        network.look.weight[:4, 9:18] = network.look.weight[:4, :9] / 2
        for x, more in zip(network.parameters(), noise):
            x += more
    episodes, plan = main.rollout(network, mazes, 13, torch.full((14,), 0.5), seeded(3))
    precise, maps, checked, guesses = copy.deepcopy(network).double(), known_maps(episodes, 1), [0, 0], 0
    q = network.along(episodes, plan)[:, :-1].gather(0, episodes.actions[None])[0]
    for t, b in np.ndindex(13, 14):
        cell, action, goal = int(episodes.cells[t, b]), int(episodes.actions[t, b]), int(episodes.mazes.goal[b])
        known, moves = maps[t, ..., b:b + 1], episodes.cells[t + 1, b] != cell
        raw = reference.conv_raw_success(precise, known)[..., 0].numpy()
        p = reference.conv_success(precise, known)[..., 0].numpy()
        taken, guessed, gamma = np.zeros_like(p), np.zeros_like(p), network.gamma
        for place in range(49):
            guessed.reshape(4, -1)[:, place] = (reference.window(known[..., 0].numpy(), place, 1, 1) == 2).any()
        taken.reshape(4, -1)[action, cell] = 1
        if t % 4 or cell == goal or p.reshape(4, -1)[action, cell] != float(moves) or q[t, b] < 1e-3:
            continue
        guesses += int((plan[2][:, t, b] < 16 * 3 ** 9).sum())
        gradient = torch.autograd.grad(q[t, b], list(network.parameters()), retain_graph=True)
        toward = [torch.randn(x.shape, generator=seeded(t * 40 + b)) for x in gradient]
        slope, ends = sum((x * way).sum() for x, way in zip(gradient, toward)).item(), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                for x, old, way in zip(precise.parameters(), network.parameters(), toward):
                    x.copy_(old.double() + step * way.double())
            rise = reference.conv_raw_success(precise, known)[..., 0].numpy() - raw
            worth = gamma * p / (1 - gamma + gamma * p) * np.exp((1 - gamma) * rise * guessed)
            moved = worth * (1 - gamma) / (gamma * (1 - worth)) + rise * taken
            ends.append(reference.fixed_point(moved, precise.reward.item(), goal, network.gamma)[1].reshape(4, -1)[action, cell])
        precise.load_state_dict(network.state_dict())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-3), (t, b)
        checked[moves] += abs(slope) > 1e-3
    assert min(checked) > 5 and guesses > 20, (checked, guesses)


# Reward


@pytest.mark.parametrize("shaping", ["none", "manhattan", "oracle"])
@pytest.mark.parametrize("novelty", [0.0, 0.3])
def test_reward_is_what_a_slow_count_says(monkeypatch, shaping, novelty):
    for name, value in dict(SHAPING=shaping, NOVELTY=novelty, GAMMA=0.9).items():
        monkeypatch.setattr(main, name, value)
    episodes, _ = random_episodes()
    ended = 0
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        walls, cells = episodes.mazes.walls[..., b].numpy(), episodes.cells[:, b].tolist()
        paid = reference.rewards(walls, goal, cells, 0.9, shaping, novelty)
        assert episodes.reward[:len(paid), b].tolist() == pytest.approx(paid, abs=1e-6)
        phi = reference.potential(walls, goal, 0.9, shaping)
        assert episodes.potential[:, b].tolist() == pytest.approx([phi[cell] for cell in cells], abs=1e-6)
        if cells[-1] == goal:
            ended += 1
            assert episodes.potential[-1, b] == 0
    assert 5 < ended < 35


@pytest.mark.parametrize("shaping", ["manhattan", "oracle"])
def test_shaping_pays_a_whole_walk_no_more_than_where_it_began_and_ended(monkeypatch, shaping):
    monkeypatch.setattr(main, "SHAPING", shaping)
    monkeypatch.setattr(main, "GAMMA", 0.9)
    episodes, _ = random_episodes()
    reached = episodes.cells == episodes.mazes.goal
    alive = ~reached[:-1]
    extra = (episodes.reward - reached[1:].float()) * alive * 0.9 ** torch.arange(12)[:, None]
    steps = alive.sum(0)
    end = episodes.potential.gather(0, steps[None])[0] * 0.9 ** steps
    assert torch.allclose(extra.sum(0), end - episodes.potential[0], atol=1e-6)
    assert (end[reached[-1]] == 0).all() and (end[~reached[-1]] > 0).any()


def test_whatever_the_potential_it_is_nothing_in_the_goal():
    episodes, _ = random_episodes()
    phi = torch.rand(6, 6, 40, generator=seeded(8)) + 1
    reward, potential = model.pay(episodes.mazes, episodes.cells, phi, 0.9)
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        cells = episodes.cells[:, b].tolist()
        here = [0.0 if cell == goal else phi[cell // 6, cell % 6, b].item() for cell in cells]
        assert potential[:, b].tolist() == pytest.approx(here)
        for t in range(cells.index(goal) if goal in cells else 12):
            assert reward[t, b].item() == pytest.approx((cells[t + 1] == goal) + 0.9 * here[t + 1] - here[t], abs=1e-5)


def test_walking_to_and_fro_earns_nothing_more():
    mazes = reference.corridor(9, 4, 8)
    cells = torch.tensor([4, 5, 4, 5, 4, 3, 4, 4, 3, 2, 3])[:, None]
    reward, _ = model.pay(mazes, cells, novelty=0.25)
    assert reward[:, 0].tolist() == [0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.25, 0]


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_novelty_is_paid_for_each_other_cell_once(epsilon):
    episodes, _ = random_episodes(epsilon=epsilon, steps=30, b=60)
    reward, _ = model.pay(episodes.mazes, episodes.cells, novelty=0.125)
    alive = episodes.cells[:-1] != episodes.mazes.goal
    earned = ((reward - (episodes.cells[1:] == episodes.mazes.goal).float()) * alive).sum(0)
    visited = [len(set(cells)) for cells in episodes.cells.t().tolist()]
    assert earned.tolist() == [0.125 * (cells - 1) for cells in visited]


# Targets


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 33])
def test_q_lambda_targets_are_those_of_the_definition(lam, steps):
    draws = torch.rand(4, steps, 30, generator=seeded(steps))
    reward, done, value, greedy = draws[0], draws[1] < 0.1, draws[2], draws[3] < 0.8
    fast = model.q_lambda_targets(reward, done, value, greedy, 0.9, lam)
    for b in range(30):
        columns = [x[:, b].double().tolist() for x in (reward, done, value, greedy)]
        assert fast[:, b].tolist() == pytest.approx(reference.lambda_targets(*columns, 0.9, lam), abs=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shaping, novelty", [("none", 0.0), ("manhattan", 0.0), ("oracle", 0.1)])
def test_td_error_is_q_minus_the_slow_target(monkeypatch, lam, double, shaping, novelty):
    for name, value in dict(SHAPING=shaping, NOVELTY=novelty, GAMMA=0.9).items():
        monkeypatch.setattr(main, name, value)
    episodes, q = random_episodes()
    late = torch.rand(q.shape, generator=seeded(5)) * 3 - 1.3
    q, late = model.along(q, episodes.cells), model.along(late, episodes.cells)
    error, alive = model.td_error(q, late, episodes, 0.9, lam, double, 1 + novelty * 12)
    taken = torch.stack([q[episodes.actions[:, b], torch.arange(12), b] for b in range(40)], 1)
    slow = taken - reference.td_targets(q, late, episodes, 0.9, lam, double, shaping, novelty)
    assert (error - slow)[alive].abs().max() < 1e-5


def test_steps_count_until_the_goal_is_reached():
    episodes, q = random_episodes()
    q = model.along(q, episodes.cells)
    alive = model.td_error(q, q, episodes, 0.9, 0.5, True)[1]
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        cells = episodes.cells[:, b].tolist()
        length = cells.index(goal) if goal in cells else len(cells) - 1
        assert alive[:, b].tolist() == [t < length for t in range(len(cells) - 1)]


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_running_out_of_time_bootstraps_and_reaching_the_goal_does_not(lam):
    mazes = reference.corridor(9, 0, 5)
    q = torch.zeros(4, 1, 9, 1)
    q[3] = 0.5
    for steps, last_target in ((4, 0.9 * 0.5), (5, 1.0), (8, 1.0)):
        episodes = reference.walked(mazes, q, steps)
        along = model.along(q, episodes.cells)
        error, alive = model.td_error(along, along, episodes, 0.9, lam, True)
        target = (0.5 - error)[alive]
        assert len(target) == min(steps, 5)
        assert target[-1] == pytest.approx(last_target, abs=1e-7)


def test_targets_carry_no_gradient():
    episodes, q = random_episodes()
    online, late = q.clone().requires_grad_(), q.clone().requires_grad_()
    along = [model.along(x, episodes.cells) for x in (online, late)]
    error, alive = model.td_error(*along, episodes, 0.9, 0.5, True)
    (error * alive).sum().backward()
    assert late.grad is None
    assert online.grad.sum() == alive.sum()


def test_along_reads_q_in_the_visited_cells():
    episodes, q = random_episodes()
    along = model.along(q, episodes.cells)
    assert along.shape == (4, 13, 40)
    for t, b in np.ndindex(13, 40):
        y, x = divmod(int(episodes.cells[t, b]), 6)
        assert torch.equal(along[:, t, b], q[:, y, x, b])


def test_select_picks_whole_episodes():
    episodes, _ = random_episodes()
    part = episodes.select(torch.tensor([3, 0, 3]))
    for place, b in enumerate((3, 0, 3)):
        assert torch.equal(part.cells[:, place], episodes.cells[:, b])
        assert torch.equal(part.actions[:, place], episodes.actions[:, b])
        assert torch.equal(part.mazes.walls[..., place], episodes.mazes.walls[..., b])
        assert part.mazes.goal[place] == episodes.mazes.goal[b]


# Adam


def test_adam_is_that_of_torch():
    """Also with a learning rate that changes, and taken up from its state half-way."""
    shapes, generator = [(5, 3), (4,), ()], seeded()
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    adam, torch_adam = model.Adam(ours, 0.03), torch.optim.Adam(theirs, 0.03)
    for step in range(100):
        if step == 50:
            state, adam = adam.state(), model.Adam(ours, 0.01)
            adam.restore(state)
            torch_adam.param_groups[0]["lr"] = 0.01
        scale = 10.0 ** (step % 7 - 4)
        for y in theirs:
            y.grad = torch.randn(y.shape, generator=generator) * scale
        adam.step(torch.cat([y.grad.flatten() for y in theirs]))
        torch_adam.step()
        assert all(torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(ours, theirs))
    assert all((x - old).abs().max() > 0.1 for x, old in zip(ours, start))


# Replay


def numbered(first, n, grid=7, steps=5):
    """n mazes, cells and actions of random content, which differ from one another in their first two cells."""
    generator = seeded(first)
    mazes = reference.random_mazes(n, grid, grid, seed=first)
    cells = torch.randint(grid * grid, (steps + 1, n), generator=generator)
    number = torch.arange(first, first + n)
    cells[0], cells[1] = number // (grid * grid), number % (grid * grid)
    return mazes._replace(start=cells[0]), cells, torch.randint(4, (steps, n), generator=generator)


def numbers(cells):
    return (cells[0] * 49 + cells[1]).tolist()


def filled(n, alpha, seed=0):
    """A replay memory of n episodes that has met TD errors of all sizes, and the priorities that follow from them."""
    replay, error = model.Replay(n, 7, 5, alpha, "cpu"), torch.randn(5, n, generator=seeded(seed)) * torch.rand(n, generator=seeded(seed))
    replay.add(*numbered(0, n))
    order = torch.randperm(n, generator=seeded(seed))
    for part in order.chunk(3):
        replay.learn(part, error[:, part])
    return replay, 0.9 * error.abs().max(0).values.double().numpy() + 0.1 * error.abs().double().numpy().mean(0)


@pytest.mark.parametrize("sizes", [[20, 20, 20], [50, 1], [30, 30, 30, 30], [7] * 16])
def test_replay_keeps_the_newest_episodes_as_they_were(sizes):
    replay, added, first = model.Replay(50, 7, 5, 0.0, "cpu"), {}, 0
    for n in sizes:
        mazes, cells, actions = numbered(first, n)
        replay.add(mazes, cells, actions)
        added |= {first + i: (mazes.select(i), cells[:, i], actions[:, i]) for i in range(n)}
        first += n
        mazes, cells, actions, index, _ = replay.sample(1500, seeded())
        assert set(numbers(cells)) == set(range(max(0, first - 50), first))
    for i, number in enumerate(numbers(cells)):
        one = added[number]
        assert torch.equal(cells[:, i], one[1]) and torch.equal(actions[:, i], one[2])
        assert all(map(torch.equal, mazes.select(i), one[0]))
        assert number % 50 == index[i]
    assert all(x.dtype == torch.int64 for x in (cells, actions, mazes.goal, mazes.start))


@pytest.mark.parametrize("n", [30, 80])
def test_replay_samples_uniformly(n):
    replay = model.Replay(50, 7, 5, 0.0, "cpu")
    for first in range(0, n, 10):
        replay.add(*numbered(first, 10))
        replay.learn(torch.arange(10), torch.rand(5, 10, generator=seeded(first)))
    _, cells, _, _, weight = replay.sample(50_000, seeded(), beta=1.0)
    drawn = np.unique(numbers(cells), return_counts=True)[1]
    assert len(drawn) == min(n, 50)
    assert chisquare(drawn).pvalue > 1e-6
    assert (weight == 1).all()


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
def test_replay_samples_by_the_power_of_the_priority(alpha):
    replay, priority = filled(50, alpha)
    _, cells, _, index, _ = replay.sample(50_000, seeded())
    assert numbers(cells) == index.tolist()
    share = priority ** alpha / (priority ** alpha).sum()
    assert share.max() > 2 * share.min()
    assert chisquare(np.bincount(index, minlength=50), 50_000 * share).pvalue > 1e-6


@pytest.mark.parametrize("alpha, beta", [(0.6, 0.0), (0.6, 0.4), (1.0, 0.7), (0.3, 1.0), (1.0, 1.0)])
def test_replay_weights_make_up_for_the_sampling(alpha, beta):
    replay, priority = filled(50, alpha)
    _, _, _, index, weight = replay.sample(20_000, seeded(), beta)
    share = priority ** alpha / (priority ** alpha).sum()
    wanted = (50 * share) ** -beta
    assert len(set(index.tolist())) == 50
    assert weight.numpy() == pytest.approx(wanted[index] / wanted.max(), rel=1e-3)
    if beta == 1:  # the weighted mean of whatever is drawn is then its mean, but for a constant
        of_episode = np.zeros(50)
        of_episode[index] = weight
        for x in np.random.default_rng(0).random((20, 50)):
            assert (share * of_episode * x).sum() / x.mean() == pytest.approx(1 / wanted.max(), rel=1e-3)


def test_replay_weights_are_relative_to_the_greatest_in_the_sample():
    replay, _ = filled(50, 1.0)
    for seed in range(20):
        weight = replay.sample(4, seeded(seed), 1.0)[4]
        assert weight.max() == 1 and weight.min() > 0


def test_new_episodes_come_with_the_top_priority():
    replay = model.Replay(50, 7, 5, 1.0, "cpu")
    replay.add(*numbered(0, 20))
    assert len(replay.priority[:20].unique()) == 1
    error = torch.rand(5, 20, generator=seeded())
    error[:, 13] = 7
    replay.learn(torch.arange(20), error)
    replay.add(*numbered(20, 35))
    assert replay.priority[torch.arange(20, 55) % 50].tolist() == pytest.approx([7.0] * 35)
    index = replay.sample(50_000, seeded())[3]
    drawn = np.bincount(index, minlength=50)[np.arange(20, 55) % 50]
    assert chisquare(drawn).pvalue > 1e-6


def test_replay_of_100_000_episodes_draws_every_one():
    n = 100_000
    replay, mazes = model.Replay(n, 5, 1, 0.6, "cpu"), reference.random_mazes(n // 4, 5, 5)
    for part in range(4):
        cells = torch.stack([torch.full((n // 4,), part), torch.arange(n // 4) % 25])
        replay.add(mazes, cells, cells[:1] % 4)
    replay.learn(torch.arange(n), torch.full((1, n), 0.5))
    _, cells, _, index, _ = replay.sample(2_000_000, seeded())
    drawn = torch.bincount(index, minlength=n)
    assert drawn.min() > 0
    assert chisquare(drawn.view(100, -1).sum(1)).pvalue > 1e-6
    assert torch.equal(cells[0], index // (n // 4)) and torch.equal(cells[1], index % (n // 4) % 25)


def test_replay_goes_on_from_its_state():
    replay, again = filled(50, 0.6)[0], model.Replay(50, 7, 5, 0.6, "cpu")
    replay.add(*numbered(50, 20))
    again.restore(replay.state())
    for first in (70, 100):
        samples = [one.sample(300, seeded(first), 0.5) for one in (replay, again)]
        assert all(map(torch.equal, samples[0][0], samples[1][0])) and all(map(torch.equal, samples[0][1:], samples[1][1:]))
        for one in (replay, again):
            one.learn(torch.arange(30), torch.rand(5, 30, generator=seeded(first)))
            one.add(*numbered(first, 30))


def test_replay_of_large_mazes_keeps_large_cells():
    replay = model.Replay(4, 256, 2, 0.0, "cpu")
    cells = torch.tensor([[65_535, 40_000], [65_534, 32_768], [0, 1]])
    mazes = maze.Mazes(torch.zeros(256, 256, 2, dtype=torch.bool), cells[0], cells[0])
    replay.add(mazes, cells, torch.zeros(2, 2, dtype=torch.int64))
    drawn, seen, *_ = replay.sample(20, seeded())
    assert set(map(tuple, seen.t().tolist())) == set(map(tuple, cells.t().tolist()))
    assert torch.equal(drawn.goal, seen[0])


# Checkpoints


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("name", ["vin", "cnn", "mlp", "attention"])
def test_checkpoint_brings_back_the_same_network(path, name):
    network, mazes = build(name, gamma=0.95), reference.random_mazes(10, 8, 8)
    settings = main.config() | dict(MODEL=name, GRID=8, WIDTH=8, GAMMA=0.95)
    model.save_checkpoint(path, network, settings, batch=3, history=[dict(loss=0.5)], generator=seeded(4).get_state())
    loaded, config, progress = model.load_checkpoint(path, "cpu")
    assert config == settings
    assert progress["batch"] == 3 and progress["history"] == [dict(loss=0.5)]
    assert torch.equal(progress["generator"], seeded(4).get_state())
    assert torch.equal(loaded(mazes), network(mazes))
    assert os.listdir(os.path.dirname(path)) == ["checkpoint.pt"]


def torch_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def sealed(data):
    """With the checksum of a whole checkpoint, so that what follows it is looked at."""
    return hashlib.sha256(data).digest() + data


def refused(path, data):
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(UserError, match="is not a checkpoint"):
        model.load_checkpoint(path, "cpu")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: [trap], lambda trap: dict(format=model.CHECKPOINT_FORMAT, config=trap, weights={})])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to_bytes", [torch_bytes, pickle.dumps])
@pytest.mark.parametrize("seal", [sealed, bytes])
def test_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(path, wrap, to_bytes, seal):
    refused(path, seal(to_bytes(wrap(Trap(path + ".sprung")))))
    assert not os.path.exists(path + ".sprung")
    pickle.loads(pickle.dumps(Trap(path + ".sprung")))
    assert os.path.exists(path + ".sprung")


def test_cut_off_checkpoint_is_refused(path):
    model.save_checkpoint(path, build("vin"), CONFIG)
    whole = open(path, "rb").read()
    for keep in range(0, len(whole), 41):
        refused(path, whole[:keep])
        if keep % 5 == 0:
            refused(path, sealed(whole[32:32 + keep]))


def test_damaged_byte_in_a_checkpoint_is_noticed(path):
    model.save_checkpoint(path, build("vin"), CONFIG)
    whole = open(path, "rb").read()
    for place in range(0, len(whole), 29):
        refused(path, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])


GARBAGE = [b"", b"P", b"PK\x03\x04", b"PK\x05\x06", b"hello\n", b"\x80\x02.", b"\x80\x02K\x01Q.", b"X\x01", b"\x80\x02X\x01",
           b"\x80\x02J\x01.", b"G\x00.", b"\x89PNG\r\n\x1a\n" + bytes(90), bytes(1000), bytes(range(256))]


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("seal", [sealed, bytes])
def test_file_that_is_no_checkpoint_is_refused(path, content, seal):
    refused(path, seal(content))


CONFIG = main.config() | dict(MODEL="vin", GRID=8, WIDTH=8)
RIGHT = dict(format=model.CHECKPOINT_FORMAT, config=CONFIG, weights=build("vin").state_dict(), progress={})
FOREIGN = [None, 3, [], {}, "text", torch.ones(3), dict(format=model.CHECKPOINT_FORMAT), dict(format=model.CHECKPOINT_FORMAT, config={}),
           {name: value for name, value in RIGHT.items() if name != "progress"},
           *[RIGHT | dict(weights=weights)
             for weights in (None, {}, dict(a=1), build("cnn").state_dict(), build("vin", width=7).state_dict())],
           *[RIGHT | dict(config=config)
             for config in ([], CONFIG | dict(MODEL="none"), CONFIG | dict(VISION="far"), CONFIG | dict(VISION=2),
                            *[CONFIG | dict(WIDTH=width) for width in (-3, "wide", 10 ** 12)])]]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.filterwarnings("ignore")
def test_foreign_torch_file_is_refused(path, content):
    refused(path, sealed(torch_bytes(content)))


def test_the_same_file_with_nothing_foreign_is_read(path):
    with open(path, "wb") as file:
        file.write(sealed(torch_bytes(RIGHT)))
    assert model.load_checkpoint(path, "cpu")[1] == CONFIG


def test_checkpoint_of_another_format_says_so(path, monkeypatch):
    model.save_checkpoint(path, build("vin"), CONFIG)
    written = model.CHECKPOINT_FORMAT
    monkeypatch.setattr(model, "CHECKPOINT_FORMAT", written + 1)
    with pytest.raises(UserError, match=f"format {written}.*reads {written + 1}.*train again"):
        model.load_checkpoint(path, "cpu")


def test_missing_checkpoint_says_how_to_get_one(path):
    with pytest.raises(UserError, match="no checkpoint .*checkpoint.pt.*python main.py"):
        model.load_checkpoint(path, "cpu")

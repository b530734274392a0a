import copy
import csv
import json

import numpy as np
import pytest
import reference
import torch
import torch.nn as nn
from scipy.stats import binomtest, chisquare

import main
import maze
import model
from support import gif, metrics, pictures, processes, settings
from support.agents import build
from support.checkpoint import load_checkpoint
from support.errors import UserError
from support.replay import Replay
from support.run import warning


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(b, grid=8, difficulty=1.0, goal="random", farthest=100):
    return maze.draw(
        maze.make_mazes(b, grid, seeded()), grid, difficulty, farthest, goal, seeded(1)
    )


class Oracle(nn.Module):
    """Knows Q*, plus whatever `wrong` adds to it."""

    whole_maze = True

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = wrong

    def think(self, mazes):
        q = maze.optimal_q(mazes, maze.distances(mazes.walls, mazes.goal), main.GAMMA) + self.wrong
        return reference.Opinion(q, lambda cells: (model.along(q, cells),))

    def q(self, seen, steps=None):
        return seen[0]

    def log2_m(self, seen):
        return torch.zeros_like(seen[0][0])


def fixed(q):
    """The same Q in every maze: q (4, H, W)."""
    return reference.Table(q)


def always(action, h, w):
    return fixed(torch.eye(4)[action, :, None, None].expand(4, h, w).clone())


def exact_thinker(gamma=None):
    return reference.thinker_of(reference.Exact(gamma or main.GAMMA), gamma or main.GAMMA)


def at_once(network):
    return network


# Rollout


@pytest.mark.parametrize("h, w", [(8, 8), (3, 11), (1, 6)])
@pytest.mark.parametrize("epsilon", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", [at_once, reference.Stepwise])
def test_rollout_walks_as_a_slow_simulator_does(h, w, epsilon, kind):
    b, steps = 30, 25
    mazes, q = reference.random_mazes(b, h, w), torch.randn(4, h, w, b, generator=seeded(2))
    epsilons = None if epsilon is None else torch.full((b,), epsilon)
    episodes, thoughts = main.rollout(kind(reference.Table(q)), mazes, steps, epsilons, seeded(3))
    assert torch.equal(thoughts.along(episodes.cells)[0], episodes.cells * b + torch.arange(b))
    assert all(map(torch.equal, episodes.mazes, mazes))
    assert episodes.cells.shape == (steps + 1, b) and episodes.actions.shape == (steps, b)
    best = q.argmax(0).flatten(0, 1)
    for i in range(b):
        walls, goal, actions = (
            mazes.walls[..., i].numpy(),
            int(mazes.goal[i]),
            episodes.actions[:, i].tolist(),
        )
        cells = reference.walk(walls, goal, mazes.start[i], actions)
        assert episodes.cells[:, i].tolist() == cells
        assert not walls.flat[cells].any()
        if not epsilon:
            assert actions == best[cells[:-1], i].tolist()


@pytest.mark.parametrize("epsilon", [None, 0.4])
def test_agents_with_the_same_q_walk_alike_whether_asked_at_once_or_step_by_step(epsilon):
    mazes, q = reference.random_mazes(40, 9, 8), torch.randn(4, 9, 8, 40, generator=seeded(2))
    epsilons = None if epsilon is None else torch.full((40,), epsilon)
    first, other = (
        main.rollout(kind(reference.Table(q)), mazes, 30, epsilons, seeded(3))[0]
        for kind in (at_once, reference.Stepwise)
    )
    assert all(map(torch.equal, first[1:], other[1:]))


def test_ties_are_broken_towards_a_best_action():
    mazes, q = (
        reference.random_mazes(200, 8, 8),
        torch.randint(3, (4, 8, 8, 200), generator=seeded(2)).float(),
    )
    episodes = reference.walked(mazes, q, 20)
    along = model.along(q, episodes.cells)[:, :-1]
    assert torch.equal(along.gather(0, episodes.actions[None])[0], along.max(0).values)


def test_goal_is_never_left():
    mazes = drawn(300, difficulty=0.3)
    cells = reference.walked(mazes, torch.zeros(4, 8, 8, 300), 300, torch.ones(300), seeded()).cells
    there = cells == mazes.goal
    assert there[-1].sum() > 100
    assert (there[1:] | ~there[:-1]).all()


def test_full_exploration_takes_all_actions_alike():
    b = 500
    mazes, q = reference.random_mazes(b, 8, 8), torch.randn(4, 8, 8, b, generator=seeded(2))
    episodes = reference.walked(mazes, q, 100, torch.ones(b), seeded(3))
    assert chisquare(np.bincount(episodes.actions.flatten(), minlength=4)).pvalue > 1e-6
    one_after_another = (episodes.actions[:-1] * 4 + episodes.actions[1:]).flatten()
    assert chisquare(np.bincount(one_after_another[::2], minlength=16)).pvalue > 1e-6
    side_by_side = (episodes.actions[:, :-1] * 4 + episodes.actions[:, 1:])[:, ::2].flatten()
    assert chisquare(np.bincount(side_by_side, minlength=16)).pvalue > 1e-6


def test_each_episode_explores_by_its_own_epsilon():
    b, steps = 300, 200
    epsilon = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).repeat_interleave(b // 5)
    mazes = maze.Mazes(
        torch.zeros(6, 6, b, dtype=torch.bool),
        torch.full((b,), 35),
        torch.zeros(b, dtype=torch.int64),
    )
    q = torch.zeros(4, 6, 6, b)
    q[0] = 1
    other = reference.walked(mazes, q, steps, epsilon, seeded()).actions != 0
    for part, share in zip(other.chunk(5, 1), (0.0, 0.1, 0.5, 0.9, 1.0)):
        assert binomtest(int(part.sum()), part.numel(), share * 0.75).pvalue > 1e-6


def test_rollout_follows_its_generator_and_leaves_the_others():
    mazes, q, epsilon = drawn(50), torch.zeros(4, 8, 8, 50), torch.ones(50)
    before = torch.get_rng_state()
    first, again, other = (
        reference.walked(mazes, q, 30, epsilon, seeded(seed)).cells for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# Learning


class Descent:
    """Plain gradient descent; torch's own takes seconds to load."""

    def __init__(self, network, lr):
        self.network, self.lr = network, lr

    def step(self, gradient):
        with torch.no_grad():
            weights = torch.nn.utils.parameters_to_vector(self.network.parameters())
            torch.nn.utils.vector_to_parameters(
                weights - self.lr * gradient, self.network.parameters()
            )


@pytest.fixture
def exact_steps(monkeypatch):
    """A quadratic loss and no clipping: a step of SGD with this learning rate, over n steps of which the most frequent
    (cell, action) is m, moves that one's Q onto its mean target."""
    monkeypatch.setattr(main, "HUBER", 10.0)
    monkeypatch.setattr(main, "GRAD_CLIP", float("inf"))
    return lambda table, n, m=1: Descent(table, main.HUBER * n / m)


class Jump:
    """Moves the Q of each (cell, action) of a table onto its mean target, given how often each
    was taken."""

    def __init__(self, table, counts):
        self.table, self.step_size = table, main.HUBER * counts.sum() / counts.clamp(min=1)

    def step(self, gradient):
        with torch.no_grad():
            self.table.table -= self.step_size * gradient.view_as(self.table.table)


@pytest.mark.parametrize("shaping", ["none", "manhattan", "oracle"])
@pytest.mark.parametrize(
    "lam, double", [(0.0, True), (0.5, False), (0.9, True), (1.0, True), (1.0, False)]
)
def test_a_table_in_place_of_the_network_learns_the_optimal_q(
    monkeypatch, exact_steps, lam, double, shaping
):
    """With shaping, less by the potential, which does not touch the greedy policy."""
    for name, value in dict(LAMBDA=lam, DOUBLE=double, GAMMA=0.9, SHAPING=shaping).items():
        monkeypatch.setattr(main, name, value)
    b, h, w = 150, 5, 6
    walls = torch.zeros(h, w, 1, dtype=torch.bool)
    walls[[0, 1, 1, 3, 4, 3], [2, 2, 4, 4, 4, 0]] = True
    free = (~walls).flatten().nonzero()[:, 0]
    goal = torch.tensor([8 + w])
    starts = free[free != goal][torch.arange(b) % (len(free) - 1)]
    mazes = maze.Mazes(walls.expand(-1, -1, b), goal.expand(b), starts)
    episodes = reference.walked(mazes, torch.zeros(4, h, w, b), 20, torch.ones(b), seeded())
    counts = torch.zeros(h * w, 4)
    before_goal = episodes.cells[:-1] != goal
    taken = episodes.cells[:-1][before_goal], episodes.actions[before_goal]
    counts.index_put_(taken, torch.tensor(1.0), accumulate=True)
    assert (counts[starts] > 0).all()

    table, target = fixed(torch.zeros(4, h, w)), fixed(torch.zeros(4, h, w))
    counts = counts.t().view(4, h, w)
    for _ in range(100):
        target.load_state_dict(table.state_dict())
        reference.update(
            table, target, Jump(table, counts), episodes, main.recall(target, episodes)
        )
    exact = reference.optimal_q(walls[..., 0].numpy(), int(goal), 0.9)
    phi = np.reshape(reference.potential(walls[..., 0].numpy(), int(goal), 0.9, shaping), (h, w))
    found = table.table.detach().numpy()
    assert np.abs(found - (exact - phi))[counts > 0].max() < 1e-5
    everywhere = (counts > 0).all(0).numpy()
    assert everywhere.sum() == len(free) - 1
    best = np.take_along_axis(exact, found.argmax(0)[None], 0)[0]
    assert np.allclose(best[everywhere], exact.max(0)[everywhere], atol=1e-5)


def test_without_lambda_credit_moves_one_cell_a_target_sync(monkeypatch, exact_steps):
    monkeypatch.setattr(main, "LAMBDA", 0.0)
    episodes = reference.walked(
        reference.corridor(8, 0, 7), torch.eye(4)[3, :, None, None, None].expand(4, 1, 8, 1), 10
    )
    table, target = fixed(torch.zeros(4, 1, 8)), fixed(torch.zeros(4, 1, 8))
    optimizer = exact_steps(table, 7)
    for syncs in range(1, 8):
        target.load_state_dict(table.state_dict())
        for _ in range(3):
            reference.update(table, target, optimizer, episodes, main.recall(target, episodes))
        wanted = [main.GAMMA ** (6 - x) if x > 6 - syncs else 0.0 for x in range(7)] + [0.0]
        assert table.table[3, 0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_with_full_lambda_credit_takes_a_greedy_path_at_once(monkeypatch, exact_steps):
    monkeypatch.setattr(main, "LAMBDA", 1.0)
    walks_right = torch.eye(4)[3, :, None, None].expand(4, 1, 8) * 1e-6
    episodes = reference.walked(reference.corridor(8, 0, 7), walks_right[..., None], 10)
    table, target = fixed(walks_right.clone()), fixed(walks_right.clone())
    reference.update(table, target, exact_steps(table, 7), episodes, main.recall(target, episodes))
    wanted = [main.GAMMA ** (6 - x) for x in range(7)]
    assert table.table[3, 0, :7].tolist() == pytest.approx(wanted, abs=1e-5)


def test_credit_stops_at_an_exploring_action(monkeypatch, exact_steps):
    monkeypatch.setattr(main, "LAMBDA", 1.0)
    monkeypatch.setattr(main, "GAMMA", 0.5)
    walks_right = torch.eye(4)[3, :, None, None].expand(4, 1, 8) * 1e-6
    episodes = reference.walked(reference.corridor(8, 0, 7), walks_right[..., None], 10)
    table = fixed(walks_right.clone())
    with torch.no_grad():
        table.table[0, 0, 4] = 1e-3
    target = fixed(table.table.detach().clone())
    reference.update(table, target, exact_steps(table, 7), episodes, main.recall(target, episodes))
    wanted = [1e-3 / 16, 1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 0.25, 0.5, 1.0]
    assert table.table[3, 0, :7].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_target_network_just_copied_is_as_good_as_the_online_one():
    mazes = drawn(40)
    torch.manual_seed(0)
    networks = [model.Thinker("vin", 6, 0.5)]
    networks += [copy.deepcopy(networks[0]) for _ in range(2)]
    episodes = reference.walked(
        mazes, torch.randn(4, 8, 8, 40, generator=seeded()), 30, torch.full((40,), 0.5), seeded()
    )
    for online, target in ((networks[0], networks[0]), (networks[1], networks[2])):
        reference.update(
            online, target, Descent(online, 0.1), episodes, main.recall(target, episodes)
        )
    assert not torch.equal(networks[0].core.p.weight, networks[2].core.p.weight)
    assert all(map(torch.allclose, networks[0].parameters(), networks[1].parameters()))


def test_update_returns_the_huber_loss_and_the_norm_before_clipping(monkeypatch):
    monkeypatch.setattr(main, "LAMBDA", 0.0)
    monkeypatch.setattr(main, "HUBER", 0.1)
    monkeypatch.setattr(main, "GRAD_CLIP", 0.2)
    episodes = reference.walked(
        reference.corridor(8, 0, 7), torch.eye(4)[3, :, None, None, None].expand(4, 1, 8, 1), 10
    )
    table = fixed(torch.zeros(4, 1, 8))
    with torch.no_grad():
        table.table[3, 0, :7] = torch.tensor([0, 0, 0, 0, 0, 0, 0.95])
        table.table[:, 0, 7] = 0.5  # nothing is learned in the goal
    target = fixed(torch.zeros(4, 1, 8))
    seen = main.recall(target, episodes)
    loss, norm, error = reference.update(table, target, Descent(table, 1.0), episodes, seen)
    assert error[:, 0].tolist() == pytest.approx([0] * 6 + [-0.05] + [0] * 3)
    assert loss.item() == pytest.approx(0.5 * 0.05**2 / 7 / 0.1, rel=1e-3)
    assert norm.item() == pytest.approx(0.05 / 7 / 0.1, rel=1e-3)

    with torch.no_grad():
        table.table.zero_()
        table.table[3, 0, :7] = torch.tensor([9.0, 9, 9, 9, 9, 9, 0])
    before = table.table.detach().clone()
    loss, norm, _ = reference.update(table, target, Descent(table, 1.0), episodes, seen)
    assert loss.item() == pytest.approx((6 * (9 - 0.05) + (1 - 0.05)) / 7, rel=1e-4)
    assert norm.item() == pytest.approx(7**0.5 / 7, rel=1e-4)
    assert (table.table - before).norm().item() == pytest.approx(0.2, rel=1e-4)


# Evaluation


def scores(network, mazes):
    return main.evaluate(network, mazes, maze.distances(mazes.walls, mazes.goal))


def test_the_optimal_q_scores_full_marks():
    for difficulty in (1.0, 0.3):
        result = metrics.average(scores(Oracle(), drawn(200, 16, difficulty)))
        assert result == dict(success=1, optimal=1, spl=1, loops=0, q_error=0, q_bias=0)


def test_an_agent_that_is_asked_step_by_step_scores_the_same_but_for_where_its_q_is_compared():
    mazes = drawn(100, 16)
    result = scores(reference.Stepwise(Oracle()), mazes)
    assert metrics.average(result) == dict(
        success=1, optimal=1, spl=1, loops=0, q_error=0, q_bias=0
    )
    wrong = torch.rand(4, 16, 16, 100, generator=seeded()) * 0.02
    all_cells, by_step = (
        scores(kind(Oracle(wrong)), mazes) for kind in (at_once, reference.Stepwise)
    )
    assert all(
        torch.equal(all_cells[name], by_step[name])
        for name in ("success", "optimal", "spl", "loops")
    )
    assert 0 < by_step["success"].sum() < 100
    episodes = main.rollout(Oracle(wrong), mazes, main.MAX_EP_LENGTH)[0]
    for i, goal in enumerate(mazes.goal.tolist()):
        cells = [cell for cell in episodes.cells[:, i].tolist() if cell != goal]
        on_the_way = wrong[..., i].flatten(1)[:, cells].mean().item()
        assert by_step["q_error"][i].item() == pytest.approx(on_the_way, rel=1e-4)
        assert by_step["q_bias"][i].item() == pytest.approx(on_the_way, rel=1e-4)


@pytest.mark.parametrize("shaping", ["manhattan", "oracle"])
def test_q_error_adds_the_potential_that_shaping_took(monkeypatch, shaping):
    """Of an agent that is asked step by step; one that thinks is not trained with shaping."""
    kind = reference.Stepwise
    monkeypatch.setattr(main, "SHAPING", shaping)
    mazes = drawn(60, difficulty=0.8)
    phi = [
        reference.potential(mazes.walls[..., i].numpy(), int(mazes.goal[i]), main.GAMMA, shaping)
        for i in range(60)
    ]
    phi = torch.tensor(phi).t().view(8, 8, 60)
    result = metrics.average(scores(kind(Oracle(-phi)), mazes))
    assert result["q_error"] == pytest.approx(0, abs=1e-6) and result["optimal"] == 1
    assert metrics.average(scores(kind(Oracle()), mazes))["q_error"] > 0.2


def test_q_error_counts_the_open_cells_but_the_goal():
    mazes = drawn(100, difficulty=0.7)
    exact = scores(Oracle(), mazes)
    shifted = scores(Oracle(0.125), mazes)
    assert shifted["q_error"].tolist() == pytest.approx([0.125] * 100, abs=1e-5)
    assert shifted["q_bias"].tolist() == pytest.approx([0.125] * 100, abs=1e-5)
    goal = torch.zeros(64, 100).scatter(0, mazes.goal[None], 5.0).view(8, 8, 100)
    assert torch.equal(scores(Oracle(goal), mazes)["q_error"], exact["q_error"])
    in_walls = scores(Oracle(5.0 * mazes.walls), mazes)
    assert all(torch.equal(in_walls[name], exact[name]) for name in exact)
    one_action = torch.tensor([1.0, 0, 0, 0])[:, None, None, None] * -0.125
    one_wrong = scores(Oracle(one_action), mazes)
    assert one_wrong["q_error"].tolist() == pytest.approx([0.125 / 4] * 100, abs=1e-5)
    assert one_wrong["q_bias"].tolist() == pytest.approx([-0.125 / 4] * 100, abs=1e-5)


def test_walking_against_a_wall_is_a_loop():
    mazes = drawn(500, difficulty=0.4)
    result = scores(always(0, 8, 8), mazes)
    for i, walls in enumerate(np.moveaxis(mazes.walls.numpy(), -1, 0)):
        arrives = mazes.goal[i] in reference.walk(walls, mazes.goal[i], mazes.start[i], [0] * 8)
        assert result["success"][i] == arrives and result["loops"][i] == 1 - arrives
        assert result["optimal"][i] == arrives and result["spl"][i] == arrives
    assert 5 < result["success"].sum() < 495


def test_scores_of_walks_counted_by_hand(monkeypatch):
    """From the upper left corner: to the upper right one by the lower row; straight down; down,
    and to and fro for ever."""
    q = torch.zeros(4, 2, 5)
    for cell, action in {0: 1, 5: 3, 6: 3, 7: 3, 8: 0, 3: 3, 9: 2}.items():
        q[action, cell // 5, cell % 5] = 1
    mazes = maze.Mazes(
        torch.zeros(2, 5, 3, dtype=torch.bool),
        torch.tensor([4, 5, 9]),
        torch.zeros(3, dtype=torch.int64),
    )
    result = scores(fixed(q), mazes)
    assert result["success"].tolist() == [1, 1, 0]
    assert result["optimal"].tolist() == [0, 1, 0]
    assert result["spl"].tolist() == pytest.approx([4 / 6, 1, 0])
    assert result["loops"].tolist() == [0, 0, 1]
    monkeypatch.setattr(main, "MAX_EP_LENGTH", 3)
    result = scores(fixed(q), mazes)
    assert result["success"].tolist() == [0, 1, 0]
    assert result["loops"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("limit, success", [(5, 0), (6, 1), (7, 1)])
def test_an_episode_may_take_the_last_step(monkeypatch, limit, success):
    monkeypatch.setattr(main, "MAX_EP_LENGTH", limit)
    result = scores(Oracle(), reference.corridor(9, 1, 7))
    assert (
        result["success"].tolist()
        == result["optimal"].tolist()
        == result["spl"].tolist()
        == [success]
    )


def test_evaluation_in_parts_is_the_same():
    mazes = drawn(50, difficulty=0.5)
    distance = maze.distances(mazes.walls, mazes.goal)
    network = fixed(torch.randn(4, 8, 8, generator=seeded()))
    whole, parts = (
        main.evaluate(network, mazes, distance),
        main.evaluate(network, mazes, distance, cells=500),
    )
    assert whole["success"].std() > 0
    assert all(
        torch.allclose(parts[name], whole[name]) and len(whole[name]) == 50 for name in whole
    )


def test_evaluation_takes_no_random_action_and_uses_up_no_randomness():
    mazes, network = drawn(300, difficulty=0.5), fixed(torch.randn(4, 8, 8, generator=seeded()))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = scores(network, mazes)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = scores(network, mazes)
    assert all(torch.equal(first[name], again[name]) for name in first)
    best = network.table.detach().argmax(0).flatten()
    for i, walls in enumerate(np.moveaxis(mazes.walls.numpy(), -1, 0)):
        cell = int(mazes.start[i])
        for _ in range(main.MAX_EP_LENGTH):
            cell = reference.step(walls, int(mazes.goal[i]), cell, best[cell])
        assert first["success"][i] == (cell == mazes.goal[i])


@pytest.mark.parametrize("memory", ["none", "trail", "gru", "map"])
def test_evaluation_of_an_agent_with_a_window_takes_no_random_action(monkeypatch, memory):
    monkeypatch.setattr(main, "MAX_EP_LENGTH", 30)
    mazes = drawn(40, difficulty=0.5)
    torch.manual_seed(3)
    network = build(main.config() | dict(VISION=1, MEMORY=memory, WIDTH=16, GRID=8))
    nn.init.normal_((network.thinker.core.q if memory == "map" else network.leave).weight)
    before = torch.get_rng_state()
    first = scores(network, mazes)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again, parts = (
        scores(network, mazes),
        main.evaluate(network, mazes, maze.distances(mazes.walls, mazes.goal), cells=1100),
    )
    assert all(
        torch.equal(first[name], again[name])
        and torch.allclose(first[name], parts[name], atol=1e-5)
        for name in first
    )
    assert all(x.isfinite().all() for x in first.values())
    episodes = main.rollout(network, mazes, main.MAX_EP_LENGTH)[0]
    memory = network.begin(mazes)
    for cells, actions in zip(episodes.cells, episodes.actions):
        assert torch.equal(memory.see(cells).argmax(0), actions)
    assert torch.equal(first["success"] > 0, episodes.cells[-1] == mazes.goal)


FULL_MARKS = dict(success=1, optimal=1, spl=1, loops=0, q_error=0, q_bias=0)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_a_network_that_knows_the_backup_scores_full_marks(monkeypatch, gamma, radius):
    monkeypatch.setattr(main, "GAMMA", gamma)
    network = reference.thinker_of(reference.Exact(gamma, radius), gamma)
    result = metrics.average(scores(network, drawn(60, 16, 0.7)))
    assert result == pytest.approx(FULL_MARKS, abs=1e-6)


def test_a_network_that_knows_the_backup_and_maps_all_at_once_scores_full_marks(monkeypatch):
    """Its window is as large as the maze."""
    monkeypatch.setattr(main, "GAMMA", 0.5)
    network = build(main.config() | dict(VISION=7, MEMORY="map", WIDTH=8, GRID=8))
    network.thinker = reference.thinker_of(reference.Exact(0.5), 0.5, kinds=3)
    result = metrics.average(scores(network, drawn(50)))
    assert result == pytest.approx(FULL_MARKS, abs=1e-6)


# How wrong one look is


def backup_error(network, mazes):
    learned, exact = metrics.learned_backup(network, mazes, maze.distances(mazes.walls, mazes.goal))
    error = (learned - exact).abs() / exact
    return error.mean().item(), error.max().item()


@pytest.mark.parametrize("gamma", [0.5, 0.98])
@pytest.mark.parametrize("kind", ["near", "far", "vin"])
def test_backup_error_of_the_exact_backup_is_nothing(kind, gamma):
    if kind == "vin":
        network = reference.make_exact(model.Thinker("vin", 8, gamma))
    else:
        network = reference.thinker_of(reference.Exact(gamma, 1 + (kind == "far")), gamma)
    found = backup_error(network, metrics.random_walls(300, 16, seeded()))
    assert found == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("kinds", [2, 3])
@pytest.mark.parametrize("name", list(model.CORES))
def test_backup_error_is_what_a_slow_count_says(name, kinds):
    torch.manual_seed(1)
    network, mazes = model.Thinker(name, 8, 0.5, kinds=kinds), reference.random_mazes(8, 5, 6)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.5)
    wrong = []
    for b, goal in enumerate(mazes.goal.tolist()):
        walls = mazes.walls[..., b].numpy()
        d, values = reference.distances(walls, goal), reference.optimal_q(walls, goal, 0.5)
        n = {(y, x): int(reference.GRAIN * (1 - d[y, x])) for y, x in np.argwhere(d >= 0)}
        for y, x in np.argwhere(d > 0):
            q, m = reference.look(network, 0.5, walls, n, y, x)
            exact = values[:, y, x] / 0.5 ** (-m / reference.GRAIN)
            wrong += (np.abs(np.array(q) - exact) / exact).tolist()
    assert len(wrong) > 200
    assert backup_error(network, mazes) == pytest.approx((np.mean(wrong), np.max(wrong)), rel=1e-4)


def test_mazes_of_the_backup_error_show_every_pattern_of_walls():
    """All 256 around an open cell; all but the 16 that wall it in where a way leads to the goal."""
    mazes = metrics.random_walls(2000, 16, seeded(settings.HELD_OUT_SEED))
    rim = np.pad(mazes.walls.numpy(), [(1, 1), (1, 1), (0, 0)], constant_values=True)
    around = [(y, x) for y, x in np.ndindex(3, 3) if (y, x) != (1, 1)]
    pattern = sum(rim[y : y + 16, x : x + 16].astype(int) << i for i, (y, x) in enumerate(around))
    assert set(pattern[~mazes.walls.numpy()]) == set(range(256))
    counted = maze.distances(mazes.walls, mazes.goal).numpy() > 0
    beside = sum(1 << i for i, (y, x) in enumerate(around) if (y + x) % 2)
    assert set(pattern[counted]) == {one for one in range(256) if one & beside != beside}


# Loops and distances


@pytest.mark.parametrize(
    "cells, wanted",
    [
        ([5, 5, 5], True),
        ([1, 2, 3, 3, 3], True),
        ([0, 1, 0, 1, 0], True),
        ([7, 0, 1, 0, 1, 0], True),
        ([0, 1, 2, 3], False),
        ([0, 1, 0], False),
        ([0, 1, 0, 1], False),
        ([0, 1, 0, 2, 0, 1, 0, 2, 0], True),
        ([1, 0, 2, 0, 1, 0, 2, 0], False),
        ([0, 1, 0, 1, 0, 2], False),
        ([4, 5], False),
        ([4, 4], False),
    ],
)
def test_going_round_is_the_same_round_twice(cells, wanted):
    assert metrics.goes_round(torch.tensor(cells)[:, None]).tolist() == [wanted]


def test_goes_round_is_what_a_slow_look_says():
    rng = np.random.default_rng(0)
    rounds = [list(rng.permutation(50)[: rng.integers(1, 16)]) for _ in range(200)]
    into = [list(rng.permutation(50)[: rng.integers(0, 20)]) for _ in range(200)]
    caught = [(start + 60 * cycle)[:51] for start, cycle in zip(into, rounds)]
    paths = [list(rng.permutation(60)[:51]) for _ in range(200)]
    mixed = [list(rng.integers(0, 2, 51)) for _ in range(200)]
    found = [
        metrics.goes_round(torch.tensor(np.array(cells).T)) for cells in (caught, paths, mixed)
    ]
    assert found[0].all() and not found[1].any() and 0 < found[2].sum() < 200
    for cells, fast in zip((caught, paths, mixed), found):
        assert fast.tolist() == [reference.goes_round([int(cell) for cell in one]) for one in cells]


@pytest.mark.parametrize("wide", [10, 7])
def test_scores_by_distance_are_those_of_a_slow_count(wide):
    rng, n = np.random.default_rng(0), 300
    shortest = rng.choice([1, 2, 9, 10, 11, 19, 20, 21, 45, 70], n)
    result = dict(
        success=torch.tensor(rng.integers(0, 2, n)).float(),
        q_error=torch.rand(n, generator=seeded()),
        loops=torch.ones(n),
    )
    slow = {}
    for i in np.argsort(shortest, kind="stable"):
        low = (shortest[i] - 1) // wide * wide + 1
        slow.setdefault(f"{low}-{low + wide - 1}", []).append(i)
    bands = metrics.by_distance(result, torch.tensor(shortest), wide)
    assert list(bands) == list(slow)
    assert sum(band["mazes"] for band in bands.values()) == n
    for name, members in slow.items():
        assert bands[name] == dict(
            mazes=len(members),
            success=pytest.approx(result["success"][members].mean().item()),
            q_error=pytest.approx(result["q_error"][members].mean().item()),
        )


def test_no_seed_of_training_has_the_randomness_of_the_held_out_mazes(monkeypatch):
    """A generator on the CPU may see no more than 32 bits of its seed."""
    held_out = torch.rand(4, generator=seeded(settings.HELD_OUT_SEED))
    for seed in (settings.HELD_OUT_SEED, settings.HELD_OUT_SEED % 2**32):
        monkeypatch.setattr(main, "SEED", seed)
        try:
            reference.check()
        except UserError:
            continue
        assert not torch.equal(torch.rand(4, generator=seeded(seed)), held_out)


def test_test_set_is_at_full_difficulty_and_the_same_for_every_run(monkeypatch):
    packed = maze.make_mazes(100, 16, seeded())
    mazes, distance = main.test_set(packed)
    assert torch.equal(mazes.walls, maze.unpack(packed, 16, 16))
    assert torch.equal(distance, maze.distances(mazes.walls, mazes.goal))
    at_start = distance.flatten(0, 1).gather(0, mazes.start[None])
    assert at_start.min() <= 5 and 50 < at_start.max() <= main.MAX_START_DISTANCE
    for name, value in dict(SEED=7, DIFFICULTY=0.2, CURRICULUM="off").items():
        monkeypatch.setattr(main, name, value)
    torch.manual_seed(5)
    assert all(map(torch.equal, main.test_set(packed)[0], mazes))


# The curriculum


def test_draw_raises_walls_and_distances_with_the_level(monkeypatch):
    cache = maze.make_mazes(200, 16, seeded())
    in_perfect = maze.unpack(cache, 16, 16).float().mean()
    for level, low, high in (
        (0.0, 0.0, 1.0),
        (0.5, 0.0, 1.0),
        (1.0, 0.0, 1.0),
        (0.5, 0.4, 0.8),
        (1.0, 0.7, 0.7),
    ):
        monkeypatch.setattr(main, "DIFFICULTY_MIN", low)
        monkeypatch.setattr(main, "DIFFICULTY", high)
        mazes = main.draw(cache, 600, level, seeded(2))
        share = mazes.walls.float().mean((0, 1)) / in_perfect
        assert share.mean().item() == pytest.approx(level * (low + high) / 2, abs=0.06)
        assert share.std().item() == pytest.approx(level * (high - low) / 12**0.5, abs=0.06)
        far = maze.distances(mazes.walls, mazes.goal).flatten(0, 1).gather(0, mazes.start[None])
        assert 1 <= far.min() and far.max() <= 1 + level * 99
        assert far.max() > 0.2 * level * 99


def test_draw_uses_the_whole_cache(monkeypatch):
    monkeypatch.setattr(main, "DIFFICULTY_MIN", 1.0)
    cache = maze.make_mazes(50, 16, seeded())
    seen = maze.fingerprints(maze.pack(main.draw(cache, 4000, 1.0, seeded()).walls))
    counts = [seen.count(one) for one in maze.fingerprints(cache)]
    assert sum(counts) == 4000
    assert chisquare(counts).pvalue > 1e-6


def test_curriculum_levels(monkeypatch):
    monkeypatch.setattr(main, "CURRICULUM", "adaptive")
    assert main.next_level(0.5, 0.1, main.CURRICULUM_SUCCESS) == 0.5 + main.CURRICULUM_STEP
    assert main.next_level(0.5, 0.1, main.CURRICULUM_SUCCESS - 0.01) == 0.5
    assert main.next_level(0.99, 0.1, 1.0) == 1.0
    monkeypatch.setattr(main, "CURRICULUM", "linear")
    monkeypatch.setattr(main, "CURRICULUM_SHARE", 0.5)
    assert [main.next_level(0.0, progress, 0.0) for progress in (0.1, 0.25, 0.5, 0.9)] == [
        0.2,
        0.5,
        1.0,
        1.0,
    ]
    monkeypatch.setattr(main, "CURRICULUM", "off")
    assert main.next_level(1.0, 0.1, 0.0) == 1.0


# Whole runs

WINDOW = dict(
    VISION=1, WIDTH=16, BSZ=32, MAX_EP_LENGTH=10, EVAL_MAZES=8, SHAPING="manhattan", NOVELTY=0.01
)
MAP = dict(
    VISION=1,
    MEMORY="map",
    WIDTH=8,
    BSZ=16,
    NUM_EPISODES=32,
    MAX_EP_LENGTH=8,
    EVAL_MAZES=8,
    EVAL_SAMPLE=4,
)


def weights(folder):
    return load_checkpoint(str(folder / "checkpoint.pt"), "cpu")[0].state_dict()


def run(monkeypatch, folder, **settings):
    """(summary, weights, rows of metrics.csv) of a run, for which no picture is drawn."""
    for module, picture in (pictures, "course"), (pictures, "walks"), (gif, "thinking"):
        monkeypatch.setattr(module, picture, lambda *_: None)
    for name, value in (settings | dict(OUT_DIR=str(folder))).items():
        monkeypatch.setattr(main, name, value)
    summary = main.run()
    rows = list(csv.DictReader(open(folder / "metrics.csv")))
    return summary, weights(folder), rows


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(MODEL="cnn", REPLAY="uniform", REPLAY_SIZE=70),
        dict(MODEL="vin", DOUBLE=True, LAMBDA=0.5, GOAL="corner"),
        dict(MODEL="attention", WIDTH=8, REPLAY="prioritized", LOOKS=9),
        *[WINDOW | dict(MEMORY=memory) for memory in ("none", "trail", "gru")],
        MAP | dict(NUM_EPISODES=16),
    ],
)
def test_same_seed_same_weights_bit_for_bit(tiny, monkeypatch, settings):
    for module, name in (pictures, "course"), (pictures, "walks"), (gif, "thinking"):
        monkeypatch.setattr(module, name, lambda *_: None)
    _, first, _ = run(monkeypatch, tiny / "first", **settings)
    _, again, _ = run(monkeypatch, tiny / "again", **settings)
    _, other, _ = run(monkeypatch, tiny / "other", **settings, SEED=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_seed_sets_the_first_weights(tiny, monkeypatch):
    """With a learning rate too small to move them."""
    _, first, _ = run(monkeypatch, tiny / "first", LR=1e-30)
    _, again, _ = run(monkeypatch, tiny / "again", LR=1e-30, BSZ=32)
    _, other, _ = run(monkeypatch, tiny / "other", LR=1e-30, SEED=1)
    assert torch.equal(first["core.hidden.weight"], again["core.hidden.weight"])
    assert not torch.equal(first["core.hidden.weight"], other["core.hidden.weight"])


def test_seed_sets_the_exploration(tiny, monkeypatch):
    """With episodes that all act at random, but for one."""
    walks, real = [], main.rollout

    def rollout(network, mazes, steps, epsilon=None, generator=None):
        episodes, thoughts = real(network, mazes, steps, epsilon, generator)
        if len(mazes.goal) == main.BSZ:
            walks.append(episodes.actions)
        return episodes, thoughts

    monkeypatch.setattr(main, "rollout", rollout)
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        run(monkeypatch, tiny / folder, NUM_EPISODES=64, EPSILON_SHAPE=1e-9, SEED=seed)
    assert torch.equal(walks[0], walks[1])
    assert binomtest(int((walks[0] == walks[2]).sum()), walks[0].numel(), 0.25).pvalue > 1e-6


def test_evaluating_more_often_does_not_change_what_is_learned(tiny, monkeypatch):
    _, often, rows = run(monkeypatch, tiny / "often", EVAL_EVERY=1, NUM_EPISODES=256)
    _, seldom, fewer = run(monkeypatch, tiny / "seldom", EVAL_EVERY=100)
    assert len(rows) == 4 > len(fewer)
    assert all(torch.equal(often[name], seldom[name]) for name in often)


@pytest.mark.parametrize("held_out, sample", [(60, 20), (20, 60), (30, 30)])
def test_scores_come_from_held_out_mazes_only(tiny, monkeypatch, held_out, sample):
    """With an evaluation that gives 1 to training mazes and 0 to others."""
    known = set(maze.fingerprints(maze.make_mazes(300, 12, seeded())))

    def evaluate(network, mazes, distance):
        seen = torch.tensor(
            [float(one in known) for one in maze.fingerprints(maze.pack(mazes.walls))]
        )
        return dict.fromkeys(("success", "optimal", "spl", "loops", "q_error", "q_bias"), seen)

    monkeypatch.setattr(main, "evaluate", evaluate)
    summary, _, rows = run(
        monkeypatch, tiny / "out", GRID=12, EVAL_MAZES=held_out, EVAL_SAMPLE=sample
    )
    assert (
        summary["success"] == 0
        and summary["generalization_gap"] == 1
        and summary["eval_mazes"] == held_out
    )
    assert all(float(row["success"]) == 0 and float(row["train_success"]) == 1 for row in rows)


@pytest.mark.parametrize(
    "bsz, updates, syncs", [(64, 6, 1), (64, 6, 2), (64, 6, 4), (64, 6, 6), (64, 4, 9), (10, 7, 7)]
)
def test_run_makes_the_updates_and_target_syncs_that_it_reports(
    tiny, monkeypatch, bsz, updates, syncs
):
    made, synced, update, td_targets = 0, 0, main.update, model.td_targets

    def counted(*arguments):
        nonlocal made
        made += 1
        return update(*arguments)

    def in_sync(online, target, *rest):
        nonlocal synced
        synced += 1
        assert all(map(torch.equal, online.parameters(), target.parameters()))
        return td_targets(online, target, *rest)

    monkeypatch.setattr(main, "update", counted)
    monkeypatch.setattr(model, "td_targets", in_sync)
    settings = dict(BSZ=bsz, UPDATES=updates, TARGET_SYNCS=syncs, NUM_EPISODES=3 * bsz - 1)
    summary, _, rows = run(monkeypatch, tiny / "out", **settings)
    assert summary["updates"] == made == 3 * updates
    assert synced == 3 * min(syncs, updates)
    assert summary["episodes"] == 3 * bsz
    assert [int(row["updates"]) for row in rows] == [updates, 2 * updates, 3 * updates]


@pytest.mark.parametrize("agent", [dict(MODEL="vin"), dict(VISION=1, MEMORY="trail", WIDTH=16)])
def test_with_double_dqn_the_target_network_is_copied_one_sync_late(tiny, monkeypatch, agent):
    weights, td_targets = [], model.td_targets

    def noted(online, target, seen, episodes, gamma, lam, double, most):
        assert double
        weights.append([[x.clone() for x in one.parameters()] for one in (online, target)])
        return td_targets(online, target, seen, episodes, gamma, lam, double, most)

    monkeypatch.setattr(model, "td_targets", noted)
    run(monkeypatch, tiny / "out", **agent, DOUBLE=True, TARGET_SYNCS=2)
    assert len(weights) == 4
    for (online, _), (later, target) in zip(weights, weights[1:]):
        assert all(map(torch.equal, online, target))
        assert not all(map(torch.equal, later, target))


@pytest.mark.parametrize("replay", ["off", "uniform"])
def test_run_explores_as_its_constants_say_and_counts_its_steps(tiny, monkeypatch, replay):
    epsilons, walked, real = [], 0, main.rollout

    def rollout(network, mazes, steps, epsilon=None, generator=None):
        nonlocal walked
        episodes, thoughts = real(network, mazes, steps, epsilon, generator)
        if len(mazes.goal) == main.BSZ:
            epsilons.append(epsilon.sort().values)
            walked += int((episodes.cells[:-1] != mazes.goal).sum())
        return episodes, thoughts

    monkeypatch.setattr(main, "rollout", rollout)
    summary, _, _ = run(
        monkeypatch, tiny / "out", EPSILON=0.8, EPSILON_SHAPE=3.0, REPLAY=replay, REPLAY_SIZE=100
    )
    assert summary["env_steps"] == walked > 0
    assert len(epsilons) == 2
    assert all(
        torch.allclose(epsilon, 0.8 * torch.linspace(0, 1, 64) ** 3, atol=1e-6)
        for epsilon in epsilons
    )


@pytest.mark.parametrize(
    "replay, agent",
    [
        ("off", dict(TARGET_SYNCS=1)),
        ("off", dict(TARGET_SYNCS=2)),
        ("uniform", dict(MODEL="vin")),
        ("prioritized", dict(LOOKS=5)),
        ("off", MAP),
        ("prioritized", MAP | dict(TARGET_SYNCS=1)),
        ("off", dict(VISION=1, MEMORY="trail")),
        ("uniform", dict(VISION=1, MEMORY="gru", WIDTH=16)),
    ],
)
def test_run_learns_from_what_the_target_network_thinks(tiny, monkeypatch, replay, agent):
    """After each sync, of all episodes until the next one. Each that was walked is learned from."""
    groups, walked, update, td_targets, rollout = (
        [],
        [],
        main.update,
        model.td_targets,
        main.rollout,
    )

    def sync(online, target, seen, episodes, *rest):
        if not main.DOUBLE:
            assert all(map(torch.equal, online.parameters(), target.parameters()))
        groups.append((copy.deepcopy(target), episodes, seen, []))
        return td_targets(online, target, seen, episodes, *rest)

    def learns(online, optimizer, seen, *rest):
        groups[-1][3].append(seen)
        return update(online, optimizer, seen, *rest)

    def remembered(network, mazes, steps, epsilon=None, generator=None):
        found = rollout(network, mazes, steps, epsilon, generator)
        walked.extend([found[0].cells] * (len(mazes.goal) == main.BSZ))
        return found

    monkeypatch.setattr(main, "update", learns)
    monkeypatch.setattr(model, "td_targets", sync)
    monkeypatch.setattr(main, "rollout", remembered)
    run(monkeypatch, tiny / "out", **dict(NUM_EPISODES=256) | agent, REPLAY=replay, REPLAY_SIZE=200)
    learned, walked = torch.cat([group[1].cells for group in groups], 1), torch.cat(walked, 1)
    assert learned.shape == walked.shape and (replay != "off" or torch.equal(learned, walked))
    assert len(groups) == main.NUM_EPISODES // main.BSZ * main.TARGET_SYNCS
    moved = False
    for target, episodes, seen, parts in groups:
        again, first = (main.recall(one, episodes) for one in (target, groups[0][0]))
        for wanted, one, *found in zip(again, seen, *parts, strict=True):
            assert torch.allclose(wanted.float(), one.float(), atol=1e-6)
            assert torch.equal(one, torch.cat(found, -1))
        moved |= any(not torch.equal(x, y) for x, y in zip(again, first))
    assert moved != (agent.get("MEMORY") in ("trail", "gru"))  # through a window, all see the same


def test_run_learns_by_the_weights_of_what_it_remembers_and_remembers_the_errors(tiny, monkeypatch):
    sampled, synced, updated, learned = [], [], [], []
    sample, learn, update, td_targets = (
        Replay.sample,
        Replay.set_priority,
        main.update,
        model.td_targets,
    )
    monkeypatch.setattr(
        Replay, "sample", lambda *a: sampled.append((a[3], *sample(*a))) or sampled[-1][1:]
    )
    monkeypatch.setattr(Replay, "set_priority", lambda *a: learned.append(a[1:]) or learn(*a))
    monkeypatch.setattr(
        main, "update", lambda *a: updated.append((*a[3:], update(*a))) or updated[-1][-1]
    )
    monkeypatch.setattr(
        model, "td_targets", lambda *a: synced.append((a[3], td_targets(*a))) or synced[-1][1]
    )
    settings = dict(REPLAY="prioritized", PRIORITY_BETA=0.2, REPLAY_SIZE=100, NUM_EPISODES=256)
    run(monkeypatch, tiny / "out", **settings)
    assert [beta for beta, *_ in sampled] == pytest.approx(
        [0.2 + 0.8 * batch / 4 for batch in range(4)]
    )
    assert len(synced) == len(updated) == len(learned) == 16  # a sync, an update: 16 episodes of 64
    for batch, (_, _, cells, actions, index, weight) in enumerate(sampled):
        for i in range(4):
            own, number = slice(16 * i, 16 * i + 16), 4 * batch + i
            (episodes, (td_target, counts)), (which, remembered) = synced[number], learned[number]
            assert torch.equal(episodes.cells, cells[:, own]) and torch.equal(which, index[own])
            steps, taken, wanted, weights, (_, _, error) = updated[number]
            assert torch.equal(weights, weight[own].expand_as(counts)[counts])
            assert torch.equal(taken, actions[:, own][counts])
            assert torch.equal(wanted, td_target[counts])
            assert torch.equal(remembered[counts], error) and not remembered[~counts].any()


def test_update_weighs_each_episode(monkeypatch, exact_steps):
    """Weights of 0 and 1 are a smaller batch, but for the number of steps that the loss is
    divided by."""
    mazes = drawn(20)
    torch.manual_seed(0)
    network, found = model.Thinker("vin", 6, 0.5), []
    episodes = reference.walked(
        mazes, torch.randn(4, 8, 8, 20, generator=seeded()), 30, torch.full((20,), 0.5), seeded()
    )
    steps = (episodes.cells[:-1] != mazes.goal).sum(0)
    for part, weight, count in (
        (slice(20), torch.arange(20) < 7, steps.sum()),
        (slice(7), None, steps[:7].sum()),
    ):
        few = episodes.select(part)
        seen = main.recall(network, few)
        loss, norm, error = reference.update(
            copy.deepcopy(network), network, Still(), few, seen, weight
        )
        found.append((loss * count, norm * count, error[:, :7]))
    assert all(map(torch.allclose, *found))


class Still:
    def step(self, gradient):
        pass


# The watchman


def history(losses, level=0.5):
    return [dict(loss=loss, level=level) for loss in losses]


HIGH = [0.1, 1.5, 1.1, 7]


@pytest.mark.parametrize(
    "rows",
    [
        history(HIGH[::-1]),
        history(HIGH[:3]),
        history([1, 1.1, 1.2, 1.3, 1.4]),
        history([0.1, 8, 0.2, 4, 16]),
        history(HIGH + [0.1]),
        history(HIGH[:2]) + history(HIGH[2:], 0.55),
        history([0.0] * 5),
        history([3.0]),
        history([0.0, 0, 1e-9, 1e-6, 1e-5]),
        history([1e-9] + [0.01] * 5),
        history(1 / np.arange(1, 30)),
    ],
)
def test_watchman_is_silent_while_all_is_well(rows):
    assert warning(rows, main.config()) is None


@pytest.mark.parametrize(
    "rows", [history(HIGH), history([5, 3] + HIGH), history([0.0, 2, 3, 2], 1.0)]
)
def test_watchman_speaks_of_a_loss_that_has_risen_and_stays_high(rows):
    said = warning(rows, main.config())
    assert f"from {min(row['loss'] for row in rows):.1e} to {rows[-1]['loss']:.1e}" in said
    assert f"LR is too high (now {main.LR:g})" in said
    assert "TARGET_SYNCS" not in said and "LAMBDA" not in said  # they can't be less
    said = warning(rows, main.config() | dict(TARGET_SYNCS=4, LAMBDA=0.9))
    assert "TARGET_SYNCS=4; try 1" in said and "LAMBDA=0.9; try less" in said


@pytest.mark.parametrize("rate", [0.001, 100.0, 1e30])
def test_a_run_that_explodes_is_told(tiny, monkeypatch, capsys, rate):
    settings = dict(
        MODEL="mlp",
        WIDTH=64,
        LR=rate,
        GRAD_CLIP=1e30,
        NUM_EPISODES=320,
        UPDATES=1,
        CURRICULUM="off",
        LR_DECAY=0.0,
    )
    try:
        run(monkeypatch, tiny / "out", **settings)
        stopped = ""
    except UserError as error:
        stopped = str(error)
    assert ("watch out: the loss has risen" in capsys.readouterr().out) == (rate == 100)
    assert ("contains NaN or inf" in stopped) == (rate == 1e30)


def test_every_process_of_a_run_draws_its_own_mazes(tiny, monkeypatch):
    """A generator on the CPU may see no more than 32 bits of its seed."""
    drawn_by = []
    for rank in range(4):
        monkeypatch.setattr(processes, "RANK", rank)
        generator = seeded(main.SEED)
        torch.randperm(main.BSZ, generator=generator)
        processes.seed_differently(generator, main.SEED, 0)
        drawn_by.append(
            tuple(main.draw(maze.make_mazes(300, 8, seeded()), 64, 1.0, generator).start.tolist())
        )
    assert len(set(drawn_by)) == 4


def test_learning_rate_falls_to_nothing_at_the_end_of_the_run(tiny, monkeypatch):
    rows = run(monkeypatch, tiny / "out", NUM_EPISODES=640, LR=0.02, LR_DECAY=0.5)[2]
    wanted = [0.02 * min(1, (10 - batch) / 5) for batch in range(10)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(wanted)


def test_run_learns_to_walk_mazes_it_has_never_seen(trained):
    folder, summary = trained
    mazes = drawn(300, farthest=20)
    random = (
        reference.walked(mazes, torch.zeros(4, 8, 8, 300), 30, torch.ones(300), seeded()).cells[-1]
        == mazes.goal
    )
    network, config, _ = load_checkpoint(str(folder / "out" / "checkpoint.pt"), "cpu")
    assert summary["success"] > random.float().mean() + 0.3
    assert summary["optimal"] <= summary["spl"] <= summary["success"]
    assert scores(network, mazes)["success"].mean().item() == pytest.approx(
        summary["success"], abs=0.1
    )
    assert config == summary["config"] and config["GRID"] == 8


def test_run_leaves_its_files(trained):
    folder, summary = trained
    saved = json.loads((folder / "out" / "summary.json").read_text())
    assert saved == summary
    network = load_checkpoint(str(folder / "out" / "checkpoint.pt"), "cpu")[0]
    fields = metrics.random_walls(2000, 16, seeded(settings.HELD_OUT_SEED))
    wanted = backup_error(network, fields)
    assert (saved["backup_error"], saved["backup_error_worst"]) == pytest.approx(wanted, rel=1e-5)
    wanted = {
        "success",
        "optimal",
        "spl",
        "loops",
        "q_error",
        "generalization_gap",
        "eval_mazes",
        "episodes",
        "env_steps",
        "updates",
        "seconds",
        "seconds_to_99",
        "params",
        "device",
        "seed",
        "config",
    }
    assert wanted <= saved.keys()
    assert [saved[name] for name in ("eval_mazes", "episodes", "updates", "device", "seed")] == [
        300,
        6000,
        240,
        "cpu",
        0,
    ]
    assert set(saved["config"]) == set(main.CONSTANTS)
    assert saved["params"] == sum(x.numel() for x in weights(folder / "out").values())
    rows = list(csv.DictReader(open(folder / "out" / "metrics.csv")))
    episodes = [int(row["episodes"]) for row in rows]
    assert len(episodes) in (3, 4) and episodes == sorted(episodes) and episodes[-1] == 6000
    assert int(rows[-1]["env_steps"]) == saved["env_steps"]
    assert 0 < float(rows[0]["seconds"]) < float(rows[-1]["seconds"]) < saved["seconds"]
    reached = [float(row["seconds"]) for row in rows if float(row["success"]) >= 0.99]
    assert saved["seconds_to_99"] == (reached[0] if reached else None)
    assert (folder / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in folder.iterdir()) == ["out", "plot.png"]
    assert not [path for path in (folder / "out").iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("settings, thinks", [(WINDOW, False), (MAP, True)])
def test_backup_error_is_told_of_agents_that_think(tiny, monkeypatch, capsys, settings, thinks):
    summary, _, _ = run(monkeypatch, tiny / "out", **settings)
    for name in ("backup_error", "backup_error_worst"):
        assert (summary[name] is not None) == thinks
    assert ("one look, against the exact backup" in capsys.readouterr().out) == thinks


# Settings


def test_override_keeps_the_type_of_each_constant():
    arguments = "SEED=3 LR=1 DOUBLE=false PROFILE=True MODEL=cnn NUM_EPISODES=1e6 BSZ=2_048 OUT_DIR=a=b".split()
    reference.override(arguments)
    values = [getattr(main, argument.partition("=")[0]) for argument in arguments]
    assert values == [3, 1.0, False, True, "cnn", 1_000_000, 2048, "a=b"]
    assert [type(value) for value in values] == [int, float, bool, bool, str, int, int, str]
    assert main.config()["SEED"] == 3


KINDS = [
    *((f"MODEL={name}", name) for name in model.CORES),
    ("VISION=2", "window"),
    ("VISION=1 MEMORY=gru", "window"),
    ("VISION=2 MEMORY=map", "map"),
    ("VISION=2 MEMORY=map MODEL=vin", "map"),
]


@pytest.mark.parametrize("first", ["", "MODEL=vin", "VISION=2"])
@pytest.mark.parametrize("arguments, kind", KINDS)
def test_each_kind_of_agent_has_its_own_constants(first, arguments, kind):
    """Whatever kind was asked for before."""
    before = main.config()
    assert before["MODEL"] == "mlp" and not before["VISION"]
    assert main.BY_AGENT["HUBER"]["vin"] != main.BY_AGENT["HUBER"]["mlp"] and len(main.BY_AGENT) > 5
    reference.override(first.split())
    reference.override(["MODEL=mlp", "VISION=0", "MEMORY=none", *arguments.split()])
    reference.check()
    assert settings.kind_of_agent(main.config()) == kind
    for name, value in main.config().items():
        if name in main.BY_AGENT:
            assert value == main.BY_AGENT[name].get(kind, main.BY_AGENT[name]["mlp"])
        elif name not in ("MODEL", "VISION", "MEMORY"):
            assert value == before[name]


@pytest.mark.parametrize("arguments", ["HUBER=0.3 MODEL=vin", "MODEL=vin HUBER=0.3"])
def test_constant_that_is_given_is_kept_whatever_the_agent(arguments):
    reference.override(arguments.split())
    assert main.HUBER == 0.3 and main.MODEL == "vin"
    reference.override(["VISION=2", "MODEL=mlp", "GAMMA=0.5"])
    assert main.HUBER == 0.3 and main.GAMMA == 0.5
    assert main.UPDATES == main.BY_AGENT["UPDATES"]["window"]


def test_constant_that_was_changed_before_is_kept_whatever_the_agent(monkeypatch):
    monkeypatch.setattr(main, "HUBER", 0.7)
    monkeypatch.setattr(main, "LR", 0.123)
    reference.override(["MODEL=vin"])
    assert (main.HUBER, main.LR) == (0.7, 0.123)
    reference.override(["VISION=2", "MODEL=mlp"])
    assert (main.HUBER, main.LR) == (0.7, 0.123) and main.GAMMA == main.BY_AGENT["GAMMA"]["window"]


def test_wrong_argument_changes_nothing():
    before = main.config()
    for wrong in ("GAMMA=x", "NOTHING=1", "SEED"):
        with pytest.raises(UserError):
            reference.override(["MODEL=vin", "SEED=3", wrong])
        assert main.config() == before


def test_every_constant_can_be_given_on_the_command_line():
    before = main.config()
    assert len(before) > 30 and "HELD_OUT_SEED" not in before
    reference.override([f"{name}={value}" for name, value in before.items()])
    reference.check()
    assert main.config() == before

"""Acting and learning, against slow simulators, definitions and torch's own optimizer."""

import copy

import numpy as np
import pytest
import reference
import torch
from scipy.stats import binomtest, chisquare

import main
import maze
import model
from support.learning import Adam, minibatches


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=2):
    return torch.randn(shape, generator=seeded(seed))


def set_constants(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setattr(main, name, value)


def drawn(b, grid=8, difficulty=1.0):
    packed = maze.make_mazes(b, grid, seeded())
    return maze.draw(packed, grid, difficulty, 100, "random", seeded(1))


def random_episodes():
    """(40 episodes that walk in random mazes, the Q in which they are partly greedy)"""
    mazes, q = reference.random_mazes(40, 6, 6, share=0.1), normal(4, 6, 6, 40)
    episodes = reference.walked(mazes, q, 12, torch.full((40,), 0.5), seeded(3))
    assert 5 < (episodes.cells[-1] == mazes.goal).sum() < 35
    return episodes, q


def thinks_of(network, episodes, most):
    """The episodes with what this network thinks, looked up cell by cell."""
    mazes = episodes.mazes
    value, view = model.think(network.change, mazes.walls, mazes.goal, most)
    value, view = (maze.along(x, episodes.cells) for x in (value, view))
    return episodes._replace(seen=torch.stack([view, value, torch.cat([value[1:], value[-1:]])]))


# Acting


@pytest.mark.parametrize("h, w", [(8, 8), (3, 11), (1, 6)])
@pytest.mark.parametrize("epsilon", [None, 0.0, 0.4, 1.0])
def test_rollout_walks_as_a_slow_simulator_does_asked_at_once_or_step_by_step(h, w, epsilon):
    b, steps = 30, 25
    mazes, q = reference.random_mazes(b, h, w), normal(4, h, w, b)
    epsilons = None if epsilon is None else torch.full((b,), epsilon)
    found = []
    for agent in (reference.Table(q), reference.Stepwise(reference.Table(q))):
        episodes, sight = main.rollout(agent, mazes, steps, epsilons, seeded(3))
        assert all(map(torch.equal, episodes.mazes, mazes)) and len(episodes.actions) == steps
        assert torch.equal(sight.seen(episodes.cells), episodes.seen)
        found.append(episodes)
    assert all(map(torch.equal, found[0][1:], found[1][1:]))
    best = q.argmax(0).flatten(0, 1)
    for i in range(b):
        walls, goal = mazes.walls[..., i].numpy(), int(mazes.goal[i])
        actions = episodes.actions[:, i].tolist()
        cells = reference.walk(walls, goal, mazes.start[i], actions)
        assert episodes.cells[:, i].tolist() == cells and not walls.flat[cells].any()
        if not epsilon:
            assert actions == best[cells[:-1], i].tolist()


def test_ties_are_broken_towards_a_best_action():
    mazes, q = reference.random_mazes(200, 8, 8), normal(4, 8, 8, 200).round()
    episodes = reference.walked(mazes, q, 20)
    along = maze.along(q, episodes.cells)[:, :-1]
    assert torch.equal(along.gather(0, episodes.actions[None])[0], along.amax(0))


def test_goal_is_never_left():
    mazes = drawn(300, difficulty=0.3)
    cells = reference.walked(mazes, torch.zeros(4, 8, 8, 300), 300, torch.ones(300), seeded()).cells
    there = cells == mazes.goal
    assert there[-1].sum() > 100 and (there[1:] | ~there[:-1]).all()


def test_full_exploration_takes_all_actions_alike_and_independently():
    b = 500
    mazes, q = reference.random_mazes(b, 8, 8), normal(4, 8, 8, b)
    actions = reference.walked(mazes, q, 100, torch.ones(b), seeded(3)).actions
    one_after_another = (actions[:-1] * 4 + actions[1:])[::2]
    side_by_side = (actions[:, :-1] * 4 + actions[:, 1:])[:, ::2]
    for what, kinds in ((actions, 4), (one_after_another, 16), (side_by_side, 16)):
        assert chisquare(np.bincount(what.flatten(), minlength=kinds)).pvalue > 1e-6


def test_each_episode_explores_by_its_own_epsilon():
    b, shares = 300, (0.0, 0.1, 0.5, 0.9, 1.0)
    epsilon = torch.tensor(shares).repeat_interleave(b // 5)
    nowhere = torch.zeros(b, dtype=torch.int64)
    mazes = maze.Mazes(torch.zeros(6, 6, b, dtype=torch.bool), nowhere + 35, nowhere)
    q = torch.zeros(4, 6, 6, b)
    q[0] = 1
    other = reference.walked(mazes, q, 200, epsilon, seeded()).actions != 0
    for part, share in zip(other.chunk(5, 1), shares):
        assert binomtest(int(part.sum()), part.numel(), share * 0.75).pvalue > 1e-6


def test_rollout_follows_its_generator_and_leaves_the_others():
    mazes, q, epsilon = drawn(50), torch.zeros(4, 8, 8, 50), torch.ones(50)
    before = torch.get_rng_state()
    first, again, other = (reference.walked(mazes, q, 30, epsilon, seeded(i)) for i in (1, 1, 2))
    assert torch.equal(first.cells, again.cells) and not torch.equal(first.cells, other.cells)
    assert torch.equal(torch.get_rng_state(), before)


# Targets


# CREDIT and LAMBDA; with "step" the latter must not matter.
HOW = [("step", 0.9), ("lambda", 0.0), ("lambda", 0.7), ("lambda", 1.0)]


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 33])
def test_q_lambda_targets_are_those_of_the_definition(lam, steps):
    reward, done, value, greedy = torch.rand(4, steps, 30, generator=seeded(steps))
    done, greedy = done < 0.1, greedy < 0.8
    fast = model.q_lambda_targets(reward, done, value, greedy, 0.9, lam)
    for b in range(30):
        columns = [x[:, b].double().tolist() for x in (reward, done, value, greedy)]
        slow = reference.lambda_targets(*columns, 0.9, lam)
        assert fast[:, b].tolist() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("credit, lam", HOW)
@pytest.mark.parametrize("double", [True, False])
def test_running_out_of_time_bootstraps_and_reaching_the_goal_does_not(credit, lam, double):
    mazes, q = reference.corridor(9, 0, 5), torch.zeros(4, 1, 9, 1)
    q[3] = 0.5
    table = reference.Table(q)
    for steps, last in ((4, -1 + 0.9 * 0.5), (5, -1.0), (8, -1.0)):
        episodes = reference.walked(mazes, q, steps)
        target, counts = model.td_targets(table, table, episodes, 0.9, credit, lam, double)
        assert not target.requires_grad and counts[:, 0].tolist() == [t < 5 for t in range(steps)]
        assert target[min(steps, 5) - 1].item() == pytest.approx(last, abs=1e-6)


@pytest.mark.parametrize("double", [True, False])
def test_lambda_0_is_credit_of_one_step(double):
    (episodes, q), late = random_episodes(), reference.Table(normal(4, 6, 6, 40, seed=5))
    step, none, some = (
        model.td_targets(reference.Table(q), late, episodes, 0.9, credit, lam, double)
        for credit, lam in (("step", 0.9), ("lambda", 0.0), ("lambda", 0.9))
    )
    assert torch.equal(step[1], none[1]) and torch.allclose(step[0], none[0], atol=1e-6)
    assert not torch.allclose(step[0], some[0], atol=0.1)


# Credit from what the episode itself found out


FOUND = [
    (1.0, dict()),
    (0.9, dict(SHAPING="manhattan", STEP_REWARD=-0.1, GOAL_REWARD=1.0)),
    (0.98, dict(STEP_REWARD=0.0, GOAL_REWARD=1.0)),
    (1.0, "each step pays something else"),
]


@pytest.mark.parametrize("gamma, paid", FOUND, ids=str)
@pytest.mark.parametrize("perfect", [True, False])
def test_values_found_are_those_of_the_best_ways_over_own_moves(monkeypatch, perfect, gamma, paid):
    set_constants(monkeypatch, GAMMA=gamma, **(paid if isinstance(paid, dict) else {}))
    mazes = drawn(80) if perfect else reference.random_mazes(80, 5, 6, share=0.1)
    episodes, arrived = reference.strolls(mazes)
    if isinstance(paid, str):
        episodes = episodes._replace(reward=-torch.rand(80, 80, generator=seeded(4)))
    found = model.episode_values(episodes, gamma)
    for b, (cells, *_, known) in enumerate(reference.values_found(episodes, gamma)):
        wanted = [known.get(cell, -np.inf) for cell in cells]
        assert found[:, b].tolist() == pytest.approx(wanted, abs=1e-4)
    assert torch.equal(found[0].isfinite(), arrived)


@pytest.mark.parametrize("gamma, less_v", [(0.9, False), (1.0, False), (1.0, True)])
def test_steps_count_whose_values_the_episode_found(gamma, less_v):
    """It asks no network."""
    episodes, _ = reference.strolls(reference.random_mazes(60, 5, 6, share=0.1))
    found = model.td_targets(None, None, episodes, gamma, "episode", 0.9, False, less_v)
    target, clipped = torch.stack(found, -1).tolist(), 0
    for b, (cells, reward, goal, known) in enumerate(reference.values_found(episodes, gamma)):
        for t, (here, there) in enumerate(zip(cells, cells[1:])):
            wanted, counts = target[t][b]
            assert counts == (here != goal and there in known)
            if counts and less_v:
                change = known[there] - known[here]
                clipped += abs(change) > 1
                assert wanted == pytest.approx(-1 + min(1, max(-1, change)), abs=1e-5)
            elif counts:
                assert wanted == pytest.approx(reward[t] + gamma * known[there], abs=1e-4)
    assert found[0].isfinite().all() and (clipped > 10) == less_v


@pytest.mark.parametrize("unit", ["q", "advantage"])
def test_an_episode_that_arrives_in_a_perfect_maze_learns_what_is_right(
    monkeypatch, exact_steps, unit
):
    """Q, or the advantage -1 - d(s') + d(s), d by scipy; if it does not, nothing."""
    constants = dict(CREDIT="episode", UNIT=unit, GAMMA=1.0, STEP_REWARD=-1.0, GOAL_REWARD=0.0)
    set_constants(monkeypatch, **constants)
    packed = maze.make_mazes(1, 9, seeded()).expand(-1, 60)
    mazes = maze.draw(packed, 9, 1.0, 25, "corner", seeded(1))
    episodes, arrived = reference.strolls(mazes, 300)
    episodes = episodes._replace(seen=episodes.cells[None])  # the table is of all mazes
    walls, goal = mazes.walls[..., 0].numpy(), int(mazes.goal[0])
    away = torch.from_numpy(reference.distances(walls, goal)).flatten()
    after = away[torch.from_numpy(reference.moves(walls))]
    exact = -1.0 - after + (away if unit == "advantage" else 0)
    table, counts = reference.Table(normal(4, 9, 9)), arrived & (episodes.cells[:-1] != goal)
    before, learner = table.table.detach().clone(), learner_of(table, episodes, None, counts)
    main.learn(learner, episodes, 0.0)
    taken = learner.optimizer.taken > 0
    wanted = torch.where(taken, exact.view(4, 9, 9), before)
    assert torch.allclose(table.table, wanted, atol=1e-4) and taken.sum() > 60


class Jump:
    """Moves the Q of each (cell, action) of a table onto the mean of its targets: plain gradient
    descent on a quadratic loss, with a step size for each, by how often it was taken."""

    def __init__(self, table, taken):
        self.table, self.taken = table.table, taken

    def step(self, losses):
        (gradient,) = torch.autograd.grad(losses.mean(), self.table)
        with torch.no_grad():
            self.table -= gradient * main.HUBER * len(losses) / self.taken.clamp(min=1)
        return torch.stack([losses.mean().detach(), gradient.norm()])


@pytest.fixture
def exact_steps(monkeypatch):
    """One update a batch, with a quadratic loss; reward 1 at the goal."""
    set_constants(monkeypatch, HUBER=100.0, UPDATES=1, GAMMA=0.9, STEP_REWARD=0.0, GOAL_REWARD=1.0)


def learner_of(table, episodes, target=None, counts=None):
    """It jumps by how often each action was taken in steps that count: all but those in the goal.

    counts (T, B): if others do.
    """
    if counts is None:
        counts = episodes.cells[:-1] != episodes.mazes.goal
    taken = torch.zeros(4, table.table[0].numel())
    where = episodes.actions[counts], episodes.seen[0, :-1][counts]
    taken.index_put_(where, torch.tensor(1.0), accumulate=True)
    jump = Jump(table, taken.view_as(table.table))
    return main.Learner(table, target or copy.deepcopy(table), jump, None, seeded())


@pytest.mark.parametrize("credit, lam", HOW)
@pytest.mark.parametrize("double", [False, True])
def test_learning_moves_q_onto_the_mean_of_the_slow_targets(
    monkeypatch, exact_steps, credit, lam, double
):
    """Twice: with double DQN the target network is the online one as it was one batch ago."""
    set_constants(monkeypatch, CREDIT=credit, LAMBDA=lam, DOUBLE=double)
    lam = lam if credit == "lambda" else 0.0
    episodes, q = random_episodes()
    episodes = episodes._replace(reward=torch.rand(12, 40, generator=seeded(4)))
    table, target = reference.Table(q), reference.Table(normal(*q.shape, seed=5))
    learner = learner_of(table, episodes, target)
    place, away = episodes.seen[0, :-1], episodes.cells[:-1] != episodes.mazes.goal
    for _ in range(2):
        online, late = (x.table.detach().clone() for x in (table, target))
        along = [maze.along(x, episodes.cells) for x in (online, late if double else online)]
        slow = reference.td_targets(*along, episodes, 0.9, lam, double).float()
        main.learn(learner, episodes, 0.0)
        where = episodes.actions[away], place[away]
        total = torch.zeros(4, online[0].numel()).index_put_(where, slow[away], accumulate=True)
        taken = learner.optimizer.taken
        wanted = torch.where(taken > 0, total.view_as(online) / taken, online)
        assert torch.allclose(table.table, wanted, atol=1e-4)
        assert torch.equal(target.table, online)


CONSTANTS = [
    dict(GAMMA=1.0, STEP_REWARD=-1.0, GOAL_REWARD=0.0),
    dict(CREDIT="lambda", LAMBDA=0.0, DOUBLE=True, SHAPING="manhattan"),
    dict(CREDIT="lambda", LAMBDA=0.5, SHAPING="oracle"),
    dict(CREDIT="lambda", LAMBDA=0.9, DOUBLE=True, STEP_REWARD=-0.1),
    dict(CREDIT="lambda", LAMBDA=1.0),
]


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
def test_a_table_in_place_of_the_network_learns_the_optimal_q(monkeypatch, exact_steps, constants):
    """From random walks. With shaping, less by the potential: the best actions stay the best."""
    set_constants(monkeypatch, **constants)
    b, h, w, goal = 150, 5, 6, 8 + 6
    walls = np.zeros((h, w), bool)
    walls[[0, 1, 1, 3, 4, 3], [2, 2, 4, 4, 4, 0]] = True
    free = np.setdiff1d(np.flatnonzero(~walls), goal)
    start = torch.from_numpy(free[np.arange(b) % len(free)])
    fields = torch.from_numpy(walls)[..., None].repeat(1, 1, b)
    mazes = maze.Mazes(fields, torch.full((b,), goal), start)
    table = reference.Table(torch.zeros(4, h, w))
    episodes, _ = main.rollout(table, mazes, 20, torch.ones(b), seeded())
    learner = learner_of(table, episodes)
    for _ in range(100):
        main.learn(learner, episodes, 0.0)
    exact = reference.optimal_q(walls, goal, main.GAMMA, main.STEP_REWARD, main.GOAL_REWARD)
    phi = np.reshape(reference.potential(walls, goal, main.GAMMA, main.SHAPING), (h, w))
    found, taken = table.table.detach().numpy(), learner.optimizer.taken.numpy() > 0
    assert taken.all(0).sum() == len(free)
    assert np.abs(found - (exact - phi))[taken].max() < 1e-4
    best = np.take_along_axis(exact, found.argmax(0)[None], 0)[0]
    assert np.allclose(best.flat[free], exact.max(0).flat[free], atol=1e-4)


@pytest.mark.parametrize("syncs", [1, 3])
def test_without_lambda_credit_moves_one_cell_a_target_sync(monkeypatch, exact_steps, syncs):
    """However many updates a batch has."""
    set_constants(monkeypatch, UPDATES=3, TARGET_SYNCS=syncs)
    mazes = maze.Mazes(*(torch.cat(3 * [x], -1) for x in reference.corridor(8, 0, 7)))
    table = reference.Table(torch.eye(4)[3, :, None, None].expand(4, 1, 8) * 1e-6)
    episodes, _ = main.rollout(table, mazes, 10)
    learner = learner_of(table, episodes.select(slice(1)))  # an update learns from one of them
    for batch in (1, 2):
        main.learn(learner, episodes, 0.0)
        known = (table.table[3, 0, :7] > 0.1).tolist()
        assert known == [x > 6 - batch * syncs for x in range(7)]
        assert table.table[3, 0, 6].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("exploring", [None, 4])
def test_with_full_lambda_credit_takes_a_greedy_path_at_once(monkeypatch, exact_steps, exploring):
    """And stops at an action that is not the greedy one."""
    set_constants(monkeypatch, CREDIT="lambda", LAMBDA=1.0)
    table = reference.Table(torch.eye(4)[3, :, None, None].expand(4, 1, 8) * 1e-6)
    episodes, _ = main.rollout(table, reference.corridor(8, 0, 7), 10)
    wanted = [0.9 ** (6 - x) for x in range(7)]
    if exploring:
        table.table.data[0, 0, exploring] = 1e-3
        wanted[:exploring] = [1e-3 * 0.9 ** (exploring - x) for x in range(exploring)]
    main.learn(learner_of(table, episodes), episodes, 0.0)
    assert table.table[3, 0, :7].tolist() == pytest.approx(wanted, abs=1e-6)


def test_replayed_episodes_count_by_their_weight_and_get_new_priorities(monkeypatch, exact_steps):
    set_constants(monkeypatch, UPDATES=4, TARGET_SYNCS=2, HUBER=0.3, PRIORITY_BETA=0.4)
    mazes = reference.random_mazes(20, 6, 6, share=0.1)
    table = reference.Table(normal(4, 6, 6))
    old, new = (
        main.rollout(table, mazes, 12, torch.full((20,), 0.7), seeded(seed))[0] for seed in (1, 2)
    )
    weight = torch.rand(20, generator=seeded(3))
    memory, optimizer = reference.Memory(old, weight), reference.Captured()
    main.learn(main.Learner(table, copy.deepcopy(table), optimizer, memory, seeded()), new, 0.5)
    assert all(map(torch.equal, memory.stored[1:], (new.cells, new.actions)))
    assert memory.beta == pytest.approx(0.7)
    q = table.table.detach().flatten(1)[:, old.cells]
    error = q[:, :-1].gather(0, old.actions[None])[0]
    error = error - reference.td_targets(q, q, old, 0.9, 0.0, False).float()
    away = old.cells[:-1] != old.mazes.goal
    wanted = {(t, 19 - lane): float(error[t, lane]) for t, lane in away.nonzero().tolist()}
    assert memory.priority == pytest.approx(wanted, abs=1e-5)
    for i, losses in enumerate(optimizer.losses):
        lanes = slice(5 * i, 5 * i + 5)
        huber = torch.nn.functional.huber_loss(error, 0 * error, reduction="none", delta=0.3) / 0.3
        assert torch.allclose(losses, (huber * weight)[:, lanes][away[:, lanes]], atol=1e-5)
    assert (error.abs() > 0.3).any() and ((error.abs() < 0.3) & away).any() and i == 3


# An agent that thinks


@pytest.fixture
def precise():
    """Double precision: Adam's first step makes much of a gradient of 1e-9."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


FARTHEST = 2  # the goal, as the agent is told while it learns


def half_right(network):
    """(this network, with some noise in its weights; a walk of it)"""
    with torch.no_grad():
        network.core.q.weight += 0.3 * normal(4, main.WIDTH)
    mazes = reference.random_mazes(60, 9, 8, share=0.25)
    epsilon = torch.linspace(0, 1, 60)
    return network, main.rollout(network.eval(), mazes, 25, epsilon, seeded(), FARTHEST)[0]


def test_target_of_an_exact_thinker_is_the_change_of_the_distance_less_a_step(proved):
    """r + V(s') - V(s), V minus the steps to the goal, by scipy; 0 in the goal."""
    mazes = reference.random_mazes(60, 9, 8, share=0.25)
    episodes, _ = main.rollout(proved, mazes, 25, torch.full((60,), 0.6), seeded())
    target, counts = model.td_targets(proved, proved, episodes, main.GAMMA)
    walls = mazes.walls.permute(2, 0, 1).numpy()
    away = np.stack([*map(reference.distances, walls, mazes.goal)], -1)
    away = maze.along(torch.from_numpy(away), episodes.cells)
    assert torch.equal(counts, episodes.cells[:-1] != mazes.goal)
    counts = away[:-1] > 0
    assert torch.equal(target[counts], (-1.0 + away[:-1] - away[1:])[counts])
    assert (away[-1] == 0).sum() > 10 and len(target[counts].unique()) == 3


def test_of_alike_steps_in_a_minibatch_one_counts(proved):
    network, episodes = half_right(proved)
    counts, seen = torch.rand(25, 60, generator=seeded()) < 0.6, episodes.seen[0]
    for parts in (1, 7, 60):
        found = minibatches(counts, parts, network.kinds(episodes))
        assert len(found) == parts
        for i, (some, steps) in enumerate(found):
            lanes, kinds = range(i * 60 // parts, (i + 1) * 60 // parts), set()
            assert list(range(60)[some]) == list(lanes)
            for lane in lanes:
                for t in range(25):
                    kind = int(seen[t, lane]), int(episodes.actions[t, lane])
                    kinds |= {kind} if counts[t, lane] else set()
            learned = []
            for t, lane in (divmod(step, len(lanes)) for step in steps.tolist()):
                assert counts[t, lanes[lane]]
                learned.append((int(seen[t, lanes[lane]]), int(episodes.actions[t, lanes[lane]])))
            assert len(learned) == len(kinds) and set(learned) == kinds


def test_learning_is_what_torch_does_with_the_same_errors(monkeypatch, proved, precise):
    """Huber's loss, clipped gradients and Adam, in one minibatch after the other; thought anew by
    what the target network has become; it learns what a cell can see of that, clipped to a step."""
    set_constants(monkeypatch, UPDATES=4, TARGET_SYNCS=2, HUBER=0.2)
    network, episodes = half_right(proved)
    network.double()
    twin, clip, found, errors = copy.deepcopy(network), 0.5, [], []
    optimizer = torch.optim.Adam(twin.core.parameters(), 0.03)
    learner = main.Learner(
        network, copy.deepcopy(network), Adam(network.parameters(), 0.03, clip), None, seeded()
    )
    results = main.learn(learner, episodes, 0.0, FARTHEST)
    for lanes in (slice(0, 30), slice(30, 60)):
        part = thinks_of(twin.eval(), episodes.select(lanes), 8 + 2 * FARTHEST)
        value, counts = part.seen[1], part.cells[:-1] != part.mazes.goal
        assert ((value[1:] - value[:-1]).abs() > 1)[counts].any()
        for some, steps in minibatches(counts, 2, twin.kinds(part)):
            t, b = steps // 15, steps % 15 + some.start
            wanted = -1 + (value[t + 1, b] - value[t, b]).clamp(-1, 1).double()
            q = twin.core(model.planes_of(part.seen[0, t, b]).double())
            q = q[part.actions[t, b], torch.arange(len(t))]
            loss = torch.nn.functional.huber_loss(q, wanted, delta=0.2) / 0.2
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(twin.core.parameters(), clip)
            optimizer.step()
            found.append([loss.item(), norm.item()])
            errors += (q - wanted).abs().tolist()
    assert torch.allclose(results.t(), torch.tensor(found), rtol=1e-5)
    assert results[1].max() > clip and min(errors) < 0.1 < 0.3 < max(errors)
    assert all(map(torch.allclose, network.core.parameters(), twin.core.parameters()))
    assert torch.allclose(network.table, twin.eval().table)
    assert (part.seen != episodes.seen[..., 30:])[0, :-1][counts].any()

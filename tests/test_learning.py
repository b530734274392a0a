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
from support.adam import Adam


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


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("double", [True, False])
def test_running_out_of_time_bootstraps_and_reaching_the_goal_does_not(lam, double):
    mazes, q = reference.corridor(9, 0, 5), torch.zeros(4, 1, 9, 1)
    q[3] = 0.5
    table = reference.Table(q)
    for steps, last in ((4, -1 + 0.9 * 0.5), (5, -1.0), (8, -1.0)):
        episodes = reference.walked(mazes, q, steps)
        target = model.td_targets(table, table, episodes, 0.9, lam, double)
        assert not target.requires_grad
        assert target[min(steps, 5) - 1].item() == pytest.approx(last, abs=1e-6)


class Captured:
    """An optimizer that moves nothing and keeps the losses."""

    def __init__(self):
        self.losses = []

    def step(self, losses):
        self.losses.append(losses)
        return torch.zeros(2)


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


def learner_of(table, episodes, target=None):
    """It jumps by how often each action was taken; the steps in the goal are left out."""
    taken, away = torch.zeros(4, table.table[0].numel()), episodes.cells[:-1] != episodes.mazes.goal
    where = episodes.actions[away], episodes.seen[0, :-1][away]
    taken.index_put_(where, torch.tensor(1.0), accumulate=True)
    jump = Jump(table, taken.view_as(table.table))
    return main.Learner(table, target or copy.deepcopy(table), jump, None, seeded())


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("double", [False, True])
def test_learning_moves_q_onto_the_mean_of_the_slow_targets(monkeypatch, exact_steps, lam, double):
    """Twice: with double DQN the target network is the online one as it was one batch ago."""
    set_constants(monkeypatch, LAMBDA=lam, DOUBLE=double)
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


CREDIT = [
    dict(LAMBDA=0.0, GAMMA=1.0, STEP_REWARD=-1.0, GOAL_REWARD=0.0),
    dict(LAMBDA=0.0, DOUBLE=True, SHAPING="manhattan"),
    dict(LAMBDA=0.5, SHAPING="oracle"),
    dict(LAMBDA=0.9, DOUBLE=True, STEP_REWARD=-0.1),
    dict(LAMBDA=1.0),
]


@pytest.mark.parametrize("constants", CREDIT, ids=str)
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
    set_constants(monkeypatch, LAMBDA=1.0)
    table = reference.Table(torch.eye(4)[3, :, None, None].expand(4, 1, 8) * 1e-6)
    episodes, _ = main.rollout(table, reference.corridor(8, 0, 7), 10)
    wanted = [0.9 ** (6 - x) for x in range(7)]
    if exploring:
        table.table.data[0, 0, exploring] = 1e-3
        wanted[:exploring] = [1e-3 * 0.9 ** (exploring - x) for x in range(exploring)]
    main.learn(learner_of(table, episodes), episodes, 0.0)
    assert table.table[3, 0, :7].tolist() == pytest.approx(wanted, abs=1e-6)


class Memory:
    """A replay memory that answers with these episodes, in place of those that it is given."""

    def __init__(self, episodes, weight):
        self.episodes, self.weight, self.priority = episodes, weight, {}

    def add(self, *stored):
        self.stored = stored

    def sample(self, n, generator, beta):
        self.beta, index = beta, torch.arange(n).flip(0)
        return *self.episodes[:3], index, self.weight

    def set_priority(self, index, errors):
        self.priority.update(zip(index.tolist(), errors.t()))


def test_replayed_episodes_count_by_their_weight_and_get_new_priorities(monkeypatch, exact_steps):
    set_constants(monkeypatch, UPDATES=4, TARGET_SYNCS=2, HUBER=0.3, PRIORITY_BETA=0.4)
    mazes = reference.random_mazes(20, 6, 6, share=0.1)
    table = reference.Table(normal(4, 6, 6))
    old, new = (
        main.rollout(table, mazes, 12, torch.full((20,), 0.7), seeded(seed))[0] for seed in (1, 2)
    )
    weight = torch.rand(20, generator=seeded(3))
    memory, optimizer = Memory(old, weight), Captured()
    main.learn(main.Learner(table, copy.deepcopy(table), optimizer, memory, seeded()), new, 0.5)
    assert all(map(torch.equal, memory.stored[1:], (new.cells, new.actions)))
    assert memory.beta == pytest.approx(0.7)
    q = table.table.detach().flatten(1)[:, old.cells]
    error = q[:, :-1].gather(0, old.actions[None])[0]
    error = error - reference.td_targets(q, q, old, 0.9, 0.0, False).float()
    away = old.cells[:-1] != old.mazes.goal
    error *= away
    for lane in range(20):
        assert torch.allclose(memory.priority[19 - lane], error[:, lane], atol=1e-5)
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


def half_right(network):
    """(this network, with some noise in its weights; a walk of it)"""
    with torch.no_grad():
        network.core.q.weight += 0.3 * normal(4, main.WIDTH)
    mazes = reference.random_mazes(60, 9, 8, share=0.25)
    epsilon = torch.linspace(0, 1, 60)
    return network, main.rollout(network.eval(), mazes, 25, epsilon, seeded(), 12)[0]


def test_target_of_an_exact_thinker_is_the_change_of_the_distance_less_a_step(proved):
    """r + V(s') - V(s), V minus the steps to the goal, by scipy; 0 in the goal."""
    mazes = reference.random_mazes(60, 9, 8, share=0.25)
    episodes, _ = main.rollout(proved, mazes, 25, torch.full((60,), 0.6), seeded())
    target = model.td_targets(proved, proved, episodes, main.GAMMA)
    walls = mazes.walls.permute(2, 0, 1).numpy()
    away = np.stack([*map(reference.distances, walls, mazes.goal)], -1)
    away = maze.along(torch.from_numpy(away), episodes.cells)
    counts = away[:-1] > 0
    assert torch.equal(target[counts], (-1.0 + away[:-1] - away[1:])[counts])
    assert (away[-1] == 0).sum() > 10 and len(target[counts].unique()) == 3


def test_of_alike_steps_in_a_minibatch_one_counts(proved):
    network, episodes = half_right(proved)
    away, seen = episodes.cells[:-1] != episodes.mazes.goal, episodes.seen[0]
    for parts in (1, 7, 60):
        counts = network.counts(episodes, parts)
        assert not counts[~away].any()
        for i in range(parts):
            kinds, learned = set(), []
            for lane in range(i * 60 // parts, (i + 1) * 60 // parts):
                for t in range(25):
                    kind = int(seen[t, lane]), int(episodes.actions[t, lane])
                    kinds |= {kind} if away[t, lane] and kind[0] else set()
                    learned += [kind] if counts[t, lane] and kind[0] else []
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
    results = main.learn(learner, episodes, 0.0, 12)
    for lanes in (slice(0, 30), slice(30, 60)):
        part = thinks_of(twin.eval(), episodes.select(lanes), 12)
        value, counts = part.seen[1], twin.counts(part, 2)
        assert ((value[1:] - value[:-1]).abs() > 1)[counts].any()
        for some in (slice(0, 15), slice(15, 30)):
            t, b = counts[:, some].nonzero(as_tuple=True)
            b = b + some.start
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

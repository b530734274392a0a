"""Acting and learning, against slow simulators, definitions and torch's own optimizer."""

import copy

import numpy as np
import pytest
import reference
import torch
from reference import drawn, seeded
from scipy.stats import binomtest, chisquare

import main
import maze
import model
from support.learning import Adam, minibatches


def normal(*shape, seed=2):
    return torch.randn(shape, generator=seeded(seed))


@pytest.mark.parametrize("h, w", [(3, 11), (1, 6)])
@pytest.mark.parametrize("epsilon", [None, 0.0, 0.4, 1.0])
def test_rollout_walks_as_a_slow_simulator_does_asked_at_once_or_step_by_step(h, w, epsilon):
    b, steps, found = 30, 25, []
    mazes, q = reference.random_mazes(b, h, w), normal(4, h, w, b)
    epsilons, before = None if epsilon is None else torch.full((b,), epsilon), torch.get_rng_state()
    for agent in (reference.Table(q), reference.Stepwise(reference.Table(q))):
        episodes, sight = main.rollout(agent, mazes, steps, epsilons, seeded(3))
        assert all(map(torch.equal, episodes.mazes, mazes)) and len(episodes.actions) == steps
        assert torch.equal(sight.seen(episodes.cells), episodes.seen)
        found.append(episodes)
    assert all(map(torch.equal, found[0][1:], found[1][1:]))
    assert torch.equal(torch.get_rng_state(), before)
    best = q.argmax(0).flatten(0, 1)
    for i, (walls, goal) in enumerate(reference.one_by_one(mazes)):
        cells, actions = episodes.cells[:, i].tolist(), episodes.actions[:, i].tolist()
        assert cells[0] == mazes.start[i] and not walls.flat[cells].any()
        for here, action, there in zip(cells, actions, cells[1:]):
            assert there == reference.step(walls, goal, here, action)
            assert epsilon or action == best[here, i]


def test_random_actions_are_independent_and_as_many_as_each_epsilon_says():
    shares, number = (0.0, 0.1, 0.5, 0.9, 1.0), 500
    nowhere, q = torch.zeros(number, dtype=torch.int64), torch.zeros(4, 6, 6, number)
    mazes = maze.Mazes(torch.zeros(6, 6, number, dtype=torch.bool), nowhere + 35, nowhere)
    q[0] = 1
    epsilon = torch.tensor(shares).repeat_interleave(number // 5)
    actions = reference.walked(mazes, q, 100, epsilon, seeded()).actions
    for part, share in zip(actions.chunk(5, 1), shares):
        assert binomtest(int((part != 0).sum()), part.numel(), share * 0.75).pvalue > 1e-6
    one_after_another = (part[:-1] * 4 + part[1:])[::2]
    side_by_side = (part[:, :-1] * 4 + part[:, 1:])[:, ::2]
    for pairs in one_after_another, side_by_side:
        assert chisquare(np.bincount(pairs.flatten(), minlength=16)).pvalue > 1e-6


FOUND = [
    dict(GAMMA=0.9, SHAPING="manhattan", STEP_REWARD=-0.1, GOAL_REWARD=1.0),
    dict(GAMMA=1.0),
    dict(GAMMA=1.0, UNIT="advantage"),
    dict(GAMMA=1.0, UNIT="each step pays something else"),
]


@pytest.mark.parametrize("own", FOUND, ids=str)
@pytest.mark.parametrize("perfect", [True, False])
def test_targets_from_the_episode_are_the_best_ways_over_its_own_moves(perfect, own):
    """It asks no network; steps count whose values the episode found. Some walks do not arrive."""
    vars(main).update(own)
    gamma, less_v, clipped = main.GAMMA, main.UNIT == "advantage", 0
    mazes = drawn(80) if perfect else reference.random_mazes(80, 5, 6, share=0.1)
    q, always = torch.zeros(4, *mazes.walls.shape), torch.ones(80)
    episodes = reference.walked(mazes, q, 80, always, seeded(3))
    assert 0.2 < (episodes.cells[-1] == mazes.goal).float().mean() < 0.9
    if main.UNIT.startswith("each"):
        episodes = episodes._replace(reward=-torch.rand(80, 80, generator=seeded(4)))
    found = model.td_targets(None, None, episodes, gamma, "episode", 0.9, False, less_v)
    for b, goal in enumerate(mazes.goal.tolist()):
        cells, reward = episodes.cells[:, b].tolist(), episodes.reward[:, b].tolist()
        known = reference.own_values(cells, reward, goal, gamma)
        for t, (here, there) in enumerate(zip(cells, cells[1:])):
            wanted, counts = found[0][t, b].item(), found[1][t, b].item()
            assert counts == (here != goal and there in known)
            if counts and less_v:
                change = known[there] - known[here]
                clipped += abs(change) > 1
                assert wanted == pytest.approx(-1 + min(1, max(-1, change)), abs=1e-5)
            elif counts:
                assert wanted == pytest.approx(reward[t] + gamma * known[there], abs=1e-4)
    assert found[0].isfinite().all() and (clipped > 10) == (less_v and not perfect)


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


CONSTANTS = [
    dict(GAMMA=1.0, STEP_REWARD=-1.0, GOAL_REWARD=0.0),
    dict(CREDIT="lambda", LAMBDA=0.0, DOUBLE=True, SHAPING="manhattan"),
    dict(CREDIT="lambda", LAMBDA=0.5, SHAPING="oracle"),
    dict(CREDIT="lambda", LAMBDA=1.0, DOUBLE=True, STEP_REWARD=-0.1),
]


@pytest.mark.parametrize("own", CONSTANTS, ids=str)
def test_a_table_in_place_of_the_network_learns_the_optimal_q(own):
    """From random walks. With shaping, less by the potential: the best actions stay the best."""
    base = dict(HUBER=100.0, UPDATES=1, GAMMA=0.9, STEP_REWARD=0.0, GOAL_REWARD=1.0)
    vars(main).update(base | own)
    h, w, goal = 5, 6, 8 + 6
    walls = np.zeros((h, w), bool)
    walls[[0, 1, 1, 3, 4, 3], [2, 2, 4, 4, 4, 0]] = True
    free = np.setdiff1d(np.flatnonzero(~walls), goal)
    start = torch.from_numpy(free[np.arange(150) % len(free)])
    fields = torch.from_numpy(walls)[..., None].repeat(1, 1, 150)
    mazes = maze.Mazes(fields, torch.full((150,), goal), start)
    table = reference.Table(torch.zeros(4, h, w))
    episodes, _ = main.rollout(table, mazes, 20, torch.ones(150), seeded())
    counts, taken = episodes.cells[:-1] != goal, torch.zeros(4, h * w)
    where = episodes.actions[counts], episodes.cells[:-1][counts]
    taken = taken.index_put(where, torch.tensor(1.0), accumulate=True).view(4, h, w)
    jump = Jump(table, taken)
    learner = main.Learner(table, copy.deepcopy(table), jump, None, seeded())
    for _ in range(100):
        main.learn(learner, episodes, 0.0)
    exact = reference.optimal_q(walls, goal, main.GAMMA, main.STEP_REWARD, main.GOAL_REWARD)
    phi = np.reshape(reference.potential(walls, goal, main.GAMMA, main.SHAPING), (h, w))
    found, was_taken = table.table.detach().numpy(), taken.numpy() > 0
    assert was_taken.all(0).sum() == len(free)
    assert np.abs(found - (exact - phi))[was_taken].max() < 1e-4


def test_learning_is_what_torch_does_with_the_same_errors(proved):
    """Huber's loss, clipped gradients and Adam, in one minibatch after the other; thought anew by
    what the target network has become; it learns what a cell can see of that, clipped to a step.

    In double precision: Adam's first step makes much of a gradient of 1e-9."""
    vars(main).update(UPDATES=4, TARGET_SYNCS=2, HUBER=0.2)
    farthest = 2  # the goal, as the agent is told while it learns
    with torch.no_grad():
        proved.core.q.weight += 0.3 * normal(4, main.WIDTH)
    mazes, epsilon = reference.random_mazes(60, 9, 8, share=0.25), torch.linspace(0, 1, 60)
    episodes, _ = main.rollout(proved.eval(), mazes, 25, epsilon, seeded(), farthest)
    network, twin = (copy.deepcopy(proved).double() for _ in range(2))
    optimizer, clip = torch.optim.Adam(twin.core.parameters(), 0.03), 0.5
    torch.set_default_dtype(torch.float64)
    try:
        ours = Adam(network.parameters(), 0.03, clip)
        learner = main.Learner(network, copy.deepcopy(network), ours, None, seeded())
        results, found, errors = main.learn(learner, episodes, 0.0, farthest), [], []
        for lanes in (slice(0, 30), slice(30, 60)):
            part, most = episodes.select(lanes), 8 + 2 * farthest
            thought = model.think(twin.eval().change, *part.mazes[:2], most)
            value, view = (maze.along(x, part.cells) for x in thought)
            seen = torch.stack([view, value, torch.cat([value[1:], value[-1:]])])
            counts = part.cells[:-1] != part.mazes.goal
            assert ((value[1:] - value[:-1]).abs() > 1)[counts].any()
            kinds = twin.kinds(part._replace(seen=seen))
            same = torch.stack([kinds, view[:-1], part.actions]).flatten(1)  # kind: view and action
            numbers = [x.unique(dim=1).shape[1] for x in (same, same[:1], same[1:])]
            assert len({*numbers}) == 1
            for some, steps in minibatches(counts, 2, kinds):
                t, b = steps // 15, steps % 15 + some.start
                wanted = -1 + (value[t + 1, b] - value[t, b]).clamp(-1, 1).double()
                q = twin.core(model.planes_of(view[t, b]).double())
                q = q[part.actions[t, b], torch.arange(len(t))]
                loss = torch.nn.functional.huber_loss(q, wanted, delta=0.2) / 0.2
                optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(twin.core.parameters(), clip)
                optimizer.step()
                found.append([loss.item(), norm.item()])
                errors += (q - wanted).abs().tolist()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(results.t(), torch.tensor(found).double(), rtol=1e-5)
    assert results[1].max() > clip and min(errors) < 0.1 < 0.3 < max(errors)
    assert all(map(torch.allclose, network.core.parameters(), twin.core.parameters()))
    assert torch.allclose(network.table, twin.eval().table)
    assert (view != episodes.seen[0, :, 30:])[:-1][counts].any()

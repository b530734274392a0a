"""Agents that see a window of the maze, against windows cut out slowly."""

import itertools

import numpy as np
import pytest
import reference
import torch
from reference import seeded

import main
import model
from support.agents import build, recall

MEMORIES = "none", "trail", "gru"


def cut_out(walls, cell, radius, outside=True):
    """The cells around a cell of (H, W), out of a padded copy: (2 radius + 1, 2 radius + 1)."""
    (y, x), wide = divmod(int(cell), walls.shape[1]), 2 * radius + 1
    return np.pad(walls, radius, constant_values=outside)[y : y + wide, x : x + wide]


def agent_with(memory, radius=1, compass=True, seed=0):
    """An agent that doesn't do the same everywhere."""
    torch.manual_seed(seed)
    own = dict(VISION=radius, MEMORY=memory, COMPASS=compass, WIDTH=16)
    agent = build(main.config() | main.AGENTS["window"] | own)
    for weights in agent.parameters():
        torch.nn.init.normal_(weights)
    return agent.eval()


def explored(memory, epsilon=0.3, **how):
    """(an agent, what 30 episodes of it saw and did, its sight)"""
    agent, mazes = agent_with(memory, **how), reference.random_mazes(30, 7, 6, share=0.2)
    return agent, *main.rollout(agent, mazes, 20, torch.full((30,), epsilon), seeded(3))


@pytest.mark.parametrize("memory", MEMORIES)
def test_it_acts_by_the_q_that_it_learns_from(memory):
    """Seen again, by itself or among other episodes, a way looks the same."""
    agent, episodes, sight = explored(memory, epsilon=0.0)
    q = agent.q(episodes)
    assert q.shape == (4, 21, 30) and q.requires_grad and torch.allclose(q, sight.q(), atol=1e-5)
    taken = q[:, :-1].gather(0, episodes.actions[None])[0]
    assert torch.allclose(taken, q[:, :-1].amax(0), atol=1e-4)
    assert len(episodes.actions.unique()) > 2
    steps = torch.randint(600, (50,), generator=seeded())
    assert torch.allclose(agent.q(episodes, steps), q.flatten(1)[:, steps], atol=1e-5)
    few = episodes.select(slice(4, 9))
    assert torch.equal(recall(agent, few).seen, episodes.seen[..., 4:9])
    assert torch.allclose(agent.q(few), q[..., 4:9], atol=1e-4)


@pytest.mark.parametrize("memory, compass", [("none", True), ("trail", True), ("trail", False)])
def test_it_sees_the_window_the_goal_and_the_way_as_the_crow_flies(memory, compass):
    radius = 2 if memory == "none" else 1
    _, episodes, _ = explored(memory, radius=radius, compass=compass)
    for b in range(30):
        walls, goal = episodes.mazes.walls[..., b].numpy(), int(episodes.mazes.goal[b])
        times, last, there = np.zeros((7, 6)), np.full((7, 6), -np.inf), np.zeros((7, 6))
        there.flat[goal] = 1
        for t, cell in enumerate(episodes.cells[:, b].tolist()):
            times.flat[cell] += 1
            last.flat[cell] = t
            planes = [cut_out(walls, cell, radius), cut_out(there, cell, radius, 0)]
            if memory == "trail":  # how often, and how lately
                lately = np.maximum(0, 1 - np.log(1 + t - last) / 5)
                planes.append(cut_out(np.log(1 + times) / 2, cell, radius, 0))
                planes.append(cut_out(lately, cell, radius, 0))
            way = np.array([goal // 6 - cell // 6, goal % 6 - cell % 6]) * compass
            way = [way / 16, way / max(1, np.hypot(*way))]
            wanted = np.concatenate([np.ravel(x) for x in (*planes, *way)])
            assert episodes.seen[:, t, b].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "memory, credit, lam", [("none", "step", 0.7), ("trail", "lambda", 0.8), ("gru", "lambda", 0.0)]
)
def test_targets_are_those_of_the_definition_within_the_limits(memory, credit, lam, double):
    """With the potential of the next cell, Q is less than a return by that much."""
    own = dict(STEP_REWARD=0.0, GOAL_REWARD=1.0, GAMMA=0.98, SHAPING="manhattan", NOVELTY=0.1)
    vars(main).update(own)
    online, target = agent_with(memory), agent_with(memory, seed=1)
    mazes = reference.random_mazes(30, 7, 6, share=0.2)
    episodes, _ = main.rollout(online, mazes, 20, torch.full((30,), 0.3), seeded(3))
    target.limits = 0, 1 + 0.1 * main.MAX_EP_LENGTH
    q, late = (agent.q(episodes).detach() for agent in (online, target))
    phi = episodes.potential
    bounded = (late + phi).clamp(0, 1 + 0.1 * main.MAX_EP_LENGTH) - phi
    assert (bounded < late)[1:].any() and (bounded > late)[1:].any() and phi.any()
    fast, counts = model.td_targets(online, target, episodes, 0.98, credit, lam, double)
    lam = lam if credit == "lambda" else 0.0
    slow = reference.td_targets(q, bounded, episodes, 0.98, lam, double)
    assert torch.equal(counts, episodes.cells[:-1] != mazes.goal)
    assert torch.allclose(fast[counts], slow[counts].float(), atol=1e-4)
    assert (episodes.cells[-1] == mazes.goal).any()


@pytest.mark.parametrize("step, goal, novelty", [(0, 1, 0), (-0.1, 1, 0), (0, 1, 0.2), (-1, 0, 2)])
def test_limits_of_a_window_are_the_least_and_the_greatest_return(step, goal, novelty):
    """Of an episode that never arrives, or does, and that finds something new, or does not."""
    own = dict(VISION=1, STEP_REWARD=step, GOAL_REWARD=goal, NOVELTY=novelty, MAX_EP_LENGTH=10)
    least, most = build(main.config() | own).limits
    kinds = itertools.product(range(11), (0, 1), (0, 1))
    returns = [n * (step + novelty * new) + goal * arrives for n, new, arrives in kinds]
    assert (least, most) == pytest.approx((min(returns), max(returns)))

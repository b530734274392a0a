import numpy as np
import pytest
import reference
import torch
from reference import seeded
from scipy.stats import chisquare

import main
import maze
from support.learning import Adam, Replay, minibatches


def test_step_on_no_losses_at_all_changes_nothing():
    weights = torch.ones(3, requires_grad=True)
    assert Adam([weights], 0.1).step(weights[:0] * 2).tolist() == [0, 0]
    assert weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("b, number", [(12, 4), (13, 5), (5, 5), (7, 1)])
def test_minibatches_hold_each_step_that_counts_once_or_one_of_each_kind(b, number):
    counts = torch.rand(30, b, generator=seeded()) < 0.5
    kinds = torch.randint(9, (30, b), generator=seeded(1), dtype=torch.int32)
    every, x = minibatches(counts, number), torch.arange(30 * b).view(30, b)
    steps = torch.cat([x[:, part].flatten()[steps] for part, steps in every])
    assert steps.sort()[0].tolist() == x[counts].tolist()
    sizes = [len(range(b)[part]) for part, _ in every]
    assert len(sizes) == number and sum(sizes) == b and max(sizes) - min(sizes) <= 1
    for (part, steps), (same, some) in zip(every, minibatches(counts, number, kinds), strict=True):
        own = kinds[:, part].flatten()
        assert part == same and set(some.tolist()) < set(steps.tolist())
        assert sorted(own[some].tolist()) == sorted(set(own[steps].tolist()))
    assert sum(len(steps) for _, steps in minibatches(counts & False, number, kinds)) == 0


def numbered(first, n):
    """n mazes, cells and actions of random content, the number of each in its first two cells."""
    mazes, number = reference.random_mazes(n, 7, 7, seed=first), torch.arange(first, first + n)
    cells = torch.randint(49, (6, n), generator=seeded(first))
    cells[0], cells[1] = number // 49, number % 49
    return mazes._replace(start=cells[0]), cells, torch.randint(4, (5, n), generator=seeded(first))


def learned(replay, index, error):
    """Tells the memory of TD errors (T, n), in an order of its own; it is not told of zeros."""
    steps = torch.randperm(error.numel(), generator=seeded())
    steps = steps[error.flatten()[steps] != 0]
    replay.set_priority(index, steps, error.flatten()[steps])


def numbers(cells):
    return (cells[0] * 49 + cells[1]).tolist()


@pytest.mark.parametrize("sizes", [[20, 20, 20], [50, 1], [7] * 16])
def test_replay_keeps_the_newest_episodes_as_they_were(sizes):
    replay, first, (mazes, cells, actions) = Replay(50, 7, 5, 0.0, "cpu"), 0, numbered(0, 120)
    for n in sizes:
        some, first = slice(first, first + n), first + n
        replay.add(mazes.select(some), cells[:, some], actions[:, some])
        found, way, taken, index, _ = replay.sample(1500, seeded())
        number = torch.tensor(numbers(way))
        assert set(number.tolist()) == set(range(max(0, first - 50), first))
        assert torch.equal(number % 50, index) and torch.equal(way, cells[:, number])
        assert all(map(torch.equal, (*found, taken), (*mazes.select(number), actions[:, number])))


@pytest.mark.parametrize("alpha, beta", [(0.6, 0.0), (0.6, 0.4), (1.0, 1.0), ("off", 1.0)])
def test_replay_draws_by_the_power_of_the_priority_and_its_weights_make_up_for_it(alpha, beta):
    if alpha == "off":
        asked = dict(REPLAY="uniform", REPLAY_SIZE=50, GRID=7, MAX_EP_LENGTH=5)
        replay, alpha = Replay.of(main.config() | asked, "cpu"), 0.0
    else:
        replay = Replay(50, 7, 5, alpha, "cpu")
    error = torch.randn(5, 50, generator=seeded()) * torch.rand(50, generator=seeded())
    error[torch.rand(5, 50, generator=seeded(2)) < 0.3] = 0
    replay.add(*numbered(0, 50))
    for part in torch.randperm(50, generator=seeded()).chunk(3):
        learned(replay, part, error[:, part])
    _, cells, _, index, weight = replay.sample(50_000, seeded(), beta)
    assert numbers(cells) == index.tolist()
    size = error.abs().double().numpy()
    share = (0.9 * size.max(0) + 0.1 * size.mean(0) + 1e-6) ** alpha
    share /= share.sum()
    assert chisquare(np.bincount(index, minlength=50), 50_000 * share).pvalue > 1e-6
    wanted = (50 * share) ** -beta
    assert weight.numpy() == pytest.approx(wanted[index] / wanted.max(), rel=1e-3)
    few = torch.stack([replay.sample(4, seeded(seed), beta)[4] for seed in range(20)])
    assert (few.amax(1) == 1).all() and few.min() > 0  # over the greatest in the sample


def test_new_episodes_come_with_the_top_priority():
    replay, error = Replay(50, 7, 5, 1.0, "cpu"), torch.rand(5, 20, generator=seeded())
    replay.add(*numbered(0, 20))
    error[:, 3] = 7
    learned(replay, torch.arange(20), error)
    replay.add(*numbered(20, 25))
    drawn = np.bincount(replay.sample(50_000, seeded())[3], minlength=45)
    assert chisquare(drawn[[3, *range(20, 45)]]).pvalue > 1e-6
    assert 2 * np.delete(drawn[:20], 3).max() < drawn[20:].min()


def test_replay_of_large_mazes_keeps_large_cells():
    replay = Replay(4, 256, 2, 0.0, "cpu")
    cells = torch.tensor([[65_535, 40_000], [65_534, 32_768], [0, 1]])
    mazes = maze.Mazes(torch.zeros(256, 256, 2, dtype=torch.bool), cells[0], cells[0])
    replay.add(mazes, cells, torch.zeros(2, 2, dtype=torch.int64))
    drawn, seen, _, index, _ = replay.sample(20, seeded())
    assert torch.equal(seen, cells[:, index]) and torch.equal(drawn.goal, seen[0])

import copy
import hashlib
import io
import math
import os
import pickle

import numpy as np
import pytest
import reference
import torch
from scipy.stats import chisquare

import main
import maze
import model
from support import checkpoint, mapper, reward
from support.adam import Adam
from support.agents import build
from support.checkpoint import CHECKPOINT_FORMAT, load_checkpoint, save_checkpoint
from support.errors import UserError
from support.replay import Replay

CORES = list(model.CORES)
SHAPES = [(7, 7), (3, 9), (1, 8), (9, 2)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def precise():
    """Double precision: no value is rounded one way here and the other way there."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def thinker(name, seed=0, gamma=0.5, looks=0, kinds=2, width=8):
    """A network with random weights, to which most cells are worth something."""
    torch.manual_seed(seed)
    return lively(model.Thinker(name, width, gamma, looks, kinds))


@torch.no_grad()
def lively(network):
    """The last layer begins with zeros. Now Q is spread around 0.4, over patches of all kinds, and
    p of a VIN around 0.5, the ends included."""
    core, side = network.core, 2 * network.core.radius + 1
    vin = isinstance(core, model.VIN)
    last, mean, spread = (core.p, 0.0, 2.5) if vin else (core.q, 0.4, 0.3)
    last.weight.normal_()
    kind = torch.randint(3, (side, side, 500), generator=seeded())
    planes = [(kind == one).to(last.weight.dtype) for one in range(1, network.kinds)]
    x = torch.stack([*planes, torch.rand(side, side, 500, generator=seeded()) * (kind == 0)])
    q = core.p(core.hidden(x[:-1].flatten(0, 2).t()).relu()).t() if vin else core(x)
    scale = spread / q.std(1)
    last.weight *= scale[:, None]
    last.bias.copy_(mean - (q.mean(1) - last.bias) * scale)
    return network


def shifted(network, seed, scale=0.05):
    """A copy with other weights, not far from these."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for x in other.parameters():
            x += scale * torch.randn(x.shape, generator=seeded(seed), dtype=x.dtype)
    return other


def exact(gamma=0.5, radius=1, looks=0):
    return reference.thinker_of(reference.Exact(gamma, radius), gamma, looks)


def exact_vin(gamma=0.5, kinds=2):
    return reference.make_exact(thinker("vin", gamma=gamma, kinds=kinds))


def worth(thoughts):
    """What the cells are worth, without the rim: (H, W, B)."""
    r = thoughts.thinker.core.radius
    return thoughts.worth.view(thoughts.shape)[r : thoughts.shape[0] - r, r : thoughts.shape[1] - r]


def with_value(n):
    """The same of one maze (H, W), as in reference.py."""
    return {tuple(cell): n[tuple(cell)].item() for cell in (n > model.NO_VALUE).nonzero().tolist()}


def steps_to_goal(mazes):
    """By scipy: (H, W, B)."""
    walls = np.moveaxis(mazes.walls.numpy(), -1, 0)
    return torch.from_numpy(np.stack([*map(reference.distances, walls, mazes.goal)], -1))


def exact_worth(mazes):
    d = steps_to_goal(mazes)
    n = torch.where(d < 0, model.NO_VALUE, model.GRAIN * (1.0 - d))
    return n.masked_fill(mazes.walls, model.NO_CELL).to(torch.get_default_dtype())


def random_kinds(b, h, w):
    """(cells that are open, walls or unknown (H, W, B), goals that are not walls)"""
    mazes = reference.random_mazes(b, h, w, share=0.25)
    unknown = ~mazes.walls & (torch.rand(h, w, b, generator=seeded(9)) < 0.3)
    return mazes.walls.int() + 2 * unknown, mazes.goal


def random_episodes(b=40, h=6, w=6, steps=12, epsilon=0.5):
    """(episodes that walk in random mazes, the Q in which they are partly greedy)"""
    mazes = reference.random_mazes(b, h, w, share=0.1)
    q = torch.randn(4, h, w, b, generator=seeded(2), dtype=torch.float32)
    episodes = reference.walked(mazes, q, steps, torch.full((b,), epsilon), seeded(3))
    assert b < 40 or 5 < (episodes.cells[-1] == mazes.goal).sum() < b - 5
    return episodes, q


# Thinking


@pytest.mark.parametrize("h, w", SHAPES)
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("kinds", [2, 3])
def test_thinking_finds_what_a_slow_loop_over_the_cells_finds(precise, name, h, w, kinds):
    """And no cell, if it looked once more, would be worth more."""
    batch = 200 // (h * w)
    network, (kind, goal), several = (
        thinker(name, gamma=0.8, kinds=kinds),
        random_kinds(batch, h, w),
        set(),
    )
    kind = kind if kinds == 3 else kind % 2
    thoughts = model.Thoughts(network, kind, goal).settle()
    for b in range(batch):
        one, n = kind[..., b].numpy(), with_value(worth(thoughts)[..., b])
        assert n == reference.think(network, 0.8, one, goal[b])
        cells = reference.open_cells(one, divmod(int(goal[b]), w))
        assert not reference.rises(network, 0.8, one, n, cells)
        for y, x in cells:
            seen = reference.look(network, 0.8, one, n, y, x)
            assert not seen or thoughts.q[:, y, x, b].tolist() == pytest.approx(seen[0], abs=1e-9)
        several |= set(n.values())
    assert len(several) > (1 if h == 1 else 5)


def test_the_random_networks_of_these_tests_find_some_cells_worth_as_much_as_the_goal(precise):
    for name in CORES:
        thoughts = thinker(name).think(reference.random_mazes(100, 8, 8))
        best = thoughts.q.amax(0)[worth(thoughts) > model.NO_VALUE]
        assert (best < 0.5).sum() > 20
        assert name == "vin" or (best > 1).sum() > 20
        assert ((worth(thoughts) > model.NO_VALUE).sum((0, 1)) > 20).any()


@pytest.mark.parametrize("h, w", SHAPES)
def test_what_a_vin_finds_does_not_hang_on_the_order_in_which_cells_look(precise, h, w):
    network, mazes = thinker("vin"), reference.random_mazes(4, h, w)
    n = worth(network.think(mazes))
    for b in range(4):
        walls, chance = mazes.walls[..., b].numpy(), np.random.default_rng(b)
        slow = reference.think_in_any_order(network, 0.5, walls, mazes.goal[b], chance)
        assert with_value(n[..., b]) == slow


EXACT = dict(vin=exact_vin, near=exact, far=lambda gamma: exact(gamma, radius=2))


@pytest.mark.parametrize("gamma", [0.5, 0.98])
@pytest.mark.parametrize("h, w", [(9, 9), (4, 13), (1, 5)])
@pytest.mark.parametrize("kind", EXACT)
def test_a_core_that_knows_the_backup_finds_the_distances_and_the_optimal_q(kind, h, w, gamma):
    mazes = reference.random_mazes(12, h, w)
    thoughts = EXACT[kind](gamma).think(mazes)
    assert torch.equal(worth(thoughts), exact_worth(mazes))
    d = steps_to_goal(mazes)
    assert (d > 0).sum() > 20
    for b, goal in enumerate(mazes.goal.tolist()):
        q = torch.from_numpy(reference.optimal_q(mazes.walls[..., b].numpy(), goal, gamma))
        q, reached = q[:, d[..., b] > 0], d[..., b] > 0
        assert torch.allclose(thoughts.q_values()[..., b][:, reached].double(), q, atol=1e-6)
        best = q.amax(0) / gamma  # m is the worth of the best neighbour
        assert torch.allclose(thoughts.q[..., b][:, reached].double(), q / best, atol=1e-6)
    assert not thoughts.q_values()[:, d < 0].any()
    assert not thoughts.q[:, mazes.walls | (d == 0)].any()


@pytest.mark.parametrize("kind, gamma", [("vin", 0.5), ("near", 0.98), ("far", 0.1)])
def test_a_way_of_2500_steps_is_no_farther_than_others(kind, gamma):
    walls = torch.from_numpy(reference.serpentine(73))[..., None]
    mazes = maze.Mazes(walls, torch.tensor([0]), torch.tensor([73 * 73 - 1]))
    network, d = EXACT[kind](gamma), steps_to_goal(mazes)
    assert d.max() > 2500 and d[-1, -1] == d.max()
    thoughts = network.think(mazes)
    assert torch.equal(worth(thoughts), exact_worth(mazes))
    assert (thoughts.q.amax(0)[d > 0] - gamma).abs().max() < 1e-6
    assert torch.equal(thoughts.steps_away(), torch.where(d < 0, torch.inf, d))
    assert torch.allclose(1 + thoughts.q_steps().amin(0)[d > 0], d[d > 0].float(), atol=1e-3)
    cells = main.rollout(network, mazes, int(d.max()))[0].cells[:, 0]
    assert torch.equal(d.flatten(0, 1)[cells, 0], torch.arange(int(d.max()), -1, -1))


@pytest.mark.parametrize("looks", [0, 1, 3, 10, 40])
@pytest.mark.parametrize("name", CORES)
def test_q_is_in_the_unit_of_the_look_that_found_it(monkeypatch, name, looks):
    """Also where thinking is cut short, and values have risen since."""
    network, mazes = thinker(name), reference.random_mazes(50, 8, 8)
    network.looks, look, found = looks, model.Thoughts.look, {}

    def remember(self, at, *rest):
        q, m = network.look(self.patches(at))
        found.update(zip(at.tolist(), (q * (m * network.log2_unit).exp2()).t()))
        return look(self, at, *rest)

    monkeypatch.setattr(model.Thoughts, "look", remember)
    thoughts = network.think(mazes)
    q = torch.zeros(4, len(thoughts.worth))
    q[:, list(found)] = torch.stack([*found.values()], 1)
    assert torch.allclose(thoughts.q_values(), thoughts.inside(q), rtol=1e-4, atol=1e-12)
    assert thoughts.q_values().count_nonzero() > 50


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 7, 1000])
@pytest.mark.parametrize("radius", [1, 2])
def test_with_k_looks_values_reach_the_cells_within_k_steps(looks, radius):
    mazes = reference.random_mazes(20, 8, 9, share=0.2)
    thoughts, d = exact(radius=radius, looks=looks).think(mazes), steps_to_goal(mazes)
    farthest = looks or d.max()
    assert d.max() > 10
    wanted = torch.where(mazes.walls | (d <= farthest), exact_worth(mazes), model.NO_VALUE)
    assert torch.equal(worth(thoughts), wanted)
    assert not thoughts.q_values()[:, d > farthest].any()
    near = (d > 0) & (d <= farthest)
    assert torch.allclose(thoughts.q.amax(0)[near], torch.tensor(0.5))


@pytest.mark.parametrize("name", CORES)
def test_what_is_thought_of_a_maze_has_nothing_to_do_with_the_rest_of_the_batch(precise, name):
    """Also where there are so many that cells look in several blocks."""
    network, mazes = thinker(name), reference.random_mazes(300, 8, 7)
    thoughts = network.think(mazes)
    for part in torch.tensor([7, 2, 2]), torch.tensor([299]), slice(100, 180):
        few = network.think(mazes.select(part))
        assert torch.equal(worth(few), worth(thoughts)[..., part])
        assert torch.allclose(few.q, thoughts.q[..., part], atol=1e-9)
        assert torch.allclose(few.q_values(), thoughts.q_values()[..., part], atol=1e-9)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("h, w", [(8, 8), (3, 14), (21, 5)])
def test_walls_and_what_lies_outside_hold_no_value(name, h, w):
    network, mazes = thinker(name), reference.random_mazes(9, h, w)
    thoughts, r, lane = network.think(mazes), network.core.radius, torch.arange(9)
    assert thoughts.q.shape == (4, h, w, 9) and thoughts.q.isfinite().all()
    whole = thoughts.worth.view(h + 2 * r, w + 2 * r, 9)
    rim = np.pad(np.zeros((h, w), bool), r, constant_values=True)
    assert (whole[torch.from_numpy(rim)] == model.NO_CELL).all()
    assert torch.equal(worth(thoughts) == model.NO_CELL, mazes.walls)
    assert (worth(thoughts)[~mazes.walls] >= model.NO_VALUE).all()
    assert (worth(thoughts).flatten(0, 1)[mazes.goal, lane] == model.GRAIN).all()
    assert whole.max() == model.GRAIN
    at_goal = torch.zeros(h * w, 9).scatter(0, mazes.goal[None], 1).view(h, w, 9) > 0
    assert not thoughts.q[:, mazes.walls | at_goal].any()


@pytest.mark.parametrize("name", CORES)
def test_place_in_the_maze_is_not_seen_by_one_that_thinks(precise, name):
    """A maze in the middle of a wall looks the same from inside."""
    network, mazes = thinker(name), reference.random_mazes(20, 7, 6)
    walls = torch.ones(12, 11, 20, dtype=torch.bool)
    walls[3:10, 4:10] = mazes.walls

    def move(cells):
        return (cells // 6 + 3) * 11 + cells % 6 + 4

    moved = maze.Mazes(walls, move(mazes.goal), move(mazes.start))
    here, there = network.think(mazes), network.think(moved)
    assert torch.equal(worth(there)[3:10, 4:10], worth(here))
    assert torch.allclose(there.q[:, 3:10, 4:10], here.q, atol=1e-9)


@pytest.mark.parametrize("name", CORES)
def test_network_looks_at_walls_and_goal_and_not_at_the_start(name):
    network, mazes = thinker(name), reference.random_mazes(20, 8, 8, share=0.2)
    q = network.think(mazes).q
    assert not torch.allclose(network.think(mazes._replace(walls=mazes.walls.flip(0))).q, q)
    assert not torch.allclose(network.think(mazes._replace(goal=mazes.goal.flip(0))).q, q)
    assert torch.equal(network.think(mazes._replace(start=mazes.goal)).q, q)


def test_a_goal_that_is_walled_in_is_worth_something_to_itself_alone():
    walls = torch.ones(3, 3, 2, dtype=torch.bool)
    walls[1, 1] = walls[0, 0, 1] = False
    thoughts = exact().think(maze.Mazes(walls, torch.tensor([4, 4]), torch.tensor([4, 0])))
    assert [with_value(worth(thoughts)[..., b]) for b in (0, 1)] == [{(1, 1): reference.GRAIN}] * 2
    assert thoughts.q.isfinite().all() and not thoughts.q_values().any()


@pytest.mark.parametrize("agent", [dict(), dict(VISION=2, MEMORY="map")])
def test_agent_thinks_as_its_settings_say(agent):
    """How often it looks, with what core, how wide and with what discount."""
    mazes = reference.corridor(20, 0, 19)
    for looks, gamma, width in ((4, 0.5, 8), (9, 0.7, 5)):
        settings = dict(MODEL="vin", LOOKS=looks, GAMMA=gamma, WIDTH=width, GRID=16) | agent
        network = build(main.config() | settings)
        thinks = getattr(network, "thinker", network)
        reference.make_exact(thinks)
        q = thinks.think(mazes).q_values()[3, 0, :, 0]
        assert q[20 - looks].item() == pytest.approx(gamma ** (looks - 2), rel=1e-4)
        assert thinks.looks == looks and len(thinks.core.hidden.bias) == width


# Cores


def at_one_cell(network, cell, walls, n):
    """Q and m in the same cell of each maze, where the cells are worth n (H, W, B): (5, B)."""
    mazes = maze.Mazes(walls, torch.zeros(walls.shape[2], dtype=torch.int64), None)
    thoughts = model.Thoughts(network, mazes.walls, mazes.goal)
    worth(thoughts)[:] = n.masked_fill(walls, model.NO_CELL)
    q, m = network.look(thoughts.patches(thoughts.index(torch.full((walls.shape[2],), cell))))
    return torch.cat([q.detach(), m[None]])


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("h, w, cell", [(9, 7, 31), (9, 7, 0), (7, 9, 62), (5, 8, 15)])
def test_core_sees_all_of_its_patch_and_nothing_else(precise, name, h, w, cell):
    """But that a VIN knows which values count: that of the cell itself and of its neighbours."""
    network, cells = thinker(name, width=32), h * w
    if name == "vin":
        network.core.p.weight.data *= 0.1  # no p is 0 or 1: one of two values would not count
    walls = torch.rand(h, w, 1, generator=seeded(1)).expand(-1, -1, cells + 1) < 0.2
    walls.view(cells, -1)[cell] = False
    near = torch.from_numpy(reference.in_windows((h, w), [cell], network.core.radius)).flatten()
    n = -torch.randint(8, (h, w, 1), generator=seeded(2)).expand(-1, -1, cells + 1).int()
    one = torch.eye(cells, cells + 1, dtype=torch.bool).view(h, w, -1)  # none in the last maze

    def unlike(found):
        return ((found - found[:, -1:]).abs() > 1e-9).any(0)[:-1]

    others = torch.arange(cells) != cell
    assert torch.equal(unlike(at_one_cell(network, cell, walls ^ one, n))[others], near[others])
    changed = unlike(at_one_cell(network, cell, walls, n - one.int()))
    if name == "vin":
        near = torch.zeros(h, w, dtype=torch.bool)
        for dy, dx in [(0, 0), *reference.STEPS]:
            if reference.kind_at(np.zeros((h, w)), cell // w + dy, cell % w + dx) == 0:
                near[cell // w + dy, cell % w + dx] = True
        near = near.flatten()
    assert torch.equal(changed, near & ~walls[..., -1].flatten())


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("kinds", [2, 3])
def test_gradient_reaches_every_weight(precise, name, kinds):
    network, (kind, goal) = thinker(name, kinds=kinds), random_kinds(60, 8, 8)
    thoughts = model.Thoughts(network, kind if kinds == 3 else kind % 2, goal).settle()
    q = network.q(thoughts.along(torch.arange(64)[:, None].expand(64, 60)))
    q.pow(2).sum().backward()
    for weights in network.parameters():
        assert weights.grad.abs().max() > 1e-9


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("kinds", [2, 3])
def test_a_network_begins_with_nothing_worth_anything_but_for_what_a_vin_is_told(name, kinds):
    network = model.Thinker(name, 8, 0.5, kinds=kinds)
    mazes = reference.random_mazes(9, 6, 7)
    thoughts = network.think(mazes)
    if name == "vin":  # half of all moves succeed
        assert torch.equal(worth(thoughts) > model.NO_VALUE, steps_to_goal(mazes) >= 0)
        assert thoughts.q.max() <= 0.5
    else:
        assert not thoughts.q.any() and ((worth(thoughts) > model.NO_VALUE).sum((0, 1)) == 1).all()


def test_vin_mixes_what_the_cell_and_the_next_one_are_worth_by_p(precise):
    core, x = thinker("vin", kinds=3, gamma=0.9).core, torch.rand(3, 3, 3, 50, generator=seeded())
    first, second = core.hidden, core.p
    q, clipped = core(x), [0, 0]
    for i in range(50):
        seen = x[:2, :, :, i].flatten().tolist()
        hidden = [
            max(0.0, b + sum(a * s for a, s in zip(row, seen)))
            for row, b in zip(first.weight.tolist(), first.bias.tolist())
        ]
        for action, (dy, dx) in enumerate(reference.STEPS):
            row, b = second.weight[action].tolist(), second.bias[action].item()
            p = 0.5 + (b + sum(a * s for a, s in zip(row, hidden))) / 6
            clipped = [clipped[0] + (p < 0), clipped[1] + (p > 1)]
            p = min(max(p, 0.0), 1.0)
            there, here = x[2, 1 + dy, 1 + dx, i].item(), x[2, 1, 1, i].item()
            wanted = 0.9 * (p * there + (1 - p) * here)
            assert q[action, i].item() == pytest.approx(wanted, abs=1e-9)
    assert min(clipped) > 3


@pytest.mark.parametrize("kinds", [2, 3])
def test_cnn_is_two_convolutions_and_a_layer(precise, kinds):
    core, x = thinker("cnn", kinds=kinds).core, torch.rand(kinds, 5, 5, 20, generator=seeded())
    first = core.first.weight.view(8, kinds, 3, 3)
    second = core.second.weight.view(8, 3, 3, 8).permute(0, 3, 1, 2)
    found = torch.conv2d(x.permute(3, 0, 1, 2), first, core.first.bias).relu()
    found = torch.conv2d(found, second, core.second.bias).relu()
    assert found.shape == (20, 8, 1, 1) and (found > 0).any()
    assert torch.allclose(core(x), core.q(found[..., 0, 0]).t())


def test_gradient_passes_the_clip_of_p(precise):
    """It is that of the same core whose p is not clipped."""
    core, x = thinker("vin", width=16, gamma=0.9).core, torch.rand(2, 3, 3, 50, generator=seeded())
    several = torch.randn(4, 50, generator=seeded(1))
    (core(x) * several).sum().backward()
    found = [weights.grad.clone() for weights in core.parameters()]
    core.zero_grad()
    p = 0.5 + core.p(core.hidden(x[0].flatten(0, 1).t()).relu()).t() / 6
    assert (p < 0).any() and (p > 1).any()
    there = torch.stack([x[1, 1 + dy, 1 + dx] for dy, dx in reference.STEPS])
    (0.9 * (p * there + (1 - p) * x[1, 1, 1]) * several).sum().backward()
    assert all(torch.allclose(a, weights.grad) for a, weights in zip(found, core.parameters()))


# What is learned from


@pytest.mark.parametrize("name, kinds", [("mlp", 2), ("mlp", 3), ("cnn", 2), ("cnn", 3)])
def test_on_every_second_step_only_what_is_worth_more_than_the_own_cell_is_seen(name, kinds):
    network, steps, b = thinker(name, kinds=kinds), 7, 6
    cells = network.patch_size
    patch = torch.randint(-4, 5, (cells, steps, b), generator=seeded(), dtype=torch.int32)
    dice = torch.rand(cells, steps, b, generator=seeded(1))
    patch[dice < 0.2], patch[dice > 0.8] = model.NO_VALUE, model.NO_CELL
    patch[cells // 2] = torch.randint(-4, 5, (steps, b), generator=seeded(2))
    patch[cells // 2, :2, :2] = model.NO_VALUE
    kind = torch.randint(3, (cells, steps, b), generator=seeded(3), dtype=torch.int32)
    following = torch.randint(-4, 5, (steps - 1, b), generator=seeded(4), dtype=torch.int32)
    following[3] = model.NO_VALUE
    before = patch.clone(), following.clone()
    seen, found = model.as_seen(torch.cat([patch, kind][: kinds - 1]), following, network)
    assert torch.equal(patch, before[0]) and torch.equal(following, before[1])
    assert torch.equal(seen[cells:], kind[:, :, :] if kinds == 3 else kind[:0])
    for t, i in np.ndindex(steps, b):
        own, first = patch[cells // 2, t, i].item(), (t + i) % 2 == 0

        def hide(n):
            return model.NO_VALUE if first and model.NO_CELL < n <= own else n

        assert seen[:cells, t, i].tolist() == [hide(n) for n in patch[:, t, i].tolist()]
        assert t == steps - 1 or found[t, i] == hide(following[t, i].item())


@pytest.mark.parametrize("name", CORES)
def test_q_along_a_walk_is_what_a_slow_look_finds_in_each_visited_cell(precise, name):
    network, other, (episodes, _) = thinker(name), thinker(name, seed=1), random_episodes(b=8)
    thoughts = other.think(episodes.mazes)
    seen = thoughts.along(episodes.cells)
    q, log_m = network.q(seen), network.log2_m(seen)
    assert q.shape == (4, 13, 8) and q.requires_grad and log_m.shape == (13, 8)
    reached = 0
    for b in range(8):
        walls, n = episodes.mazes.walls[..., b].numpy(), with_value(worth(thoughts)[..., b])
        for t, cell in enumerate(episodes.cells[:, b].tolist()):
            if cell == episodes.mazes.goal[b]:  # where nothing is left to choose
                continue
            own = n.get(divmod(cell, 6), -math.inf) if (t + b) % 2 == 0 else -math.inf
            visible = {place: worth for place, worth in n.items() if worth > own}
            slow = reference.look(network, 0.5, walls, visible, *divmod(cell, 6))
            if not slow:
                assert log_m[t, b] == -math.inf
                continue
            reached += 1
            assert q[:, t, b].tolist() == pytest.approx(slow[0], abs=1e-9)
            assert log_m[t, b].item() == pytest.approx(slow[1] / reference.GRAIN)
    assert reached > 50


# Agents that see a window


MEMORIES = ["none", "trail", "gru", "map"]


def window_agent(memory, radius=1, compass=True, width=16, late=False, **settings):
    """late: whether half of the maps that are learned from are of some steps ago, as in a run."""
    torch.manual_seed(1)
    agent = dict(VISION=radius, MEMORY=memory, COMPASS=compass, GRID=8, WIDTH=width, GAMMA=0.5)
    network = build(main.config() | agent | settings)
    if memory == "map":
        lively(network.thinker)
        if not late:
            network.begin = lambda mazes, learning=False: mapper.Map(network, mazes, False)
    else:  # an agent that doesn't do the same everywhere
        torch.nn.init.normal_(network.leave.weight, std=2.0)
    return network


def step_by_step(network, mazes, cells):
    """Q as the agent finds it on its way: (4, T + 1, B)."""
    memory = network.begin(mazes)
    return torch.stack([memory.see(now) for now in cells], 1)


def explored(memory, steps=20, b=30, h=7, w=6, epsilon=0.3, **settings):
    """(network, episodes, what there was to see along them)"""
    network, mazes = window_agent(memory, **settings), reference.random_mazes(b, h, w, share=0.2)
    episodes, thoughts = main.rollout(network, mazes, steps, torch.full((b,), epsilon), seeded(3))
    return network, episodes, thoughts.along(episodes.cells)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("memory", MEMORIES)
def test_agent_with_a_window_learns_from_the_q_that_it_saw(memory, radius):
    """But for every second step of one that thinks, learned as when most cells had no value yet."""
    network, episodes, seen = explored(memory, radius=radius)
    assert len(set(map(tuple, episodes.cells.t().tolist()))) > 20
    q, log_m = network.q(seen), network.log2_m(seen)
    assert q.shape == (4, 21, 30) and q.requires_grad
    same = torch.ones(21, 30, dtype=torch.bool)
    if memory == "map":  # nor does it learn in the goal
        same = (torch.arange(21)[:, None] + torch.arange(30)) % 2 == 1
        same &= episodes.cells != episodes.mazes.goal
    else:
        assert not log_m.any()
    on_the_way = step_by_step(network, episodes.mazes, episodes.cells)
    assert torch.allclose(on_the_way[:, same], q[:, same], atol=1e-5)
    assert q.std(1).mean() > 1e-3


@pytest.mark.parametrize("memory", MEMORIES)
def test_agent_with_a_window_takes_its_best_action(memory):
    network, episodes, _ = explored(memory, epsilon=0.0)
    q = step_by_step(network, episodes.mazes, episodes.cells)[:, :-1]
    taken = q.gather(0, episodes.actions[None])[0]
    assert (taken >= q.max(0).values - 1e-5).all()
    assert len(episodes.actions.unique()) > 1


@pytest.mark.parametrize("memory", MEMORIES + ["whole maze"])
def test_recall_is_what_was_seen_on_the_walk(memory):
    if memory in MEMORIES:
        network, episodes, seen = explored(memory, late=True)
    else:
        network, mazes = thinker("mlp"), reference.random_mazes(30, 7, 6)
        episodes, thoughts = main.rollout(network, mazes, 20, torch.full((30,), 0.3), seeded(3))
        seen = thoughts.along(episodes.cells)
    again = main.recall(network, episodes)
    assert len(again) == len(seen) > 0
    assert all(map(torch.equal, again, seen))


def seen_in_part(network, episodes):
    """A part that begins with an even lane: else the other steps are learned as at first."""
    seen, part = main.recall(network, episodes), slice(8, 15)
    q, log_m = network.q(seen), network.log2_m(seen)
    few = [x[..., part] for x in seen]
    few, few_m = network.q(few), network.log2_m(few)
    assert torch.allclose(few, q[..., part], atol=1e-6) and torch.equal(few_m, log_m[..., part])
    again = main.recall(network, episodes.select(part))
    assert all(torch.allclose(x, y[..., part], atol=1e-6) for x, y in zip(again, seen, strict=True))


@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
def test_what_is_seen_in_a_part_of_the_batch_is_its_part_of_what_is_seen(memory):
    seen_in_part(*explored(memory)[:2])


@pytest.mark.parametrize("name", CORES)
def test_what_is_thought_in_a_part_of_the_batch_is_its_part_of_what_is_thought(precise, name):
    episodes, _ = random_episodes(30)
    seen_in_part(thinker(name), episodes)
    seen_in_part(window_agent("map", late=True, MODEL=name), episodes)


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
    q, same, changed = (
        step_by_step(network, mazes._replace(walls=walls), episodes.cells)
        for walls in (mazes.walls, other, inside)
    )
    assert not torch.equal(other, mazes.walls)
    assert torch.equal(q, same)
    assert not torch.allclose(q, changed)


@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
@pytest.mark.parametrize("compass", [True, False])
def test_place_in_the_maze_is_not_seen(memory, compass):
    """A maze in the middle of a wall looks the same from inside."""
    network, episodes, _ = explored(memory, radius=2, compass=compass)
    mazes, move = episodes.mazes, lambda cells: (cells // 6 + 3) * 11 + cells % 6 + 4
    walls = torch.ones(12, 11, 30, dtype=torch.bool)
    walls[3:10, 4:10] = mazes.walls
    moved = maze.Mazes(walls, move(mazes.goal), move(mazes.start))
    assert torch.equal(
        step_by_step(network, moved, move(episodes.cells)),
        step_by_step(network, mazes, episodes.cells),
    )


@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
def test_without_a_compass_a_goal_out_of_sight_is_nowhere(memory):
    _, episodes, _ = explored("none", steps=8, h=9, w=9)
    mazes, other = episodes.mazes, episodes.mazes.goal.clone()
    for b in range(30):
        unseen = ~reference.in_windows(
            (9, 9), episodes.cells[:, b].tolist() + [int(mazes.goal[b])], 1
        )
        other[b] = int(np.nonzero(unseen.flatten())[0][b % unseen.sum()])
    away = torch.tensor(
        [
            not reference.in_windows((9, 9), episodes.cells[:, b], 1).flat[int(mazes.goal[b])]
            for b in range(30)
        ]
    )
    assert 5 < away.sum() < 30
    for compass in (True, False):
        network = window_agent(memory, compass=compass)
        q, moved = (
            step_by_step(network, mazes._replace(goal=goal), episodes.cells)
            for goal in (mazes.goal, other)
        )
        same = (q == moved).flatten(0, 1).all(0)
        assert not same.any() if compass else torch.equal(same, away)


def test_what_is_seen_is_the_window_the_goal_and_the_way_to_it():
    network, episodes, (seen,) = explored("none", radius=2)
    assert seen.shape == (54, 21, 30)
    for t, b in np.ndindex(21, 30):
        walls, goal, cell = (
            episodes.mazes.walls[..., b].numpy(),
            int(episodes.mazes.goal[b]),
            int(episodes.cells[t, b]),
        )
        there = np.zeros_like(walls)
        there.flat[goal] = True
        way = np.array([goal // 6 - cell // 6, goal % 6 - cell % 6])
        wanted = [
            reference.window(walls, cell, 2).flatten(),
            reference.window(there, cell, 2, False).flatten(),
            way / 16,
            way / max(1, np.hypot(*way)),
        ]
        assert seen[:, t, b].tolist() == pytest.approx(np.concatenate(wanted), abs=1e-6)


def test_trail_is_how_often_and_how_lately_each_cell_in_sight_was_visited():
    network, episodes, (seen,) = explored("trail")
    assert seen.shape == (40, 21, 30)
    for b in range(30):
        times, last = np.zeros((7, 6)), np.full((7, 6), -np.inf)
        for t, cell in enumerate(episodes.cells[:, b].tolist()):
            times.flat[cell] += 1
            last.flat[cell] = t
            wanted = [
                reference.window(np.minimum(1, times / 4), cell, 1, 0),
                reference.window(0.9 ** (t - last), cell, 1, 0),
            ]
            assert seen[18:36, t, b].tolist() == pytest.approx(np.stack(wanted).flatten(), abs=1e-6)


HISTORIES = dict(far=[0, 40], farther=[8, 40], near=[39, 40], twice=[40, 40])


@pytest.mark.parametrize(
    "memory, unlike",
    [("none", []), ("trail", ["near", "twice"]), ("gru", ["farther", "near", "twice"])],
)
def test_what_was_seen_before_counts_as_far_as_it_is_remembered(memory, unlike):
    """In an open hall, with the goal in the corner."""
    mazes = maze.Mazes(
        torch.zeros(9, 9, 1, dtype=torch.bool), torch.tensor([80]), torch.tensor([0])
    )
    network = window_agent(memory)
    q = {
        name: step_by_step(network, mazes, torch.tensor(cells)[:, None])[:, -1]
        for name, cells in HISTORIES.items()
    }
    assert [name for name in q if not torch.equal(q[name], q["far"])] == unlike


def test_batch_mates_do_not_share_a_memory():
    for memory in MEMORIES:
        network, episodes, _ = explored(memory)
        alone = step_by_step(network, episodes.mazes.select(slice(4, 5)), episodes.cells[:, 4:5])
        assert torch.allclose(
            alone, step_by_step(network, episodes.mazes, episodes.cells)[..., 4:5], atol=1e-5
        )


# The map


def known_maps(episodes, radius):
    """What has been seen before each step, slowly: 0 open, 1 wall, 2 unknown, (T + 1, H, W, B)."""
    shape = episodes.mazes.walls.shape
    maps = np.full((len(episodes.cells), *shape), 2)
    for t, b in np.ndindex(*episodes.cells.shape):
        seen = reference.in_windows(shape[:2], episodes.cells[: t + 1, b], radius)
        maps[t, ..., b][seen] = episodes.mazes.walls[..., b].numpy()[seen]
    return torch.from_numpy(maps)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("h, w", [(7, 6), (3, 11)])
def test_map_is_all_that_was_in_sight_and_never_wrong(radius, h, w):
    network, episodes, _ = explored("map", radius=radius, h=h, w=w)
    memory, maps = network.begin(episodes.mazes), known_maps(episodes, radius)
    for cells, known in zip(episodes.cells, maps):
        memory.see(cells)
        assert torch.equal(memory.inner().long(), known)
        rim = memory.known.clone()
        rim[radius:-radius, radius:-radius] = model.WALL
        assert (rim == model.WALL).all()
    assert (maps[-1] == 2).any() and (maps[-1] != maps[0]).any()


@pytest.mark.parametrize("core, radius, vision", [("mlp", 1, 1), ("vin", 1, 2), ("cnn", 2, 1)])
def test_agent_that_draws_a_map_thinks_of_it_as_it_knows_it(precise, core, radius, vision):
    """At each step it has thought of the map as a slow loop would; Q is that of its own cell."""
    network, episodes, _ = explored("map", MODEL=core, radius=vision, steps=9, b=3, h=6, w=5)
    q, maps = step_by_step(network, episodes.mazes, episodes.cells), known_maps(episodes, vision)
    compared = 0
    for t, b in np.ndindex(10, 3):
        if t % 3 == 0:
            kind, cell = maps[t, ..., b].numpy(), divmod(int(episodes.cells[t, b]), 5)
            n = reference.think(network.thinker, 0.5, kind, episodes.mazes.goal[b])
            seen = reference.look(network.thinker, 0.5, kind, n, *cell)
            if seen:
                compared += 1
                assert q[:, t, b].tolist() == pytest.approx(seen[0], abs=1e-9)
    assert network.thinker.core.radius == radius and compared > 6


@pytest.mark.parametrize("learning", [True, False])
def test_learning_shows_every_second_agent_the_map_that_it_had_eight_steps_ago(precise, learning):
    """What it then was to see around it, and what the next cell then was worth, in the same map."""
    network, mazes = window_agent("map", late=True), reference.random_mazes(12, 8, 8, share=0.25)
    epsilon = torch.full((12,), 0.7) if learning else None
    episodes, thoughts = main.rollout(network, mazes, 25, epsilon, seeded(3))
    patch, following = thoughts.along(episodes.cells)
    maps, differ = known_maps(episodes, 1), 0
    n = [worth(model.Thoughts(network.thinker, known, mazes.goal).settle()) for known in maps]
    for t, b in np.ndindex(26, 12):
        then = max(0, t - 8) if learning and b % 2 else t
        (y, x), values = divmod(int(episodes.cells[t, b]), 8), with_value(n[then][..., b])
        own = values.get((y, x), -math.inf) if (t + b) % 2 == 0 else -math.inf
        around = [(y + dy - 1, x + dx - 1) for dy, dx in np.ndindex(3, 3)]
        kinds = [reference.kind_at(maps[then, ..., b].numpy(), *place) for place in around]
        shown = [
            model.NO_CELL
            if kind == model.WALL
            else values[place]
            if values.get(place, -math.inf) > own
            else model.NO_VALUE
            for kind, place in zip(kinds, around)
        ]
        if not learning and (t + b) % 2 == 0:  # what is hidden matters to learning only
            continue
        assert patch[:, t, b].tolist() == shown + kinds
        differ += not torch.equal(maps[then, ..., b], maps[t, ..., b])
        if t < 25:
            value = values.get(divmod(int(episodes.cells[t + 1, b]), 8), -math.inf)
            assert following[t, b] == (value if value > own else model.NO_VALUE)
    assert (differ > 30) == learning


@pytest.mark.parametrize("core", CORES)
def test_map_that_is_complete_is_thought_of_as_the_whole_maze(precise, core):
    network, mazes = window_agent("map", MODEL=core), reference.random_mazes(8, 6, 7, share=0.25)
    memory = network.begin(mazes)
    for cell in range(42):
        memory.see(torch.full((8,), cell))
    thoughts = network.thinker.think(mazes)
    assert torch.equal(worth(memory.thoughts), worth(thoughts))
    q = torch.stack([memory.see(torch.full((8,), cell)) for cell in range(42)], 1).view(4, 6, 7, 8)
    chosen = ~mazes.walls & (steps_to_goal(mazes) > 0) & (worth(thoughts) != model.NO_VALUE)
    assert chosen.sum() > 100 and torch.allclose(q[:, chosen], thoughts.q[:, chosen])


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
        paid += [0.0] * (12 - len(paid))  # nothing, once the goal is reached
        assert episodes.reward[:, b].tolist() == pytest.approx(paid, abs=1e-6)
        phi = reference.potential(walls, goal, 0.9, shaping)
        assert episodes.potential[:, b].tolist() == pytest.approx(
            [phi[cell] for cell in cells], abs=1e-6
        )
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
    end = episodes.potential.gather(0, steps[None])[0] * 0.9**steps
    assert torch.allclose(extra.sum(0), end - episodes.potential[0], atol=1e-6)
    assert (end[reached[-1]] == 0).all() and (end[~reached[-1]] > 0).any()


def test_whatever_the_potential_it_is_nothing_in_the_goal(monkeypatch):
    episodes, _ = random_episodes()
    phi = torch.rand(6, 6, 40, generator=seeded(8)) + 1
    monkeypatch.setattr(reward, "potential", lambda *_: phi)
    monkeypatch.setattr(main, "GAMMA", 0.9)
    monkeypatch.setattr(main, "SHAPING", "oracle")
    paid, potential = main.with_reward(*episodes[:3])[3:]
    for b, goal in enumerate(episodes.mazes.goal.tolist()):
        cells = episodes.cells[:, b].tolist()
        here = [0.0 if cell == goal else phi[cell // 6, cell % 6, b].item() for cell in cells]
        assert potential[:, b].tolist() == pytest.approx(here)
        for t in range(cells.index(goal) if goal in cells else 12):
            assert paid[t, b].item() == pytest.approx(
                (cells[t + 1] == goal) + 0.9 * here[t + 1] - here[t], abs=1e-5
            )


def test_walking_to_and_fro_earns_nothing_more(monkeypatch):
    monkeypatch.setattr(main, "NOVELTY", 0.25)
    mazes = reference.corridor(9, 4, 8)
    cells = torch.tensor([4, 5, 4, 5, 4, 3, 4, 4, 3, 2, 3])[:, None]
    paid = main.with_reward(mazes, cells, None).reward
    assert paid[:, 0].tolist() == [0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.25, 0]


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_novelty_is_paid_for_each_other_cell_once(monkeypatch, epsilon):
    monkeypatch.setattr(main, "NOVELTY", 0.125)
    episodes, _ = random_episodes(epsilon=epsilon, steps=30, b=60)
    alive = episodes.cells[:-1] != episodes.mazes.goal
    earned = ((episodes.reward - (episodes.cells[1:] == episodes.mazes.goal).float()) * alive).sum(
        0
    )
    visited = [len(set(cells)) for cells in episodes.cells.t().tolist()]
    assert earned.tolist() == [0.125 * (cells - 1) for cells in visited]


# Targets


def errors(q, late, *rest):
    """Of agents with this q and this late q (4, H, W, B)."""
    online, target = reference.Table(q), reference.Table(late)
    error, counts = reference.td_error(online, target, main.recall(target, rest[0]), *rest)
    return error.detach(), counts


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 33])
def test_q_lambda_targets_are_those_of_the_definition(lam, steps):
    draws = torch.rand(4, steps, 30, generator=seeded(steps))
    reward, done, value, greedy = draws[0], draws[1] < 0.1, draws[2], draws[3] < 0.8
    fast = model.q_lambda_targets(reward, done, value, greedy, 0.9, lam)
    for b in range(30):
        columns = [x[:, b].double().tolist() for x in (reward, done, value, greedy)]
        assert fast[:, b].tolist() == pytest.approx(
            reference.lambda_targets(*columns, 0.9, lam), abs=1e-5
        )


def test_rescaled_targets_are_those_of_the_definition_in_the_units_of_each_step(precise):
    """What is a return of G now, in units of u, is one of G * u / u' in units of u'."""
    reward, done, value, greedy, unit = torch.rand(5, 16, 30, generator=seeded())
    done, greedy, unit = done < 0.1, greedy < 0.8, unit + 0.5
    rescale = unit[1:] / unit[:-1]
    fast = model.q_lambda_targets(reward / unit, done, value / unit, greedy, 0.9, 0.7, rescale)
    for b in range(30):
        columns = [x[:, b].double().tolist() for x in (reward, done, value, greedy)]
        slow = reference.lambda_targets(*columns, 0.9, 0.7)
        assert (fast * unit)[:, b].tolist() == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shaping, novelty", [("none", 0.0), ("manhattan", 0.0), ("oracle", 0.1)])
def test_td_error_is_q_minus_the_slow_target(monkeypatch, lam, double, shaping, novelty):
    for name, value in dict(SHAPING=shaping, NOVELTY=novelty, GAMMA=0.9).items():
        monkeypatch.setattr(main, name, value)
    episodes, q = random_episodes()
    late = torch.rand(q.shape, generator=seeded(5)) * 3 - 1.3
    error, alive = errors(q, late, episodes, 0.9, lam, double, main.bounds(novelty, 12))
    q, late = model.along(q, episodes.cells), model.along(late, episodes.cells)
    taken = torch.stack([q[episodes.actions[:, b], torch.arange(12), b] for b in range(40)], 1)
    slow = taken - reference.td_targets(q, late, episodes, 0.9, lam, double, shaping, novelty)
    assert (error - slow)[alive].abs().max() < 1e-5


def test_steps_count_until_the_goal_is_reached():
    episodes, q = random_episodes()
    alive = errors(q, q, episodes, 0.9, 0.5, True)[1]
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
        error, alive = errors(q, q, episodes, 0.9, lam, True)
        target = (0.5 - error)[alive]
        assert len(target) == min(steps, 5)
        assert target[-1] == pytest.approx(last_target, abs=1e-7)


def test_targets_carry_no_gradient():
    episodes, q = random_episodes()
    online, late = reference.Table(q), reference.Table(q)
    seen = online.think(episodes.mazes).along(episodes.cells)
    error, alive = reference.td_error(online, late, seen, episodes, 0.9, 0.5, True)
    (error * alive).sum().backward()
    assert late.table.grad is None
    assert online.table.grad.sum() == alive.sum()


@pytest.mark.parametrize("name", CORES)
def test_targets_of_a_network_that_thinks_carry_no_gradient(precise, name):
    """The gradient of all errors is that of Q of the actions taken."""
    online, (episodes, _) = thinker(name), random_episodes()
    seen, found = online.think(episodes.mazes).along(episodes.cells), []
    error, counts = reference.td_error(online, online, seen, episodes, 0.5, 0.5, True)
    taken = online.q(seen)[:, :-1].gather(0, episodes.actions[None])[0]
    for x in (error, taken):
        online.zero_grad()
        (x * counts).sum().backward()
        found.append([weights.grad.clone() for weights in online.parameters()])
    assert all(map(torch.allclose, *found))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("memory", ["none", "trail", "gru"])
def test_td_error_of_an_agent_with_a_window_is_q_minus_the_slow_target(memory, double):
    online, episodes, _ = explored(memory)
    target = shifted(online, 5, 0.3)
    seen = main.recall(target, episodes)
    error, counts = reference.td_error(online, target, seen, episodes, 0.9, 0.8, double)
    q, late = (network.q(seen).detach() for network in (online, target))
    taken = q[:, :-1].gather(0, episodes.actions[None])[0]
    slow = taken - reference.td_targets(q, late, episodes, 0.9, 0.8, double)
    assert counts.sum() > 100 and (error - slow)[counts].abs().max() < 1e-5


@pytest.mark.parametrize("double", [True, False])
def test_td_error_on_a_map_is_that_of_the_network_that_thinks_of_it(double):
    online, episodes, _ = explored("map", late=True)
    target = shifted(online, 5, 0.3)
    seen, found = main.recall(target, episodes), []
    for pair in ((online, target), (online.thinker, target.thinker)):
        found.append(reference.td_error(*pair, seen, episodes, 0.5, 0.8, double))
    assert all(map(torch.equal, *found)) and found[0][1].sum() > 100


# Targets of networks that think


def held_worth(network, mazes):
    """What the cells are worth to a network that thinks by itself: (H, W, B); -inf: nothing."""
    n = worth(copy.deepcopy(network).think(mazes)).double()
    return torch.where(n > model.NO_VALUE, n, -torch.inf)


def targets_of(online, target, episodes, lam=0.0, double=False, gamma=0.5):
    """(the targets that td_error holds Q against, which steps count)."""
    seen = main.recall(target, episodes)
    error, counts = reference.td_error(online, target, seen, episodes, gamma, lam, double)
    q = online.q(seen)
    return (q[:, :-1].gather(0, episodes.actions[None])[0] - error).detach(), counts


def slow_targets(online, target, episodes, lam=0.0, double=False, gamma=0.5):
    seen = main.recall(target, episodes)
    q, late = (network.q(seen).detach() for network in (online, target))
    n = held_worth(target, episodes.mazes)
    return reference.thinker_targets(q, late, n, episodes, gamma, lam, double)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", CORES)
def test_target_is_the_reward_and_what_the_next_cell_is_worth_to_the_target(precise, name, double):
    online, target, (episodes, _) = thinker(name, seed=1), thinker(name, seed=2), random_episodes()
    fast, counts = targets_of(online, target, episodes, double=double)
    slow, slow_counts = slow_targets(online, target, episodes, double=double)
    assert torch.equal(counts, slow_counts) and 0.2 < counts.float().mean() < 0.95
    assert (fast - slow)[counts].abs().max() < 1e-9
    assert slow[counts].std() > 0.05


def test_double_dqn_asks_the_target_network_about_what_the_online_one_would_do(precise):
    """The others' choice is worth less than the own, in most places."""
    online, target = (thinker("mlp", seed=seed) for seed in (1, 2))
    episodes, _ = random_episodes()
    single, counts = targets_of(online, target, episodes, double=False)
    double, _ = targets_of(online, target, episodes, double=True)
    assert (double <= single + 1e-12)[counts].all()
    assert (double < single - 1e-3)[counts].float().mean() > 0.2
    same, _ = targets_of(target, target, episodes, double=True)
    assert torch.allclose(same[counts], single[counts])


@pytest.mark.parametrize("name", CORES)
def test_targets_move_with_the_target_network_only(precise, name):
    online, target, (episodes, _) = thinker(name, seed=1), thinker(name, seed=2), random_episodes()
    before, counts = targets_of(online, target, episodes)
    other, _ = targets_of(shifted(online, 3), target, episodes)
    assert torch.allclose(other[counts], before[counts], atol=1e-12)
    moved, counts_now = targets_of(online, shifted(target, 4, 0.3), episodes)
    both = counts & counts_now
    assert ((moved - before).abs() > 1e-3)[both].float().mean() > 0.1


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_td_error_in_units_of_m_is_that_in_absolute_values(precise, lam, double, gamma):
    """Of networks that nearly know the backup, along walks that are mostly greedy."""
    mazes = reference.random_mazes(40, 7, 7, share=0.2)
    online, target = (shifted(exact_vin(gamma), seed, 0.02) for seed in (1, 2))
    episodes, _ = main.rollout(online, mazes, 14, torch.full((40,), 0.3), seeded(3))
    fast, counts = targets_of(online, target, episodes, lam, double, gamma)
    slow, slow_counts = slow_targets(online, target, episodes, lam, double, gamma)
    assert torch.equal(counts, slow_counts) and counts.sum() > 100
    assert (fast - slow)[counts].abs().max() < 1e-9
    short, _ = targets_of(online, target, episodes, 0.0, double, gamma)
    assert (lam == 0) == torch.equal(fast[counts], short[counts])


@pytest.mark.parametrize("lam", [0.0, 0.9])
@pytest.mark.parametrize("gamma, length", [(0.5, 60), (0.5, 400), (0.1, 100), (0.98, 400)])
def test_learning_far_from_the_goal_is_learning_near_it(lam, gamma, length):
    """Where gamma ** distance is less than the least number that single precision can hold, too."""
    network = exact_vin(gamma)
    episodes, _ = main.rollout(network, reference.corridor(length, 0, length - 1), 50)
    assert episodes.cells[-1, 0] == min(50, length - 1)
    seen = main.recall(network, episodes)
    error, counts = reference.td_error(network, network, seen, episodes, gamma, lam, False)
    assert counts.all()
    assert error.abs().max() < 1e-3


@pytest.mark.parametrize("lam", [0.0, 0.9])
@pytest.mark.parametrize("name", ["mlp", "cnn", "attention"])
def test_where_values_fall_fast_learning_is_finite(name, lam):
    """Beginners hold the next cell to be worth a thousandth, and the next but one a millionth."""
    network = model.Thinker(name, 8, 0.5)
    network.core.q.bias.data.fill_(0.0011)
    mazes = reference.corridor(40, 20, 0)
    episodes = reference.walked(mazes, torch.zeros(4, 1, 40, 1), 99, torch.ones(1), seeded())
    seen = main.recall(network, episodes)
    assert worth(network.think(mazes)).min() < -750
    error, counts = reference.td_error(network, network, seen, episodes, 0.5, lam, False)
    assert counts.sum() > 50
    assert error[counts].isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention"])
@pytest.mark.parametrize("lam, double", [(0.0, False), (0.9, True)])
def test_where_no_value_has_come_nothing_is_learned(monkeypatch, name, lam, double):
    """An untrained network has values nowhere but in the goal: only steps beside it count."""
    for constant, value in dict(LAMBDA=lam, DOUBLE=double, GAMMA=0.5).items():
        monkeypatch.setattr(main, constant, value)
    network, (episodes, _) = model.Thinker(name, 8, 0.5), random_episodes()
    seen, d = main.recall(network, episodes), steps_to_goal(episodes.mazes).flatten(0, 1)
    error, counts = reference.td_error(network, network, seen, episodes, 0.5, lam, double)
    assert torch.equal(counts, d.gather(0, episodes.cells)[:-1] == 1)
    assert error[counts].isfinite().all()
    for learns in (False, True):
        few = (counts.any(0) == learns).nonzero()[:, 0]
        assert len(few) > 3
        moved = []

        class Optimizer:
            step = staticmethod(moved.append)

        part = episodes.select(few), [x[..., few] for x in seen]
        loss, norm, _ = reference.update(network, network, Optimizer, *part)
        assert loss.isfinite() and norm.isfinite() and moved[0].isfinite().all()
        assert (loss > 0) == (norm > 0) == bool(moved[0].any()) == learns


# What a walk is worth


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
    adam, torch_adam = Adam(ours, 0.03), torch.optim.Adam(theirs, 0.03)
    for step in range(100):
        if step == 50:
            state, adam = adam.state(), Adam(ours, 0.01)
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
    """n mazes, cells and actions of random content, which differ from one another in their first
    two cells."""
    generator = seeded(first)
    mazes = reference.random_mazes(n, grid, grid, seed=first)
    cells = torch.randint(grid * grid, (steps + 1, n), generator=generator)
    number = torch.arange(first, first + n)
    cells[0], cells[1] = number // (grid * grid), number % (grid * grid)
    return mazes._replace(start=cells[0]), cells, torch.randint(4, (steps, n), generator=generator)


def numbers(cells):
    return (cells[0] * 49 + cells[1]).tolist()


def filled(n, alpha, seed=0):
    """A replay memory of n episodes that has met TD errors of all sizes, and the priorities that
    follow from them."""
    replay = Replay(n, 7, 5, alpha, "cpu")
    error = torch.randn(5, n, generator=seeded(seed)) * torch.rand(n, generator=seeded(seed))
    replay.add(*numbered(0, n))
    order = torch.randperm(n, generator=seeded(seed))
    for part in order.chunk(3):
        replay.set_priority(part, error[:, part])
    return replay, 0.9 * error.abs().max(
        0
    ).values.double().numpy() + 0.1 * error.abs().double().numpy().mean(0)


@pytest.mark.parametrize("sizes", [[20, 20, 20], [50, 1], [30, 30, 30, 30], [7] * 16])
def test_replay_keeps_the_newest_episodes_as_they_were(sizes):
    replay, added, first = Replay(50, 7, 5, 0.0, "cpu"), {}, 0
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
    replay = Replay(50, 7, 5, 0.0, "cpu")
    for first in range(0, n, 10):
        replay.add(*numbered(first, 10))
        replay.set_priority(torch.arange(10), torch.rand(5, 10, generator=seeded(first)))
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
    share = priority**alpha / (priority**alpha).sum()
    assert share.max() > 2 * share.min()
    assert chisquare(np.bincount(index, minlength=50), 50_000 * share).pvalue > 1e-6


@pytest.mark.parametrize(
    "alpha, beta", [(0.6, 0.0), (0.6, 0.4), (1.0, 0.7), (0.3, 1.0), (1.0, 1.0)]
)
def test_replay_weights_make_up_for_the_sampling(alpha, beta):
    replay, priority = filled(50, alpha)
    _, _, _, index, weight = replay.sample(20_000, seeded(), beta)
    share = priority**alpha / (priority**alpha).sum()
    wanted = (50 * share) ** -beta
    assert len(set(index.tolist())) == 50
    assert weight.numpy() == pytest.approx(wanted[index] / wanted.max(), rel=1e-3)
    if beta == 1:  # the weighted mean of whatever is drawn is then its mean, but for a constant
        of_episode = np.zeros(50)
        of_episode[index] = weight
        for x in np.random.default_rng(0).random((20, 50)):
            assert (share * of_episode * x).sum() / x.mean() == pytest.approx(
                1 / wanted.max(), rel=1e-3
            )


def test_replay_weights_are_relative_to_the_greatest_in_the_sample():
    replay, _ = filled(50, 1.0)
    for seed in range(20):
        weight = replay.sample(4, seeded(seed), 1.0)[4]
        assert weight.max() == 1 and weight.min() > 0


def test_new_episodes_come_with_the_top_priority():
    replay = Replay(50, 7, 5, 1.0, "cpu")
    replay.add(*numbered(0, 20))
    assert len(replay.priority[:20].unique()) == 1
    error = torch.rand(5, 20, generator=seeded())
    error[:, 13] = 7
    replay.set_priority(torch.arange(20), error)
    replay.add(*numbered(20, 35))
    assert replay.priority[torch.arange(20, 55) % 50].tolist() == pytest.approx([7.0] * 35)
    index = replay.sample(50_000, seeded())[3]
    drawn = np.bincount(index, minlength=50)[np.arange(20, 55) % 50]
    assert chisquare(drawn).pvalue > 1e-6


def test_replay_of_100_000_episodes_draws_every_one():
    n = 100_000
    replay, mazes = Replay(n, 5, 1, 0.6, "cpu"), reference.random_mazes(n // 4, 5, 5)
    for part in range(4):
        cells = torch.stack([torch.full((n // 4,), part), torch.arange(n // 4) % 25])
        replay.add(mazes, cells, cells[:1] % 4)
    replay.set_priority(torch.arange(n), torch.full((1, n), 0.5))
    _, cells, _, index, _ = replay.sample(2_000_000, seeded())
    drawn = torch.bincount(index, minlength=n)
    assert drawn.min() > 0
    assert chisquare(drawn.view(100, -1).sum(1)).pvalue > 1e-6
    assert torch.equal(cells[0], index // (n // 4)) and torch.equal(cells[1], index % (n // 4) % 25)


def test_replay_goes_on_from_its_state():
    replay, again = filled(50, 0.6)[0], Replay(50, 7, 5, 0.6, "cpu")
    replay.add(*numbered(50, 20))
    again.restore(replay.state())
    for first in (70, 100):
        samples = [one.sample(300, seeded(first), 0.5) for one in (replay, again)]
        assert all(map(torch.equal, samples[0][0], samples[1][0])) and all(
            map(torch.equal, samples[0][1:], samples[1][1:])
        )
        for one in (replay, again):
            one.set_priority(torch.arange(30), torch.rand(5, 30, generator=seeded(first)))
            one.add(*numbered(first, 30))


def test_replay_of_large_mazes_keeps_large_cells():
    replay = Replay(4, 256, 2, 0.0, "cpu")
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


AGENTS = [dict(MODEL=name) for name in CORES] + [dict(MODEL="cnn", LOOKS=3)]
AGENTS += [dict(VISION=1, MEMORY="map", MODEL="attention")]
AGENTS += [dict(VISION=2, MEMORY=memory) for memory in ("none", "trail", "gru")]


@pytest.mark.parametrize("agent", AGENTS, ids=str)
def test_checkpoint_brings_back_the_same_network(path, agent):
    settings = main.config() | dict(GRID=8, WIDTH=8, GAMMA=0.95) | agent
    network, mazes = build(settings), reference.random_mazes(10, 8, 8)
    for weights in network.parameters():
        torch.nn.init.normal_(weights)
    state = seeded(4).get_state()
    save_checkpoint(path, network, settings, batch=3, history=[dict(loss=0.5)], generator=state)
    loaded, config, progress = load_checkpoint(path, "cpu")
    assert config == settings
    assert progress["batch"] == 3 and progress["history"] == [dict(loss=0.5)]
    assert torch.equal(progress["generator"], state)
    assert all(map(torch.equal, loaded.parameters(), network.parameters()))
    (before, thoughts), (after, others) = (main.rollout(one, mazes, 9) for one in (network, loaded))
    assert torch.equal(before.cells, after.cells)
    assert all(map(torch.equal, thoughts.along(before.cells), others.along(before.cells)))
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
        load_checkpoint(path, "cpu")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda trap: trap,
        lambda trap: [trap],
        lambda trap: dict(format=CHECKPOINT_FORMAT, config=trap, weights={}),
    ],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("to_bytes", [torch_bytes, pickle.dumps])
@pytest.mark.parametrize("seal", [sealed, bytes])
def test_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(path, wrap, to_bytes, seal):
    refused(path, seal(to_bytes(wrap(Trap(path + ".sprung")))))
    assert not os.path.exists(path + ".sprung")
    pickle.loads(pickle.dumps(Trap(path + ".sprung")))
    assert os.path.exists(path + ".sprung")


def test_cut_off_checkpoint_is_refused(path):
    save_checkpoint(path, thinker("vin"), CONFIG)
    whole = open(path, "rb").read()
    for keep in range(0, len(whole), 41):
        refused(path, whole[:keep])
        if keep % 5 == 0:
            refused(path, sealed(whole[32 : 32 + keep]))


def test_damaged_byte_in_a_checkpoint_is_noticed(path):
    save_checkpoint(path, thinker("vin"), CONFIG)
    whole = open(path, "rb").read()
    for place in range(0, len(whole), 29):
        refused(path, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])


GARBAGE = [
    b"",
    b"P",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"hello\n",
    b"\x80\x02.",
    b"\x80\x02K\x01Q.",
    b"X\x01",
    b"\x80\x02X\x01",
    b"\x80\x02J\x01.",
    b"G\x00.",
    b"\x89PNG\r\n\x1a\n" + bytes(90),
    bytes(1000),
    bytes(range(256)),
]


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("seal", [sealed, bytes])
def test_file_that_is_no_checkpoint_is_refused(path, content, seal):
    refused(path, seal(content))


CONFIG = main.config() | dict(MODEL="vin", GRID=8, WIDTH=8)
WEIGHTS = thinker("vin").state_dict()
RIGHT = dict(format=CHECKPOINT_FORMAT, config=CONFIG, weights=WEIGHTS, progress={})
FOREIGN = [
    None,
    3,
    [],
    {},
    "text",
    torch.ones(3),
    dict(format=CHECKPOINT_FORMAT),
    dict(format=CHECKPOINT_FORMAT, config={}),
    {name: value for name, value in RIGHT.items() if name != "progress"},
    *[RIGHT | dict(weights=weights) for weights in (None, {}, dict(a=1))],
    *[
        RIGHT | dict(config=config)
        for config in (
            [],
            CONFIG | dict(MODEL="none"),
            CONFIG | dict(VISION="far"),
            CONFIG | dict(LOOKS=-1),
            *[CONFIG | dict(WIDTH=width) for width in (-3, "wide", 10**12)],
        )
    ],
]


@pytest.mark.parametrize(
    "changed, named",
    [
        (
            dict(weights=thinker("cnn").state_dict()),
            "core.first.weight is missing now and (8, 18) in",
        ),
        (
            dict(weights=thinker("vin", width=7).state_dict()),
            "core.p.weight is (4, 8) now and (4, 7) in",
        ),
        (
            dict(weights=WEIGHTS | dict(extra=torch.ones(1))),
            "extra is missing now and (1,) in the file",
        ),
        (dict(config=CONFIG | dict(VISION=2)), "enter.weight"),
    ],
)
def test_checkpoint_of_a_network_that_was_changed_since_says_what_differs(path, changed, named):
    with open(path, "wb") as file:
        file.write(sealed(torch_bytes(RIGHT | changed)))
    with pytest.raises(UserError, match="another network than vin") as told:
        load_checkpoint(path, "cpu")
    assert named in str(told.value) and len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.filterwarnings("ignore")
def test_foreign_torch_file_is_refused(path, content):
    refused(path, sealed(torch_bytes(content)))


def test_the_same_file_with_nothing_foreign_is_read(path):
    with open(path, "wb") as file:
        file.write(sealed(torch_bytes(RIGHT)))
    assert load_checkpoint(path, "cpu")[1] == CONFIG


def test_checkpoint_of_another_format_says_so(path, monkeypatch):
    save_checkpoint(path, thinker("vin"), CONFIG)
    written = CHECKPOINT_FORMAT
    monkeypatch.setattr(checkpoint, "CHECKPOINT_FORMAT", written + 1)
    with pytest.raises(UserError, match=f"format {written}.*reads {written + 1}.*train again"):
        load_checkpoint(path, "cpu")


def test_missing_checkpoint_says_how_to_get_one(path):
    with pytest.raises(UserError, match="no checkpoint .*checkpoint.pt.*python main.py"):
        load_checkpoint(path, "cpu")

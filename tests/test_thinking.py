"""Thinking, its table and the proof, against loops over cells, search and value iteration."""

import itertools

import numpy as np
import pytest
import reference
import torch
from reference import seeded, to_goal

import main
import maze
import model
from support import agents, report
from support.agents import build, recall
from support.files import load_checkpoint

SQUARE = (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)  # row by row
MOVES = [1, 6, 3, 4]  # where in the square up, down, left and right lead


def mazes_of_all_kinds():
    """Perfect mazes, loops, caves with parts that are cut off, a single row or column."""
    carved = maze.carve(40, 11, seeded())
    loops = carved & (torch.rand(carved.shape, generator=seeded(1)) < 0.7)
    goal = torch.arange(40) % 5 * 2 + 22 * (torch.arange(40) % 3)
    yield maze.Mazes(carved, goal, goal)
    yield maze.Mazes(loops, goal, goal)
    for h, w in ((9, 12), (1, 14), (10, 1), (2, 7), (1, 1)):
        yield reference.random_mazes(40, h, w, seed=h, share=0.3)


def next_to(x, action):
    """x (H, W, B) in the cell that the action (H, W, B) leads to, walls or not; -9 outside."""
    rim = maze.padded(x, 1, -9)
    h, w, _ = x.shape
    moved = [rim[1 + y : 1 + y + h, 1 + dx : 1 + dx + w] for y, dx in reference.STEPS]
    return torch.stack(moved).gather(0, action[None].long())[0]


def slow_planes(walls, value, y, x):
    """Of one cell: eight times, is it a wall, and eight times, how much higher it is."""
    wall, higher = [], []
    for dy, dx in SQUARE:
        v, u = y + dy, x + dx
        inside = 0 <= v < walls.shape[0] and 0 <= u < walls.shape[1]
        wall.append(int(not inside or walls[v, u]))
        higher.append(0 if wall[-1] else max(-1, min(1, int(value[v, u]) - int(value[y, x]))))
    return [wall, higher]


@pytest.mark.parametrize("h, w", [(6, 7), (1, 9), (8, 2), (1, 1)])
def test_a_cell_sees_its_neighbours_and_adds_what_it_says_to_its_value(h, w):
    """Whatever it says: with a table of random numbers. The goal stays worth 0."""
    b = 3
    mazes = reference.random_mazes(b, h, w)
    change = torch.randint(-3, 3, (model.VIEWS,), generator=seeded(h), dtype=torch.int32)
    wanted, kinds = torch.zeros(h, w, b, dtype=torch.int32), set()
    for value, view in model.looks(change, mazes.walls, mazes.goal, 8):
        assert torch.equal(value, wanted)
        planes = model.planes_of(view.flatten()).view(2, 8, h, w, b)
        for y, x, i in np.ndindex(h, w, b):
            if mazes.walls[y, x, i] or y * w + x == mazes.goal[i]:
                assert view[y, x, i] == 0
                continue
            seen = slow_planes(mazes.walls[..., i].numpy(), value[..., i].numpy(), y, x)
            assert planes[:, :, y, x, i].tolist() == seen
            kinds.add(str(seen))
            wanted[y, x, i] += change[view[y, x, i]]
    assert len(kinds) >= (100 if h > 1 and w > 2 else h * w > 1)


def all_mazes(h, w):
    """All fields of h x w cells with all goals: batches of mazes."""
    number = torch.arange(2 ** (h * w))
    fields = torch.stack([number >> i & 1 for i in range(h * w)]).bool().view(h, w, -1)
    for goal in range(h * w):
        walls = fields[..., ~fields.flatten(0, 1)[goal]]
        for part in walls.split(4096, -1):
            goals = torch.full((part.shape[-1],), goal)
            yield maze.Mazes(part, goals, goals)


def test_every_maze_of_up_to_4x4_cells_is_walked_by_a_shortest_path(proved):
    """From every start to every goal, whatever the walls: where each step is one step nearer."""
    walked = 0
    for h, w in itertools.product(range(1, 5), repeat=2):
        for mazes in all_mazes(h, w):
            thoughts = proved.begin(mazes)
            away = maze.distances(mazes.walls, mazes.goal)  # those of scipy
            assert torch.equal(thoughts.value[away >= 0], -away[away >= 0])
            assert (next_to(away, thoughts.greedy()) == away - 1)[away > 0].all()
            walked += int((away > 0).sum())
    assert walked > 2_000_000


def test_of_all_views_just_the_wrong_answers_are_refused(proved):
    """Every change and every action in every view, against a count in plain numpy."""
    sign = np.indices((4,) * 8).reshape(8, -1)[::-1]  # neighbour k: digit k from the right
    after = np.stack([np.where(sign[k] == 0, 0, sign[k] - 2) for k in MOVES])
    best = after.max(0)
    for action in range(4):
        proved.action.fill_(action)
        assert np.array_equal(model.wrong_views(proved).numpy(), after[action] != best)
    proved.action.copy_(torch.from_numpy(after.argmax(0)))
    for change in range(-9, 10):
        proved.change.fill_(change)
        assert np.array_equal(model.wrong_views(proved).numpy(), best - 1 != change)
    with torch.no_grad():
        proved.core.q.bias.fill_(torch.nan)
    assert report.wrong_views(proved.eval()) > 0


def test_thinking_is_value_iteration_and_ends_with_the_exact_distances(proved):
    """Look for look, from 0: V(s) = -1 + max V(s'), in all cells, those cut off too. It ends two
    looks after the farthest cell has its value, and one that sees nothing new."""
    cut_off = 0
    for mazes in mazes_of_all_kinds():
        (h, w, b), goal = mazes.walls.shape, mazes.goal.numpy()
        after = np.stack([reference.moves(walls) for walls, _ in reference.one_by_one(mazes)])
        away, wanted, is_open = to_goal(mazes), np.zeros((b, h * w)), ~mazes.walls.numpy()
        for value, _ in model.looks(proved.change, mazes.walls, mazes.goal, 24):
            iterated = np.moveaxis(wanted.reshape(b, h, w), 0, -1)
            assert np.array_equal(value.numpy()[is_open], iterated[is_open])
            wanted = -1 + np.stack([v[next_cells] for v, next_cells in zip(wanted, after)]).max(1)
            wanted[np.arange(b), goal] = 0
        thoughts = proved.begin(mazes)
        assert torch.equal(thoughts.value[away >= 0], -away[away >= 0].int())
        assert thoughts.value.min() >= -(away.max() + 3)
        assert not thoughts.value[mazes.walls].any()
        assert (next_to(away, thoughts.greedy()) == away - 1)[away > 0].all()
        assert ((thoughts.q().amax(0) + away)[away > 0].abs() <= 0.5).all()
        cut_off += int(((away < 0) & ~mazes.walls).sum())
    assert cut_off > 200


@pytest.mark.parametrize("most, looks", [(0, 14), (7, 7), (1000, 14)])
def test_training_looks_a_little_farther_than_its_farthest_start(proved, most, looks):
    """Of 3 steps, though some network might never come to rest; fewer by LOOKS."""
    mazes, proved.most_looks = reference.random_mazes(40, 30, 31, share=0.3), most
    proved.change.copy_(torch.randint(-2, 1, (model.VIEWS,), generator=seeded()))
    wanted = model.think(proved.change, mazes.walls, mazes.goal, looks)
    assert all(map(torch.equal, proved.begin(mazes, 3)[1:], wanted))


def test_lazy_thinking_is_thinking_number_for_number(trained):
    """However a network answers, whether it ever comes to rest, and however often it may look."""
    network, _, progress = load_checkpoint(f"{trained[0]}/out/checkpoint.pt", "cpu")
    right, early = network.change, progress["early"]["change"]
    few = torch.rand(model.VIEWS, generator=seeded()) < 0.02
    tables = [right, early, torch.zeros_like(right), right.masked_fill(few, -2)]
    for low, high in [(-1, 0), (-2, 0), (-1, 1), (0, 3), (-9, 9), (-9, -9)]:
        table = torch.randint(low, high + 1, (model.VIEWS,), generator=seeded(), dtype=torch.int32)
        tables.append(table)
    restless, slow = set(), None
    for mazes, (number, change) in itertools.product(mazes_of_all_kinds(), enumerate(tables)):
        for most in (1, 2, 5, 79, 80):
            slow, before = model.think(change, mazes.walls, mazes.goal, most), slow
            fast = agents.think_lazily(change, mazes.walls, mazes.goal, most)
            assert all(map(torch.equal, slow, fast)), (mazes.walls.shape, number, most)
            assert [x.dtype for x in fast] == [torch.int32] * 2
        restless |= set() if torch.equal(before[1], slow[1]) else {number}
    assert 0 not in restless and len(restless) > 2


@pytest.mark.parametrize("name", model.CORES)
def test_table_holds_what_the_core_says_once_it_is_asked(name):
    """Once its weights have changed and it is to be used, not before; walled in there is no way.
    Before it has learned nothing costs anything, and every weight learns."""
    torch.manual_seed(0)
    network = build(main.config() | dict(MODEL=name, WIDTH=8))
    planes = model.planes_of(torch.arange(model.VIEWS))
    assert not network.core(planes).any()
    with torch.no_grad():
        for weights in network.core.parameters():
            weights.normal_(std=0.5)
    network.eval()
    some = torch.randint(model.VIEWS, (400,), generator=seeded())
    network.core(planes[..., some]).square().sum().backward()
    assert all(weights.grad.any() for weights in network.core.parameters())
    closed_in = planes[0, MOVES].all(0)
    for _ in range(2):
        apart = torch.cat([network.core(planes[..., [i]]) for i in some], 1)
        wanted = torch.where(closed_in[some], -1, apart)
        assert torch.allclose(network.table[:, some], wanted, atol=1e-4)
        assert (network.table[:, closed_in] == -1).all()
        best = network.table.amax(0)
        assert torch.equal(network.table.gather(0, network.action.long()[None])[0], best)
        off = (network.change - best).abs()[best.abs() < 9]
        assert off.max() <= 0.5 and len(off) > 5000
        before = network.train().table.clone()
        with torch.no_grad():
            network.core.q.bias += 1
        assert torch.equal(network.table, before)
        network.eval()


@pytest.mark.parametrize("vision, epsilon", [(1, 0.0), (2, 0.0), (2, 0.6)])
def test_agent_on_a_map_takes_what_it_has_not_seen_for_open(proved, vision, epsilon):
    b, steps, detours = 25, 30, 0
    agent = build(main.config() | dict(VISION=vision, MEMORY="map"))
    agent.load_state_dict(proved.state_dict())
    mazes = reference.random_mazes(b, 9, 10, share=0.35)
    episodes, sight = main.rollout(agent, mazes, steps, torch.full((b,), epsilon), seeded())
    view, value, next_value = sight.seen(episodes.cells)
    assert all(map(torch.equal, episodes.seen, (view, value, next_value)))
    for i, (walls, goal) in enumerate(reference.one_by_one(mazes)):
        cells, known = episodes.cells[:, i].tolist(), np.zeros_like(walls)
        for t, cell in enumerate(cells):
            before = reference.distances(known, goal).flat if t else None
            known = walls & reference.in_windows(walls.shape, cells[: t + 1], vision)
            away = reference.distances(known, goal).flat
            if t and before[cell] >= 0:
                assert next_value[t - 1, i] == -before[cell]
            if away[cell] < 0:
                break  # it knows that there is no way
            assert value[t, i] == -away[cell]
            if t < steps and cell != goal and not epsilon:
                planned = reference.step(known, goal, cell, int(episodes.actions[t, i]))
                assert away[planned] == away[cell] - 1 and cells[t + 1] == planned
            detours += t > 0 and away[cell] > before[cell]
    assert detours > 5
    assert torch.equal(recall(agent, episodes).seen, episodes.seen)

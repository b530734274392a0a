"""The predictions of bench/lab.py, against brute force."""

import itertools
import math
import sys
from pathlib import Path

import networkx as nx
import pytest
import torch

import main
import maze
from support import plain
from support.agents import Window

sys.path.append(str(Path(main.__file__).parent / "bench"))
import lab
import panels
from panels import credit, discount, farming, memory, reach, sync, walk


def mazes_of(n=6, grid=6, seed=0, **how):
    return panels.some_mazes(n, grid, seed, **how)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.9, 1.0])
def test_front_of_credit_is_that_of_backups(lam):
    """r[d]: the share of its value that a cell d steps from the goal has; before, a sync ago."""
    before = [1.0] + [0.0] * (credit.CELLS - 1)
    for sync_number in range(1, 30):
        now = [1.0, 1.0]
        for d in range(2, credit.CELLS):
            now.append((1 - lam) * before[d - 1] + lam * now[d - 1])
        shares = [credit.share(d, sync_number, lam) for d in range(1, credit.CELLS)]
        assert shares == pytest.approx(now[1:])
        before = now
    with panels.constants(credit.REWARD):
        found = credit.by_syncs(lam, 0.0, 12, 0)
    predicted = torch.tensor([credit.front(n, lam) for n in range(13)])
    assert (found - predicted).abs().max() <= 1  # a share of exactly a half may be rounded up


def test_credit_by_order_of_replay():
    with panels.constants(credit.REWARD):
        assert credit.replayed("forwards", 3, 0).tolist() == [0, 1, 2, 3]
        assert credit.replayed("backwards", 1, 0).tolist() == [0, credit.CELLS - 1]
    # At random: the next cells get news in this pass as long as their places in it rise.
    rises = 0
    for order in itertools.permutations(range(6)):
        rises += next((i for i in range(1, 6) if order[i] < order[i - 1]), 6)
    assert rises / math.factorial(6) == pytest.approx(credit.ORDERS["at random"], abs=0.01)


def test_chance_of_the_right_move_is_that_of_many_throws():
    generator = torch.Generator().manual_seed(0)
    q = torch.tensor([0.5, 0.45, 0.45, 0.4, 0.4])  # the best, two bumps, two steps back
    thrown = q + 0.04 * torch.randn(100_000, 5, generator=generator)
    gaps = torch.tensor([0.05]), torch.tensor([0.1])
    errors = [torch.tensor([0.04])] * 3
    counted = (thrown.argmax(1) == 0).float().mean().item()
    assert discount.right_move(*gaps, errors, 2, 2).item() == pytest.approx(counted, abs=0.01)


def test_chance_to_arrive_with_errors_is_that_of_many_agents():
    mazes, distance = mazes_of(grid=8)
    many = torch.arange(6).repeat(500)
    for error, relative in (0.05, True), (0.03, False):
        how = 0.85, error, relative
        predicted = discount.chance(mazes, distance, *how)
        generator = torch.Generator().manual_seed(0)
        agent = discount.with_errors(mazes.select(many), distance[..., many], *how, generator)
        counted = panels.arrived(agent, mazes.select(many), 64).view(500, 6).mean(0)
        assert counted.tolist() == pytest.approx(predicted.tolist(), abs=0.07)


def test_chance_of_a_random_walk_is_that_of_all_walks():
    mazes, distance = mazes_of(3, 5, difficulty=0.5)
    sequences = torch.tensor(list(itertools.product(range(4), repeat=5)), dtype=torch.int32).T
    exact = maze.along(walk.reach_chance(mazes, 5), mazes.start[None])[0]
    for lane in range(3):
        many = mazes.select(torch.full((4**5,), lane))
        cells = maze.walk(maze.move_table(many), many.start, sequences.contiguous())
        assert (cells[-1] == many.goal).double().mean() == pytest.approx(exact[lane].item())


def test_news_reaches_as_far_as_king_steps_say():
    """With small positive weights nothing cancels, and walls stay without a state: Q differs just
    where news of either goal arrives."""
    mazes, _ = mazes_of(12, 9)
    torch.manual_seed(0)
    for rounds in 1, 3, 6:
        network = plain.CNN(3, 9, rounds)
        for weights in network.parameters():
            torch.nn.init.uniform_(weights, 0.01, 0.03)
        network.double()
        images = plain.images
        plain.images = lambda mazes: images(mazes).double()
        try:
            other = mazes._replace(goal=mazes.start)
            with torch.no_grad():
                differs = (network(mazes) != network(other)).any(0)
        finally:
            plain.images = images
        nearest = torch.minimum(reach.king_steps(mazes), reach.king_steps(other))
        assert torch.equal(differs & ~mazes.walls, (nearest <= rounds + 1) & ~mazes.walls)


def test_king_steps_are_those_of_a_graph():
    mazes, _ = mazes_of(1, 8)
    is_open = [tuple(x) for x in (~mazes.walls[..., 0]).nonzero().tolist()]
    graph = nx.Graph()
    for a, b in itertools.combinations(is_open, 2):
        if max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1:
            graph.add_edge(a, b)
    right = nx.single_source_shortest_path_length(graph, divmod(mazes.goal.item(), 8))
    found = reach.king_steps(mazes)[..., 0]
    assert all(found[place] == steps for place, steps in right.items())


def test_way_is_known_where_all_others_end_in_sight():
    mazes, distance = mazes_of(2, 8)
    needs = reach.way_is_known(mazes)
    for lane in range(2):
        is_open = map(tuple, (~mazes.walls[..., lane]).nonzero().tolist())
        tree = nx.grid_graph((8, 8)).subgraph(is_open)
        goal = divmod(mazes.goal[lane].item(), 8)
        for here in tree:
            if here == goal:
                continue
            cell = torch.tensor([here[0] * 8 + here[1]])
            one = mazes.select(torch.tensor([lane]))._replace(goal=cell)
            king = reach.king_steps(one)[..., 0]  # from here, as well as to here
            onward = nx.shortest_path(tree, here, goal)[1]
            rest = tree.subgraph(set(tree) - {onward})
            others = nx.node_connected_component(rest, here)
            farthest = max(king[place].item() for place in others)
            assert needs[here[0], here[1], lane] == min(king[goal].item() - 1, farthest)


@pytest.mark.parametrize("gamma", [0.8, 0.95])
def test_farming_pays_from_the_threshold_on(gamma):
    """Value iteration, with the rewards of maze.rewards and the bonus for every move."""
    mazes, distance = mazes_of(8, 7)
    table = maze.move_table(mazes).view(49, 5, 8)[:, :4].long()  # (cell, action, maze)
    here = torch.arange(49)[:, None, None].expand_as(table)
    each = mazes.select(torch.arange(8).repeat(49 * 4))
    pairs = torch.stack([here, table]).flatten(1)
    extra, reward = farming.bonus_of("every move", each, pairs, gamma)
    away = distance.flatten(0, 1) > 0
    # One step from the goal, and with another way to go: it goes there, or never.
    beside = (discount.openings(mazes) > 1).flatten(0, 1) & (distance.flatten(0, 1) == 1)
    for share in 0.9, 1.1:
        earned = (reward + share * farming.threshold(gamma) * extra).view_as(table)
        value = torch.zeros(49, 8)
        for _ in range(600):
            q = earned + gamma * value.gather(0, table.flatten(0, 1)).view_as(table)
            value = torch.where(away, q.amax(1), 0)
        far = distance.flatten(0, 1)
        nearer = far.gather(0, table.flatten(0, 1)).view_as(table) < far[:, None]
        goes_on = nearer.gather(1, q.argmax(1, keepdim=True))[:, 0]
        assert goes_on[away].all() if share < 1 else not goes_on[beside].any()


def test_bonuses_are_those_of_the_program():
    mazes, _ = mazes_of(4, 7)
    generator = torch.Generator().manual_seed(0)
    choices = torch.randint(4, (30, 4), generator=generator)
    cells = maze.walk(maze.move_table(mazes), mazes.start, choices)
    extra, without = farming.bonus_of("NOVELTY", mazes, cells, 0.9)
    assert torch.equal(without + extra, maze.rewards(mazes, cells, 0.0, 1.0, novelty=1.0)[0])
    extra, without = farming.bonus_of("SHAPING", mazes, cells, 0.9)
    shaped, _ = maze.rewards(mazes, cells, 0.0, 1.0, shaping="manhattan", gamma=0.9)
    assert torch.allclose(without + extra, shaped)


def test_lookalikes_look_alike_and_differ():
    mazes, distance = mazes_of(300, 12)
    (lane, cell), (other_lane, other_cell) = memory.lookalikes(mazes, distance)
    few = mazes.select(torch.tensor([lane, other_lane]))
    sight = Window(4, memory.RADIUS, True, (0, 1)).begin(few)
    sight.act(torch.tensor([cell, other_cell]))
    seen = sight.seen(None)[:, 0]
    assert torch.equal(seen[:, 0], seen[:, 1])
    q = maze.optimal_q(mazes, distance).flatten(1, 2)
    assert q[:, cell, lane].argmax() == q[:, other_cell, other_lane].argmax() ^ 1


def test_target_is_synced_rarely():
    network = torch.nn.Linear(1, 1)
    target = sync.rarely(torch.nn.Linear(1, 1), 3)
    copied = []
    for _ in range(7):
        network.weight.data += 1
        target.load_state_dict(network.state_dict())
        copied.append(torch.equal(network.weight, target.weight))
    assert copied == [True, False, False, True, False, False, True]


def test_chance_of_an_agent_is_the_product_of_how_often_its_moves_are_right():
    mazes, distance = mazes_of(grid=8)
    perfect = panels.Table(maze.optimal_q(mazes, distance).double())
    assert discount.chance_of(perfect, mazes, distance, mazes, distance).tolist() == [1.0] * 6
    blind = maze.optimal_q(mazes, distance).double()
    blind[:, distance == 2] *= -1  # always wrong two steps before the goal, always right elsewhere
    blind = panels.Table(blind)
    far = maze.shortest(mazes, distance)
    found = discount.chance_of(blind, mazes, distance, mazes, distance)
    assert found.tolist() == (far < 2).double().tolist()
    assert panels.arrived(blind, mazes, 64).tolist() == found.tolist()


def test_a_range_holds_inside_only():
    assert lab.holds((0.2, 0.7), 0.2) and lab.holds((0.2, 0.7), 0.5)
    assert not lab.holds((0.2, 0.7), 0.71) and not lab.holds((0.2, 0.7), 0.19)

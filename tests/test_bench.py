"""The benchmarks run, and what they hold the agent against is what they say."""

import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from scipy.ndimage import convolve

import main
import maze
import model

sys.path.append(str(Path(main.__file__).parent / "bench"))
import ablations  # noqa: E402
import explorers  # noqa: E402
import perfect  # noqa: E402
import speed  # noqa: E402


@pytest.mark.parametrize("make", [perfect.kruskal, perfect.wilson, perfect.binary_tree])
def test_foreign_mazes_are_spanning_trees(make):
    for seed in range(5):
        walls = make(6, np.random.default_rng(seed))
        graph = nx.grid_graph(walls.shape[::-1]).subgraph(map(tuple, np.argwhere(~walls)))
        assert walls.shape == (11, 11) and not walls[::2, ::2].any() and nx.is_tree(graph)


def test_fields_have_long_ways():
    for text in perfect.fields(5, 14, 25, 0):
        assert reference.distances(text.walls, text.goal).flat[text.start] > 25
        assert 0.2 < text.walls.mean() < 0.6


def test_caves_are_random_walls_smoothed_four_times():
    for seed in range(5):
        walls = np.random.default_rng(seed).random((14, 14)) < 0.45
        for _ in range(4):
            walls = convolve(walls.astype(int), np.ones((3, 3), int), mode="constant", cval=1) >= 5
        assert np.array_equal(perfect.cave(14, np.random.default_rng(seed)), walls)


def test_explorers_know_more_the_more_they_remember(capsys):
    explorers.run(["MAZES=60"])
    rows = [
        row.split("|")[1:4] for row in capsys.readouterr().out.splitlines() if row.startswith("| ")
    ][1:]
    success = {name.strip(): float(value) for name, value, _ in rows if value.strip()[0].isdigit()}
    assert success["random walk"] < success["depth-first search"] < success["frontier, beta 2.0"]
    assert all(float(spl) <= float(value) for _, value, spl in rows if value.strip()[0].isdigit())


def test_frontier_explorer_knows_the_way_where_it_sees_everything():
    mazes = maze.draw(
        maze.make_mazes(20, 8, torch.Generator().manual_seed(0)),
        8,
        1.0,
        60,
        "random",
        torch.Generator().manual_seed(1),
    )
    cells = main.rollout(explorers.Frontier(8, 1.0), mazes, 60)[0].cells
    steps = (cells[:-1] != mazes.goal).sum(0)
    assert torch.equal(steps, maze.shortest(mazes, maze.distances(mazes.walls, mazes.goal)).long())


def test_an_ablation_leaves_the_constants_as_they_were(tiny):
    before = main.config()
    row = ablations.one_run(["REPLAY=uniform", "LAMBDA=0.5", "EVAL_MAZES=20"])
    assert main.config() == before and 0 <= row["success"] <= 1 and row["rise"] >= 1


def test_every_stage_is_timed(tiny):
    stages = speed.stages(model.Thinker("vin", 8, 0.5), torch.device("cpu"), 1e9, 1e9)
    assert {
        "generate",
        "draw",
        "distances",
        "think",
        "roll out",
        "update",
        "evaluate",
    } <= stages.keys()
    assert all(
        seconds > 0 and mazes > 0 and floor > 0 for seconds, mazes, _, _, floor in stages.values()
    )


@pytest.mark.parametrize(
    "name", [name for name, (_, turned) in ablations.BUILT_IN.items() if turned]
)
def test_what_is_built_in_can_be_taken_away_and_comes_back(tiny, name):
    """Each turn changes what a network thinks, or what it learns from; afterwards all is as
    before."""
    torch.manual_seed(0)
    mazes = reference.random_mazes(30, 9, 9, share=0.3)

    def thought(core="mlp"):
        network = main.build(main.config() | dict(MODEL=core, GAMMA=0.5, LOOKS=40))
        torch.manual_seed(1)
        for weights in network.parameters():
            torch.nn.init.normal_(weights, std=0.15)
        torch.nn.init.constant_(network.core.q.bias, 0.55)
        cells = main.rollout(network, mazes, 20)[0].cells
        patch, _ = network.think(mazes).along(cells)
        return network.q((patch, None))[0].detach()

    before = thought()
    with ablations.BUILT_IN[name][1]():
        turned = thought()
    assert turned.shape != before.shape or not torch.allclose(turned, before)
    assert torch.equal(thought(), before)


@pytest.mark.parametrize("name", list(ablations.ONCE))
def test_networks_that_look_once_can_be_trained(tiny, name):
    settings, turned = ablations.ONCE[name]
    row = ablations.one_run([*settings.split(), "NUM_EPISODES=128", "EVAL_MAZES=20"], turned)
    assert 0 <= row["success"] <= 1 and row["q_error"] < 10

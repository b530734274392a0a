"""The benchmarks run, and what they hold the agent against is what they say."""
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import main
import maze
import model
import reference

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


def test_windows_are_judged_as_they_are():
    network = reference.make_exact(model.VIN(8, 64, 0.9).requires_grad_(False))
    assert perfect.judged_windows(network) == (0, 960)
    network.judge.bias[0] = 100  # holds every move to be free
    wrong, of = perfect.judged_windows(network)
    assert wrong == 4 * 112 and of == 960


def test_explorers_know_more_the_more_they_remember(capsys):
    explorers.run(["MAZES=60"])
    rows = [row.split("|")[1:4] for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    success = {name.strip(): float(value) for name, value, _ in rows if value.strip()[0].isdigit()}
    assert success["random walk"] < success["depth-first search"] < success["frontier, beta 2.0"]
    assert all(float(spl) <= float(value) for _, value, spl in rows if value.strip()[0].isdigit())


def test_frontier_explorer_knows_the_way_where_it_sees_everything():
    mazes = maze.draw(maze.make_mazes(20, 8, torch.Generator().manual_seed(0)), 8, 1.0, 60, "random", torch.Generator().manual_seed(1))
    cells = main.rollout(explorers.Frontier(8, 1.0), mazes, 60)[0].cells
    steps = (cells[:-1] != mazes.goal).sum(0)
    assert torch.equal(steps, maze.shortest(mazes, maze.distances(mazes.walls, mazes.goal)).long())


def test_an_ablation_leaves_the_constants_as_they_were(tiny):
    before = main.config()
    (tiny / "one").mkdir()
    summary, history = ablations.one_run(["REPLAY=uniform", "LAMBDA=0.5", "EVAL_MAZES=20"], str(tiny / "one"))
    assert main.config() == before and 0 <= summary["success"] <= 1 and history[-1]["episodes"] == 128


def test_every_stage_is_timed(tiny):
    stages = speed.stages(model.VIN(8, 8, 0.98), torch.device("cpu"))
    assert {"generate", "draw", "distances", "plan", "roll out", "targets", "update", "evaluate"} <= stages.keys()
    assert all(seconds > 0 and mazes > 0 and floor > 0 for seconds, mazes, _, _, floor in stages.values())

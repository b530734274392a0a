"""The benchmarks run, and what they hold the agent against is what they say."""

import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from reference import graph, to_goal
from test_runs import SMALL

import main
import maze

sys.path.append(str(Path(main.__file__).parent / "bench"))
import ablations
import explorers
import perfect
import speed
import turned


def shortest(mazes):
    """The length of a shortest way in each maze."""
    return to_goal(mazes).flatten(0, 1).gather(0, mazes.start[None])[0].tolist()


@pytest.mark.parametrize("make", [perfect.kruskal, perfect.wilson, perfect.binary_tree])
def test_foreign_mazes_are_spanning_trees(make):
    for seed in range(5):
        walls = make(6, np.random.default_rng(seed))
        assert walls.shape == (11, 11) and not walls[::2, ::2].any() and nx.is_tree(graph(walls))


def test_other_foreign_mazes_have_a_way_from_start_to_goal():
    for make, side in (perfect.obstacles, 12), (perfect.cave, 14):
        mazes = perfect.some(9, make, side, np.random.default_rng(0))
        assert len(mazes.goal) > 5 and min(shortest(mazes)) > 0
    fields = perfect.fields(5, 14, 25, 0)
    assert len(fields.goal) == 5 and min(shortest(fields)) > 25
    assert 0.2 < fields.walls.float().mean() < 0.6


def test_failures_and_detours_are_told_apart(monkeypatch):
    follower = explorers.WallFollower
    monkeypatch.setattr(follower, "q", lambda self: torch.zeros(4, 1, self.b), raising=False)
    mazes = perfect.own(30, 10, 0.8, 0)
    limit = int((~mazes.walls).sum((0, 1)).max())
    walked = (main.rollout(follower(), mazes, limit)[0].cells != mazes.goal).sum(0).tolist()
    failed = sum(n > limit for n in walked)
    detours = sum(b < n <= limit for b, n in zip(shortest(mazes), walked))
    found = perfect.failures(follower(), mazes, maze.distances(mazes.walls, mazes.goal))
    assert found == (failed, detours) and failed and detours


def test_explorers_know_more_the_more_they_remember(capsys):
    main.GRID, main.MAX_EP_LENGTH = 8, 20  # until the end of this test
    explorers.run(["MAZES=100"])
    rows = [row.split("|")[1:5] for row in capsys.readouterr().out.splitlines() if row[:1] == "|"]
    few, spl, more = ({row[0].strip(): float(row[i]) for row in rows[2:]} for i in (1, 2, 3))
    best = min(few["frontier, beta 2"], few["optimist"])
    assert few["random walk"] < few["depth-first search"] < best
    assert all(spl[name] <= few[name] <= more[name] for name in few)
    assert more.pop("random walk") < 1 and {*more.values()} == {1}


@pytest.fixture
def small(tmp_path):
    vars(main).update(main.settings.of_run(main.config(), {}, [*SMALL, f"OUT_DIR={tmp_path}"]))


def test_every_stage_is_timed(small):
    found = speed.stages(main.build(main.config()), torch.device("cpu"), 0.5)
    wanted = {"draw", "think, dense", "think, lazy", "walk", "learn", "evaluate"}
    assert wanted <= found.keys() and all(spent > 0 for spent, _ in found.values())


def test_each_row_of_the_ablations_turns_something(small, monkeypatch):
    few, before = ablations.with_loops(5, 9), main.config()
    monkeypatch.setattr(ablations, "with_loops", lambda: few)
    common = "EVAL_MAZES=20 WIDTH=4 LR=0.1 TARGET_SYNCS=1 NUM_EPISODES=256 UNTIL_PROVED=False "
    common += "CURRICULUM_SUCCESS=0 CURRICULUM_STEP=1 "
    default = ablations.one_run(common.split())
    for turn, kind in [("PRIORITY_BETA=0", None), *[*ablations.ROWS.values()][1:]]:
        turned_run = ablations.one_run((common + turn).split(), kind)
        said, *shares = ablations.words([turned_run], [default])
        # few looks turn nothing here: it is not that far
        assert "LOOKS" in turn or ("same" in said) == ("BETA" in turn), (turn, kind)
        assert said.startswith("not proved") and all(0 <= float(share) <= 1 for share in shares)
    assert main.config() == before


@pytest.mark.parametrize("agent", turned.AGENTS.values(), ids=turned.AGENTS)
def test_rows_of_the_turned_constants_are_taken_and_turn_what_they_say(agent, monkeypatch):
    monkeypatch.setattr(turned, "others", lambda *_: (0, 0))
    seen, small = {}, "EVAL_MAZES=20 NUM_EPISODES=64 BSZ=32 UPDATES=8 WIDTH=8 CURRICULUM=off "
    small += "MAZE_CACHE_SIZE=64 MAX_START_DISTANCE=24"
    for title, own, kind, base in turned.rows(agent):
        arguments = [*agent["own"].split(), *own.split()]
        main.settings.check(main.settings.of_run(main.config(), main.AGENTS, arguments))
        assert base is None or base in seen
        seen[title] = None
        if kind or base is None:
            few = [*arguments, *small.split()]
            seen[title] = turned.one_run(few, kind, agent["where"])[2]
        assert not kind or not torch.equal(seen[title], seen[base])

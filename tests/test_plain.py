"""Plain networks; and that a new network needs no more than one class and one name."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from reference import drawn, seeded
from scipy.stats import chisquare
from test_runs import runs, summary_of

import main
import maze
from support import agents, plain
from support.files import load_checkpoint
from support.process import UserError

NAMES = list(plain.NETWORKS)
# A CNN by its own constants, but for fewer episodes in smaller mazes: some seconds.
SHORT = (
    "THINK=False MODEL=cnn NUM_EPISODES=4096 BSZ=256 UPDATES=32 TARGET_SYNCS=1 EVAL_EVERY=5 "
    "MAX_START_DISTANCE=30 MAX_EP_LENGTH=50 MAZE_CACHE_SIZE=2000 EVAL_MAZES=300 EVAL_SAMPLE=50"
).split()


def fresh(name, spread=None, **asked):
    """An agent by the constants of its kind for mazes of 8x8; weights of this spread, if given."""
    torch.manual_seed(0)
    own = dict(THINK=False, MODEL=name, GRID=8)
    agent = agents.build(main.config() | main.AGENTS[f"plain {name}"] | own | asked).eval()
    if spread:
        with torch.no_grad():
            for weights in agent.parameters():
                weights.normal_(std=spread)
    return agent


def calls_of(layer):
    """Of each call of this layer, from now on: whether it was with gradient."""
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns_and_before_that_all_answers_are_0(name):
    mazes = reference.random_mazes(5, 8, 8)
    assert not fresh(name).network(mazes).any()
    agent = fresh(name, 0.1)
    q = agent.network(mazes)
    assert q.shape == (4, 8, 8, 5) and q.isfinite().all() and (q.std((0, 1, 2)) > 1e-3).all()
    q.square().sum().backward()
    assert all(weights.grad.any() for weights in agent.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_many_mazes_at_once_are_as_each_alone_and_steps_are_those_of_the_way(name):
    agent, mazes = fresh(name, 0.1, LOOKS=20), reference.random_mazes(130, 8, 8)
    q = agent.begin(mazes).q()
    assert q.shape == (4, 8, 8, 130)
    for i in 0, 63, 64, 129:
        alone = agent.begin(mazes.select(slice(i, i + 1))).q()[..., 0]
        assert torch.allclose(q[..., i], alone, atol=1e-4)
    episodes, sight = main.rollout(agent, mazes, 9, torch.full((130,), 0.5), seeded())
    assert torch.equal(sight.greedy().long(), q.argmax(0)) and episodes.seen.shape[1:] == (10, 130)
    steps = torch.randperm(9 * 130, generator=seeded())[:300]
    time, lane = steps // 130, steps % 130
    wanted = q.flatten(1, 2)[:, episodes.cells[time, lane], lane]
    assert torch.allclose(agent.q(episodes, steps), wanted, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_only_the_cnn_takes_mazes_of_any_size_and_the_others_say_so(name):
    for h, w in (8, 8), (3, 13), (4, 16), (1, 2):
        mazes, agent = reference.random_mazes(3, h, w), fresh(name)
        if name == "cnn" or (h, w) == (8, 8):
            assert agent.begin(mazes).q().shape == (4, h, w, 3)
        else:
            with pytest.raises(UserError, match="8x8.*MODEL=cnn"):
                agent.begin(mazes)


@torch.no_grad()
@pytest.mark.parametrize("rounds", [1, 6])
def test_after_k_rounds_a_cell_knows_of_the_cells_within_k_plus_1_and_no_others(rounds):
    """Walls come and go in the ring of cells at one distance, counted as a king walks."""
    agent, middle = fresh("cnn", 0.3, WIDTH=8, LOOKS=rounds), 10
    walls = torch.rand(21, 21, 30, generator=seeded()) < 0.15
    walls[middle, middle] = False
    goal = torch.full((30,), middle * 22)
    before = agent.begin(maze.Mazes(walls, goal, goal)).q()[:, middle, middle]
    y, x = (torch.arange(21) - middle).abs()[:, None], (torch.arange(21) - middle).abs()
    for distance in range(1, 11):
        ring = torch.maximum(y, x) == distance
        other = walls ^ ring[..., None]
        after = agent.begin(maze.Mazes(other, goal, goal)).q()[:, middle, middle]
        changed = (after - before).abs().amax(0) > 1e-6
        assert changed.any() == (distance <= rounds + 1), distance


@torch.no_grad()
@pytest.mark.parametrize("looks", [1, 7, 30])
def test_the_cnn_does_not_see_how_much_wall_is_around_a_maze(looks):
    """Nor whether the wall outside was drawn: walls have no state."""
    agent, mazes = fresh("cnn", 0.1, LOOKS=looks), reference.random_mazes(40, 6, 7)
    goal = maze.in_padded(mazes.goal, 7, 5)
    large = maze.Mazes(maze.padded(mazes.walls, 5, True), goal, goal)
    q, again = agent.begin(mazes).q(), agent.begin(large).q()
    assert torch.allclose(q, again[:, 5:-5, 5:-5], rtol=1e-3, atol=1e-4) and q.std() > 0.01
    outside = torch.cat([again[:, :5].flatten(1), again[:, -5:].flatten(1)], 1)
    assert torch.equal(outside, outside[:, :1].expand_as(outside))


def test_while_it_learns_the_last_16_rounds_have_a_gradient_and_a_random_number_before_have_none():
    agent, cell = fresh("cnn", WIDTH=2), torch.tensor([9])
    mazes = maze.Mazes(torch.zeros(8, 8, 1, dtype=torch.bool), cell, cell)
    calls, free = calls_of(agent.network.again), []
    for _ in range(400):
        calls.clear()
        agent.network(mazes, 40)
        free.append(calls.count(False))
        assert calls == [False] * free[-1] + [True] * 16
    assert chisquare(np.bincount(free, minlength=27)).pvalue > 1e-6 and len(set(free)) == 27
    # As many as the farthest start needs, or LOOKS, and whether it is at rest is not asked.
    for farthest, looks, rounds in (10, 0, 12), (10, 5, 5), (40, 12, 12), (1, 0, 3), (40, 0, 42):
        agent.network.rounds = looks
        for gradient in (True, False) if rounds <= 16 else [False]:
            calls.clear()
            with torch.set_grad_enabled(gradient):
                agent.network(mazes, farthest)
            assert calls == [gradient] * rounds


def test_the_cnn_learns_to_walk_mazes_it_has_never_seen_and_comes_to_rest_by_itself(tmp_path):
    """And many more rounds give the same answers, but a few do not."""
    assert runs(tmp_path / "out", *SHORT) == 0
    found = summary_of(tmp_path / "out")
    assert found["success"] > 0.8 > found["random_walk"] + 0.4
    agent, mazes = load_checkpoint(f"{tmp_path}/out/checkpoint.pt", "cpu")[0], drawn(1000)
    away = maze.distances(mazes.walls, mazes.goal)
    few = (away.amax((0, 1)) < 18).nonzero()[:50, 0]  # of 31 cells each
    mazes, reached = mazes.select(few), away[..., few] > 0
    calls, agent.network.patience = calls_of(agent.network.again), 8
    with torch.no_grad():
        found = agent.begin(mazes).greedy()
        assert len(calls) in (17, 25, 33)  # 39 are the most
        agent.network.patience = 10**9
        for agent.network.rounds, least, most in (600, 0.99, 1), (3, 0, 0.9):
            agree = (agent.begin(mazes).greedy() == found)[reached].float().mean()
            assert least <= agree <= most, (agent.network.rounds, agree)


# The contract: one class, and one name


ADDED = {
    "support/plain.py": """NETWORKS = {"square": Square
class Square(nn.Conv2d):
    def __init__(self, width, grid, rounds):
        super().__init__(2, 4, 5, padding=2)

    def forward(self, mazes, farthest=None):
        return super().forward(images(mazes)).permute(1, 2, 3, 0)
""",
    "model.py": """CORES = {"pairs": Pairs
class Pairs(nn.Linear):
    def __init__(self, width):
        super().__init__(16, 4)

    def forward(self, x):
        return super().forward(x.flatten(0, 1).t()).t()
""",
    "support/agents.py": """MEMORIES = {"clock": Clock
class Clock(Window):
    planes = 3

    def remembered(self, sight, near):
        return [torch.full(near.shape, len(sight.notes) / 10, device=near.device)]
""",
}
COMMANDS = """
import main
small = "NUM_EPISODES=64 GRID=8 BSZ=32 UPDATES=2 WIDTH=8 MAX_EP_LENGTH=12 MAZE_CACHE_SIZE=50"
small = [*small.split(), "EVAL_MAZES=16", "EVAL_SAMPLE=8", "EVAL_EVERY=1", "DEVICE=cpu"]
square = ["MODEL=square", "THINK=False", "CREDIT=episode", "UNIT=advantage"]
for own in square, ["MODEL=pairs"], ["MEMORY=clock", "VISION=1"]:
    out = "OUT_DIR=" + own[0].partition("=")[2]
    assert main.main([*small, *own, out]) == 0
    assert main.main([*small, *own, out, "NUM_EPISODES=128", "RESUME=True"]) == 0
    assert main.main(["solve", "mazes.txt", out]) == 0
"""


def test_a_network_a_core_and_a_memory_are_one_class_and_one_name_each(tmp_path):
    """In a copy of the program: it trains, goes on, solves, and draws its pictures."""
    home = Path(main.__file__).parent
    shutil.copytree(home / "support", tmp_path / "support")
    for name in "main.py", "model.py", "maze.py":
        shutil.copy(home / name, tmp_path)
    for name, added in ADDED.items():
        entry, own = added.split("\n", 1)
        before, entries, after = (tmp_path / name).read_text().partition(entry.split('"')[0])
        (tmp_path / name).write_text(f"{before}{own}\n\n{entry}, {after}")
        assert entries
    (tmp_path / "mazes.txt").write_text("S" + "." * 7 + f"\n{'.' * 8}" * 6 + "\n#######G\n")
    command, how = [sys.executable, "-c", COMMANDS], dict(capture_output=True, text=True)
    run = subprocess.run(command, cwd=tmp_path, **how)
    assert run.returncode == 0 and not run.stderr, run.stderr
    assert run.stdout.count("shortest 14") == 3 and "warning" not in run.stdout
    for out in "square", "pairs", "clock":
        wanted = {"rollouts.png", "agent.gif", "training_plot.png"}
        wanted |= {"solved.png"} if out != "clock" else set()  # it knows its own way only
        assert wanted <= {path.name for path in (tmp_path / out).iterdir()}
        assert summary_of(tmp_path / out)["episodes"] == 128

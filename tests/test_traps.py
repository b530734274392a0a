"""What a user might stumble over: combinations of settings, runs that replace runs."""

import itertools
import random
import re

import numpy as np
import pytest
from test_runs import quick, runs  # noqa: F401

import main
import model
from support import agents, plain, process, settings
from support.files import load_checkpoint
from support.process import UserError

VALUES = settings.CHOICES | dict(
    THINK=[True, False],
    VISION=[0, 1, 2],
    LOOKS=[0, 3],
    NOVELTY=[0.0, 0.1],
    DOUBLE=[True, False],
    LAMBDA=[0.0, 0.9, 1.0],
    TARGET_SYNCS=[1, 2],
    GAMMA=[1.0, 0.98],
    STEP_REWARD=[-1.0, 0.0],
    GOAL_REWARD=[0.0, 1.0],
)
# What several of them decide together, so that most choices at random would be refused.
WHOLE = dict(VISION=0, MEMORY="none")
AGENTS = [WHOLE | dict(THINK=True), WHOLE | dict(THINK=False), dict(MODEL="mlp", LOOKS=0)]
AGENTS += [dict(VISION=radius, MEMORY="map") for radius in (1, 2)]
STEPS = dict(GAMMA=1.0, STEP_REWARD=-1.0, GOAL_REWARD=0.0)
EPISODE = dict(CREDIT="episode", LAMBDA=0.9, TARGET_SYNCS=1, DOUBLE=False, NOVELTY=0.0)
PLAIN = dict(SHAPING="none", NOVELTY=0.0, DOUBLE=False, CREDIT="step", LAMBDA=0.9, UNIT="q")
CHOICES = [{}, PLAIN | STEPS, dict(CREDIT="lambda", UNIT="q"), dict(LAMBDA=0.9, UNIT="q")]
CHOICES += [EPISODE | dict(UNIT="q"), EPISODE | STEPS | dict(SHAPING="none")]
TINY = (
    "NUM_EPISODES=16 BSZ=8 UPDATES=2 MAX_EP_LENGTH=6 EVAL_MAZES=8 EVAL_EVERY=2 EVAL_SAMPLE=4 "
    "MAZE_CACHE_SIZE=20 REPLAY_SIZE=16 WIDTH=4"
).split()


def arguments(values):
    return [f"{name}={value}" for name, value in values.items()]


def allowed(values):
    try:
        settings.check(settings.of_run(main.config(), main.AGENTS, arguments(values)))
        return True
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and re.search("choose|must be", str(error))
        return False


def pairs_of(values):
    return {frozenset(pair) for pair in itertools.combinations(values.items(), 2)}


def pairwise(chance):
    """Combinations in which every two values that can go together do, the greedy way."""
    both = itertools.combinations(VALUES, 2)
    pairs = {frozenset([(a, x), (b, y)]) for a, b in both for x in VALUES[a] for y in VALUES[b]}
    combinations = []
    for _ in range(200):
        tries = [{name: chance.choice(some) for name, some in VALUES.items()} for _ in range(60)]
        tries = [values | chance.choice(AGENTS) for values in tries]
        tries = [values | some for values in tries for some in CHOICES]
        new = max((v for v in tries if allowed(v)), key=lambda v: len(pairs & pairs_of(v)))
        if pairs & pairs_of(new):
            combinations.append(new)
            pairs -= pairs_of(new)
    return combinations, pairs


def test_every_two_values_that_go_together_train_and_the_others_are_refused(quick):  # noqa: F811
    assert {*VALUES["MODEL"]} == {*plain.NETWORKS, *model.CORES}
    assert {*VALUES["MEMORY"]} == {*agents.MEMORIES, "map"}
    chance = random.Random(0)
    combinations, left = pairwise(chance)
    for pair in left:  # what was never combined can't be, whatever the other values
        for _ in range(50):
            values = {name: chance.choice(some) for name, some in VALUES.items()}
            assert not allowed(values | dict(pair)), pair
    for number, values in enumerate(combinations):
        folder = quick / str(number)
        assert runs(folder, *TINY, *arguments(values)) == 0, values
        network, _, progress = load_checkpoint(str(folder / "checkpoint.pt"), "cpu")
        assert all(x.isfinite().all() for x in network.state_dict().values()), values
        assert all(np.isfinite([row["loss"], row["q_error"]]).all() for row in progress["history"])


def test_new_run_keeps_the_agent_of_the_last_one(quick, capsys):  # noqa: F811
    folder = quick / "out"
    assert runs(folder, "NUM_EPISODES=32") == 0
    first = (folder / "checkpoint.pt").read_bytes()
    assert runs(folder, "NUM_EPISODES=32", "SEED=1") == 0
    assert "checkpoint.previous.pt" in capsys.readouterr().out
    assert (folder / "checkpoint.pt").read_bytes() != first
    assert runs(folder, "NUM_EPISODES=64", "SEED=1", "RESUME=True") == 0  # of the new run
    assert (folder / "checkpoint.previous.pt").read_bytes() == first


def test_only_a_run_with_the_constants_of_the_file_replaces_its_plot(tmp_path, monkeypatch):
    """And a plot may go into a folder that exists, or that the run makes."""
    before = main.config()
    for wanted, given in (
        ("training_plot.png", ""),
        ("training_plot.png", "RESUME=True"),
        ("out/training_plot.png", "MODEL=linear"),
        ("other/training_plot.png", "SEED=1 OUT_DIR=other"),
        ("here.png", "PLOT_FILE=here.png"),
    ):
        own = settings.of_run(before, main.AGENTS, given.split())
        assert settings.plot_file(own, before) == wanted
    monkeypatch.chdir(tmp_path)
    settings.check(before | dict(OUT_DIR="out", PLOT_FILE="out/plot.png"))
    with pytest.raises(UserError, match="a folder that exists"):
        settings.check(before | dict(OUT_DIR="out", PLOT_FILE="other/plot.png"))


def test_a_run_deletes_only_what_a_killed_run_left(tmp_path):
    (tmp_path / "folder.part").mkdir()
    left = "checkpoint.pt.123.part", "training_plot.png.7.part"
    kept = "film.mkv.part", "film.mkv.001.part", "checkpoint.pt"
    for name in left + kept:
        (tmp_path / name).write_text("")
    with process.lock(str(tmp_path)):
        assert {path.name for path in tmp_path.iterdir()} == {*kept, "folder.part", "lock"}

"""What a user might stumble over: combinations of settings, runs that replace runs, foreign
files."""

import itertools
import json
import random
import re

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from test_runs import quick, runs, small  # noqa: F401

import main
import maze
import model
from support import mazefile, pictures, processes, settings
from support.checkpoint import load_checkpoint
from support.errors import UserError

VALUES = dict(
    SHAPING=["none", "manhattan", "oracle"],
    NOVELTY=[0.0, 0.1],
    REPLAY=["off", "uniform", "prioritized"],
    MEMORY=["none", "trail", "gru", "map"],
    VISION=[0, 1, 2],
    CURRICULUM=["off", "linear", "adaptive"],
    MODEL=["mlp", "cnn", "attention", "vin"],
    GOAL=["random", "corner"],
    DOUBLE=[True, False],
    LAMBDA=[0.0, 0.5, 1.0],
)


def allowed(values):
    try:
        settings.check(main.config() | values)
        return True
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and re.search("choose|must be", str(error))
        return False


def pairwise(seed=0):
    """Combinations in which every two values that can go together do, the greedy way."""
    chance, names = random.Random(seed), list(VALUES)
    pairs = {
        frozenset([(a, x), (b, y)])
        for a, b in itertools.combinations(names, 2)
        for x in VALUES[a]
        for y in VALUES[b]
    }
    combinations = []
    for _ in range(400):
        tries = [{name: chance.choice(VALUES[name]) for name in names} for _ in range(60)]
        tries = [values for values in tries if allowed(values)]
        new = [
            pairs & {frozenset(pair) for pair in itertools.combinations(values.items(), 2)}
            for values in tries
        ]
        best = max(range(len(tries)), key=lambda i: len(new[i]), default=None)
        if best is not None and new[best]:
            combinations.append(tries[best])
            pairs -= new[best]
    return combinations, pairs


@pytest.fixture
def small_memory(quick, monkeypatch):  # noqa: F811
    for name, value in dict(
        NUM_EPISODES=16,
        BSZ=8,
        UPDATES=2,
        MAX_EP_LENGTH=6,
        EVAL_MAZES=8,
        EVAL_EVERY=2,
        EVAL_SAMPLE=4,
        MAZE_CACHE_SIZE=20,
        REPLAY_SIZE=16,
        WIDTH=4,
    ).items():
        monkeypatch.setattr(main, name, value)
    return quick


def test_every_two_values_that_go_together_train_and_the_others_are_refused(small_memory, capsys):
    combinations, left = pairwise()
    assert 20 < len(combinations) < 80
    for pair in left:  # what was never combined can't be, whatever the other values
        for _ in range(300):
            values = {name: random.choice(options) for name, options in VALUES.items()} | dict(pair)
            assert not allowed(values), pair
    for number, values in enumerate(combinations):
        folder = small_memory / str(number)
        assert runs(folder, *[f"{name}={value}" for name, value in values.items()]) == 0, values
        network, _, progress = load_checkpoint(str(folder / "checkpoint.pt"), "cpu")
        assert all(x.isfinite().all() for x in network.state_dict().values()), values
        assert all(np.isfinite([row["loss"], row["q_error"]]).all() for row in progress["history"])


# Runs that follow one another


def test_new_run_keeps_the_agent_of_the_last_one(quick, capsys):  # noqa: F811
    folder = quick / "out"
    assert runs(folder, "NUM_EPISODES=32") == 0
    first = (folder / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert runs(folder, "NUM_EPISODES=32", "SEED=1") == 0
    assert "checkpoint.previous.pt" in capsys.readouterr().out
    assert (folder / "checkpoint.previous.pt").read_bytes() == first
    assert (folder / "checkpoint.pt").read_bytes() != first
    assert runs(folder, "NUM_EPISODES=64", "SEED=1", "RESUME=True") == 0  # of the new run
    assert (folder / "checkpoint.previous.pt").read_bytes() == first


def test_run_that_is_stopped_before_its_first_checkpoint_is_not_taken_for_the_last_one(
    quick, monkeypatch, capsys
):  # noqa: F811
    folder = quick / "out"
    assert runs(folder, "NUM_EPISODES=32") == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(main, "next_level", interrupted)
        assert runs(folder, "SEED=1") == 2
    assert "RESUME" not in capsys.readouterr().err
    assert runs(folder, "SEED=1", "RESUME=True") == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert (folder / "checkpoint.previous.pt").exists()


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        ([], "training_plot.png"),
        (["RESUME=True"], "training_plot.png"),
        (["MODEL=vin"], "out/training_plot.png"),
        (["OUT_DIR=other"], "other/training_plot.png"),
        (["SEED=1", "OUT_DIR=other"], "other/training_plot.png"),
        (["PLOT_FILE=here.png"], "here.png"),
    ],
)
def test_only_a_run_with_the_constants_of_the_file_replaces_its_plot(
    monkeypatch, arguments, wanted
):
    monkeypatch.setattr(main, "DEFAULTS", main.config())
    reference.override(arguments)
    assert settings.plot_file(main.config(), main.DEFAULTS) == wanted


def test_mazes_are_the_same_on_every_device_and_the_cache_of_another_is_used(tmp_path):
    path, said = str(tmp_path / "mazes.npz"), []
    first = maze.load_cache(path, 20, 8, 3, "cpu", said.append)
    assert torch.equal(first, maze.make_mazes(20, 8, torch.Generator().manual_seed(3)))
    assert (
        torch.equal(maze.load_cache(path, 20, 8, 3, "cpu", said.append), first) and len(said) == 1
    )


# Several processes


def test_a_mistake_of_ones_own_under_torchrun_is_not_called_a_lost_process(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "WORLD", 2)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda *_: None)
    with pytest.raises(RuntimeError, match="shapes"):
        with processes.joined(str(tmp_path), torch.device("cpu")):
            torch.ones(2, 3) @ torch.ones(2, 3)

    def lost(x):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(UserError, match="lost the others"):
        processes.all_reduce_sum(torch.ones(1))

    def wrong(x):
        raise RuntimeError("Duplicate GPU detected: rank 0 and rank 1 both on CUDA device 0")

    monkeypatch.setattr(torch.distributed, "all_reduce", wrong)
    with pytest.raises(RuntimeError, match="Duplicate GPU"):
        processes.all_reduce_sum(torch.ones(1))
    for name in "cuda:0", "mps":
        with pytest.raises(UserError, match=f"DEVICE={name} is not for several processes"):
            processes.pick_device(name, 1)


def test_memory_of_several_processes_is_not_resumed():
    with pytest.raises(UserError, match="choose REPLAY=off, or one process"):
        settings.check(main.config() | dict(RESUME=True, REPLAY="uniform"), processes=2)
    settings.check(main.config() | dict(RESUME=True), processes=2)
    settings.check(main.config() | dict(RESUME=True, REPLAY="uniform"))


# Numbers


@pytest.mark.parametrize(
    "written, text, value",
    [(0, "0.01", 0.01), (0, "1", 1), (1, "0.5", 0.5), (0.5, "1", 1.0), (3, "1e3", 1000)],
)
def test_a_number_may_have_a_fraction_however_it_is_written_in_the_file(written, text, value):
    found = settings.read(dict(NOVELTY=written), f"NOVELTY={text}")
    assert found == ("NOVELTY", value) and type(found[1]) is type(value)


@pytest.mark.parametrize("name", settings.WHOLE)
def test_whole_numbers_are_asked_for_where_fractions_make_no_sense(name):
    assert settings.check(main.config()) is None and isinstance(main.config()[name], int)
    with pytest.raises(UserError, match=f"{name}=2.5.*whole number"):
        settings.check(main.config() | {name: 2.5})


def test_reward_is_paid_once():
    mazes = reference.corridor(5, 0, 2)
    cells = torch.tensor([0, 1, 2, 2, 2])[:, None]
    assert main.with_reward(mazes, cells, None).reward[:, 0].tolist() == [0, 1, 0, 0]


# Far and near


@pytest.mark.parametrize("steps", [2**19, 2**20])
def test_a_value_that_comes_from_far_away_spreads_on(steps):
    mazes = reference.corridor(9, 0, 8)
    thoughts = model.Thoughts(
        reference.thinker_of(reference.Exact(0.5), 0.5), mazes.walls, mazes.goal
    )
    thoughts.worth[thoughts.goal] = float(-model.GRAIN * steps)
    worth = thoughts.inside(thoughts.settle().worth).flatten()
    assert worth.tolist() == [-model.GRAIN * (steps + 8 - i) for i in range(9)]


def test_what_no_value_has_reached_is_worth_nothing_at_the_greatest_gamma():
    gamma = max(high for names, _, high, _ in settings.RANGES if names == "GAMMA")
    assert gamma > 0.999
    walls = torch.ones(3, 5, 1, dtype=torch.bool)
    walls[1, [0, 2, 4]] = False
    thoughts = model.Thoughts(
        reference.thinker_of(reference.Exact(gamma), gamma), walls, torch.tensor([5])
    ).settle()
    values = (thoughts.inside(thoughts.worth) * thoughts.thinker.log2_unit).exp2()[..., 0]
    assert values[1, 0] > 1 and values[values < 1].max() < 1e-20
    assert thoughts.steps_away()[1, :, 0].tolist() == [0.0, *4 * [float("inf")]]


# Files of others


def test_a_run_deletes_only_what_a_killed_run_left(tmp_path):
    (tmp_path / "folder.part").mkdir()
    left = "checkpoint.pt.123.part", "training_plot.png.7.part"
    kept = "film.mkv.part", "film.mkv.001.part", "checkpoint.pt"
    for name in left + kept:
        (tmp_path / name).write_text("")
    with processes.lock(str(tmp_path)):
        assert {path.name for path in tmp_path.iterdir()} == {*kept, "folder.part", "lock"}


def test_a_run_that_cannot_be_resumed_leaves_its_mazes_alone(quick, digests, capsys):  # noqa: F811
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    before = digests(quick)
    assert runs(quick / "out", "NUM_EPISODES=32", "RESUME=True", "GRID=9") == 2
    assert "GRID=9 now" in capsys.readouterr().err and digests(quick) == before


def test_a_plot_may_go_into_the_folder_that_the_run_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings.check(main.config() | dict(OUT_DIR="out", PLOT_FILE="out/plot.png"))
    with pytest.raises(UserError, match="a folder that exists"):
        settings.check(main.config() | dict(OUT_DIR="out", PLOT_FILE="other/plot.png"))


# Mazes from elsewhere


def picture(walls, start, goal, size, path, mode="RGB"):
    """A picture of a maze with cells of `size` pixels, start green, goal red."""
    image = np.where(walls[..., None], 0, 255).astype(np.uint8).repeat(3, -1)
    for cell, color in ((start, (0, 255, 0)), (goal, (255, 0, 0))):
        if cell is not None:
            image.reshape(-1, 3)[cell] = color
    Image.fromarray(image.repeat(size, 0).repeat(size, 1)).convert(mode).save(path)


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_a_picture_is_the_maze_that_it_shows(tmp_path, size):
    for seed in range(5):
        one = reference.random_mazes(1, 9, 12, seed)
        walls, start, goal = one.walls[..., 0].numpy(), int(one.start), int(one.goal)
        if start == goal:
            continue
        path = str(tmp_path / "maze.png")
        picture(walls, start, goal, size, path)
        (found,) = mazefile.read(path)
        assert np.array_equal(found.walls, walls) and (found.start, found.goal) == (start, goal)
        picture(walls, None, None, size, path, "L")
        places = ["{},{}".format(*divmod(cell, 12)) for cell in (start, goal)]
        (found,) = mazefile.read(path, *places)
        assert np.array_equal(found.walls, walls) and (found.start, found.goal) == (start, goal)


def test_an_unclear_picture_is_told_in_one_line(tmp_path):
    path, walls = str(tmp_path / "maze.png"), np.zeros((5, 6), bool)
    walls[2, 1:] = True
    picture(walls, 0, None, 4, path)
    with pytest.raises(UserError, match="6x5 cells of 4 pixels, 0 of them red.*GOAL=y,x"):
        mazefile.read(path)
    with pytest.raises(UserError, match="row 2 and column 3, is a wall"):
        mazefile.read(path, goal="2,3")
    with pytest.raises(UserError, match="outside of its 5 rows and 6 columns"):
        mazefile.read(path, goal="9,0")
    with open(path, "wb") as file:
        file.write(b"not a picture")
    with pytest.raises(UserError, match="not a picture"):
        mazefile.read(path)


@pytest.mark.parametrize(
    "array", [np.zeros((3, 3), [("a", int)]), np.array([["#", "."]]), np.zeros((2, 2), complex)]
)
def test_an_array_of_anything_but_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "maze.npy", array)
    with pytest.raises(UserError, match="not a numpy array of numbers"):
        mazefile.read(str(tmp_path / "maze.npy"), "0,0", "1,1")
    with open(tmp_path / "maze.npy", "wb") as file:
        np.savez(file, array)
    with pytest.raises(UserError, match="not a numpy array of numbers"):
        mazefile.read(str(tmp_path / "maze.npy"), "0,0", "1,1")


def test_letters_and_arrays_of_others_are_read(tmp_path):
    walls = np.array([[0, 0, 1], [1, 0, 0]])
    np.save(tmp_path / "maze.npy", walls)
    (found,) = mazefile.read(str(tmp_path / "maze.npy"), "0,0", "1,2")
    assert np.array_equal(found.walls, walls) and (found.start, found.goal) == (0, 5)
    for text in "A.#\n#.B\n", "S.#\n#.G\n", "P %\n% .\n", "A.%\n%.B\n":
        (tmp_path / "maze.txt").write_text(text)
        (found,) = mazefile.read(str(tmp_path / "maze.txt"))
        assert np.array_equal(found.walls, walls) and (found.start, found.goal) == (0, 5), text


def test_solve_draws_what_it_prints(quick, monkeypatch, capsys):  # noqa: F811
    folder, drawn = quick / "out", []
    assert runs(folder, "NUM_EPISODES=32") == 0
    picture(np.zeros((4, 4), bool), 0, 15, 3, quick / "maze.png")
    monkeypatch.setattr(pictures, "walks", lambda *found: drawn.append(found))
    assert main.main(["solve", str(quick / "maze.png"), f"OUT_DIR={folder}"]) == 0
    path, mazes, cells, *_ = drawn[0]
    assert (
        path == str(folder / "solved.png")
        and mazes.goal.tolist() == [15]
        and cells[0].tolist() == [0]
    )
    assert json.loads((folder / "summary.json").read_text())["success"] <= 1

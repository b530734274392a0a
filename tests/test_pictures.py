"""The pictures show what they say that they show."""

import functools
import types

import numpy as np
import pytest
import reference
import torch
from PIL import Image, ImageSequence
from reference import drawn, to_goal
from test_runs import exact

import main
import maze
import model
from support import files, pictures, report


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn from now on, in place of files."""
    saved = []
    monkeypatch.setattr(pictures, "save", lambda figure, *_: saved.append(figure))
    return saved


SHOWN = {
    "held-out mazes": "success",
    "training mazes": "train_success",
    "q_error: mean |Q - Q*|": "q_error",
    "mean Q - Q*, where over": "q_bias",
    "loss (Huber, over HUBER)": "loss",
    "norm of the gradient": "grad_norm",
    "epsilon, mean": "epsilon",
    "curriculum level: walls and distances": "level",
    "learning rate / LR": "learning_rate",
}
NAMES = ["episodes", "wrong_views", *SHOWN.values()]
HISTORY = [{name: 10.0 * i + k + 1 for k, name in enumerate(NAMES)} for i in range(4)]
HISTORY[3]["wrong_views"] = 0


def test_the_plot_of_a_run_shows_each_column_under_its_name(figures):
    bands = {"1-10": dict(mazes=3, success=0.5), "11-20": dict(mazes=2, success=1.0)}
    known = dict(random_walk=0.125, by_distance=bands)
    pictures.course("plot.png", dict(history=HISTORY), main.config() | dict(LR=1.0), known)
    axes = figures[0].axes
    x = [row["episodes"] / 1000 for row in HISTORY]
    lines = {line.get_label(): line for axis in axes for line in axis.lines}
    for label, name in SHOWN.items():
        assert lines[label].get_xdata() == pytest.approx(x), label
        assert lines[label].get_ydata() == pytest.approx([row[name] for row in HISTORY]), label
    assert np.isnan(lines["mean Q* - Q, where under"].get_ydata()).all()
    assert list(lines["random walk"].get_ydata()) == [0.125, 0.125]
    (bars,) = [axis.patches for axis in axes if "Success by steps" in axis.get_title()]
    assert [bar.get_height() for bar in bars] == [0.5, 1.0]
    (wrong,) = [axis for axis in axes if "Wrong views" in axis.get_title()]
    assert list(wrong.lines[0].get_ydata()) == [row["wrong_views"] for row in HISTORY]
    (star,) = [line for line in wrong.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([x[-1]], [0])


def test_the_plot_speaks_of_a_proof_only_where_there_is_one(figures):
    """Not where LOOKS ends the thinking; and on a map no more than the planner is proved."""
    for own, claims in ({}, True), (dict(LOOKS=5), False), (dict(VISION=2, MEMORY="map"), False):
        pictures.course("plot.png", dict(history=HISTORY), main.config() | own)
        said = [text.get_text() for axis in figures[-1].axes for text in axis.texts]
        assert any("every" in text for text in said) == claims, own


def test_arrows_lead_a_step_nearer_and_walks_are_drawn_where_they_went(figures):
    mazes = drawn(5, 9, 0.7)
    distance = maze.distances(mazes.walls, mazes.goal)
    away = -1 - maze.optimal_q(mazes, distance)
    cells = main.rollout(exact(), mazes, 40)[0].cells
    cells[:, 1] = cells[0, 1]  # one that never moves
    pictures.walks("walks.png", mazes, cells, away + 3, distance, int(distance.max()) + 3)
    axis = figures[0].axes[0]
    board = np.pad(to_goal(mazes), ((1, 1), (1, 1), (0, 0)), constant_values=-1)
    board = np.concatenate(list(np.moveaxis(board, 2, 0)), 1)
    shown = np.asarray(axis.images[0].get_array().filled(np.nan))
    for part, more in (shown[:11], 3), (shown[11:], 0):  # what the agent thinks, and what is exact
        assert np.array_equal(part[board > 0], board[board > 0] + more)
        assert (part[board < 0] < 0).all()
    arrows = [each for each in axis.collections if hasattr(each, "U")]
    assert [len(each.U) for each in arrows] == [(board > 0).sum()] * 2
    for row, each in enumerate(arrows):
        x, y = each.XY.T.astype(int)
        dx, dy = np.asarray(each.U, int), np.asarray(each.V, int)
        assert (np.abs(dx) + np.abs(dy) == 1).all()
        assert (board[y + dy - 11 * row, x + dx] == board[y - 11 * row, x] - 1).all()
    steps = maze.shortest(mazes, distance).tolist()
    said = [text.get_text() for text in axis.texts]
    assert said == ["FAILED" if i == 1 else f"{n} steps" for i, n in enumerate(steps)]
    ways = [line for line in axis.lines if line.get_linewidth() == 2 and len(line.get_xdata()) > 1]
    stars = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "*"]
    for i, (way, goal) in enumerate(zip(ways, mazes.goal.tolist(), strict=True)):
        x, y = way.get_xdata() - 1 - 11 * i, way.get_ydata() - 1
        assert (y * 9 + x).tolist() == cells[:, i].tolist()
        x, y = goal % 9 + 1 + 11 * i, goal // 9 + 1
        assert [star.tolist() for star in stars[2 * i : 2 * i + 2]] == [[x, y], [x, y + 11]]


def test_the_picture_of_the_weights_shows_each_where_its_cell_is(figures):
    linear = exact().core.q
    linear.weight.data = torch.arange(64.0).view(4, 16)
    pictures.weights("weights.png", linear)
    for (plane, action), axis in zip(np.ndindex(2, 4), figures[0].axes):
        square = np.asarray(axis.images[0].get_array()).flatten()
        assert np.delete(square, 4).tolist() == linear.weight[action, 8 * plane :][:8].tolist()
        assert "bias -1.00" in axis.get_title() or plane


def test_the_pictures_show_where_it_fails_then_where_the_goal_is_farthest(tmp_path, monkeypatch):
    """In parts of a hundred mazes; in the second part it fails three times, in the third once."""
    mazes, names = drawn(300, 12), ("seconds", "success", "wrong_views")
    rows = (1.0, 0.5, 9), (2.0, 0.98, 1), (3.0, 0.99, 1), (4.0, 1.0, 0), (5.0, 1.0, 0)
    history = [dict(zip(names, row), episodes=1, env_steps=1, updates=1) for row in rows]
    settings = main.config() | dict(OUT_DIR=str(tmp_path))
    shortest = maze.along(to_goal(mazes), mazes.start[None])[0].numpy()
    unseen, failed = [], {107, 121, 190, 250}
    for part in map(torch.arange, (0, 100, 200), (100, 200, 300)):
        some = mazes.select(part)
        distance = maze.distances(some.walls, some.goal)
        scores = main.evaluate(exact(), some, distance)
        scores["success"] -= torch.tensor([float(i in failed) for i in part.tolist()])
        unseen.append((some, distance, scores))
    record = dict(history=history, stopped=0, began=0.0)
    reporter = types.SimpleNamespace(settings=settings)
    given = reporter, exact(), record, unseen, [unseen[0][2]]
    summary, few = report.figures(*given)
    prints = files.fingerprints(maze.pack(mazes.walls))
    numbers = [prints.index(one) for one in files.fingerprints(maze.pack(few.walls))]
    assert set(numbers[:3]) == {107, 121, 190}
    others = sorted(shortest[i] for i in range(100, 200) if i not in failed)
    assert shortest[numbers[3:]].tolist() == [others[-1], others[-2]]
    assert (summary["seconds_to_99"], summary["seconds_to_proof"]) == (3, 4)
    assert summary["success"] == pytest.approx(296 / 300)
    assert summary["generalization_gap"] == pytest.approx(4 / 300)
    assert sum(band["mazes"] for band in summary["by_distance"].values()) == 300


def test_the_pictures_of_an_agent_show_it_early_and_late(tmp_path, monkeypatch):
    shown, mazes = {}, drawn(5, 12)
    for name in "walks", "thinking":
        note = functools.partial(lambda name, path, *found: shown.update({name: found}), name)
        monkeypatch.setattr(pictures, name, note)
    early, agent = exact(), exact()
    early.action[:] = 0  # it goes up
    walks = [(each, *main.rollout(each, mazes, 100)) for each in (early, agent)]
    record = dict(history=[dict(episodes=n) for n in (32, 99_000)])
    report.show_agent(record, main.config() | dict(OUT_DIR=str(tmp_path)), mazes, walks)
    _, cells, away, exactly, farthest, _ = shown["walks"]
    assert torch.equal(exactly.long(), to_goal(mazes).long())
    assert farthest == maze.shortest(mazes, exactly).max()
    right = -1 - maze.optimal_q(mazes, exactly)
    finite = right.isfinite() & (exactly > 0)
    assert torch.equal(away[finite], right[finite])
    _, rows, _ = shown["thinking"]
    assert [title for title, *_ in rows] == ["after 32 episodes", "after 99,000 episodes"]
    assert torch.equal(rows[1][2], cells) and not torch.equal(rows[0][2], cells)
    looks = [value.clone() for value, _ in rows[1][1]]  # V after k looks is -min(k, d)
    assert len(looks) > farthest
    for k, value in enumerate(looks[: farthest + 1]):
        assert torch.equal(-value[exactly >= 0], exactly[exactly >= 0].clamp(max=k))


@pytest.mark.parametrize("gamma, step, goal", [(1.0, -2.0, 5.0), (0.9, 0.0, 1.0), (0.9, -0.1, 1.0)])
def test_what_is_drawn_of_q_is_the_steps_to_the_goal_and_of_an_advantage_the_steps_lost(
    gamma, step, goal
):
    mazes = drawn(20)
    distance = maze.distances(mazes.walls, mazes.goal)
    q, reached = maze.optimal_q(mazes, distance, gamma, step, goal), distance > 0
    how = dict(GAMMA=gamma, STEP_REWARD=step, GOAL_REWARD=goal)
    shown = report.steps_away(q, how | dict(UNIT="q")).amin(0)
    assert torch.allclose(shown[reached], distance[reached] - 1.0, atol=0.01)
    lost = report.steps_away(q - q.amax(0), how | dict(UNIT="advantage"))[:, reached]
    assert torch.equal(lost, (q.amax(0) - q)[:, reached])


def test_the_film_shows_the_values_then_the_way_of_the_agent(tmp_path):
    """Each cell of it is decoded again: the agent is at its start while it thinks, then walks."""
    mazes, path = reference.corridor(6, 0, 4), tmp_path / "agent.gif"
    cells = main.rollout(exact(), mazes, 9)[0].cells
    looks = model.looks(exact().change, mazes.walls, mazes.goal, 12)
    pictures.thinking(str(path), mazes, [("one", looks, cells), ("two", [], cells[:1])], 4)
    colors = [tuple(bytes.fromhex(color)) for color in pictures.COLORS.split()]
    is_open, wall, goal, agent, trail = colors
    places, shades = [], []
    for frame in ImageSequence.Iterator(Image.open(path)):
        pixels = np.array(frame.convert("RGB"))
        assert pixels.shape == (2 * (16 + 3 * 8), 8 * 8, 3)
        first, second = ([tuple(x) for x in pixels[y, 4::8].tolist()] for y in (28, 68))
        assert second == [wall, agent, is_open, is_open, is_open, goal, is_open, wall]
        place = first.index(agent) - 1
        assert first.count(agent) == 1 and first[0] == first[-1] == wall
        assert first[5] == (agent if place == 4 else goal)
        assert first[1 : 1 + place] == [trail] * place
        places.append(place)
        shades.append(len({*first[2:5]}))
    assert places == sorted(places) and set(places) == {0, 1, 2, 3, 4}
    assert shades[0] == 1 and shades[places.index(1) - 1] == 3  # near and far, once it has thought


def test_the_film_of_large_mazes_and_long_walks_has_few_small_frames():
    mazes = drawn(5, 128)
    looks = ((torch.zeros(128, 128, 5), None) for _ in range(3001))
    film = pictures.frames(mazes, [("one", looks, mazes.start.expand(1001, -1))], 1000)
    frames = [frame.size for frame in film]
    assert 200 < len(frames) < 300 and set(frames) == {(5 * 130, 130 + 16)}

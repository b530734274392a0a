"""The command line: solving, proving, what is refused, and how commands end."""

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from test_runs import RETURNS, exact, quick, right_answers, runs, summary_of  # noqa: F401

import main
import maze
import model
from support import mazefile
from support.agents import build
from support.files import save_checkpoint

MAZES = """\
S...
###.
G...

S#G

#S.
...
..G
...

.....
SG...
"""


@pytest.fixture
def mazes(tmp_path):
    (tmp_path / "mazes.txt").write_text(MAZES)
    return str(tmp_path / "mazes.txt")


def checkpoint(path, network, **settings):
    save_checkpoint(str(path), network, main.config() | dict(MODEL="linear") | settings)
    return f"CHECKPOINT={path}"


# Solving


def test_solve_prints_walks_and_verdicts(tmp_path, mazes, capsys):
    assert main.main(["solve", mazes, checkpoint(tmp_path / "exact.pt", exact())]) == 0
    said = capsys.readouterr().out.split("\n\n")
    assert said[0] == "S***\n###*\nG***\nmaze 1: solved in 8 steps (shortest 8)"
    assert said[1] == "S#G\nmaze 2: unreachable"
    assert said[2].endswith("maze 3: solved in 3 steps (shortest 3)") and said[2].count("*") == 2
    assert said[3] == ".....\nSG...\nmaze 4: solved in 1 steps (shortest 1)"
    assert said[4] == "solved 3 of 4, by a shortest path 3\n"


def test_solve_says_when_the_agent_fails_or_takes_a_detour(tmp_path, mazes, capsys):
    """It never goes left; and to the right, where that is best, only if it can't go up."""
    agent, right, up = exact(), right_answers(), np.arange(4**8) >> 2 & 3
    agent.action[agent.action == 2] = 3
    agent.action[right[3] == right.max(0)] = 3
    agent.action[(agent.action == 3) & torch.from_numpy(up > 0)] = 0
    assert main.main(["solve", mazes, checkpoint(tmp_path / "limping.pt", agent)]) == 0
    said = capsys.readouterr().out.split("\n\n")
    assert said[0] == "S***\n###*\nG..*\nmaze 1: not solved in 9 steps (shortest 8)"
    assert said[2] == "#S*\n..*\n..G\n...\nmaze 3: solved in 3 steps (shortest 3)"
    assert said[3] == "**...\nSG...\nmaze 4: solved in 3 steps (shortest 1)"
    assert said[4] == "solved 2 of 4, by a shortest path 1\n"


def test_the_agent_of_a_run_solves_every_maze_by_a_shortest_path(trained, tmp_path, capsys):
    """Of other sizes than it was trained on, with loops or not."""
    texts = []
    for grid, difficulty in (12, 0.9), (21, 1.0), (9, 0.3):
        chance = torch.Generator().manual_seed(1)
        packed = maze.make_mazes(15, grid, chance)
        drawn = maze.draw(packed, grid, difficulty, 1000, "random", chance)
        for walls, start, goal in zip(drawn.walls.unbind(-1), drawn.start, drawn.goal):
            texts.append(mazefile.FileMaze(walls.numpy(), int(start), int(goal)))
    written = [mazefile.as_text(text) for text in texts]
    (tmp_path / "mazes.txt").write_text("\n\n".join(written) + "\n")
    place = f"OUT_DIR={trained[0] / 'out'}"
    assert main.main(["solve", str(tmp_path / "mazes.txt"), place]) == 0
    *said, last = capsys.readouterr().out.strip().split("\n\n")
    assert last == "solved 45 of 45, by a shortest path 45"
    for number, (shown, text, plain) in enumerate(zip(said, texts, written, strict=True), 1):
        shown, _, verdict = shown.rpartition("\n")
        steps = reference.distances(text.walls, text.goal).flat[text.start]
        assert verdict == f"maze {number}: solved in {steps} steps (shortest {steps})"
        assert shown.replace("*", ".") == plain and shown.count("*") == steps - 1
        walked = np.array([[cell in "*SG" for cell in row] for row in shown.split("\n")])
        assert reference.distances(~walked, text.goal).flat[text.start] == steps


AGENTS = [dict(MODEL=name) for name in model.CORES] + [dict(MODEL="cnn", LOOKS=3)]
AGENTS += [dict(THINK=False, MODEL="cnn", LOOKS=looks) for looks in (0, 5)]
AGENTS += [dict(VISION=2, MEMORY=memory) for memory in ("none", "trail", "gru", "map")]


def test_every_agent_walks_mazes_of_any_size(tmp_path, mazes, capsys):
    """One that has learned nothing."""
    for agent in AGENTS:
        settings = dict(MODEL="mlp", WIDTH=4) | agent
        fresh = build(main.config() | settings).eval()
        fresh = checkpoint(tmp_path / "fresh.pt", fresh, **settings)
        assert main.main(["solve", mazes, fresh, f"OUT_DIR={tmp_path}"]) == 0
        said = capsys.readouterr().out
        verdicts = re.findall(r"maze \d: (?:not )?solved in \d+ steps \(shortest (\d+)\)", said)
        assert verdicts == ["8", "3", "1"] and said.count("maze 2: unreachable") == 1
        assert re.search(r"\nsolved \d of 4, by a shortest path \d\n$", said)


# Proving


ACTIONS = "up", "down", "left", "right"


def test_prove_says_in_one_sentence_what_is_proved(trained, tmp_path, capsys):
    assert main.main(["prove", f"OUT_DIR={trained[0] / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("proved: of the 65,536") and said.count("\n") == 1
    network = build(main.config() | dict(MODEL="linear", VISION=2, MEMORY="map"))
    network.thinker = exact()
    planner = checkpoint(tmp_path / "map.pt", network, VISION=2, MEMORY="map")
    assert main.main(["prove", planner]) == 0
    said = capsys.readouterr().out
    assert said.startswith("proved for its planner") and "every maze" not in said
    few = checkpoint(tmp_path / "few.pt", exact(looks=5), LOOKS=5)
    assert main.main(["prove", few]) == 1
    assert "LOOKS=5" in (said := capsys.readouterr().out) and not said.startswith("proved")
    for other in dict(VISION=2, MODEL="mlp"), dict(THINK=False, MODEL="cnn"):
        other = checkpoint(tmp_path / "other.pt", build(main.config() | other), **other)
        assert main.main(["prove", other]) == 2
        out, err = capsys.readouterr()
        assert not out and "does not think" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["change", "action"])
def test_prove_checks_the_saved_numbers_and_shows_the_first_wrong_views(tmp_path, name, capsys):
    """Of an agent whose weights are right: one or five views are wrong in what it saved."""
    right, chance = right_answers(), np.random.default_rng(0)
    for number in 1, 5:
        agent = exact()
        # not all actions are alike there
        views = np.sort(chance.choice(np.flatnonzero(np.ptp(right, 0)), number, replace=False))
        for view in views.tolist():
            if name == "change":
                agent.change[view] += int(chance.choice([-2, -1, 1, 2]))
            else:
                agent.action[view] = int(right[:, view].argmin())
        assert main.main(["prove", checkpoint(tmp_path / "a.pt", agent)]) == 1
        out, err = capsys.readouterr()
        first, *rows = out.splitlines()
        assert not err and first.startswith(f"not proved: {number} of the 65,536 ")
        assert len(rows) == 3 * min(3, number)
        for i, view in enumerate(views[:3].tolist()):
            cells, notes = zip(*((row[4:9].split(), row[13:]) for row in rows[3 * i : 3 * i + 3]))
            cells = [cell for row in cells for cell in row]
            assert cells.pop(4) == "o"
            assert sum("#-=+".index(cell) << 2 * k for k, cell in enumerate(cells)) == view
            says, wants, _ = notes
            q = [float(value) for value in re.findall(r"[-+]\d\.\d\d", says)]
            assert q == pytest.approx(right[:, view], abs=0.006)
            change, action = int(agent.change[view]), ACTIONS[agent.action[view]]
            assert says.endswith(f"V changes by {change:+d}, it goes {action}")
            best = right[:, view].max()
            values = [int(value) for value in re.findall(r" ([-+]\d)", wants.split(";")[0])]
            ways = " or ".join(a for a, value in zip(ACTIONS, right[:, view]) if value == best)
            assert values == right[:, view].tolist()
            assert wants.endswith(f"V changes by {best:+d}, it goes {ways}")


def test_the_saved_numbers_are_what_acts(tmp_path, capsys):
    (tmp_path / "mazes.txt").write_text("S.G\n")
    agent = exact()
    beside = sum((1 << 2 * 3, 3 << 2 * 4))  # walls above and below, farther left, nearer right
    assert agent.action[beside] == 3
    agent.action[beside] = 2
    limping = checkpoint(tmp_path / "limping.pt", agent)
    assert main.main(["solve", str(tmp_path / "mazes.txt"), limping]) == 0
    assert "not solved in 3 steps (shortest 2)" in capsys.readouterr().out


# Errors


def refused(arguments, wanted, folder, digests, capsys):
    """The command fails with status 2 and one line that says all of `wanted`, and touches
    nothing under the folder."""
    before = digests(folder)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert main.main(arguments) == 2, arguments
    assert not heard, heard[0].message
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.endswith("\n") and "Traceback" not in err
    assert all(text in err for text in wanted), err
    assert digests(folder) == before


# Arguments, and what is said, parted by |: words of it.
WRONG = """
GRIDD=8 | 'GRIDD' | GRID?
model=cnn | 'model' | MODEL?
XYZZY=1 | 'XYZZY' | top of main.py
cnn | 'cnn' | KEY=VALUE
LR=fast | a number
DOUBLE=maybe | True or False
GRID=300 | 5 to 256
DIFFICULTY=0.2 DIFFICULTY_MIN=0.5 | DIFFICULTY_MIN=0.5 | 0.2
VISION=2 LAMBDA=1.5 | 0 to 1
LAMBDA=0.5 | CREDIT=lambda only
VISION=2 CREDIT=step LAMBDA=0.5 | CREDIT=lambda only
THINK=False MODEL=cnn LAMBDA=0.5 | CREDIT=lambda only
THINK=False MODEL=linear | THINK=False | cnn or mlp or attention
THINK=False MODEL=cnn CREDIT=step UNIT=q STEP_REWARD=0 | GAMMA=1 | choose GAMMA=
THINK=False MODEL=cnn CREDIT=step UNIT=q GAMMA=0.9 STEP_REWARD=0 | choose GOAL_REWARD=1
THINK=False MODEL=mlp CREDIT=step | for UNIT=advantage | no V | choose CREDIT=episode | UNIT=q
THINK=False MODEL=mlp CREDIT=lambda | for UNIT=advantage | choose CREDIT=episode | UNIT=q
THINK=False MODEL=cnn STEP_REWARD=-2 | for UNIT=advantage | choose STEP_REWARD=-1 | UNIT=q
THINK=False MODEL=cnn GOAL_REWARD=1 | for UNIT=advantage | choose GOAL_REWARD=0 | UNIT=q
THINK=False MODEL=cnn GAMMA=0.9 | for UNIT=advantage | choose GAMMA=1 | UNIT=q
THINK=False MODEL=cnn SHAPING=oracle | for UNIT=advantage | choose SHAPING=none | UNIT=q
THINK=False MODEL=cnn TARGET_SYNCS=2 | for CREDIT=episode | choose TARGET_SYNCS=1 | CREDIT=step
THINK=False MODEL=cnn DOUBLE=True | for CREDIT=episode | choose DOUBLE=False | CREDIT=step
VISION=2 CREDIT=episode TARGET_SYNCS=1 NOVELTY=1 | for CREDIT=episode | choose NOVELTY=0
VISION=2 CREDIT=step UNIT=advantage | for UNIT=advantage | choose CREDIT=episode | UNIT=q
CREDIT=magic | step or lambda or episode
UNIT=v | q or advantage
THINK=maybe | True or False
THINK=False MODEL=cnn COMPASS=False | VISION | COMPASS=True
VISION=2 CREDIT=step UNIT=q STEP_REWARD=0 | GAMMA=1 | choose GAMMA=
VISION=2 CREDIT=step UNIT=q GAMMA=0.9 STEP_REWARD=0 GOAL_REWARD=0 | choose GOAL_REWARD=1
VISION=2 NOVELTY=1e300 | NOVELTY=1e+300 | million
VISION=2 LOOKS=3 | choose MEMORY=map
OUT_DIR= | a folder
solve mazes.txt OUT_DIR= | a folder
MODEL=vin | linear or mlp or cnn or attention
UPDATES=20 BSZ=10 | UPDATES=20
REPLAY=uniform REPLAY_SIZE=10 | BSZ
VISION=16 | 15
solve | solve FILE
solve mazes.txt GRIDD=8 | 'GRIDD'
prove mazes.txt | 'mazes.txt' | KEY=VALUE
VISION=2 MEMORY=gru MODEL=cnn | VISION=2 | choose MODEL=mlp | MEMORY=map
MEMORY=trail | VISION | choose VISION=2 | MEMORY=none
VISION=2 MEMORY=map COMPASS=False | MEMORY=map | COMPASS=True
COMPASS=False | VISION | choose VISION=2 | COMPASS=True
""".strip().splitlines()
WRONG += [
    f"{wrong} | whole number" for wrong in "SEED=abc SEED=1.5 SEED=inf BSZ= LOOKS=2.5".split()
]
WRONG += (
    "HELD_OUT_SEED=1;AGENTS=1;SEED=-1;SEED=4294967295;BSZ=0;BSZ=1e19;LR=0;LR=inf;GRID=3;THREADS=-1;"
    "DIFFICULTY=2;EPSILON=nan;VISION=2 GAMMA=1.1;VISION=2 GAMMA=1e-200;VISION=2 STEP_REWARD=1;"
    "REPLAY=on;CURRICULUM=x;MEMORY=x;EVAL_EVERY=0;WIDTH=0;DEVICE=toaster;"
    "solve mazes.txt DEVICE=meta"
).split(";")
# What an agent that thinks does not take, and a word of the reason; other agents do.
NOT_FOR_THINKERS = {
    "GAMMA=0.9": "discounts",
    "CREDIT=lambda": "return over several steps",
    "CREDIT=episode": "return over several steps",
    "UNIT=advantage": "learns Q - V",
    "DOUBLE=True": "comes from thinking",
    "SHAPING=manhattan": "potential",
    "SHAPING=oracle": "potential",
    "NOVELTY=0.1": "a cell does not see",
    "STEP_REWARD=-2": "a step costs 1",
    "GOAL_REWARD=1": "value of the goal, 0",
}


def test_wrong_settings_are_refused(trained, mazes, monkeypatch, digests, capsys):
    """And nothing is touched."""
    folder, _ = trained
    monkeypatch.chdir(Path(mazes).parent)
    folders = [f"OUT_DIR={folder / 'out'}", f"PLOT_FILE={folder / 'plot.png'}"]
    for row in WRONG:
        given, *wanted = row.split(" | ")
        (*_, last), places = given.split(), folders if "=" in given.split()[0] else []
        wanted += [last.partition("=")[0]] if "=" in last else []
        refused([*places, *given.split()], wanted, folder, digests, capsys)
    for wrong, why in NOT_FOR_THINKERS.items():
        for agent in "MODEL=mlp", "MODEL=linear", "VISION=2 MEMORY=map":
            wanted = "think", why, f"choose {wrong.split('=')[0]}=", "THINK=False", "VISION=2"
            given = [*folders, *agent.split(), wrong]
            refused(given, [wrong, *wanted], folder, digests, capsys)


# What goes together with them.
WITH = {"CREDIT=episode": "TARGET_SYNCS=1"}
WITH["UNIT=advantage"] = "CREDIT=episode TARGET_SYNCS=1 STEP_REWARD=-1 GOAL_REWARD=0 GAMMA=1"


@pytest.mark.parametrize("taken", NOT_FOR_THINKERS)
@pytest.mark.parametrize("agent", [f"VISION=1 {RETURNS}", "THINK=False CREDIT=step UNIT=q"])
def test_agents_that_do_not_think_take_what_a_thinker_does_not(quick, agent, taken):
    small = "NUM_EPISODES=32", "MAX_EP_LENGTH=5", "UPDATES=1", "WIDTH=4"
    given = *agent.split(), *small, *WITH.get(taken, "").split(), taken
    assert runs(quick / "out", *given) == 0
    name, _, value = taken.partition("=")
    found = summary_of(quick / "out")["config"][name]
    assert found == type(found)(float(value) if isinstance(found, float) else value)


def test_places_that_cannot_be_written_are_refused(tmp_path, monkeypatch, digests, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for place in "file", "file/out", "/proc/out":
        refused([f"OUT_DIR={place}", "DEVICE=cpu"], [place], tmp_path, digests, capsys)
    for name in "out", "nowhere/plot.png":
        refused([f"PLOT_FILE={name}"], ["PLOT_FILE"], tmp_path, digests, capsys)


BAD_MAZES = {
    b"#.G\n...\n": "line 1",
    b"S.G\n\n..G\n.S.\n.S.\n": "line 3",
    b"S.G\n.?.\n": "line 2",
    b"S.G\n.\n": "line 2",
    b"": "no maze",
    b"\x00\xff\xfe\x89": "not a text file",
    b"\x00\x01\x02": "not a text file",
}


def test_bad_mazes_and_foreign_checkpoints_are_refused(tmp_path, mazes, digests, capsys):
    agent = checkpoint(tmp_path / "exact.pt", exact())
    for content, wanted in BAD_MAZES.items():
        (tmp_path / "bad.txt").write_bytes(content)
        bad = ["solve", str(tmp_path / "bad.txt"), agent]
        refused(bad, ["bad.txt", wanted], tmp_path, digests, capsys)
    for path in str(tmp_path), str(tmp_path / "nowhere.txt"):
        refused(["solve", path, agent], [path], tmp_path, digests, capsys)
    (tmp_path / "text.pt").write_text("hello\n")
    for name in "missing.pt", "text.pt":
        for command in ["solve", mazes], ["prove"]:
            wanted = [name, "python main.py"]
            refused([*command, f"CHECKPOINT={tmp_path / name}"], wanted, tmp_path, digests, capsys)
    refused(["solve", "SEED=3"], ["solve FILE"], tmp_path, digests, capsys)
    refused(["prove", f"OUT_DIR={tmp_path}"], ["checkpoint.pt"], tmp_path, digests, capsys)


# As commands


SETTINGS = "GRID=8 NUM_EPISODES=64 BSZ=64 MAZE_CACHE_SIZE=100 EVAL_MAZES=20 EVAL_SAMPLE=10".split()


def started(folder, *arguments, **how):
    """main.py as a command."""
    command = [sys.executable, str(Path(__file__).parent.parent / "main.py"), *arguments]
    alone = os.environ | dict(OMP_NUM_THREADS="1")
    how = dict(stdout=subprocess.PIPE) | how
    return subprocess.Popen(
        command, cwd=folder, env=alone, stderr=subprocess.PIPE, text=True, **how
    )


def test_commands_for_a_run_and_for_a_proof(tmp_path):
    run = started(tmp_path, *SETTINGS)
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0 and not err and "see out/training_plot.png and out/" in out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"checkpoint.pt", "metrics.csv", "mazes.npz", "training_plot.png"} <= written
    proof = started(tmp_path, "prove")
    out, err = proof.communicate(timeout=100)
    assert proof.returncode == 1 and not err and out.startswith("not proved: ")


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(tmp_path):
    """Ctrl-C ends the `tee` of `python main.py | tee log`, too."""
    reader, writer = os.pipe()
    run = started(tmp_path, *SETTINGS, "NUM_EPISODES=640", "EVAL_EVERY=1", stdout=writer)
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 130 and not said
    assert (tmp_path / "out" / "summary.json").exists()


def test_profile_prints_and_saves_the_slowest_calls(quick, capsys):
    assert runs(quick / "out", "PROFILE=True", "NUM_EPISODES=32") == 0
    assert "cumulative" in capsys.readouterr().out
    assert (quick / "out" / "training_stats").stat().st_size > 1000


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_who_asks_for_help_gets_the_usage(capsys, word):
    with pytest.raises(SystemExit) as ended:
        main.main([word])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "python main.py solve FILE" in said and "python main.py prove" in said

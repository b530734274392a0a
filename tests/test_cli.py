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
import torch
from test_runs import RETURNS, exact, quick, right_answers, runs, summary_of  # noqa: F401

import main
import model
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


EXACT = """\
S***\n###*\nG***\nmaze 1: solved in 8 steps (shortest 8)

S#G\nmaze 2: unreachable

#S*\n..*\n..G\n...\nmaze 3: solved in 3 steps (shortest 3)

.....\nSG...\nmaze 4: solved in 1 steps (shortest 1)

solved 3 of 4, by a shortest path 3
"""
LIMPING = """\
S***\n###*\nG..*\nmaze 1: not solved in 9 steps (shortest 8)

S#G\nmaze 2: unreachable

#S*\n..*\n..G\n...\nmaze 3: solved in 3 steps (shortest 3)

**...\nSG...\nmaze 4: solved in 3 steps (shortest 1)

solved 2 of 4, by a shortest path 1
"""


def test_solve_prints_walks_and_verdicts_of_one_that_is_right_and_one_that_limps(
    tmp_path, mazes, capsys
):
    """It never goes left; and to the right, where that is best, only if it can't go up. What is
    saved acts, not the weights."""
    agent, right, up = exact(), right_answers(), np.arange(4**8) >> 2 & 3
    for wanted in EXACT, LIMPING:
        assert main.main(["solve", mazes, checkpoint(tmp_path / "a.pt", agent)]) == 0
        said = capsys.readouterr().out  # two other ways are as short
        assert re.sub(r"#S\.\n\.(\*\*\n\.\.|\*\.\n\.\*)G", "#S*\n..*\n..G", said) == wanted
        agent.action[agent.action == 2] = 3
        agent.action[right[3] == right.max(0)] = 3
        agent.action[(agent.action == 3) & torch.from_numpy(up > 0)] = 0


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
THINK=False MODEL=linear | THINK=False | cnn or mlp or attention
THINK=False MODEL=cnn CREDIT=step UNIT=q STEP_REWARD=0 | GAMMA=1 | choose GAMMA=
THINK=False MODEL=cnn CREDIT=step UNIT=q GAMMA=0.9 STEP_REWARD=0 | choose GOAL_REWARD=1
THINK=False MODEL=mlp CREDIT=step | for UNIT=advantage | no V | choose CREDIT=episode | UNIT=q
THINK=False MODEL=cnn STEP_REWARD=-2 | for UNIT=advantage | choose STEP_REWARD=-1 | UNIT=q
THINK=False MODEL=cnn GOAL_REWARD=1 | for UNIT=advantage | choose GOAL_REWARD=0 | UNIT=q
THINK=False MODEL=cnn GAMMA=0.9 | for UNIT=advantage | choose GAMMA=1 | UNIT=q
THINK=False MODEL=cnn SHAPING=oracle | for UNIT=advantage | choose SHAPING=none | UNIT=q
THINK=False MODEL=cnn TARGET_SYNCS=2 | for CREDIT=episode | choose TARGET_SYNCS=1 | CREDIT=step
THINK=False MODEL=cnn DOUBLE=True | for CREDIT=episode | choose DOUBLE=False | CREDIT=step
THINK=False MODEL=mlp LOOKS=3 | does nothing | choose LOOKS=0
VISION=2 CREDIT=episode TARGET_SYNCS=1 NOVELTY=1 | for CREDIT=episode | choose NOVELTY=0
CREDIT=magic | step or lambda or episode
UNIT=v | q or advantage
THINK=False MODEL=cnn COMPASS=False | VISION | COMPASS=True
VISION=2 NOVELTY=1e300 | NOVELTY=1e+300 | million
VISION=2 LOOKS=3 | choose MEMORY=map
OUT_DIR= | a folder
MODEL=vin | linear or mlp or cnn or attention
UPDATES=20 BSZ=10 | UPDATES=20
REPLAY=uniform REPLAY_SIZE=10 | BSZ
VISION=16 | 15
solve | solve FILE
solve SEED=3 | solve FILE
solve mazes.txt GRIDD=8 | 'GRIDD'
solve mazes.txt START=3 | write START=y,x
solve mazes.txt START=a,b | write START=y,x
solve mazes.txt GOAL= | GOAL=
solve mazes.txt START=1,0 | a wall; # is wall here
solve mazes.txt GOAL=9,9 | outside of its 3 rows and 4 columns
solve mazes.txt GOAL=0,0 | start and goal in one cell
solve mazes.txt SEED=x | SEED
solve nothing.txt | no file nothing.txt
solve . | is a folder
prove mazes.txt | 'mazes.txt' | KEY=VALUE
prove OUT_DIR=nowhere | checkpoint.pt | python main.py
solve mazes.txt CHECKPOINT=missing.pt | missing.pt | python main.py
solve mazes.txt CHECKPOINT=mazes.txt | mazes.txt | python main.py
VISION=2 MEMORY=gru MODEL=cnn | VISION=2 | choose MODEL=mlp | MEMORY=map
MEMORY=trail | VISION | choose VISION=2 | MEMORY=none
VISION=2 MEMORY=map COMPASS=False | MEMORY=map | COMPASS=True
OUT_DIR=mazes.txt | mazes.txt
OUT_DIR=mazes.txt/out | mazes.txt/out
OUT_DIR=/proc/out | /proc/out
PLOT_FILE=nowhere/plot.png | PLOT_FILE
PLOT_FILE=. | PLOT_FILE
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
    places = [f"OUT_DIR={folder / 'out'}", f"PLOT_FILE={folder / 'plot.png'}"]
    for row in WRONG:
        given, *wanted = row.split(" | ")
        arguments = given.split()
        given = arguments if arguments[0] in ("solve", "prove") else [*places, *arguments]
        refused(given, wanted or [arguments[-1].partition("=")[0]], folder, digests, capsys)
    for wrong, why in NOT_FOR_THINKERS.items():
        for agent in "MODEL=mlp", "VISION=2 MEMORY=map":
            wanted = "think", why, f"choose {wrong.split('=')[0]}=", "THINK=False", "VISION=2"
            given = [*places, *agent.split(), wrong]
            refused(given, [wrong, *wanted], folder, digests, capsys)
    assert os.listdir() == ["mazes.txt"]


# As commands


SETTINGS = "GRID=8 NUM_EPISODES=64 BSZ=64 MAZE_CACHE_SIZE=100 EVAL_MAZES=20 EVAL_SAMPLE=10".split()


def started(folder, *arguments, stdout=subprocess.PIPE):
    """main.py as a command."""
    command = [sys.executable, main.__file__, *arguments]
    how = dict(stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=folder)
    return subprocess.Popen(command, env=os.environ | dict(OMP_NUM_THREADS="1"), **how)


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


def test_solve_is_silent_when_nobody_reads_on(tmp_path):
    checkpoint(tmp_path / "a.pt", exact())
    lines = ["S" + 3000 * "." + "G", ""] * 100  # more than a pipe holds
    (tmp_path / "m.txt").write_text("\n".join(lines))
    run = started(tmp_path, "solve", "m.txt", "CHECKPOINT=a.pt")
    assert run.stdout.read(9) == "S********"
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait(100) in (0, 141)


def test_profile_prints_and_saves_the_slowest_calls(quick, capsys):
    assert runs(quick / "out", "PROFILE=True", "NUM_EPISODES=32") == 0
    assert "cumulative" in capsys.readouterr().out
    assert (quick / "out" / "training_stats").stat().st_size > 1000


@pytest.mark.parametrize("words", ["help", "-h", "--help", "solve --help"])
def test_who_asks_for_help_gets_the_usage(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main.main(words.split())
    said = capsys.readouterr().out
    wanted = ["START=y,x"] if "solve" in words else ["main.py solve FILE", "main.py prove"]
    assert ended.value.code == 0 and all(text in said for text in wanted)

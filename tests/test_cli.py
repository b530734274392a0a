"""The command line: solving, proving, what is refused, and how commands end."""

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runs import exact, right_answers

import main
import model
from support.agents import build
from support.files import save_checkpoint

MAZES = """\
S...\n###.\nG...\n
S#G\n
#S.\n##.\n..G\n...\n
.....\nSG...
"""
SOLVED = """\
S***\n###*\nG***\nmaze 1: solved in 8 steps (shortest 8)\n
S#G\nmaze 2: unreachable\n
#S*\n##*\n..G\n...\nmaze 3: solved in 3 steps (shortest 3)\n
.....\nSG...\nmaze 4: solved in 1 steps (shortest 1)\n
solved 3 of 4, by a shortest path 3
"""
LIMPING = """\
S***\n###*\nG..*\nmaze 1: not solved in 9 steps (shortest 8)\n
S#G\nmaze 2: unreachable\n
#S*\n##*\n..G\n...\nmaze 3: solved in 3 steps (shortest 3)\n
**...\nSG...\nmaze 4: solved in 3 steps (shortest 1)\n
solved 2 of 4, by a shortest path 1
"""


@pytest.fixture
def mazes(tmp_path):
    (tmp_path / "mazes.txt").write_text(MAZES)
    return str(tmp_path / "mazes.txt")


def checkpoint(path, network, **settings):
    save_checkpoint(str(path), network, main.config() | dict(MODEL="linear") | settings)
    return f"CHECKPOINT={path}"


# Solving and proving


def test_solve_prints_walks_and_verdicts(tmp_path, mazes, capsys):
    """What is saved acts, not the weights. The one that limps never goes left; and to the right,
    where that is best, only if it can't go up."""
    agent, right, up = exact(), right_answers(), np.arange(4**8) >> 2 & 3
    for wanted in SOLVED, LIMPING:
        assert main.main(["solve", mazes, checkpoint(tmp_path / "a.pt", agent)]) == 0
        assert capsys.readouterr().out == wanted
        agent.action[agent.action == 2] = 3
        agent.action[right[3] == right.max(0)] = 3
        agent.action[(agent.action == 3) & torch.from_numpy(up > 0)] = 0


ACTIONS = "up", "down", "left", "right"
AGENTS = [dict(MODEL=name) for name in model.CORES] + [dict(MODEL="cnn", LOOKS=3)]
AGENTS += [dict(THINK=False, MODEL="cnn", LOOKS=looks) for looks in (0, 5)]
AGENTS += [dict(VISION=2, MEMORY=memory) for memory in ("none", "trail", "gru", "map")]


@pytest.mark.parametrize("agent", AGENTS, ids=str)
def test_every_agent_walks_mazes_of_any_size(tmp_path, mazes, capsys, agent):
    """One that has learned nothing."""
    own = dict(MODEL="mlp", WIDTH=4) | agent
    fresh = checkpoint(tmp_path / "fresh.pt", build(main.config() | own).eval(), **own)
    assert main.main(["solve", mazes, fresh, f"OUT_DIR={tmp_path}"]) == 0
    said = capsys.readouterr().out
    verdicts = re.findall(r"maze \d: (?:not )?solved in \d+ steps \(shortest (\d+)\)", said)
    assert verdicts == ["8", "3", "1"] and said.count("maze 2: unreachable") == 1


def test_prove_says_in_one_sentence_what_is_proved(trained, tmp_path, capsys):
    thinks, planner = exact(), build(main.config() | dict(MODEL="linear", VISION=2, MEMORY="map"))
    planner.load_state_dict(thinks.state_dict())
    plain = dict(THINK=False, MODEL="cnn")
    for network, own, status, said in (
        (thinks, {}, 0, "proved: of the 65,536"),
        (planner, dict(VISION=2, MEMORY="map"), 0, "proved for its planner"),
        (exact(looks=5), dict(LOOKS=5), 1, "all 65,536 views are right, but LOOKS=5 ends"),
        (build(main.config() | plain), plain, 2, "error: this agent does not think"),
    ):
        assert main.main(["prove", checkpoint(tmp_path / "a.pt", network, **own)]) == status
        out, err = capsys.readouterr()
        assert (out + err).startswith(said) and (out + err).count("\n") == 1
    assert main.main(["prove", f"OUT_DIR={trained[0] / 'out'}"]) == 0


def test_prove_shows_the_first_wrong_views(tmp_path, capsys):
    """Of an agent whose weights are right, but not what it saved."""
    right, agent = right_answers(), exact()
    views = np.flatnonzero(np.ptp(right, 0))[[9, 999, 9999, 19_999]]  # not all actions are alike
    agent.action[views] = torch.from_numpy(right[:, views].argmin(0)).to(agent.action.dtype)
    agent.change[views[0]] += 2
    assert main.main(["prove", checkpoint(tmp_path / "a.pt", agent)]) == 1
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("not proved: 4 of the 65,536 ") and len(rows) == 3 * 3
    for i, view in enumerate(views[:3].tolist()):
        shown, best = rows[3 * i : 3 * i + 3], right[:, view].max()
        cells = [cell for row in shown for cell in row[4:9].split()]
        assert cells.pop(4) == "o"
        assert sum("#-=+".index(cell) << 2 * k for k, cell in enumerate(cells)) == view
        q = ", ".join(f"{a} {value:+.2f}" for a, value in zip(ACTIONS, right[:, view]))
        goes = f"V changes by {agent.change[view]:+d}, it goes {ACTIONS[agent.action[view]]}"
        assert shown[0][13:] == f"it says Q - V: {q}; {goes}"
        ways = [a for a, value in zip(ACTIONS, right[:, view]) if value == best]
        assert shown[1].endswith(f"V changes by {best:+d}, it goes {' or '.join(ways)}")


# What is refused


# Arguments, and words of what is said.
WRONG = """
GRIDD=8 | there is no constant 'GRIDD': did you mean GRID?
XYZZY=1 | there is no constant 'XYZZY'; they are at the top of main.py
cnn | 'cnn' is not understood: write KEY=VALUE
LR=fast | is not a number
SEED=1.5 | a whole number
DOUBLE=maybe | is not True or False
DEVICE=toaster | can't be used here: choose auto or cpu
THINK=False MODEL=linear | MODEL=linear is not for THINK=False
solve SEED=3 | solve FILE
solve mazes.txt START=a,b | write START=y,x
solve mazes.txt GOAL= | GOAL=
solve mazes.txt START=1,0 | a wall; # is wall here
solve mazes.txt GOAL=9,9 | outside of its 3 rows and 4 columns
solve mazes.txt GOAL=0,0 | start and goal in one cell
solve nothing.txt | no file nothing.txt
solve . | is a folder
solve mazes.txt CHECKPOINT=missing.pt | missing.pt: train one with `python main.py`
prove mazes.txt | 'mazes.txt' is not understood: write KEY=VALUE
OUT_DIR=mazes.txt/out | mazes.txt/out can't be read or written
LAMBDA=0.5 | choose
MEMORY=trail | choose
THINK=False MODEL=mlp LOOKS=3 | choose
THINK=False MODEL=cnn COMPASS=False | choose
THINK=False MODEL=cnn CREDIT=step UNIT=q STEP_REWARD=0 | choose
THINK=False MODEL=cnn CREDIT=step UNIT=q GAMMA=0.9 STEP_REWARD=0 | choose
VISION=2 LOOKS=3 | choose
DIFFICULTY=0.3 DIFFICULTY_MIN=0.5 | at most DIFFICULTY=0.3
VISION=2 CREDIT=step UNIT=q GOAL_REWARD=1 SHAPING=oracle | choose GAMMA=0.98
VISION=2 MEMORY=gru MODEL=cnn | choose
VISION=2 MEMORY=map COMPASS=False | COMPASS=False is not for MEMORY=map
""".strip().splitlines()
OUT_OF_RANGE = (
    "GRID=300 DIFFICULTY=2 EPSILON=nan LR=0 LR=inf EPSILON_SHAPE=0 BSZ=0 BSZ=1e10 EVAL_EVERY=0 "
    "WIDTH=0 LOOKS=-1 THREADS=-1 SEED=-1 SEED=4294967295 VISION=16 REPLAY=on PLOT_EVERY=0 OUT_DIR= "
    "PLOT_FILE=nowhere/plot.png DIFFICULTY_MIN=1.5 UPDATES=2000"
).split()
WRONG += [f"{wrong} | is out of range" for wrong in OUT_OF_RANGE]
WRONG += ["REPLAY=uniform REPLAY_SIZE=10 | is out of range"]
REWARDS = "GAMMA=0.9 STEP_REWARD=-2 GOAL_REWARD=1 SHAPING=oracle".split()
NOT_FOR = [
    ("MODEL=mlp", "an agent that thinks", [*REWARDS, "CREDIT=lambda", "UNIT=advantage"]),
    ("VISION=2 MEMORY=map", "an agent that thinks", ["DOUBLE=True", "NOVELTY=0.1"]),
    ("THINK=False MODEL=cnn", "UNIT=advantage", [*REWARDS, "CREDIT=step"]),
    ("THINK=False MODEL=cnn", "CREDIT=episode", ["TARGET_SYNCS=2", "DOUBLE=True"]),
    ("VISION=2 CREDIT=episode TARGET_SYNCS=1", "CREDIT=episode", ["NOVELTY=1"]),
]
for agent, whose, several in NOT_FOR:
    WRONG += [f"{agent} {wrong} | is not for {whose} | choose" for wrong in several]


def test_wrong_settings_are_refused_in_one_line(trained, mazes, monkeypatch, digests, capsys):
    """With status 2; and nothing is touched."""
    folder, _ = trained
    before = digests(folder)
    monkeypatch.chdir(Path(mazes).parent)
    for row in WRONG:
        given, *wanted = row.split(" | ")
        arguments = given.split()
        if arguments[0] not in ("solve", "prove"):
            places = f"OUT_DIR={folder / 'out'}", f"PLOT_FILE={folder / 'plot.png'}"
            arguments = [*places, *arguments]
        assert main.main(arguments) == 2, row
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "Traceback" not in err, err
        assert all(text in err for text in wanted), (row, err)
    assert digests(folder) == before and os.listdir() == ["mazes.txt"]


# As commands


SETTINGS = "GRID=8 NUM_EPISODES=64 BSZ=64 MAZE_CACHE_SIZE=100 EVAL_MAZES=20 EVAL_SAMPLE=10".split()


def started(folder, *arguments, stdout=subprocess.PIPE):
    """main.py as a command."""
    command = [sys.executable, main.__file__, *arguments]
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even in a background
    how = dict(stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=folder, preexec_fn=heeds)
    return subprocess.Popen(command, env=os.environ | dict(OMP_NUM_THREADS="1"), **how)


def test_commands_for_a_run_and_for_a_proof(tmp_path):
    run = started(tmp_path, *SETTINGS)
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0 and not err and "see out/training_plot.png and out/" in out
    named = out.splitlines()[-1].partition("and out/: ")[2].split(", ")
    assert len(named) == 5 and all((tmp_path / "out" / name).exists() for name in named), named
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


@pytest.mark.parametrize("words, wanted", [("help", "solve FILE"), ("solve -h", "START=y,x")])
def test_who_asks_for_help_gets_the_usage(capsys, words, wanted):
    with pytest.raises(SystemExit) as ended:
        main.main(words.split())
    assert ended.value.code == 0 and wanted in capsys.readouterr().out

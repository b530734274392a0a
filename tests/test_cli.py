import os
import pickle
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

import main
import maze
import model
from support import mazefile, solving
from support.agents import build
from support.checkpoint import save_checkpoint
from support.window import MEMORIES

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
    settings = main.config() | dict(MODEL="vin", WIDTH=4, GRID=8) | settings
    save_checkpoint(str(path), network, settings)
    return f"CHECKPOINT={path}"


def said_lines(text):
    return [line for line in text.splitlines() if line]


# Solving


def test_solve_prints_walks_and_verdicts(tmp_path, mazes, capsys):
    exact = checkpoint(tmp_path / "exact.pt", reference.make_exact(model.Thinker("vin", 4, 0.5)))
    assert main.main(["solve", mazes, exact, "DEVICE=cpu"]) == 0
    out, err = capsys.readouterr()
    said = said_lines(out)
    assert not err
    assert said[:4] == ["S***", "###*", "G***", "maze 1: solved in 8 steps (shortest 8)"]
    assert said[4:6] == ["S#G", "maze 2: unreachable"]
    assert said[6] == "#S." and said[10] == "maze 3: solved in 3 steps (shortest 3)"
    assert "".join(said[6:10]).count("*") == 2
    assert said[11:] == [
        ".....",
        "SG...",
        "maze 4: solved in 1 steps (shortest 1)",
        "solved 3 of 4, by a shortest path 3",
    ]


def test_solve_says_when_the_agent_fails_or_takes_a_detour(tmp_path, mazes, capsys):
    """It holds that one can never go left, and right only along a wall above."""
    network = reference.make_exact(model.Thinker("vin", 4, 0.5))
    with torch.no_grad():
        network.core.p.weight[2] = 0
        network.core.hidden.weight[3, 1], network.core.hidden.bias[3] = 1, 0
    limping = checkpoint(tmp_path / "limping.pt", network)
    assert main.main(["solve", mazes, limping, "DEVICE=cpu"]) == 0
    said = said_lines(capsys.readouterr().out)
    assert said[:4] == ["S...", "###.", "G...", "maze 1: not solved in 9 steps (shortest 8)"]
    assert said[4:6] == ["S#G", "maze 2: unreachable"]
    assert said[6:11] == ["#S*", "..*", "..G", "...", "maze 3: solved in 3 steps (shortest 3)"]
    assert said[11:14] == ["**...", "SG...", "maze 4: solved in 3 steps (shortest 1)"]
    assert said[14:] == ["solved 2 of 4, by a shortest path 1"]


def test_solve_with_the_agent_of_a_run(trained, tmp_path, capsys):
    folder, _ = trained
    generator = torch.Generator().manual_seed(1)
    drawn = maze.draw(maze.make_mazes(30, 12, generator), 12, 0.9, 100, "random", generator)
    texts = [
        mazefile.FileMaze(drawn.walls[..., i].numpy(), int(drawn.start[i]), int(drawn.goal[i]))
        for i in range(30)
    ]
    (tmp_path / "mazes.txt").write_text("\n\n".join(solving.draw(text) for text in texts) + "\n")
    assert (
        main.main(["solve", str(tmp_path / "mazes.txt"), f"OUT_DIR={folder / 'out'}", "DEVICE=cpu"])
        == 0
    )
    said = said_lines(capsys.readouterr().out)
    assert len(said) == 30 * 13 + 1
    solved = optimal = 0
    for i, text in enumerate(texts):
        shown, verdict = "".join(said[13 * i : 13 * i + 12]), said[13 * i + 12]
        shortest = reference.distances(text.walls, text.goal).flat[text.start]
        assert shown.replace("*", ".") == solving.draw(text).replace("\n", "")
        walked = np.array([cell in "*SG" for cell in shown]).reshape(12, 12)
        way = reference.distances(~walked, text.goal).flat[text.start]
        match = re.fullmatch(
            rf"maze {i + 1}: (solved|not solved) in (\d+) steps \(shortest {shortest}\)", verdict
        )
        steps = int(match[2])
        if match[1] == "solved":
            assert shortest <= way <= steps
            solved, optimal = solved + 1, optimal + (steps == shortest)
    assert said[-1] == f"solved {solved} of 30, by a shortest path {optimal}"
    assert solved >= 15


AGENTS = [dict(MODEL=name) for name in model.CORES] + [dict(MODEL="cnn", LOOKS=3)]
AGENTS += [dict(VISION=2, MEMORY=memory) for memory in MEMORIES]


@pytest.mark.parametrize("agent", AGENTS, ids=str)
def test_every_agent_walks_mazes_of_any_size(tmp_path, mazes, agent, capsys):
    """One that has learned nothing, and knows a goal when it is beside it at best."""
    settings = dict(MODEL="mlp", WIDTH=4, GRID=8) | agent
    fresh = checkpoint(tmp_path / "fresh.pt", build(main.config() | settings), **settings)
    assert main.main(["solve", mazes, fresh, "DEVICE=cpu"]) == 0
    said = said_lines(capsys.readouterr().out)
    verdicts = [line for line in said if line.startswith("maze ")]
    for verdict, shortest in zip(verdicts, (8, None, 3, 1), strict=True):
        assert (
            "unreachable" in verdict
            if shortest is None
            else re.fullmatch(
                rf"maze \d: (not )?solved in \d+ steps \(shortest {shortest}\)", verdict
            )
        )
    assert re.fullmatch(r"solved \d of 4, by a shortest path \d", said[-1])


# Errors


def outputs(folder):
    return [f"OUT_DIR={folder / 'out'}", f"PLOT_FILE={folder / 'plot.png'}"]


def refused(arguments, wanted, folder, digests, capsys):
    """The command fails with status 2 and one line that says all of `wanted`, and touches
    nothing under the folder."""
    before = digests(folder)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert main.main(arguments) == 2
    assert not heard, heard[0].message
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and err.endswith("\n") and "Traceback" not in err
    assert all(text in err for text in wanted), err
    assert digests(folder) == before


WRONG = [
    ("GRIDD=8", "'GRIDD'", "GRID?"),
    ("model=cnn", "'model'", "MODEL?"),
    ("XYZZY=1", "'XYZZY'"),
    ("HELD_OUT_SEED=1", "'HELD_OUT_SEED'"),
    ("cnn", "'cnn'", "KEY=VALUE"),
    ("--help", "'--help'"),
    ("SEED=abc", "SEED=abc", "whole number"),
    ("SEED=1.5", "SEED=1.5", "whole number"),
    ("SEED=inf", "SEED=inf", "whole number"),
    ("BSZ=", "BSZ=", "whole number"),
    ("LR=fast", "LR=fast", "a number"),
    ("DOUBLE=maybe", "DOUBLE=maybe", "True or False"),
    ("BSZ=0", "BSZ=0"),
    ("BSZ=-5", "BSZ=-5"),
    ("GRID=3", "GRID=3", "5"),
    ("GRID=300", "GRID=300", "256"),
    ("DIFFICULTY=2", "DIFFICULTY=2", "0 to 1"),
    ("DIFFICULTY=-0.1", "DIFFICULTY=-0.1"),
    ("DIFFICULTY=0.2 DIFFICULTY_MIN=0.5", "DIFFICULTY_MIN=0.5", "0.2"),
    ("EPSILON=1.01", "EPSILON=1.01"),
    ("LAMBDA=1.5", "LAMBDA=1.5", "0 to 1"),
    ("LAMBDA=nan", "LAMBDA=nan"),
    ("GAMMA=1", "GAMMA=1"),
    ("GAMMA=0.99999", "GAMMA=0.99999", "0.9999"),
    ("GAMMA=1e-200 LAMBDA=0.5", "GAMMA=1e-200", "1e-6"),
    ("VISION=2 MEMORY=trail NOVELTY=1e300", "NOVELTY=1e+300", "million"),
    ("OUT_DIR=", "OUT_DIR=", "a folder"),
    ("solve mazes.txt OUT_DIR=", "OUT_DIR=", "a folder"),
    ("LR=0", "LR=0"),
    ("LR=inf", "LR=inf"),
    ("MODEL=foo", "MODEL=foo", "vin", "cnn", "mlp"),
    ("REPLAY=on", "REPLAY=on", "uniform"),
    ("GOAL=left", "GOAL=left", "corner"),
    ("CURRICULUM=x", "CURRICULUM=x", "adaptive"),
    ("SEED=-1", "SEED=-1"),
    ("SEED=4294967296", "SEED=4294967296"),
    ("UPDATES=20 BSZ=10", "UPDATES=20", "BSZ=10"),
    ("REPLAY=uniform REPLAY_SIZE=10", "REPLAY_SIZE=10", "BSZ"),
    ("MAX_EP_LENGTH=0", "MAX_EP_LENGTH=0"),
    ("EVAL_EVERY=0", "EVAL_EVERY=0"),
    ("NUM_EPISODES=0", "NUM_EPISODES=0"),
    ("DEVICE=toaster", "DEVICE=toaster"),
    ("DEVICE=meta", "DEVICE=meta"),
    ("DEVICE=hpu", "DEVICE=hpu"),
    ("solve mazes.txt DEVICE=meta", "DEVICE=meta"),
    ("LOOKS=-1", "LOOKS=-1", "0"),
    ("LOOKS=2.5", "LOOKS=2.5", "whole number"),
    ("LOOKS=3e9", "LOOKS=3"),
    ("WIDTH=-1", "WIDTH=-1"),
    ("WIDTH=0", "WIDTH=0"),
    ("VISION=16", "VISION=16", "15"),
    ("VISION=-1", "VISION=-1"),
    ("THREADS=-1", "THREADS=-1"),
    ("PRIORITY_ALPHA=2", "PRIORITY_ALPHA=2", "0 to 1"),
    ("PRIORITY_BETA=nan", "PRIORITY_BETA=nan"),
    ("NOVELTY=-1", "NOVELTY=-1"),
    ("MEMORY=x", "MEMORY=x", "trail", "gru", "map"),
    ("SHAPING=x", "SHAPING=x", "manhattan", "oracle"),
    ("solve", "solve FILE"),
    ("solve SEED=3", "solve FILE"),
    ("solve mazes.txt GRIDD=8", "'GRIDD'"),
    # Each right by itself, but not together: the line names both, and what to choose.
    ("VISION=2 MODEL=vin", "VISION=2", "MODEL=vin", "choose MODEL=mlp", "MEMORY=map"),
    ("VISION=2 MODEL=cnn", "VISION=2", "MODEL=cnn", "choose MODEL=mlp"),
    ("VISION=2 MODEL=attention MEMORY=gru", "VISION=2", "MODEL=attention", "choose MODEL=mlp"),
    ("VISION=2 MODEL=vin MEMORY=trail", "VISION=2", "MODEL=vin", "choose MODEL=mlp"),
    ("MEMORY=trail MODEL=mlp", "MEMORY=trail", "VISION", "choose VISION=2", "MEMORY=none"),
    ("MEMORY=map", "MEMORY=map", "VISION", "choose VISION=2"),
    *[
        (f"{agent} {wrong}", wrong, "thinks" if "SHAPING" in wrong else "think", "VISION=2")
        for agent in ("MODEL=vin", "MODEL=cnn", "VISION=2 MEMORY=map")
        for wrong in ("SHAPING=oracle", "SHAPING=manhattan", "NOVELTY=0.1")
    ],
    ("VISION=2 MEMORY=map COMPASS=False", "MEMORY=map", "COMPASS=True"),
    ("COMPASS=False", "COMPASS=False", "VISION", "choose VISION=2", "COMPASS=True"),
]


@pytest.mark.parametrize(
    "arguments, wanted", [(row[0], row[1:]) for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_wrong_settings_are_refused_and_nothing_is_touched(
    trained, arguments, wanted, digests, capsys
):
    folder, _ = trained
    places = [] if "solve" in arguments else outputs(folder)
    refused(places + arguments.split(), wanted, folder, digests, capsys)


@pytest.mark.parametrize("name", ["MAX_START_DISTANCE", "WIDTH", "BSZ", "MAX_EP_LENGTH", "THREADS"])
def test_number_that_no_machine_can_count_to_is_refused(tiny, name, digests, capsys):
    refused([f"{name}=1e19"], [f"{name}=1"], tiny, digests, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said(trained, digests, capsys):
    folder, _ = trained
    refused([*outputs(folder), "DEVICE=cuda"], ["DEVICE=cuda", "cpu"], folder, digests, capsys)


@pytest.mark.parametrize("place", ["{}/plot.png", "{}/plot.png/out", "/proc/out"])
def test_out_dir_that_cannot_be_written_is_refused(trained, place, digests, capsys):
    folder, _ = trained
    place = place.format(folder)
    refused(
        [f"OUT_DIR={place}", f"PLOT_FILE={folder / 'plot.png'}", "DEVICE=cpu"],
        [place],
        folder,
        digests,
        capsys,
    )


@pytest.mark.parametrize("name", ["out", "nowhere/plot.png"])
def test_plot_file_that_cannot_be_written_is_refused_before_training(
    tiny, monkeypatch, name, digests, capsys
):
    (tiny / "out").mkdir()
    monkeypatch.chdir(tiny)
    refused([f"PLOT_FILE={name}"], ["PLOT_FILE"], tiny, digests, capsys)


BAD_MAZES = [
    (b"#.G\n...\n", "line 1"),
    (b"S.G\n\n..G\n.S.\n.G.\n", "line 5"),
    (b"S.G\n.?.\n", "line 2"),
    (b"S.G\n.\n", "line 2"),
    (b"", "no maze"),
    (b"\x00\xff\xfe\x89", "not a text file"),
    (b"\x00\x01\x02", "line 1"),
]


@pytest.mark.parametrize("content, wanted", BAD_MAZES)
def test_malformed_mazes_are_refused_with_the_line(
    trained, tmp_path, content, wanted, digests, capsys
):
    folder, _ = trained
    (tmp_path / "bad.txt").write_bytes(content)
    refused(
        ["solve", str(tmp_path / "bad.txt"), f"OUT_DIR={folder / 'out'}"],
        ["bad.txt", wanted],
        folder,
        digests,
        capsys,
    )


def test_missing_maze_file_and_directory_are_refused(trained, tmp_path, digests, capsys):
    folder, _ = trained
    for path in (tmp_path, tmp_path / "nowhere.txt"):
        refused(
            ["solve", str(path), f"OUT_DIR={folder / 'out'}"], [str(path)], folder, digests, capsys
        )


@pytest.mark.parametrize(
    "name", ["missing.pt", "text.pt", "other.pt", "tensor.pt", "pickle.pt", "folder.pt"]
)
def test_missing_and_foreign_checkpoints_are_refused(tmp_path, mazes, name, digests, capsys):
    (tmp_path / "text.pt").write_text("hello\n")
    torch.save(dict(weights=torch.ones(3)), tmp_path / "other.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(dict(weights=[1.0])))
    (tmp_path / "folder.pt").mkdir()
    arguments = ["solve", mazes, f"CHECKPOINT={tmp_path / name}", "DEVICE=cpu"]
    refused(
        arguments,
        [name, "directory" if name == "folder.pt" else "python main.py"],
        tmp_path,
        digests,
        capsys,
    )


def test_solving_before_training_is_refused(tmp_path, mazes, digests, capsys):
    refused(
        ["solve", mazes, f"OUT_DIR={tmp_path / 'no_run'}"],
        ["no_run", "checkpoint.pt"],
        tmp_path,
        digests,
        capsys,
    )


# As commands


def command(folder, *arguments):
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, str(root / "main.py"), *arguments],
        cwd=folder,
        timeout=100,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )


def test_commands_for_a_run_and_for_solving(tmp_path, mazes):
    settings = "GRID=8 NUM_EPISODES=64 BSZ=64 MAZE_CACHE_SIZE=100 EVAL_MAZES=20 EVAL_SAMPLE=10 DEVICE=cpu".split()
    done = command(tmp_path, *settings)
    assert done.returncode == 0 and not done.stderr
    assert "see out/training_plot.png and out/" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mazes.txt", "out"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "checkpoint.pt",
        "metrics.csv",
        "summary.json",
        "mazes.npz",
        "training_plot.png",
    } <= written
    done = command(tmp_path, "solve", mazes, "DEVICE=cpu")
    assert done.returncode == 0 and not done.stderr
    assert re.fullmatch(r"solved \d of 4, by a shortest path \d", done.stdout.splitlines()[-1])


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(tmp_path):
    """Ctrl-C ends the `tee` of `python main.py | tee log`, too."""
    reader, writer = os.pipe()
    settings = (
        "NUM_EPISODES=320 BSZ=64 MAZE_CACHE_SIZE=100 EVAL_MAZES=20 EVAL_SAMPLE=10 EVAL_EVERY=1"
    )
    run = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent.parent / "main.py"), *settings.split()],
        cwd=tmp_path,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0 and not said
    assert (tmp_path / "out" / "summary.json").exists()


def test_wrong_command_ends_with_status_2(tmp_path, mazes, digests):
    before = digests(tmp_path)
    done = command(tmp_path, "solve", mazes, "DEVICE=cpu")
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "checkpoint.pt" in done.stderr
    assert digests(tmp_path) == before


def test_profile_prints_and_saves_the_slowest_calls(tiny, capsys):
    assert main.main(["PROFILE=True", "NUM_EPISODES=64"]) == 0
    assert "cumulative" in capsys.readouterr().out
    assert (tiny / "out" / "training_stats").stat().st_size > 1000


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_who_asks_for_help_gets_the_usage(capsys, word):
    with pytest.raises(SystemExit) as ended:
        main.main([word])
    assert ended.value.code == 0
    assert "python main.py solve FILE" in capsys.readouterr().out

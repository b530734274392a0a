"""How runs end: proved, stopped, killed, out of disk or memory; and what is left of them."""

import contextlib
import csv
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
import model
from support import agents, files, pictures
from support.files import load_checkpoint
from support.learning import Adam

if sys.platform != "linux":
    pytest.skip("runs are killed and starved in the ways of Linux", allow_module_level=True)
import resource  # noqa: E402

FREE = "RESUME", "OUT_DIR", "PLOT_FILE", "NUM_EPISODES", "DEVICE"
# What is learned is Q of a discounted reward, with returns over several steps.
RETURNS = "CREDIT=lambda UNIT=q GAMMA=0.98 STEP_REWARD=0 GOAL_REWARD=1"
TIMES = "seconds", "seconds_to_99", "seconds_to_proof", "device"
# A run of 8 batches.
SMALL = (
    "GRID=8 NUM_EPISODES=256 BSZ=32 UPDATES=4 TARGET_SYNCS=2 MAX_START_DISTANCE=20 "
    "MAX_EP_LENGTH=12 MAZE_CACHE_SIZE=100 EVAL_MAZES=16 EVAL_SAMPLE=8 EVAL_EVERY=1 DEVICE=cpu"
).split()


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Runs that draw nothing."""
    for name in "course", "walks", "thinking":
        monkeypatch.setattr(pictures, name, lambda *_: None)
    return tmp_path


def runs(folder, *settings):
    """The exit status of a command line that is run in this process."""
    return main.main([*SMALL, f"OUT_DIR={folder}", f"PLOT_FILE={folder}.png", *settings])


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def raising(error):
    def function(*_, **more):
        raise error

    return function


@torch.no_grad()
def exact(looks=0):
    """An agent whose weights were set by hand: -1 + the difference of the next cell."""
    core = model.Linear(0)
    core.q.bias.fill_(-1)
    for action, cell in enumerate((1, 6, 3, 4)):  # of the eight, row by row
        core.q.weight[action, 8 + cell] = 1
    return model.Thinker(core, looks, agents.think_lazily).eval()


def right_answers():
    """Q - V of each action in all views, (4, 65536), with no word of model.py."""
    next_cell = [np.arange(4**8) >> 2 * cell & 3 for cell in (1, 6, 3, 4)]
    return np.array([np.where(digit == 0, 0, digit - 2) for digit in next_cell]) - 1


class Forked:
    """A command line in a process of its own, that calls prepare() first."""

    def __init__(self, folder, *settings, prepare=lambda: None):
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                for standard in (1, 2):
                    os.dup2(theirs, standard)
                sys.stdout, sys.stderr = (open(standard, "w", buffering=1) for standard in (1, 2))
                # a shell's background jobs ignore it, and so would this
                signal.signal(signal.SIGINT, signal.default_int_handler)
                prepare()
                status = runs(folder, *settings)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(theirs)
        self.said = open(ours)

    def until(self, text):
        lines = []
        while not lines or text not in lines[-1]:
            lines.append(self.said.readline())
            assert lines[-1], f"it ended without {text!r}, but said: {''.join(lines)}"

    def signal(self, number):
        os.kill(self.pid, number)

    def end(self):
        """(exit status, or minus the signal that killed it; what it said)."""
        with self.said:
            said = self.said.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), said


def slow_batch():
    print("now", flush=True)
    time.sleep(20)


@contextlib.contextmanager
def at_batch(monkeypatch, number, action):
    """Runs `action` once, while the batch of this number, from 0, is under way."""
    next_level, count = main.next_level, iter(range(10**9))

    def counted(*arguments):
        if next(count) == number:
            action()
        return next_level(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(main, "next_level", counted)
        yield


def left(folder):
    """What a run leaves, without the times."""
    network, _, progress = load_checkpoint(f"{folder}/checkpoint.pt", "cpu")
    summary = summary_of(folder)
    for row in [progress, summary, *progress["history"], *(rows := rows_of(folder))]:
        for name in TIMES:
            row.pop(name, None)
    for name in FREE:
        del summary["config"][name]
    return dict(weights=network.state_dict(), rows=rows, summary=summary, **progress)


def same(a, b):
    """Whether two nests of dictionaries, lists, tensors and numbers are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def differences(a, b):
    a, b = left(a), left(b)
    return [name for name in a | b if not same(a.get(name), b.get(name))]


def check_whole(folder):
    """Every file that a run has left is whole; returns the batches in the checkpoint, or 0."""
    batches, there = 0, {path.name: path for path in folder.glob("*")}
    if "checkpoint.pt" in there:
        _, settings, progress = load_checkpoint(str(there["checkpoint.pt"]), "cpu")
        batches = progress["batch"]
        assert batches * settings["BSZ"] == progress["history"][-1]["episodes"]
    if "metrics.csv" in there:
        rows = rows_of(folder)
        assert rows and there["metrics.csv"].read_text().endswith("\n")
        assert np.isfinite([float(value or 0) for row in rows for value in row.values()]).all()
    if "summary.json" in there:
        assert summary_of(folder)["config"]["GRID"] == 8
    if "mazes.npz" in there:
        with np.load(there["mazes.npz"]) as file:
            assert file["packed"].shape == (8, 100)
    for picture in [folder.with_name(f"{folder.name}.png"), *folder.glob("*.[pg][ni][gf]")]:
        if picture.exists():
            Image.open(picture).load()
    return batches


def one_line(capsys, *wanted):
    """What was said to stderr: one line, with all of `wanted` in it."""
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("error: "), err
    assert all(str(text) in err for text in wanted), err


# Proved


def test_a_run_ends_with_its_proof_and_its_files_say_so(trained):
    (folder, summary), best = trained, right_answers()
    network, config, progress = load_checkpoint(f"{folder}/out/checkpoint.pt", "cpu")
    assert np.array_equal(network.change, best.max(0))
    assert (best.max(0) == best[network.action, np.arange(4**8)]).all()
    rows = rows_of(folder / "out")
    assert [row["wrong_views"] == "0" for row in rows] == [False] * (len(rows) - 1) + [True]
    assert config == summary["config"] and config.keys() == set(main.WRITTEN)
    assert summary["episodes"] == 256 * len(rows) == 256 * progress["batch"] < 20_480
    for name in "env_steps", "updates":
        assert int(rows[-1][name]) == summary[name]
    assert 0 < float(rows[0]["seconds"]) < float(rows[-1]["seconds"]) < summary["seconds"]
    assert summary["seconds_to_proof"] == pytest.approx(float(rows[-1]["seconds"]))
    good = next(row for row in rows if float(row["success"]) >= 0.99)
    assert summary["seconds_to_99"] == pytest.approx(float(good["seconds"]))
    wanted = dict(success=1, optimal=1, spl=1, loops=0, generalization_gap=0, eval_mazes=300)
    wanted |= dict(proved=True, stopped=False, wrong_views=0, device="cpu", seed=0)
    assert {name: summary[name] for name in wanted} == wanted
    pictures = folder / "plot.png", folder / "out/rollouts.png", folder / "out/agent.gif"
    kinds = [path.read_bytes()[:4] for path in pictures]
    assert kinds == [b"\x89PNG", b"\x89PNG", b"GIF8"]


PROOFS = ("EVAL_EVERY=3", 4, True), ("LOOKS=50", 8, False), ("UNTIL_PROVED=False", 8, True)


@pytest.mark.parametrize("settings, batches, proof", PROOFS)
def test_only_a_proof_ends_a_run_before_its_time(quick, monkeypatch, settings, batches, proof):
    """From the second batch on no view is wrong; with LOOKS that proves nothing."""
    wrong = itertools.chain([5], itertools.repeat(0))
    monkeypatch.setattr(main.report, "wrong_views", lambda network: next(wrong))
    assert runs(quick / "out", "MODEL=linear", settings) == 0
    found = summary_of(quick / "out")
    assert (found["wrong_views"], found["proved"], found["episodes"]) == (0, proof, 32 * batches)
    assert not found["stopped"] and (found["seconds_to_proof"] is not None) == proof


def test_a_proved_run_that_is_killed_before_its_report_is_over_when_resumed(quick, monkeypatch):
    monkeypatch.setattr(main, "build", lambda settings: exact())
    assert runs(quick / "straight", "MODEL=linear") == 0
    with monkeypatch.context() as patch:
        patch.setattr(main.report, "figures", raising(KeyboardInterrupt()))
        assert runs(quick / "out", "MODEL=linear") == 130
    assert runs(quick / "out", "MODEL=linear", "RESUME=True") == 0
    assert summary_of(quick / "out")["episodes"] == summary_of(quick / "straight")["episodes"] == 32


# Stopped, and resumed


KINDS = [
    "MODEL=mlp WIDTH=8",
    "MODEL=linear REPLAY=uniform REPLAY_SIZE=64",
    "MODEL=attention WIDTH=4 REPLAY=prioritized REPLAY_SIZE=100",
    f"VISION=2 MEMORY=trail WIDTH=16 DOUBLE=True NOVELTY=0.01 {RETURNS}",
    f"VISION=1 MEMORY=gru WIDTH=16 REPLAY=uniform REPLAY_SIZE=64 SHAPING=manhattan {RETURNS}",
    "VISION=1 MEMORY=map WIDTH=2 BSZ=8 NUM_EPISODES=64 UPDATES=1 MAX_EP_LENGTH=4",
    # With so far a goal each update draws how many of its rounds go without gradient.
    "THINK=False MODEL=cnn WIDTH=4 TARGET_SYNCS=1 CURRICULUM=off MAX_START_DISTANCE=40",
    "THINK=False MODEL=attention WIDTH=4 CREDIT=lambda UNIT=q REPLAY=prioritized REPLAY_SIZE=100",
]


@pytest.mark.parametrize("settings", KINDS)
def test_stopped_and_killed_runs_go_on_as_if_they_never_were(quick, monkeypatch, settings):
    """It is killed after a batch that is not evaluated, so that it repeats some."""
    settings, folder = [*settings.split(), "EVAL_EVERY=3"], quick / "out"
    assert runs(quick / "straight", *settings) == 0
    with at_batch(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert runs(folder, *settings) == 128 + signal.SIGTERM
    assert check_whole(folder) == 2 and summary_of(folder)["stopped"] is True
    with at_batch(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert Forked(folder, *settings, "RESUME=True").end()[0] == -signal.SIGKILL
    assert check_whole(folder) == 4
    assert runs(folder, *settings, "RESUME=True") == 0
    assert check_whole(folder) == 8 and not summary_of(folder)["stopped"]
    assert not differences(quick / "straight", folder)
    assert runs(folder, *settings, "RESUME=True") == 0  # finished, it is finished still
    assert not differences(quick / "straight", folder)


def test_a_run_goes_on_for_more_episodes_and_its_seconds_go_on(quick, monkeypatch):
    """They count from the start of the program, with what it imports, to its last picture."""
    monkeypatch.setattr(pictures, "walks", lambda *_: time.sleep(2))
    began, places = time.perf_counter() - 1000, f"OUT_DIR={quick / 'out'}"
    assert main.main([*SMALL, places, "NUM_EPISODES=96"], began) == 0
    assert runs(quick / "out", "RESUME=True") == 0
    assert check_whole(quick / "out") == len(rows_of(quick / "out")) == 8
    assert 1002 < summary_of(quick / "out")["seconds"] < 1060


def test_resuming_with_other_constants_is_refused_and_touches_nothing(quick, capsys, digests):
    assert runs(quick / "none", "RESUME=True") == 2
    one_line(capsys, "no checkpoint", quick / "none" / "checkpoint.pt")
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    capsys.readouterr()
    before = digests(quick)
    changes = "HUBER=0.3 MODEL=cnn WIDTH=3 LOOKS=9 SEED=1 BSZ=16 GRID=9 REPLAY=uniform"
    for changed in [*changes.split(), "THINK=False TARGET_SYNCS=1 DIFFICULTY_MIN=0"]:
        assert runs(quick / "out", "NUM_EPISODES=32", "RESUME=True", *changed.split()) == 2
        one_line(capsys, changed.split()[0], "checkpoint.pt")
    assert digests(quick) == before


# Signals


SIGNALS = "INT", "TERM", "HUP HUP", "HUP TERM", "TERM HUP"  # a closed terminal sends HUP twice


@pytest.mark.parametrize("signals", SIGNALS)
def test_signals_end_a_run_after_its_batch_with_all_its_files(tmp_path, signals):
    """Of several, the first says how. HUP is no Ctrl-C: neither with it nor after it does another
    signal end the run at once."""
    run = Forked(tmp_path / "out", "NUM_EPISODES=1e6", "EVAL_EVERY=2", "UNTIL_PROVED=False")
    run.until("level")
    numbers = [signal.Signals[f"SIG{name}"] for name in signals.split()]
    for number in numbers:
        run.signal(number)
        time.sleep(0.01)
    status, said = run.end()
    assert status == 128 + numbers[0] and "Traceback" not in said, said
    assert "stopping once this batch or evaluation is done; once more: at once" in said
    assert f"{numbers[0].name} stopped it after" in said
    assert 1 <= check_whole(tmp_path / "out") and summary_of(tmp_path / "out")["stopped"] is True
    for name in "out.png", "out/metrics.csv", "out/rollouts.png", "out/agent.gif":
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("signals", ["TERM INT", "INT TERM", "HUP INT TERM"])
def test_ctrl_c_or_sigterm_once_more_ends_a_run_at_once(quick, monkeypatch, signals):
    *before, last = (signal.Signals[f"SIG{name}"] for name in signals.split())
    with at_batch(monkeypatch, 3, slow_batch):
        run = Forked(quick / "out")
        run.until("now")
        for number in before:
            run.signal(number)
            run.until("stopping once this batch")
        began = time.perf_counter()
        run.signal(last)
        status, said = run.end()
    assert status == (130 if last == signal.SIGINT else -signal.SIGTERM)
    assert time.perf_counter() - began < 10 and "Traceback" not in said, said
    if status == 130:
        assert "RESUME=True" in said and len(said.splitlines()) == 1
    assert check_whole(quick / "out") == 3
    assert runs(quick / "out", "RESUME=True") == 0


def test_a_run_stopped_at_once_before_its_first_checkpoint_leaves_none(quick, monkeypatch, capsys):
    """Nor is that of the run before taken for its own; and signals mean again what they meant."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(main, "next_level", raising(KeyboardInterrupt()))
        assert runs(quick / "out", "SEED=1") == 130
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "stopped" in err and "RESUME" not in err
    assert runs(quick / "out", "SEED=1", "RESUME=True") == 2
    one_line(capsys, "no checkpoint")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# Killed


def test_files_are_whole_after_a_kill_at_any_moment(quick, capsys):
    """Of fresh and of resumed runs; and each goes on from its checkpoint, if it had one yet."""
    chance, replace, few = random.Random(0), os.replace, "BSZ=8 UPDATES=1 EVAL_EVERY=2 WIDTH=8"

    def slowly(source, destination):  # a file is written, but not in its place yet, for a while
        time.sleep(0.004)
        replace(source, destination)

    began = time.perf_counter()
    assert Forked(quick / "measured", *few.split(), "NUM_EPISODES=48").end()[0] == 0
    usual, kills = time.perf_counter() - began, 0
    while kills < 8:
        folder = quick / f"out{kills // 4}"
        batches = check_whole(folder)
        more = *few.split(), f"NUM_EPISODES={8 * (batches + 6)}", f"RESUME={batches > 0}"
        run = Forked(folder, *more, prepare=lambda: setattr(os, "replace", slowly))
        time.sleep(chance.random() * usual)
        run.signal(signal.SIGKILL)
        kills += run.end()[0] == -signal.SIGKILL
        batches = check_whole(folder)
        more = *few.split(), f"NUM_EPISODES={8 * (batches + 1)}", "RESUME=True"
        assert runs(folder, *more) == (0 if batches else 2)
        assert check_whole(folder) == batches + (batches > 0)


def limited(size, then):
    """No file may grow over `size` bytes; `then` is what the signal of that does."""
    signal.signal(signal.SIGXFSZ, then)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# The size of a file at which the disk is full, which files meet it, and the status of the run.
SIZES = (
    (0, "mazes.npz checkpoint.pt metrics.csv", 2),
    (3000, "checkpoint.pt", 2),
    (38_000, "rollouts.png plot.png", 0),
)
WINDOW = "VISION=1", "WIDTH=4", "TARGET_SYNCS=1", "EVAL_EVERY=1"  # its checkpoints are small


def test_full_disk_is_said_costs_no_figures_and_leaves_the_old_files(tmp_path):
    """A process that writes more than its limit gets an error; or is killed, half way through."""
    assert runs(tmp_path / "old", *WINDOW, "NUM_EPISODES=64") == 0
    for size, names, wanted in SIZES:
        folder = tmp_path / ("old" if size == 38_000 else f"new{size}")
        before = check_whole(folder)
        more = *WINDOW, "NUM_EPISODES=96", f"RESUME={before > 0}", f"PLOT_FILE={tmp_path}/plot.png"
        status, said = Forked(folder, *more, prepare=lambda: limited(size, signal.SIG_IGN)).end()
        assert status == wanted and "Traceback" not in said and "it has never seen: success" in said
        warning = r"^warning: .*/(\S+) could not be written: File too large$"
        warned = set(re.findall(warning, said, re.M))
        assert warned and warned <= set(names.split()), said
        last, failed = said.splitlines()[-1], {0: "summary.json", 3000: "checkpoint.pt"}.get(size)
        assert last.startswith(f"error: {folder}/{failed}") if failed else "s in all" in last
        assert not [*folder.glob("*.part"), *tmp_path.glob("*.part")]
        assert check_whole(folder) == (0 if status else 3)
        run = Forked(folder, *more, prepare=lambda: limited(size, signal.SIG_DFL))
        assert run.end()[0] == -signal.SIGXFSZ
        (part,) = [*folder.glob("*.part"), *tmp_path.glob("*.part")]
        assert part.name.startswith(tuple(names.split())) and part.stat().st_size == size
        check_whole(folder)
    assert runs(folder, *more) == 0 and check_whole(folder) == 3


def test_a_checkpoint_that_failed_is_tried_again_and_a_lost_folder_made_again(
    quick, monkeypatch, capsys
):
    tries = [raising(OSError(28, "No space left on device"))] * 2 + [files.save_checkpoint]
    monkeypatch.setattr(files, "save_checkpoint", lambda *a, **more: tries.pop(0)(*a, **more))
    with at_batch(monkeypatch, 1, lambda: shutil.rmtree(quick / "out")):
        assert runs(quick / "out", "NUM_EPISODES=64") == 0
    assert capsys.readouterr().out.count("checkpoint.pt could not be written: No space left") == 2
    assert check_whole(quick / "out") == 2


# Two at once


def test_second_run_in_one_folder_is_refused(quick, monkeypatch, digests, capsys):
    """What a killed run left half written is cleared away, but not by a run that is refused."""
    with at_batch(monkeypatch, 3, slow_batch):
        run = Forked(quick / "out")
        run.until("now")
        part = quick / "out" / "checkpoint.pt.12345.part"
        part.write_bytes(b"half")
        before = digests(quick)
        for settings in ("RESUME=False",), ("RESUME=True",), ("MODEL=cnn", "SEED=5"):
            assert runs(quick / "out", *settings) == 2
            one_line(capsys, f"OUT_DIR={quick / 'out'}", "another")
        assert digests(quick) == before
        run.signal(signal.SIGKILL)
        run.end()
    assert runs(quick / "out", "DEVICE=toaster") == 2 and part.exists()
    assert runs(quick / "out", "RESUME=True") == 0 and not part.exists()
    assert check_whole(quick / "out") == 8


# What it speaks to


def test_progress_on_a_terminal_is_one_line_that_never_wraps(quick, monkeypatch):
    """What follows it stands on a line of its own."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert runs(quick / "out") == 0
    lines = terminal.getvalue().split("\n")
    (progress,) = [line for line in lines if "\r" in line]
    shown = progress.split("\r")[1:]
    assert len(shown) == 8 and {len(each) for each in shown} == {79}
    wanted = r" *\d+%  \d+ episodes .* success .* wrong views \d"
    assert all(re.match(wanted, each) for each in shown)
    assert lines[lines.index(progress) + 1].startswith("walking")


def test_a_run_speaks_to_nobody_or_to_who_understands_little(quick, monkeypatch):
    closed, deaf = open(os.devnull, "w"), io.TextIOWrapper(io.BytesIO(), "ascii")
    closed.close()
    for stdout in None, closed, deaf:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert runs(quick / "übung", "NUM_EPISODES=32") == 0
        shutil.rmtree(quick / "übung")
    assert b"/\\xfcbung/: rollouts.png" in deaf.buffer.getvalue()


# Numbers that are not finite, memory that runs out


@pytest.mark.parametrize("settings", ["MODEL=cnn", "VISION=1 REPLAY=prioritized TARGET_SYNCS=1"])
@pytest.mark.parametrize("when, value", [("before", "nan"), ("after", "inf")])
def test_loss_that_is_not_finite_stops_the_run(quick, monkeypatch, capsys, value, when, settings):
    """A weight goes astray before the first update of the fourth batch, or after the last one of
    the third, whose losses are all fine."""
    step, count = Adam.step, iter(range(10**9))

    def astray(self, losses):
        number = next(count)
        if number == 12 and when == "before":
            losses = losses * float(value)
        result = step(self, losses)
        if number == 11 and when == "after":
            self.weights[0].data.view(-1)[0] = float(value)
        return result

    monkeypatch.setattr(Adam, "step", astray)
    assert runs(quick / "out", "WIDTH=4", *settings.split()) == 2
    one_line(capsys, "NaN or inf", "LR")
    assert check_whole(quick / "out") == (3 if when == "before" else 2)


LACKING = "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory. Tried 128 GiB.\n\nat:"


@pytest.mark.parametrize("error", [*map(RuntimeError, LACKING), MemoryError()])
def test_memory_that_runs_out_is_said_in_one_line(quick, monkeypatch, capsys, error):
    monkeypatch.setattr(main, "learn", raising(error))
    assert runs(quick / "out") == 2
    one_line(capsys, "memory", "BSZ (now 32)", "GRID (now 8)")


def test_an_error_of_the_program_is_not_hidden(quick, monkeypatch):
    monkeypatch.setattr(main, "learn", raising(RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory"):
        runs(quick / "out")


@pytest.mark.parametrize("agent", ["MODEL=mlp", "THINK=False MODEL=cnn", "VISION=2"])
def test_learning_that_goes_astray_is_told_once_and_the_default_is_not(quick, capsys, agent):
    for rate, times in ("", 0), ("LR=3", 1):
        given = *agent.split(), *rate.split(), "UPDATES=16", "NUM_EPISODES=96", "TARGET_SYNCS=1"
        assert runs(quick / "out", *given) == 0
        said = capsys.readouterr().out
        assert said.count("watch out: the loss was") == said.count("LR is too high") == times, said


def test_a_notebook_or_an_unknown_backend_is_left_alone(tmp_path):
    """And a whole run with it, and a picture that wants a LaTeX that is not there."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    code = f"import sys; sys.path.insert(0, {str(Path(main.__file__).parent)!r}); import main; "
    code += f"print(main.main({[*SMALL, 'NUM_EPISODES=32']!r}), 'matplotlib.pyplot' in sys.modules)"
    backend = dict(MPLBACKEND="module://matplotlib_inline.backend_inline", PATH="")
    how = dict(capture_output=True, text=True, cwd=tmp_path, timeout=100)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | backend, **how)
    assert done.stdout.endswith("\n0 False\n") and not done.stderr, done
    assert done.stdout.count("warning: out/") == 2  # the film has no such text

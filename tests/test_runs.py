"""Runs that end in other ways than by themselves: stopped, killed, out of disk or memory, and
what is left of them."""

import contextlib
import csv
import json
import os
import random
import signal
import sys
import time
import traceback

import numpy as np
import pytest
import torch
from PIL import Image

import main
import maze
from support import gif, pictures
from support.checkpoint import load_checkpoint, save_checkpoint
from support.errors import UserError

if sys.platform != "linux":
    pytest.skip("runs are killed and starved in the ways of Linux", allow_module_level=True)
import resource  # noqa: E402

FREE = ("RESUME", "OUT_DIR", "PLOT_FILE")
TIMES = ("seconds", "seconds_to_99")


@pytest.fixture
def small(tiny, monkeypatch):
    """Constants for a run of 8 batches."""
    for name, value in dict(
        NUM_EPISODES=256,
        BSZ=32,
        UPDATES=4,
        EVAL_MAZES=16,
        EVAL_SAMPLE=8,
        MAX_EP_LENGTH=12,
        MAZE_CACHE_SIZE=100,
    ).items():
        monkeypatch.setattr(main, name, value)
    return tiny


@pytest.fixture
def quick(small, monkeypatch):
    """The same in half a second: the plot is a single pixel, and there are no other pictures."""

    def pixel(*_):
        with maze.replacing(main.PLOT_FILE) as beside:
            Image.new("1", (1, 1)).save(beside, "png")

    monkeypatch.setattr(pictures, "course", pixel)
    monkeypatch.setattr(pictures, "walks", lambda *_: None)
    monkeypatch.setattr(gif, "thinking", lambda *_: None)
    return small


def runs(folder, *settings):
    """Runs the command line in this process, in a folder of its own; returns the exit status."""
    return main.main([f"OUT_DIR={folder}", f"PLOT_FILE={folder}.png", "RESUME=False", *settings])


class Forked:
    """A command line in a process of its own that need not import torch anew; prepare() is
    called there before."""

    def __init__(self, folder, *settings, prepare=lambda: None):
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                for standard in (1, 2):
                    os.dup2(theirs, standard)
                sys.stdout, sys.stderr = (open(standard, "w", buffering=1) for standard in (1, 2))
                signal.signal(
                    signal.SIGINT, signal.default_int_handler
                )  # a shell's background jobs ignore it, and so would this
                prepare()
                status = runs(folder, *settings)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(theirs)
        self.said = open(ours)

    def until(self, text):
        """Waits until the process has said this."""
        lines = []
        for line in self.said:
            lines.append(line)
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}, but said: {''.join(lines)}")

    def signal(self, number):
        os.kill(self.pid, number)

    def end(self):
        """Waits for its end; returns the exit status, or minus the signal that killed it, and
        what it has said since."""
        with self.said:
            said = self.said.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), said


def slow_batch():
    """Something for a batch to do that leaves time to disturb it."""
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


def stopped_after(monkeypatch, batches, folder, *settings):
    """A run that is asked to stop when it has done this many batches."""
    with at_batch(monkeypatch, batches - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert runs(folder, *settings) == 0


def left(folder):
    """What a run leaves, without the times."""
    network, settings, progress = load_checkpoint(f"{folder}/checkpoint.pt", "cpu")
    with open(f"{folder}/metrics.csv", newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]
    with open(f"{folder}/summary.json") as file:
        summary = {name: value for name, value in json.load(file).items() if name not in TIMES}
    summary["config"] = {
        name: value for name, value in summary["config"].items() if name not in FREE
    }
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    return dict(
        weights=weights,
        rows=rows,
        summary=summary,
        optimizer=progress["optimizer"],
        replay=progress["replay"],
        generator=progress["generator"],
        level=progress["level"],
        env_steps=progress["env_steps"],
        early=progress["early"],
    )


def same(a, b):
    """Whether two nests of dictionaries, lists, tensors and numbers are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def differences(a, b):
    return [name for name in a if not same(a[name], b[name])]


def check_whole(folder):
    """Every file that a run has left is whole; returns the number of batches in the checkpoint,
    0 where there is none."""
    batches, files = 0, {path.name: path for path in folder.iterdir()} if folder.exists() else {}
    unfinished = {name for name in files if name.endswith(".part")}
    assert files.keys() - unfinished <= {
        "lock",
        "checkpoint.pt",
        "metrics.csv",
        "summary.json",
        "mazes.npz",
        "rollouts.png",
        "agent.gif",
    }
    if "checkpoint.pt" in files:
        network, settings, progress = load_checkpoint(str(files["checkpoint.pt"]), "cpu")
        batches = progress["batch"]
        assert batches * settings["BSZ"] == progress["history"][-1]["episodes"]
        assert all(weights.isfinite().all() for weights in network.parameters())
    if "metrics.csv" in files:
        text = files["metrics.csv"].read_text()
        header, *rows = csv.reader(text.splitlines())
        assert text.endswith("\n") and header[:2] == ["episodes", "env_steps"] and rows
        assert all(
            len(row) == len(header) and all(np.isfinite(float(value)) for value in row)
            for row in rows
        )
        assert batches > 0
    if "summary.json" in files:
        assert json.loads(files["summary.json"].read_text())["config"]["GRID"] == 8
    if "mazes.npz" in files:
        said = []
        maze.load_cache(
            str(files["mazes.npz"]), main.MAZE_CACHE_SIZE, 8, main.SEED, say=said.append
        )
        assert not said
    for path in (
        folder.with_name(folder.name + ".png"),
        folder / "rollouts.png",
        folder / "agent.gif",
    ):
        if path.exists():
            with Image.open(path) as picture:
                picture.load()
    return batches


def one_line(capsys, *wanted):
    """What was said to stderr: one line, with all of `wanted` in it."""
    err = capsys.readouterr().err
    assert (
        len(err.splitlines()) == 1
        and err.startswith("error: ")
        and all(str(text) in err for text in wanted)
    ), err


# Stopped, and resumed


KINDS = [
    "MODEL=mlp",
    "MODEL=vin REPLAY=uniform REPLAY_SIZE=64",
    "REPLAY=prioritized REPLAY_SIZE=100",
    "VISION=2 MEMORY=trail WIDTH=16",
    "VISION=1 MEMORY=gru WIDTH=16 REPLAY=uniform",
    "VISION=1 MEMORY=map WIDTH=2 BSZ=8 NUM_EPISODES=64 UPDATES=1 MAX_EP_LENGTH=4",
]


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("every, stops", [(1, [3]), (3, [2, 6])])
def test_resumed_run_ends_as_one_that_was_never_stopped(quick, monkeypatch, settings, every, stops):
    """The second time, it stops at batches that would not have been evaluated."""
    settings = [*settings.split(), f"EVAL_EVERY={every}"]
    assert runs(quick / "straight", *settings) == 0
    done, more = 0, "RESUME=False"
    for stop in stops:
        stopped_after(monkeypatch, stop - done, quick / "stopped", *settings, more)
        assert check_whole(quick / "stopped") == stop
        done, more = stop, "RESUME=True"
    assert runs(quick / "stopped", *settings, more) == 0
    assert check_whole(quick / "stopped") == 8
    assert not differences(left(quick / "straight"), left(quick / "stopped"))


@pytest.mark.parametrize("settings", KINDS[:4])
def test_killed_run_repeats_the_batches_since_its_checkpoint(quick, monkeypatch, settings):
    settings = [*settings.split(), "EVAL_EVERY=3"]
    assert runs(quick / "straight", *settings) == 0
    with at_batch(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert Forked(quick / "killed", *settings).end()[0] == -signal.SIGKILL
    assert check_whole(quick / "killed") == 4
    assert runs(quick / "killed", *settings, "RESUME=True") == 0
    assert not differences(left(quick / "straight"), left(quick / "killed"))


def test_run_goes_on_for_more_episodes_than_it_was_started_with(quick):
    assert runs(quick / "out", "NUM_EPISODES=96") == 0
    assert runs(quick / "out", "NUM_EPISODES=256", "RESUME=True") == 0
    assert check_whole(quick / "out") == 8
    assert [row["episodes"] for row in left(quick / "out")["rows"]] == [
        str(32 * i) for i in range(1, 9)
    ]


def test_finished_run_that_is_resumed_is_finished_still(quick):
    assert runs(quick / "out") == 0
    before = left(quick / "out")
    assert runs(quick / "out", "RESUME=True") == 0
    assert not differences(before, left(quick / "out"))


def test_seconds_of_a_resumed_run_go_on_from_where_it_stopped(quick, monkeypatch):
    stopped_after(monkeypatch, 3, quick / "out")
    path = str(quick / "out" / "checkpoint.pt")
    network, settings, progress = load_checkpoint(path, "cpu")
    save_checkpoint(path, network, settings, **progress | dict(seconds=1000.0))
    assert runs(quick / "out", "RESUME=True") == 0
    assert 1000 < json.loads((quick / "out" / "summary.json").read_text())["seconds"] < 1010


def test_nothing_to_resume_is_said(quick, capsys):
    assert runs(quick / "out", "RESUME=True") == 2
    one_line(capsys, "no checkpoint", quick / "out" / "checkpoint.pt")


@pytest.mark.parametrize(
    "changed",
    [
        "GAMMA=0.9",
        "MODEL=cnn",
        "WIDTH=3",
        "LOOKS=9",
        "SEED=1",
        "BSZ=16",
        "GRID=9",
        "REPLAY=uniform",
        "DOUBLE=True",
    ],
)
def test_resuming_with_other_constants_is_refused(quick, capsys, changed):
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    before = (quick / "out" / "checkpoint.pt").read_bytes()
    assert runs(quick / "out", "NUM_EPISODES=32", "RESUME=True", changed) == 2
    one_line(capsys, changed, changed.split("=")[0] + "=", "checkpoint.pt")
    assert (quick / "out" / "checkpoint.pt").read_bytes() == before


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_after_its_batch_with_all_its_files(small, number):
    run = Forked(small / "out", "NUM_EPISODES=1e6", "EVAL_EVERY=2")
    run.until("level")
    run.signal(number)
    status, said = run.end()
    assert (
        status == 0
        and "stopping once this batch or evaluation is done; once more: at once" in said
        and "s in all" in said
    ), said
    assert 1 <= check_whole(small / "out") < 1e6 / 64
    assert {"summary.json", "metrics.csv", "rollouts.png", "agent.gif"} < {
        path.name for path in (small / "out").iterdir()
    }
    assert (small / "out.png").exists()


@pytest.mark.parametrize(
    "first, second, wanted",
    [
        (signal.SIGINT, signal.SIGINT, 2),
        (signal.SIGTERM, signal.SIGINT, 2),
        (signal.SIGINT, signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGTERM, signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_second_signal_ends_a_run_at_once(quick, monkeypatch, first, second, wanted):
    with at_batch(monkeypatch, 3, slow_batch):
        run = Forked(quick / "out")
        run.until("now")
        run.signal(first)
        run.until("stopping once this batch")
        began = time.perf_counter()
        run.signal(second)
        status, said = run.end()
    assert status == wanted and time.perf_counter() - began < 10 and "Traceback" not in said, said
    if wanted == 2:
        assert "RESUME=True" in said and len(said.splitlines()) == 1
    assert check_whole(quick / "out") == 3
    assert runs(quick / "out", "RESUME=True") == 0


def test_run_stopped_at_once_before_its_first_checkpoint_does_not_speak_of_one(
    quick, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "next_level", interrupted)
    assert runs(quick / "out") == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "stopped" in err and "whole" not in err
    monkeypatch.setattr(main, "solve", interrupted)
    assert main.main(["solve", "mazes.txt"]) == 2
    assert "RESUME" not in capsys.readouterr().err


def test_signals_mean_again_what_they_meant_before_once_a_run_is_over(quick):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    assert runs(quick / "out", "DEVICE=toaster") == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# Killed


def test_files_are_whole_after_a_kill_at_any_moment(quick, monkeypatch, capsys):
    """Sixteen kills, of fresh and of resumed runs, and each run goes on from its
    checkpoint, if it had one yet."""
    chance, replace = random.Random(0), os.replace

    def slowly(
        source, destination
    ):  # a file is written, but not in its place yet, for a good part of the run
        time.sleep(0.002)
        replace(source, destination)

    for name, value in dict(
        BSZ=8, UPDATES=1, EVAL_MAZES=4, EVAL_SAMPLE=4, MAX_EP_LENGTH=8, EVAL_EVERY=2
    ).items():
        monkeypatch.setattr(main, name, value)
    began = time.perf_counter()
    assert Forked(quick / "measured", "NUM_EPISODES=48").end()[0] == 0
    usual, batches, kills = time.perf_counter() - began, 0, 0
    while kills < 16:
        folder = quick / f"out{kills // 4}"
        batches = check_whole(folder)
        run = Forked(
            folder,
            f"NUM_EPISODES={8 * (batches + 6)}",
            f"RESUME={batches > 0}",
            prepare=lambda: setattr(os, "replace", slowly),
        )
        time.sleep(chance.random() * usual)
        run.signal(signal.SIGKILL)
        kills += run.end()[0] == -signal.SIGKILL
        batches = check_whole(folder)
        capsys.readouterr()
        if batches:
            assert runs(folder, f"NUM_EPISODES={8 * (batches + 1)}", "RESUME=True") == 0
            assert check_whole(folder) == batches + 1
        else:
            assert runs(folder, "RESUME=True") == 2
            one_line(capsys, "no checkpoint")


def limited(size, then):
    """Lets this process write no more than `size` bytes to a file; `then` says what the signal
    of it does."""
    signal.signal(signal.SIGXFSZ, then)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


SIZES = [
    (0, ["mazes.npz"]),
    (1000, ["mazes.npz"]),
    (10_000, ["checkpoint.pt"]),
    (40_000, ["rollouts.png", "out.png"]),
]


def test_kill_half_way_through_a_file_leaves_the_old_one(small):
    """A process that writes more than its limit is killed, with a file of as many bytes on the
    disk."""
    for size, names in SIZES:
        folder = small / (f"new{size}" if size < 2000 else "out")
        run = Forked(
            folder,
            "EVAL_EVERY=8",
            "PLOT_EVERY=1000000",
            prepare=lambda: limited(size, signal.SIG_DFL),
        )
        assert run.end()[0] == -signal.SIGXFSZ
        (part,) = [*folder.glob("*.part"), *small.glob("*.part")]
        assert part.name.startswith(tuple(names)) and part.stat().st_size == size
        part.unlink()
        done = check_whole(folder)
    assert done == 8 and runs(folder, "EVAL_EVERY=8", "RESUME=True") == 0


def test_what_killed_runs_left_half_written_is_cleared_away(quick):
    """Not by a run that is refused: the one that it disturbs may be writing."""
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    part = quick / "out" / "checkpoint.pt.12345.part"
    part.write_bytes(b"half")
    assert runs(quick / "out", "DEVICE=toaster") == 2 and part.exists()
    assert runs(quick / "out", "DEVICE=cpu") == 0 and not part.exists()


# Two at once


def test_second_run_in_one_folder_is_refused_and_a_later_one_is_not(
    quick, monkeypatch, digests, capsys
):
    with at_batch(monkeypatch, 3, slow_batch):
        run = Forked(quick / "out")
        run.until("now")
        before = digests(quick)
        for settings in ("RESUME=False",), ("RESUME=True",), ("MODEL=cnn", "SEED=5"):
            assert runs(quick / "out", *settings) == 2
            one_line(capsys, f"OUT_DIR={quick / 'out'}", "another")
        assert digests(quick) == before
        run.signal(signal.SIGKILL)
        run.end()
    assert runs(quick / "out", "MODEL=mlp", "SEED=0", "RESUME=True") == 0
    assert check_whole(quick / "out") == 8


# A disk that is full, files that are damaged


def test_full_disk_is_said_and_leaves_the_old_files(small):
    assert runs(small / "out", "NUM_EPISODES=64") == 0
    for size, names in SIZES:
        folder = small / ("new" if size < 2000 else "out")
        before = check_whole(folder)
        run = Forked(
            folder,
            "NUM_EPISODES=96",
            f"RESUME={before > 0}",
            prepare=lambda: limited(size, signal.SIG_IGN),
        )
        status, said = run.end()
        last = said.splitlines()[-1]
        assert status == 2 and "Traceback" not in said, said
        assert last.startswith("error: ") and "File too large" in last, last
        assert str(small) in last and any(name in last for name in names), last
        assert not [*folder.glob("*.part"), *small.glob("*.part")]
        assert check_whole(folder) in (before, before + 1)


def test_damaged_cache_is_made_again(tmp_path):
    """Cut off anywhere, or with any bit the other way round: always the mazes of its settings."""
    path, chance = tmp_path / "mazes.npz", random.Random(0)
    mazes = maze.load_cache(str(path), 60, 8, 3, say=lambda *_: None)
    whole = path.read_bytes()
    damaged = [
        whole[:size]
        for size in (0, 1, 30, 100, len(whole) - 1, *chance.sample(range(len(whole)), 30))
    ]
    for bit in chance.sample(range(8 * len(whole)), 200):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    remade = 0
    for content in damaged:
        path.write_bytes(content)
        said = []
        assert torch.equal(maze.load_cache(str(path), 60, 8, 3, say=said.append), mazes)
        remade += len(said)
        assert all("cannot be read" in line or "other settings" in line for line in said)
        assert not said or path.read_bytes() == whole
    assert 100 < remade


def test_damaged_checkpoint_never_gives_other_weights(quick, capsys):
    assert runs(quick / "out", "NUM_EPISODES=32") == 0
    path, chance = quick / "out" / "checkpoint.pt", random.Random(0)
    whole = path.read_bytes()
    damaged = [
        whole[:size]
        for size in (0, 1, 31, 32, 33, len(whole) - 1, *chance.sample(range(len(whole)), 60))
    ] + [whole + b"0"]
    for bit in chance.sample(range(8 * len(whole)), 300):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError) as refusal:
            load_checkpoint(str(path), "cpu")
        assert len(str(refusal.value).splitlines()) == 1 and str(path) in str(refusal.value)
    capsys.readouterr()
    assert runs(quick / "out", "RESUME=True") == 2
    one_line(capsys, path)


# Numbers that are not finite, memory that runs out


@pytest.mark.parametrize(
    "settings, value",
    [("MODEL=vin", "nan"), ("MODEL=cnn", "inf"), ("VISION=1 REPLAY=prioritized", "nan")],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_loss_that_is_not_finite_stops_the_run_in_its_batch(
    quick, monkeypatch, capsys, value, when, settings
):
    """A weight goes astray before the first update of the fourth batch, or after the last one of
    the third, whose losses are all fine."""
    update, count = main.update, iter(range(10**9))

    def astray(online, *arguments):
        number = next(count)
        if number == 12 and when == "before":
            next(online.parameters()).data.view(-1)[0] = float(value)
        result = update(online, *arguments)
        if number == 11 and when == "after":
            next(online.parameters()).data.view(-1)[0] = float(value)
        return result

    monkeypatch.setattr(main, "update", astray)
    assert runs(quick / "out", *settings.split()) == 2
    one_line(capsys, "NaN or inf", "LR")
    assert next(count) == (16 if when == "before" else 12)
    assert check_whole(quick / "out") == (3 if when == "before" else 2)


OUT_OF_MEMORY = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "137438953472 bytes. Error code 12 (Cannot allocate memory)\n\nException raised from here:\nframe #0: <unknown>\n"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried to allocate 137438953472 bytes."
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 128.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype("uint8")),
]


@pytest.mark.parametrize(
    "error",
    OUT_OF_MEMORY,
    ids=[f"{type(error).__name__}-{str(error)[:12]}" for error in OUT_OF_MEMORY],
)
@pytest.mark.parametrize("where", ["maze.make_mazes", "rollout", "update", "report"])
def test_memory_that_runs_out_is_said(quick, monkeypatch, capsys, error, where):
    def fails(*_):
        raise error

    monkeypatch.setattr(f"main.{where}", fails)
    assert runs(quick / "out", "NUM_EPISODES=32") == 2
    one_line(capsys, "memory", f"BSZ (now {main.BSZ})", f"GRID (now {main.GRID})")
    check_whole(quick / "out")


def test_real_lack_of_memory_is_said(quick):
    def limit():
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**28,) * 2)

    status, said = Forked(quick / "out", "BSZ=200_000_000", prepare=limit).end()
    assert (
        status == 2 and "Traceback" not in said and "BSZ (now 200000000)" in said.splitlines()[-1]
    )


@pytest.mark.parametrize(
    "text",
    [
        "shape '[4]' is invalid",
        "CUDA error: an illegal memory access was encountered",
        "required rank 4 tensor to use channels_last memory format",
    ],
)
def test_other_errors_are_not_mistaken_for_a_lack_of_memory(quick, monkeypatch, text):
    def fails(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(main, "update", fails)
    with pytest.raises(RuntimeError, match="shape|memory"):
        runs(quick / "out")

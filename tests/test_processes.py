"""Runs that are shared out among processes, as torchrun starts them."""

import os
import signal
import socket

import pytest
import torch
from test_runs import RETURNS, Forked, exact, quick, runs, summary_of  # noqa: F401

import main
from support import processes, settings
from support.agents import build
from support.files import load_checkpoint
from support.processes import UserError

if not torch.distributed.is_available():
    pytest.skip("this torch can't join processes", allow_module_level=True)
# An agent that learns from every step, not from one of those alike in a process' share; and a loss
# that does not magnify rounding.
WINDOW = (
    "VISION=1 WIDTH=16 EPSILON=0 CURRICULUM=linear EVAL_EVERY=3 HUBER=10 NUM_EPISODES=320 "
    + RETURNS
).split()


@pytest.fixture
def same_mazes(quick, monkeypatch):
    """Whatever the number of processes, the n-th batch is the same: each process takes its share
    of it."""
    draw, batch = main.draw, []

    def shared(cache, n, level, farthest, generator):
        batch.append(main.WORLD)
        generator = torch.Generator().manual_seed(batch.count(main.WORLD))
        mazes = draw(cache, n * main.WORLD, level, farthest, generator)
        # To each its share of every update.
        share = torch.arange(n * main.WORLD).view(main.UPDATES, main.WORLD, -1)[:, main.RANK]
        return mazes.select(share.flatten())

    monkeypatch.setattr(main, "draw", shared)
    return quick


def processes_of(folder, world, *arguments):
    """The processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def join(rank):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank))
        os.environ.update(WORLD_SIZE=str(world))
        processes.RANK, processes.WORLD = main.RANK, main.WORLD = rank, world

    ranks = range(world)
    return [Forked(folder, *arguments, prepare=lambda rank=rank: join(rank)) for rank in ranks]


def test_processes_learn_together_what_one_learns_alone(same_mazes):
    assert runs(same_mazes / "alone", *WINDOW) == 0
    for process in processes_of(same_mazes / "shared", 4, *WINDOW):
        status, said = process.end()
        assert status == 0, said
    (alone, config, one), (shared, _, many) = (
        load_checkpoint(f"{same_mazes}/{name}/checkpoint.pt", "cpu") for name in ("alone", "shared")
    )
    for a, b, c in zip(alone.parameters(), shared.parameters(), build(config).parameters()):
        assert torch.allclose(a, b, atol=1e-4) and (a - c).abs().max() > 1e-3
    assert one["env_steps"] == many["env_steps"] and one["batch"] == many["batch"] == 10
    losses = [[row["loss"] for row in run["history"]] for run in (one, many)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_proof_and_a_signal_stop_all_processes_at_the_same_batch(quick, monkeypatch):
    endless = "NUM_EPISODES=32000000", "UPDATES=2"
    first, second = processes_of(quick / "out", 2, *endless)
    first.until("level")
    second.signal(signal.SIGTERM)
    assert [process.end()[0] for process in (first, second)] == [143, 0]  # by the one that reports
    assert summary_of(quick / "out")["stopped"] is True
    monkeypatch.setattr(main, "build", lambda settings: exact())
    ended = processes_of(quick / "out", 2, *endless, "MODEL=linear", "LR=1e-30")
    assert [process.end()[0] for process in ended] == [0, 0]
    assert summary_of(quick / "out")["proved"] and summary_of(quick / "out")["episodes"] == 32


def test_a_process_that_dies_ends_the_run_in_one_line(quick):
    first, second = processes_of(quick / "out", 2, "NUM_EPISODES=32000000", "UNTIL_PROVED=False")
    first.until("level")
    second.signal(signal.SIGKILL)
    status, said = first.end()
    assert status == 2 and "RESUME=True" in said and "Traceback" not in said
    assert second.end()[0] == -signal.SIGKILL
    assert load_checkpoint(f"{quick}/out/checkpoint.pt", "cpu")[2]["batch"] >= 1


def test_two_processes_that_are_resumed_end_as_if_they_had_never_been_stopped(quick, capsys):
    """And by two only."""
    more = "LR_DECAY=0", "CURRICULUM=off", "EPSILON=0.5"
    ways = dict(whole=["NUM_EPISODES=192"], parts=["NUM_EPISODES=96", "NUM_EPISODES=192"])
    for name, steps in ways.items():
        for number, episodes in enumerate(steps):
            resume = f"RESUME={number > 0}"
            for process in processes_of(quick / name, 2, *more, episodes, resume):
                status, said = process.end()
                assert status == 0, said
    whole, parts = (load_checkpoint(f"{quick}/{name}/checkpoint.pt", "cpu") for name in ways)
    assert all(map(torch.equal, whole[0].state_dict().values(), parts[0].state_dict().values()))
    assert whole[2]["env_steps"] == parts[2]["env_steps"]
    assert runs(quick / "parts", *more, "NUM_EPISODES=640", "RESUME=True") == 2
    assert "2 processes, not 1" in capsys.readouterr().err


def test_what_several_processes_cannot_do_is_refused(quick, monkeypatch, capsys):
    with pytest.raises(UserError, match="choose REPLAY=off, or one process"):
        settings.check(main.config() | dict(RESUME=True, REPLAY="uniform"), processes=2)
    settings.check(main.config() | dict(RESUME=True), processes=2)
    settings.check(main.config() | dict(RESUME=True, REPLAY="uniform"))
    monkeypatch.setattr(main, "WORLD", 3)
    assert runs(quick / "out") == 2
    assert "BSZ=32" in capsys.readouterr().err
    monkeypatch.setattr(processes, "WORLD", 2)
    for name in "cuda:0", "mps":
        with pytest.raises(UserError, match=f"DEVICE={name} is not for several processes"):
            processes.pick_device(name, 1)


def test_only_a_lost_connection_is_called_a_lost_process(monkeypatch):
    monkeypatch.setattr(processes, "WORLD", 2)
    ours = "Duplicate GPU detected: rank 0 and rank 1 both on CUDA device 0"
    for text, error in ("Connection closed by peer", UserError), (ours, RuntimeError):

        def fails(x, text=text):
            raise RuntimeError(text)

        monkeypatch.setattr(torch.distributed, "all_reduce", fails)
        with pytest.raises(error, match="lost the others" if error is UserError else "Duplicate"):
            processes.all_reduce_sum(torch.ones(1))

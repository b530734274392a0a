"""Runs that are shared out among processes, as torchrun starts them."""

import os
import signal
import socket

import pytest
import torch
from test_runs import Forked, quick, runs, small  # noqa: F401

import main
from support import processes
from support.agents import build
from support.checkpoint import load_checkpoint

if not torch.distributed.is_available():
    pytest.skip("this torch can't join processes", allow_module_level=True)
SETTINGS = (
    "NUM_EPISODES=320",
    "EPSILON=0.0",
    "CURRICULUM=linear",
    "EVAL_EVERY=3",
    "HUBER=10.0",
)  # a loss that does not magnify rounding


@pytest.fixture
def same_mazes(quick, monkeypatch):  # noqa: F811
    """Whatever the number of processes, the n-th batch is the same: each process takes its share
    of it."""
    draw, batch = main.draw, []

    def shared(cache, n, level, generator):
        batch.append(main.WORLD)
        mazes = draw(
            cache, n * main.WORLD, level, torch.Generator().manual_seed(batch.count(main.WORLD))
        )
        # To each its share of every update, an even one: else other steps are learned as at first.
        share = torch.arange(n * main.WORLD).view(main.UPDATES, main.WORLD, -1)[:, main.RANK]
        return mazes.select(share.flatten())

    monkeypatch.setattr(main, "draw", shared)
    return quick


def processes_of(folder, world, *settings):
    """The processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def join(rank):
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(world)
        )
        processes.RANK, processes.WORLD = main.RANK, main.WORLD = rank, world

    return [
        Forked(folder, *SETTINGS, *settings, prepare=lambda rank=rank: join(rank))
        for rank in range(world)
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_learn_together_what_one_learns_alone(same_mazes, world):
    assert runs(same_mazes / "alone", *SETTINGS) == 0
    for process in processes_of(same_mazes / "shared", world):
        status, said = process.end()
        assert status == 0, said
    (alone, _, one), (shared, _, many) = (
        load_checkpoint(f"{same_mazes}/{name}/checkpoint.pt", "cpu") for name in ("alone", "shared")
    )
    fresh = build(main.config())
    for a, b, c in zip(alone.parameters(), shared.parameters(), fresh.parameters()):
        assert torch.allclose(a, b, atol=1e-4) and (a - c).abs().max() > 1e-3
    assert one["env_steps"] == many["env_steps"] and one["batch"] == many["batch"] == 10
    assert [row["loss"] for row in one["history"]] == pytest.approx(
        [row["loss"] for row in many["history"]], rel=1e-3
    )


def test_a_process_that_dies_ends_the_run_in_one_line(same_mazes):
    first, second = processes_of(same_mazes / "out", 2, "NUM_EPISODES=32000000", "EVAL_EVERY=1")
    first.until("level")
    second.signal(signal.SIGKILL)
    status, said = first.end()
    assert status == 2 and "RESUME=True" in said and "Traceback" not in said
    assert second.end()[0] == -signal.SIGKILL
    assert load_checkpoint(f"{same_mazes}/out/checkpoint.pt", "cpu")[2]["batch"] >= 1


def test_a_signal_stops_all_processes_at_the_same_batch(same_mazes):
    first, second = processes_of(same_mazes / "out", 2, "NUM_EPISODES=32000000", "EVAL_EVERY=1")
    first.until("level")
    second.signal(signal.SIGTERM)
    assert [process.end()[0] for process in (first, second)] == [0, 0]


def test_two_processes_that_are_stopped_and_resumed_end_as_if_they_had_never_been(quick):  # noqa: F811
    same = "LR_DECAY=0", "CURRICULUM=off", "EPSILON=0.5"
    ways = dict(whole=["NUM_EPISODES=320"], parts=["NUM_EPISODES=96", "NUM_EPISODES=320"])
    for name, steps in ways.items():
        for number, episodes in enumerate(steps):
            resume = f"RESUME={number > 0}"
            for process in processes_of(quick / name, 2, *same, episodes, resume):
                status, said = process.end()
                assert status == 0, said
    whole, parts = (load_checkpoint(f"{quick}/{name}/checkpoint.pt", "cpu") for name in ways)
    for a, b in zip(whole[0].parameters(), parts[0].parameters()):
        assert torch.equal(a, b)
    assert whole[2]["env_steps"] == parts[2]["env_steps"]


def test_a_run_of_two_processes_is_not_resumed_by_one(quick, capsys):  # noqa: F811
    for process in processes_of(quick / "out", 2):
        assert process.end()[0] == 0
    assert runs(quick / "out", *SETTINGS, "NUM_EPISODES=640", "RESUME=True") == 2
    assert "2 processes, not 1" in capsys.readouterr().err


def test_a_batch_that_cannot_be_shared_out_is_refused(quick, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(main, "WORLD", 3)
    assert runs(quick / "out") == 2
    assert "BSZ=32" in capsys.readouterr().err

"""The program on a pretend CUDA device: it mixes no devices, seldom waits, and ends as on the CPU.

Data and random numbers are the CPU's: what a run leaves must be the same, bit for bit.
"""

import copy
import csv
import hashlib
import io
import json
import signal

import numpy as np
import pretend
import pytest
import torch
import torch.nn as nn
from PIL import Image

import main
import maze
import model
from support import pictures
from support.checkpoint import load_checkpoint

SMALL = dict(
    NUM_EPISODES=32,
    BSZ=16,
    UPDATES=2,
    TARGET_SYNCS=2,
    MAX_EP_LENGTH=12,
    EVAL_MAZES=12,
    EVAL_SAMPLE=4,
    MAZE_CACHE_SIZE=40,
)
RUNS = [
    "MODEL=mlp CURRICULUM=linear GOAL=corner",
    "MODEL=cnn DOUBLE=True REPLAY=uniform REPLAY_SIZE=20",
    "MODEL=attention LAMBDA=0.9 REPLAY=prioritized REPLAY_SIZE=20",
    "MODEL=vin LOOKS=9 DEVICE=auto",
    "VISION=1 MEMORY=none SHAPING=oracle",
    "VISION=1 MEMORY=trail SHAPING=manhattan NOVELTY=0.1",
    "VISION=1 MEMORY=gru REPLAY=prioritized REPLAY_SIZE=20",
    "VISION=1 MEMORY=map WIDTH=2 BSZ=8 NUM_EPISODES=16 UPDATES=1 MAX_EP_LENGTH=4 EVAL_MAZES=6",
]
FREE = "seconds", "seconds_to_99", "device", "DEVICE", "OUT_DIR", "PLOT_FILE", "RESUME"
TEXT = "S...\n.##.\n...G\n\n#####\n#S.G#\n#####\n\nS#G\n.#.\n.#.\n"  # the last one has no way


@pytest.fixture
def gpu():
    """What happens on the pretend device, while a test has it."""
    with pretend.cuda() as device:
        yield device


@pytest.fixture
def small(tiny, monkeypatch):
    """Constants for a run of two batches. Its plot is a pixel."""

    def pixel(*_):
        Image.new("1", (1, 1)).save(main.PLOT_FILE, "png")

    for name, value in SMALL.items():
        monkeypatch.setattr(main, name, value)
    monkeypatch.setattr(pictures, "course", pixel)
    (tiny / "mazes.txt").write_text(TEXT)
    return tiny


def runs(folder, *settings):
    """Runs the command line; what it leaves is in this folder."""
    files = f"OUT_DIR={folder}", f"PLOT_FILE={folder}.png"
    assert main.main([*files, "RESUME=False", *settings]) == 0
    return folder


def solves(folder, device, capsys):
    """What is said of three mazes by the agent in this folder."""
    capsys.readouterr()
    arguments = [str(folder.parent / "mazes.txt"), f"OUT_DIR={folder}", f"DEVICE={device}"]
    assert main.main(["solve", *arguments, "SHAPING=none"]) == 0
    return capsys.readouterr().out


def stop_after_a_batch(monkeypatch, *settings):
    """A run that is asked to stop in its first batch; a checkpoint is all that it leaves."""
    next_level = main.next_level

    def stop(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return next_level(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(main, "next_level", stop)
        patch.setattr(main, "report", lambda *_: None)
        runs(*settings)


def plain(x):
    """x without what may differ, tensors as bytes, to be compared bit for bit."""
    if isinstance(x, dict):
        return {name: plain(value) for name, value in x.items() if name not in FREE}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    return (x.dtype, *x.shape, x.numpy().tobytes()) if isinstance(x, torch.Tensor) else x


def left(folder):
    """What a run leaves: weights, progress, pictures and numbers, read on the CPU."""
    network, settings, progress = load_checkpoint(f"{folder}/checkpoint.pt", "cpu")
    if progress["generator"].numel() > 16:  # on the device, a digest of it
        digest = hashlib.md5(progress["generator"].numpy().tobytes()).digest()
        progress["generator"] = torch.tensor(list(digest), dtype=torch.uint8)
    with open(f"{folder}/metrics.csv", newline="") as file:
        metrics = list(csv.DictReader(file))
    summary = json.loads((folder / "summary.json").read_text())
    pictures = [(folder / name).read_bytes() for name in ("rollouts.png", "agent.gif")]
    return plain(
        dict(
            weights=dict(network.state_dict()),
            settings=settings,
            progress=progress,
            metrics=metrics,
            summary=summary,
            pictures=pictures,
            mazes=torch.from_numpy(np.load(folder / "mazes.npz")["packed"]),
        )
    )


def differences(a, b):
    return [name for name in a if a[name] != b[name]]


# The whole program


@pytest.mark.parametrize("settings", RUNS)
def test_run_ends_as_on_the_cpu_and_so_does_one_that_is_stopped_and_resumed(
    small, monkeypatch, capsys, settings
):
    """With evaluations, pictures, and `solve` on both devices; with the plot in one case only."""
    if settings != RUNS[0]:
        monkeypatch.setattr(pictures, "course", lambda *_: None)
    settings = settings.split()
    on_cpu = runs(small / "cpu", *settings, "DEVICE=cpu")
    with pretend.cuda():
        straight = runs(small / "straight", "DEVICE=cuda", *settings)
        stop_after_a_batch(monkeypatch, small / "stopped", "DEVICE=cuda", *settings)
        stopped = runs(small / "stopped", "DEVICE=cuda", *settings, "RESUME=True")
        said = solves(straight, "cuda", capsys)
    assert json.loads((straight / "summary.json").read_text())["device"].startswith("cuda")
    wanted = left(on_cpu)
    assert not differences(wanted, left(straight))
    assert not differences(wanted, left(stopped))
    assert said == solves(on_cpu, "cpu", capsys) == solves(straight, "cpu", capsys)
    assert "solved" in said and "unreachable" in said


@pytest.mark.parametrize("first, then", [("cuda", "cpu"), ("cpu", "cuda")])
def test_run_that_is_resumed_on_another_device_goes_on_or_is_refused_in_a_line(
    small, monkeypatch, capsys, first, then
):
    """Its random numbers can't go on: the states of two devices' generators differ."""
    with pretend.cuda():
        stop_after_a_batch(monkeypatch, small / "out", f"DEVICE={first}")
        capsys.readouterr()
        status = main.main([f"OUT_DIR={small / 'out'}", f"DEVICE={then}", "RESUME=True"])
    assert status == 0 or "DEVICE" in capsys.readouterr().err


# Who waits for the device


THINKING = {f"Thoughts.{name}" for name in ("settle", "spread", "look", "wake")}
MOST = 8  # in a batch: to draw mazes, begin to think, count successes, check losses, stop if asked
AGENTS = [
    ("MODEL=mlp", MOST),
    ("MODEL=vin", MOST),
    ("VISION=1 MEMORY=trail", MOST),
    ("REPLAY=prioritized", MOST + 2),
]  # mazes are unpacked and thought about once more


@pytest.mark.parametrize("agent, most", AGENTS)
def test_batch_seldom_waits_for_the_device_but_to_think(small, monkeypatch, gpu, agent, most):
    """However many updates and steps there are."""
    counts, draw = [], main.draw
    monkeypatch.setattr(main, "report", lambda *_: None)
    for updates, steps in ((4, 12), (8, 30)):
        begun = []
        monkeypatch.setattr(main, "draw", lambda *of: begun.append(len(gpu.syncs)) or draw(*of))
        runs(
            small / f"{updates}x{steps}",
            "DEVICE=cuda",
            *agent.split(),
            "BSZ=64",
            "NUM_EPISODES=192",
            f"UPDATES={updates}",
            f"MAX_EP_LENGTH={steps}",
            "TARGET_SYNCS=1",
            "CURRICULUM=off",
            "EVAL_EVERY=9",
        )
        batch = gpu.syncs[begun[1] : begun[2]]  # the second of three, which nothing evaluates
        waits = [sync for sync in batch if not THINKING & {*sync.chain}]
        counts.append(len(waits))
        print(
            f"{agent} UPDATES={updates} MAX_EP_LENGTH={steps}: {len(waits)} times; "
            f"{len(batch) - len(waits)} while it thinks\n{gpu.table(waits)}"
        )
    assert max(counts) <= most and len({*counts}) == 1, f"{counts} times, see the tables"


# Code that forgets the device is found out


def padded(x, radius, outside):
    h, w, b = x.shape
    rim = torch.full((h + 2 * radius, w + 2 * radius, b), outside, dtype=x.dtype)
    rim[radius : radius + h, radius : radius + w] = x
    return rim


def along(q, cells):
    index = cells * cells.shape[1] + torch.arange(cells.shape[1])
    return q.flatten(-3).index_select(-1, index.flatten()).unflatten(-1, cells.shape)


def with_bonus(reward, mazes, cells, *_):
    return reward, torch.zeros(()).expand(cells.shape)


def uniform(shape, generator):
    return torch.rand(shape, generator=torch.Generator(), device=generator.device)


def fingerprints(packed):
    return [maze.tobytes() for maze in packed.numpy().T]


@pytest.mark.parametrize(
    "module, broken, refusal",
    [
        (maze, padded, "same device"),
        (model, along, "same device"),
        (main, with_bonus, "same device"),
        (maze, uniform, "Expected a 'cuda' device type"),
        (maze, fingerprints, "to numpy"),
    ],
)
def test_tensor_that_is_made_on_the_cpu_by_mistake_is_found(
    small, monkeypatch, module, broken, refusal
):
    monkeypatch.setattr(module, broken.__name__, broken)
    with pretend.cuda(), pytest.raises((RuntimeError, TypeError), match=refusal):
        runs(small / "out", "DEVICE=cuda")


# The pretend device itself: x is on it, and the rest on the CPU


PLACES, MASK, ONE = torch.tensor([0, 2]), torch.tensor([True, False, True]), torch.tensor(1.0)

REFUSED = {
    "pointwise": lambda x: x + torch.ones(3),
    "pointwise, the other way round": lambda x: torch.ones(3) * x,
    "compared": lambda x: x > torch.ones(3),
    "of one element, but not a number": lambda x: x + torch.ones(1),
    "in place": lambda x: x.add_(torch.ones(3)),
    "in place, into a number": lambda x: torch.tensor(0.0).add_(x[0]),
    "out": lambda x: torch.add(x, x, out=torch.empty(3)),
    "where": lambda x: torch.where(x > 0, x, torch.ones(3)),
    "mask": lambda x: x.masked_fill(MASK, 0),
    "masked_select": lambda x: x.masked_select(MASK),
    "matrix product": lambda x: torch.ones(2, 3) @ x,
    "layer": lambda x: nn.Linear(3, 2)(x),
    "cat": lambda x: torch.cat([x, torch.ones(3)]),
    "stack": lambda x: torch.stack([x[0], ONE]),
    "index_select": lambda x: x.index_select(0, PLACES),
    "index_select by a number": lambda x: x.index_select(0, torch.tensor(0)),
    "gather": lambda x: x.gather(0, PLACES),
    "scatter_": lambda x: x.scatter_(0, PLACES, 1.0),
    "index_copy_": lambda x: x.index_copy_(0, PLACES, x[:2]),
    "index_fill_": lambda x: x.index_fill_(0, PLACES, 1.0),
    "values": lambda x: x.__setitem__(PLACES, torch.ones(2)),
    "searchsorted": lambda x: torch.searchsorted(x, torch.ones(3)),
    "equal": lambda x: torch.equal(x, torch.ones(3)),
    "loss": lambda x: nn.functional.smooth_l1_loss(x, torch.ones(3)),
    "index of a CPU tensor": lambda x: torch.ones(3)[PLACES.to("cuda")],
}

ALLOWED = {
    "number": lambda x: x + ONE,
    "number in place": lambda x: x.mul_(ONE),
    "number of Python": lambda x: 2 * x - 1,
    "power": lambda x: 0.5**x,
    "where": lambda x: torch.where(x > 0, x, ONE),
    "where, number of Python": lambda x: torch.where(x > 0, x, 0),
    "maximum": lambda x: torch.maximum(x, ONE),
    "fill_": lambda x: x.fill_(ONE),
    "masked_fill": lambda x: x.masked_fill(x > 0, ONE),
    "index": lambda x: x[PLACES],
    "boolean index": lambda x: x[MASK],
    "list": lambda x: x[[0, 1]],
    "view": lambda x: x.view(3, 1).expand(3, 2)[1:].t(),
    "view as bytes": lambda x: x.view(torch.uint8),
    "copy_": lambda x: x.copy_(torch.ones(3)),
    "deepcopy": copy.deepcopy,
    "data": lambda x: x.data,
    "several": lambda x: [*x.sort(), *x.split(1)],
    "inference mode": torch.inference_mode()(lambda x: x.reshape(3, 1).matmul(x[None])),
    "like": lambda x: torch.empty_like(x),
    "new": lambda x: x.new_zeros(3),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "as_tensor": lambda x: torch.as_tensor(x),
    "arange": lambda x: torch.arange(3, device="cuda:0"),
    "random": lambda x: torch.rand(2, generator=torch.Generator(x.device), device=x.device),
    "context": lambda x: in_context(lambda: torch.zeros(2)),
    "type": lambda x: x.to(torch.int),
    "moved": lambda x: torch.ones(2).cuda(),
    "moved to another": lambda x: torch.ones(2, dtype=torch.int).to(x),
    "moved from numpy": lambda x: torch.from_numpy(np.ones(2)).to("cuda"),
}


def in_context(make):
    with torch.device("cuda"):
        return make()


@pytest.mark.parametrize("name", REFUSED)
def test_devices_are_not_mixed(gpu, name):
    with pytest.raises(RuntimeError, match="same device"):
        REFUSED[name](torch.ones(3, device="cuda"))


@pytest.mark.parametrize("name", ALLOWED)
def test_what_comes_of_a_tensor_on_the_device_is_there(gpu, name):
    for x in pretend.tensors(ALLOWED[name](torch.ones(3, device="cuda"))):
        assert x.device == torch.device("cuda", 0) and x.get_device() == 0
        assert x.is_cuda and not x.is_cpu


def test_what_comes_of_cpu_tensors_or_goes_there_is_on_the_cpu(gpu):
    x = torch.ones(3, device="cuda")
    for y in (
        torch.ones(3),
        torch.ones(3)[PLACES],
        torch.ones(3) * ONE,
        torch.tensor(x.tolist()),
        x.cpu(),
        x.to("cpu", torch.int),
        x.to(ONE),
        x.cpu()[1:],
        torch.empty(3).copy_(x),
        torch.zeros_like(x, device="cpu"),
        x.new_zeros(2, device="cpu"),
        torch.from_numpy(x.cpu().numpy()),
    ):
        assert y.device == torch.device("cpu") and not y.is_cuda
    assert x.is_cuda and x.cuda() is x and ONE.cpu() is ONE


def test_gradients_are_where_their_tensors_are(gpu):
    layer = nn.GRU(3, 4).to("cuda")
    x = torch.ones(5, 2, 3, requires_grad=True)
    y = layer(x.to("cuda"))[0].square().sum()
    gradients = torch.autograd.grad(y, list(layer.parameters()), retain_graph=True)
    assert all(gradient.is_cuda for gradient in gradients)
    assert torch.autograd.grad(y, x)[0].device.type == "cpu"
    x, i = torch.ones(4, 3, device="cuda", requires_grad=True), PLACES.to("cuda")
    y = x.index_select(0, i).gather(1, i[:, None]).sum()
    y = y + torch.where(x > 0, x, 0)[[0, 1], 1].amax()
    y.backward()
    assert x.grad.is_cuda and x.grad.sum() == 3


def test_weights_are_saved_with_their_device_and_loaded_to_any(gpu):
    layer, file = nn.Linear(3, 2, device="cuda"), io.BytesIO()
    torch.save(layer.state_dict(), file)
    for where in None, "cuda", torch.device("cuda"), "cpu":
        wanted = "cpu" if where == "cpu" else "cuda"
        file.seek(0)
        loaded = torch.load(file, map_location=where, weights_only=True)
        assert {x.device.type for x in loaded.values()} == {wanted}
        assert torch.equal(loaded["weight"].cpu(), layer.weight.cpu())
    target = copy.deepcopy(layer)
    target.load_state_dict(loaded)  # the devices of a checkpoint's weights do not matter
    assert target.weight.is_cuda and target.weight.requires_grad


def test_generator_of_another_device_is_refused(gpu):
    here, there = torch.Generator().manual_seed(1), torch.Generator("cuda").manual_seed(1)
    assert there.device == torch.device("cuda", 0)
    for make in (
        lambda g, device: torch.rand(3, generator=g, device=device),
        lambda g, device: torch.randperm(3, generator=g, device=device),
        lambda g, device: torch.empty(3, device=device).random_(9, generator=g),
        lambda g, device: torch.ones(3, device=device).bernoulli(0.5, generator=g),
    ):
        for generator, wanted, found in ((here, "cuda", "cpu"), (there, "cpu", "cuda")):
            refusal = f"Expected a '{wanted}' device type for generator but found '{found}'"
            with pytest.raises(RuntimeError, match=refusal):
                make(generator, wanted)
        assert torch.equal(make(here, "cpu"), make(there, "cuda").cpu())
    state = there.get_state()
    drawn = torch.rand(3, generator=there, device="cuda")
    assert torch.equal(drawn, torch.rand(3, generator=there.set_state(state), device="cuda"))
    for generator, wrong in ((here, state), (there, here.get_state())):
        with pytest.raises(RuntimeError, match="RNG state|RNG.* size"):
            generator.set_state(wrong)
    with pytest.raises(TypeError):
        there.set_state(state.cuda())


def test_numpy_of_a_tensor_on_the_device_is_refused(gpu):
    x = torch.ones(3, device="cuda")
    for ask in (torch.Tensor.numpy, np.asarray):
        with pytest.raises(TypeError, match="Use Tensor.cpu"):
            ask(x)
    assert x.cpu().numpy().sum() == x.numpy(force=True).sum() == 3


def test_there_is_one_device_and_only_in_the_mode(gpu):
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    for ask in (
        lambda: torch.zeros(2, device="cuda:1"),
        lambda: torch.ones(2).to("cuda:1"),
        lambda: torch.Generator("cuda:1"),
    ):
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            ask()
    assert main.pick_device() == torch.device("cuda")


def test_nothing_is_left_of_the_mode():
    def state():
        cuda = torch.cuda.is_available, torch.cuda.device_count, torch.cuda.synchronize
        packages = [*torch.serialization._package_registry]
        return torch.Generator, torch.backends.cudnn.enabled, packages, cuda

    before = state()
    with pretend.cuda():
        x = torch.ones(3, device="cuda")
        assert state() != before
    assert state() == before
    assert x.device.type == "cpu" and (x + torch.ones(3)).sum() == 6


WAITS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x.any()),
    "if": lambda x: 1 if x[0] else 0,
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "index of a list": lambda x: [1, 2][x.int()[0]],
    "index of a tensor": lambda x: x[x.int()[0]],
    "format": lambda x: f"{x[0]:.2f}",
    "print": str,
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "where with a number": lambda x: torch.where(x > 0, x, ONE),
    "masked_select": lambda x: x.masked_select(x > 0),
    "boolean index": lambda x: x[x > 0],
    "boolean index, set": lambda x: x.__setitem__(x > 0, 2 * x),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.int()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy to the CPU": lambda x: torch.empty(3).copy_(x),
    "copy from the CPU": lambda x: x.copy_(torch.ones(3)),
    "to, from the CPU": lambda x: torch.ones(3).to("cuda"),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "list": lambda x: x[[0, 1]],
    "index from the CPU": lambda x: x[PLACES],
    "synchronize": lambda x: torch.cuda.synchronize(),
}

DOES_NOT_WAIT = {
    "arithmetic": lambda x: 2 * x + ONE,
    "shape": lambda x: len(x) + x.numel(),
    "slice": lambda x: x[1:],
    "number in a slice": lambda x: x.__setitem__(slice(2), 0.0),
    "number at a mask": lambda x: x.__setitem__(x > 0, 0.0),
    "index": lambda x: x[x.long()],
    "index, set": lambda x: x.__setitem__(x.long(), 2 * x),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "type": lambda x: x.to(torch.int),
    "to": lambda x: x.to("cuda"),
    "reduction": lambda x: x.norm() + x.amax() + x.argmax(),
    "check": lambda x: x.isfinite().all(),
    "sort": lambda x: x.argsort(),
    "full": lambda x: torch.full((3,), 2.0, device="cuda"),
    "random": lambda x: torch.randperm(3, device="cuda"),
    "copy_": lambda x: torch.empty_like(x).copy_(x),
    "repeat_interleave": lambda x: x.repeat_interleave(x.int(), output_size=3),
    "on the CPU": lambda x: torch.ones(3).sum().item(),
}


@pytest.mark.parametrize("name", WAITS)
def test_synchronisation_is_counted_with_the_line_that_asks_for_it(gpu, name):
    x = torch.ones(3, device="cuda")
    WAITS[name](x)
    assert len(gpu.syncs) == 1 and gpu.syncs[0].where in gpu.table()
    assert gpu.syncs[0].where.startswith("tests/test_device.py:"), gpu.table()


@pytest.mark.parametrize("name", DOES_NOT_WAIT)
def test_what_does_not_synchronise_is_not_counted(gpu, name):
    x = torch.ones(3, device="cuda")
    DOES_NOT_WAIT[name](x)
    assert not gpu.syncs, gpu.table()

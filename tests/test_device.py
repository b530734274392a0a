"""The program on a pretend CUDA device: it mixes no devices, seldom waits, and ends as on the CPU;
and what it calls there is there on Apple's MPS, so says the table that torch brings along.

Data and random numbers are the CPU's: what a run leaves must be the same, bit for bit.
"""

import copy
import json
import re
from pathlib import Path

import pretend
import pytest
import torch
import torchgen
from torch.nn.attention import SDPBackend, sdpa_kernel

import main
import maze
from support import files, pictures
from support.learning import Adam

RUNS = [
    "MODEL=mlp CURRICULUM=linear GOAL=corner",
    "MODEL=linear REPLAY=uniform REPLAY_SIZE=40",
    "MODEL=cnn WIDTH=4 LOOKS=9",
    "MODEL=attention WIDTH=4",
    "THINK=False MODEL=cnn WIDTH=4 TARGET_SYNCS=1 UPDATES=2",
    "THINK=False MODEL=mlp CREDIT=lambda UNIT=q REPLAY=uniform REPLAY_SIZE=40",
    "THINK=False MODEL=attention WIDTH=4 CREDIT=step UNIT=q DOUBLE=True",
    "VISION=1 WIDTH=8 MEMORY=none TARGET_SYNCS=1",
    "VISION=1 WIDTH=8 MEMORY=trail CREDIT=lambda UNIT=q SHAPING=manhattan NOVELTY=0.1 DOUBLE=True",
    "VISION=1 WIDTH=8 MEMORY=gru CREDIT=step UNIT=q GAMMA=0.98 STEP_REWARD=0 GOAL_REWARD=1 "
    "REPLAY=prioritized REPLAY_SIZE=40 SHAPING=oracle",
    "VISION=1 WIDTH=8 MEMORY=map MAX_EP_LENGTH=6",
]
SMALL = (
    "NUM_EPISODES=64 BSZ=32 UPDATES=4 TARGET_SYNCS=2 MAX_EP_LENGTH=12 EVAL_MAZES=12 "
    "EVAL_SAMPLE=4 MAZE_CACHE_SIZE=40 GRID=8 MAX_START_DISTANCE=9 CURRICULUM=off WIDTH=16"
).split()
FREE = "seconds", "seconds_to_99", "seconds_to_proof", "device", "config", "began", "history"
TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
ENTRIES = re.split(r"^- func: ", TABLE.read_text(), flags=re.MULTILINE)
OPERATORS = {entry.partition("(")[0]: entry for entry in ENTRIES}
WAITS = "_local_scalar_dense", "nonzero", "masked_select", "equal", "to the CPU", "_unique2"


@pytest.fixture
def gpu():
    with pretend.cuda() as device:
        yield device


def runs(folder, *arguments):
    given = f"OUT_DIR={folder}", f"PLOT_FILE={folder}.png"
    own = {argument.partition("=")[0]: argument for argument in [*SMALL, *arguments]}
    assert main.main([*given, *own.values()]) == 0
    return folder


def left(folder):
    """What a run leaves: weights and progress, figures and pictures."""
    network, _, progress = files.load_checkpoint(f"{folder}/checkpoint.pt", torch.device("cpu"))
    found = progress | json.loads((folder / "summary.json").read_text())
    drawn = [(folder / name).read_bytes() for name in ("rollouts.png", "agent.gif")]
    kept = {name: x for name, x in found.items() if name not in FREE}
    return plain([dict(network.state_dict()), kept, drawn])


def plain(x):
    """x, tensors as bytes, to be compared bit for bit."""
    if isinstance(x, dict):
        return {name: plain(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    return (str(x.dtype), *x.shape, x.numpy().tobytes()) if isinstance(x, torch.Tensor) else x


def on_mps(name):
    """Whether an operator has a kernel there, or is made of others."""
    entry = OPERATORS[name]
    if delegate := re.search(r"structured_delegate: (\S+)", entry):
        return on_mps(delegate[1])
    return "dispatch:" not in entry or bool(re.search(r"\b(MPS|Composite\w+)\b.*: ", entry))


@pytest.mark.parametrize("agent", RUNS)
def test_run_on_the_device_ends_as_on_the_cpu_and_calls_what_mps_has(tmp_path, monkeypatch, agent):
    for name in "course", "thinking", "walks":  # pictures take long
        if name == "course" or not ("mlp" in agent or "trail" in agent):
            monkeypatch.setattr(pictures, name, lambda path, *_: open(path, "w").close())

    def both(folder, *where):
        if "REPLAY" in agent:
            runs(folder, *agent.split(), *where, "NUM_EPISODES=32")
        return runs(folder, *agent.split(), *where, f"RESUME={'REPLAY' in agent}")

    with sdpa_kernel(SDPBackend.MATH):  # else attention is an operator of the CPU alone
        with pretend.cuda() as gpu:
            both(tmp_path / "there", "DEVICE=auto")
        assert left(tmp_path / "there") == left(both(tmp_path / "here", "DEVICE=cpu"))
    assert json.loads((tmp_path / "there/summary.json").read_text())["device"] == "cuda:0"
    called = gpu.calls.keys() - {"to the CPU"}
    assert len(called) > 60 and [name for name in sorted(called) if not on_mps(name)] == []
    assert "REPLAY" in agent or not gpu.of_doubles  # there, it takes floats


def test_an_agent_solves_and_proves_on_the_device_what_it_does_on_the_cpu(tmp_path, capsys):
    runs(tmp_path / "out", "WIDTH=4", "DEVICE=cpu")
    (tmp_path / "mazes.txt").write_text("S...\n.##.\n...G\n\n#####\n#S.G#\n\nS#G\n.#.\n")
    command = ["solve", f"{tmp_path}/mazes.txt"], ["prove"]
    said = []
    for device in "cpu", "cuda":
        with pretend.cuda() as gpu:
            where = f"OUT_DIR={tmp_path}/out", f"DEVICE={device}"
            capsys.readouterr()
            said.append([[main.main([*verb, *where]) for verb in command], capsys.readouterr()])
            assert bool(gpu.calls["index_select"]) == (device == "cuda")  # it thinks there
    assert said[0] == said[1] and "maze 3: unreachable" in said[0][1].out


def waits(gpu, function):
    before = sum(gpu.calls[name] for name in WAITS)
    function()
    return sum(gpu.calls[name] for name in WAITS) - before


def test_neither_a_step_of_an_episode_nor_of_the_gradient_waits_for_the_device(gpu):
    vars(main).update(WIDTH=4, GRID=8, MAX_EP_LENGTH=10)
    generator, network = torch.Generator("cuda"), main.build(main.config()).to("cuda").eval()
    packed = maze.make_mazes(16, 8, torch.Generator().manual_seed(0)).to("cuda")
    mazes = maze.draw(packed, 8, 1.0, 9, "random", generator)
    epsilon, counts = torch.ones(16, device="cuda"), []
    both = network, copy.deepcopy(network)
    learner = main.Learner(*both, Adam(network.parameters(), 0.0), None, generator)
    for steps, main.UPDATES in (10, 2), (40, 2), (40, 16):
        acting = network, mazes, steps, epsilon, generator
        episodes, _ = main.rollout(*acting)
        walking = waits(gpu, lambda: main.rollout(*acting))
        counts.append((walking, waits(gpu, lambda: main.learn(learner, episodes, 0.0))))
    assert len({*counts}) == 1 and min(counts[0]) > 0, counts


def test_devices_are_not_mixed(gpu):
    x, places, number = torch.ones(3, device="cuda"), torch.tensor([0, 2]), torch.tensor(1.0)
    refused = (
        lambda: x + torch.ones(3),
        lambda: torch.ones(1) * x,
        lambda: x.add_(torch.ones(3)),
        lambda: torch.tensor(0.0).add_(x[0]),
        lambda: torch.add(x, x, out=torch.empty(3)),
        lambda: torch.where(x > 0, x, torch.ones(3)),
        lambda: x.masked_fill(places > 0, 0),
        lambda: torch.ones(2, 3) @ x,
        lambda: torch.stack([x[0], number]),
        lambda: x.index_select(0, places),
        lambda: x.gather(0, places),
        lambda: x.__setitem__(places, torch.ones(2)),
        lambda: torch.ones(3)[places.to("cuda")],
        lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
        lambda: torch.rand(3, generator=torch.Generator("cuda")),
        lambda: x.numpy(),
    )
    for mixed in refused:
        with pytest.raises((RuntimeError, TypeError), match="device|numpy"):
            mixed()
    for there in (x + number, x[places], x[[0, 1]], x.view(3, 1).t(), torch.zeros_like(x),
                  x.copy_(torch.ones(3)), x.new_zeros(2), *x.sort(), copy.deepcopy(x),
                  torch.tensor([1], device=x.device), torch.as_tensor(x), x.int()):  # fmt: skip
        assert there.device == torch.device("cuda", 0)
    for here in x.cpu(), x.to("cpu", torch.int), torch.empty(3).copy_(x), torch.tensor(x.tolist()):
        assert here.device == torch.device("cpu") and here.sum() == 3


def test_table_tells_what_mps_has_from_what_it_has_not():
    assert all(on_mps(name) for name in ("add.Tensor", "scatter_.src", "flatten.using_ints"))
    assert not any(on_mps(name) for name in ("cudnn_batch_norm", "miopen_rnn", "_fused_dropout"))

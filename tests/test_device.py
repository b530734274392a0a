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
from test_runs import differences
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import main
import maze
from support import pictures
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
TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
ENTRIES = re.split(r"^- func: ", TABLE.read_text(), flags=re.MULTILINE)
OPERATORS = {entry.partition("(")[0]: entry for entry in ENTRIES}
WAITS = "nonzero", "masked_select", "equal", "to the CPU", "unique"
WAITS += "item", "tolist", "__bool__", "__int__", "__float__", "__index__"


def runs(folder, *arguments):
    given = f"OUT_DIR={folder}", f"PLOT_FILE={folder}.png"
    own = {argument.partition("=")[0]: argument for argument in [*SMALL, *arguments]}
    assert main.main([*given, *own.values()]) == 0
    return folder


class Operators(TorchDispatchMode):
    """Notes the operators that are called."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names = getattr(self, "names", set())
        self.names.add(str(function).removeprefix("aten.").removesuffix(".default"))
        return function(*args, **(kwargs or {}))


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
        with pretend.cuda() as gpu, Operators() as called:
            both(tmp_path / "there", "DEVICE=auto")
        both(tmp_path / "here", "DEVICE=cpu")
    assert not differences(tmp_path / "here", tmp_path / "there")
    for name in "rollouts.png", "agent.gif":
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert json.loads((tmp_path / "there/summary.json").read_text())["device"] == "cuda:0"
    assert len(called.names) > 60 and not [name for name in called.names if not on_mps(name)]
    assert "REPLAY" in agent or not gpu.doubles  # there, it takes floats


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


def test_neither_a_step_of_an_episode_nor_of_the_gradient_waits_for_the_device():
    vars(main).update(WIDTH=4, GRID=8, MAX_EP_LENGTH=10)
    with pretend.cuda() as gpu:
        generator, network = torch.Generator("cuda"), main.build(main.config()).to("cuda").eval()
        packed = maze.make_mazes(16, 8, torch.Generator().manual_seed(0)).to("cuda")
        mazes = maze.draw(packed, 8, 1.0, 9, "random", generator)
        epsilon, counts = torch.ones(16, device="cuda"), set()
        both = network, copy.deepcopy(network)
        learner = main.Learner(*both, Adam(network.parameters(), 0.0), None, generator)
        for steps, main.UPDATES in (10, 2), (40, 2), (40, 16):
            gpu.calls.clear()
            episodes, _ = main.rollout(network, mazes, steps, epsilon, generator)
            walking = sum(gpu.calls[name] for name in WAITS)
            main.learn(learner, episodes, 0.0)
            counts.add((walking, sum(gpu.calls[name] for name in WAITS)))
    assert len(counts) == 1 and min(counts)[0] > 0, counts


def test_devices_are_not_mixed():
    with pretend.cuda():
        x, places, number = torch.ones(3, device="cuda"), torch.tensor([0, 2]), torch.tensor(1.0)
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: x.add_(torch.ones(3)),
            lambda: torch.add(x, x, out=torch.empty(3)),
            lambda: torch.ones(2, 3) @ x,
            lambda: x.gather(0, places),
            lambda: x.__setitem__(places, torch.ones(2)),
            lambda: torch.ones(3)[places.to("cuda")],
            lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
            lambda: torch.rand(3, generator=torch.Generator("cuda")),
            lambda: x.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError), match="device"):
                mixed()
        there = [x + number, x[places], x.view(3, 1).t(), torch.zeros_like(x), *x, copy.deepcopy(x)]
        there += [x.copy_(torch.ones(3)), *x.sort(), torch.tensor([1], device=x.device), x.int()]
        assert {each.device for each in there} == {torch.device("cuda", 0)}
        for here in x.cpu(), x.to("cpu", torch.int), torch.empty(3).copy_(x):
            assert here.device == torch.device("cpu") and here.sum() == 3


def test_table_tells_what_mps_has_from_what_it_has_not():
    assert all(on_mps(name) for name in ("add.Tensor", "scatter_.src", "flatten.using_ints"))
    assert not any(on_mps(name) for name in ("cudnn_batch_norm", "miopen_rnn", "_fused_dropout"))

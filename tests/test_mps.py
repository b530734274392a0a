"""What a run calls is there on Apple's MPS: so says the table of operations that torch brings along.

Nothing runs there. All mazes are made on the CPU, whatever the device.
"""

import re
from pathlib import Path

import pytest
import torch
import torchgen
from test_device import runs, small  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

import maze

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
ENTRIES = re.split(r"^- func: ", TABLE.read_text(), flags=re.MULTILINE)
OPERATIONS = {entry.partition("(")[0]: entry for entry in ENTRIES}


def on_mps(name):
    """Whether an operation has a kernel there, or is made of others."""
    entry = OPERATIONS[name]
    if delegate := re.search(r"structured_delegate: (\S+)", entry):
        return on_mps(delegate[1])
    return "dispatch:" not in entry or bool(re.search(r"\b(MPS|Composite\w+)\b.*: ", entry))


class Called(TorchDispatchMode):
    """The operations that are called while it lasts, but for those of `paused`."""

    def __init__(self):
        super().__init__()
        self.names, self.of_doubles, self.listens = set(), set(), True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.listens:
            name = str(function).removeprefix("aten.").removesuffix(".default")
            self.names.add(name)
            if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in args):
                self.of_doubles.add(name)
        return function(*args, **(kwargs or {}))

    def paused(self, function):
        def quietly(*args):
            self.listens = False
            made = function(*args)
            self.listens = True
            return made

        return quietly


def test_table_tells_what_is_there_from_what_is_not():
    assert len(OPERATIONS) > 2000
    assert all(on_mps(name) for name in ("add.Tensor", "scatter_.src", "flatten.using_ints"))
    assert not any(on_mps(name) for name in ("cudnn_batch_norm", "miopen_rnn", "_fused_dropout"))


@pytest.mark.parametrize(
    "agent",
    [
        "MODEL=mlp",
        "MODEL=cnn DOUBLE=True LAMBDA=0.9",
        "MODEL=attention LOOKS=9",
        "MODEL=vin GOAL=corner",
        "VISION=1 MEMORY=trail SHAPING=oracle",
        "VISION=1 MEMORY=gru SHAPING=manhattan",
        "VISION=1 MEMORY=map WIDTH=2 BSZ=8 NUM_EPISODES=16 UPDATES=1 MAX_EP_LENGTH=4 EVAL_MAZES=6",
    ],
)
def test_what_a_run_calls_is_there_and_no_number_has_64_bits_of_floating_point(
    small,  # noqa: F811
    monkeypatch,
    agent,
):
    called = Called()
    monkeypatch.setattr(maze, "make_mazes", called.paused(maze.make_mazes))
    with called:
        runs(small / "run", *agent.split())
    assert len(called.names) > 80
    assert [name for name in sorted(called.names) if not on_mps(name)] == []
    assert called.of_doubles == set()

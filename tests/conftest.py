import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
torch.set_num_threads(1)

import main  # noqa: E402
from support.files import load_checkpoint  # noqa: E402


@pytest.fixture(autouse=True)
def constants(monkeypatch):
    """Whatever a test makes of the constants, the next test meets the defaults."""
    for name in main.WRITTEN:
        monkeypatch.setattr(main, name, getattr(main, name))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a small run that ended with a proof, and its summary."""
    folder = tmp_path_factory.mktemp("trained")
    given = (
        "GRID=8 BSZ=256 MAX_START_DISTANCE=20 MAX_EP_LENGTH=30 MAZE_CACHE_SIZE=1000 EVAL_MAZES=300 "
        f"EVAL_SAMPLE=100 DEVICE=cpu OUT_DIR={folder}/out PLOT_FILE={folder}/plot.png"
    )
    assert main.main(given.split()) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["proved"]
    return folder, summary


@pytest.fixture
def proved(trained):
    """The network of that run; a test may do to it what it likes."""
    return load_checkpoint(f"{trained[0]}/out/checkpoint.pt", "cpu")[0]


@pytest.fixture
def digests():
    """A function: the contents of all files under a folder, to be compared."""
    return lambda folder: {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }

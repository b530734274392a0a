import copy
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
torch.set_num_threads(1)

import main  # noqa: E402


@pytest.fixture(autouse=True)
def constants(monkeypatch):
    """Whatever a test makes of the constants, the next test meets the defaults."""
    for name in main.WRITTEN:
        monkeypatch.setattr(main, name, getattr(main, name))


@pytest.fixture(scope="session")
def proved_run(tmp_path_factory):
    """(a network that thinks, trained with the defaults until it is proved; the run's record)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "OUT_DIR", str(tmp_path_factory.mktemp("proved")))
        patch.setattr(main, "EVAL_MAZES", 100)
        network, record, _, _ = main.train(torch.device("cpu"))
    assert record["history"][-1]["wrong_views"] == 0
    return network, record


@pytest.fixture
def proved(proved_run):
    """A copy of that network: a test may do to it what it likes."""
    return copy.deepcopy(proved_run[0])


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
def digests():
    """A function: the contents of all files under a folder, to be compared."""
    return lambda folder: {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }

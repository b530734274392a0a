import hashlib
import io
import itertools
import os
import pickle
import re

import numpy as np
import pytest
import reference
import torch
from reference import seeded

import main
import maze
from support import files, settings
from support.agents import build
from support.files import CHECKPOINT_FORMAT, load_checkpoint, save_checkpoint
from support.processes import UserError
from support.settings import HELD_OUT_SEED


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    full = OSError(28, "No space left on device")
    for error in RuntimeError(), full:
        with pytest.raises(type(error)), files.replacing(str(path)) as beside:
            with open(beside, "w") as file:
                file.write("ne")
            raise error
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    assert full.filename == str(path)  # so that whoever reports it can say which file
    with files.replacing(str(path)) as beside:
        with open(beside, "w") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """(a function that loads the cache and returns the mazes and what was said, its file)"""
    path = tmp_path / "mazes.npz"

    def load(n=40, grid=8, seed=3):
        said = []
        monkeypatch.setattr(files, "say", said.append)
        return files.load_cache(str(path), n, grid, seed), said

    return load, path


@pytest.mark.parametrize("other", [{}, dict(grid=15), dict(n=41), dict(n=39), dict(seed=4)])
def test_cache_is_made_once_and_again_when_its_settings_change(cache, other):
    load, path = cache
    _, said = load()
    assert len(said) == 1 and "making 40 mazes of 8x8" in said[0]
    mazes, said = load(**other)
    assert len(said) == len(other)
    assert all("other settings" in line and str(path) in line for line in said)
    again, said = load(**other)
    assert said == [] and torch.equal(again, mazes)
    wanted = dict(n=40, grid=8, seed=3) | other
    assert torch.equal(mazes, maze.make_mazes(wanted["n"], wanted["grid"], seeded(wanted["seed"])))


def test_cache_that_is_damaged_cut_off_or_foreign_does_no_harm(cache, monkeypatch):
    load, path = cache
    made, _ = load(2, 5)
    monkeypatch.setattr(files, "make_mazes", lambda *_: made)
    with np.load(path) as file:
        right = file["settings"]
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        bit = bytes([whole[place] ^ 1 << place % 8])
        path.write_bytes(whole[:place] + bit + whole[place + 1 :])
        again, said = load(2, 5)
        noticed += len(said)
        assert torch.equal(again, made), f"byte {place}"
    assert noticed >= made.numel()
    contents = [whole[:keep] for keep in range(0, len(whole), 37)]
    contents += [b"not a zip", bytes(500), pickle.dumps(made)]
    trap = np.array([Trap(f"{path}.sprung")], object)
    for stored, packed in (trap, made), (right, made[:, :-1]), (right, made.int()):
        np.savez(path, settings=stored, packed=packed.numpy())
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        again, said = load(2, 5)
        assert len(said) == 1 and str(path) in said[0] and torch.equal(again, made)
    assert not os.path.exists(f"{path}.sprung")  # no code in it was run
    monkeypatch.setattr(files, "CACHE_FORMAT", files.CACHE_FORMAT + 1)
    assert "other settings" in load(2, 5)[1][0]


def prints(packed):
    return {one.tobytes() for one in packed.numpy().T}


def test_held_out_mazes_share_none_with_the_cache_and_are_the_same_each_time(capsys):
    """Of the training mazes' own seed, each of them must be made anew."""
    known = maze.make_mazes(300, 8, seeded(5))
    held_out = files.make_held_out(300, 8, known, 5)
    assert held_out.shape == (8, 300) and not capsys.readouterr().out
    assert not prints(held_out) & prints(known) and len(prints(held_out)) > 250
    assert torch.equal(held_out, files.make_held_out(300, 8, known, 5))
    other = maze.make_mazes(300, 8, seeded(HELD_OUT_SEED))  # no run can have this seed
    assert torch.equal(files.make_held_out(300, 8, other[:, :0]), other)
    with pytest.raises(UserError, match="SEED"):
        settings.check(main.config() | dict(SEED=HELD_OUT_SEED))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "checkpoint.pt")


AGENTS = [dict(MODEL=name) for name in ("linear", "cnn", "attention")]
AGENTS += [dict(MODEL="cnn", LOOKS=3), dict(MODEL="mlp", VISION=1, MEMORY="map")]
AGENTS += [dict(VISION=2, MEMORY=memory) for memory in ("trail", "gru")]


@pytest.mark.parametrize("agent", AGENTS, ids=str)
def test_checkpoint_brings_back_the_same_agent(path, agent):
    """With the numbers that a proof was about, though its weights would give others."""
    given = main.config() | dict(GRID=8, WIDTH=8) | agent
    network, mazes = build(given), reference.random_mazes(10, 8, 8)
    for i, numbers in enumerate(network.state_dict().values()):
        few = torch.randint(4, numbers.shape, generator=seeded(i))
        numbers.copy_(few if numbers.dtype == torch.uint8 else few - 2)
    save_checkpoint(path, network, given, batch=3, history=[dict(loss=0.5)])
    loaded, config, progress = load_checkpoint(path, "cpu")
    assert config == given and progress == dict(batch=3, history=[dict(loss=0.5)])
    saved = network.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(saved[name], now) for name, now in loaded.state_dict().items())
    walks, sights = zip(*(main.rollout(one, mazes, 9, None, None, 9) for one in (network, loaded)))
    assert torch.equal(walks[0].cells, walks[1].cells)
    assert torch.equal(sights[0].q(), sights[1].q()) and sights[0].q().any()


CONFIG = main.config() | dict(GRID=8, WIDTH=1, VISION=1)
SMALL = build(CONFIG)  # a window of one unit: few bytes
RIGHT = dict(format=CHECKPOINT_FORMAT, config=CONFIG, weights=SMALL.state_dict(), progress={})


def torch_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def sealed(data):
    """With the checksum of a whole checkpoint, so that what follows it is looked at."""
    return hashlib.sha256(data).digest() + data


def refused(path, data, wanted="is not a checkpoint"):
    """In one line."""
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(UserError, match=wanted) as told:
        load_checkpoint(path, "cpu")
    assert path in str(told.value) and "train" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seal", [sealed, bytes])
@pytest.mark.parametrize("to_bytes", [torch_bytes, pickle.dumps])
def test_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(path, to_bytes, seal):
    trap = Trap(path + ".sprung")
    for content in trap, [trap], RIGHT | dict(config=trap), RIGHT | dict(progress=[trap]):
        refused(path, seal(to_bytes(content)))
        assert not os.path.exists(trap.path)
    pickle.loads(pickle.dumps(trap))
    assert os.path.exists(trap.path)


def test_foreign_old_or_missing_file_is_refused(path):
    with pytest.raises(UserError, match="no checkpoint .*checkpoint.pt.*python main.py"):
        load_checkpoint(path, "cpu")
    for content in None, 3, [], {}, "text", torch.ones(3), dict(format=CHECKPOINT_FORMAT):
        refused(path, sealed(torch_bytes(content)))
    for name, wrong in itertools.product(("weights", "config"), (None, 3, [], dict(a=1))):
        refused(path, sealed(torch_bytes(RIGHT | {name: wrong})))
    for missing in RIGHT:
        content = {name: value for name, value in RIGHT.items() if name != missing}
        refused(path, sealed(torch_bytes(content)))
    for number in range(CHECKPOINT_FORMAT):  # whatever else: constants had other names then
        wanted = f"format {number}, this program reads {CHECKPOINT_FORMAT}: train again"
        refused(path, sealed(torch_bytes(dict(format=number, config=dict(GRAIN=2)))), wanted)


CHANGED = [
    (dict(weights={}), "enter.bias is (1,) now and missing in the file"),
    (dict(weights=SMALL.state_dict() | dict(x=torch.ones(1))), "x is missing now and (1,) in"),
    (dict(config=CONFIG | dict(VISION=2)), "enter.weight is (1, 54) now and (1, 22) in"),
    (dict(config=CONFIG | dict(VISION=0)), "table is (4, 65536) now and missing in"),
]


@pytest.mark.parametrize("changed, named", CHANGED)
def test_checkpoint_of_a_network_that_was_changed_since_says_what_differs(path, changed, named):
    wanted = f"another network than mlp.*{re.escape(named)}"
    refused(path, sealed(torch_bytes(RIGHT | changed)), wanted)

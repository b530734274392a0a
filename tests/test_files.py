import hashlib
import io
import os
import pickle

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from reference import seeded

import main
import maze
from support import files
from support.agents import build
from support.files import CHECKPOINT_FORMAT, load_checkpoint
from support.process import UserError
from support.settings import HELD_OUT_SEED


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """(a function that loads the cache and returns the mazes and what was said, its file)"""
    path = tmp_path / "mazes.npz"

    def load(n=40, grid=8, seed=3):
        said = []
        monkeypatch.setattr(files, "say", said.append)
        return files.load_cache(str(path), n, grid, seed), said

    return load, path


@pytest.mark.parametrize("other", [{}, dict(grid=15), dict(n=39), dict(seed=4)])
def test_cache_is_made_once_and_again_when_its_settings_change(cache, other):
    load, path = cache
    _, said = load()
    assert len(said) == 1 and "making 40 mazes of 8x8" in said[0]
    before = path.read_bytes()
    mazes, said = load(**other)
    if other:
        assert len(said) == 1 and "other settings" in said[0] and str(path) in said[0]
        assert torch.equal(load(**other)[0], mazes) and load(**other)[1] == []
    else:
        assert said == [] and path.read_bytes() == before
    wanted = dict(n=40, grid=8, seed=3) | other
    assert torch.equal(mazes, maze.make_mazes(wanted["n"], wanted["grid"], seeded(wanted["seed"])))


def test_cache_that_is_damaged_cut_off_or_foreign_does_no_harm(cache, monkeypatch):
    load, path = cache
    made, _ = load(2, 5)
    monkeypatch.setattr(files, "make_mazes", lambda *_: made)
    whole, noticed = path.read_bytes(), 0
    with np.load(path) as file:
        stored = file["settings"]
    for place in range(len(whole)):
        turned = whole[place] ^ 1 << place % 8  # one bit of it
        path.write_bytes(whole[:place] + bytes([turned]) + whole[place + 1 :])
        again, said = load(2, 5)
        noticed += len(said)
        assert torch.equal(again, made), f"byte {place}"
    assert noticed >= made.numel()
    np.savez(path, settings=stored, packed=made[:, :-1].numpy())
    other = path.read_bytes()
    np.savez(path, settings=np.array([Trap(f"{path}.sprung")], object), packed=made.numpy())
    cut = [whole[:keep] for keep in range(0, len(whole), 37)]
    for content in [path.read_bytes(), *cut, b"not a zip", bytes(500), pickle.dumps(made), other]:
        path.write_bytes(content)
        again, said = load(2, 5)
        assert len(said) == 1 and (content == other or "cannot be read" in said[0])
        assert torch.equal(again, made)
    assert not os.path.exists(f"{path}.sprung")  # no code in it was run
    monkeypatch.setattr(files, "CACHE_FORMAT", files.CACHE_FORMAT + 1)
    again, said = load(2, 5)
    assert len(said) == 1 and "other settings" in said[0]


@pytest.mark.parametrize("seed", [5, HELD_OUT_SEED])
def test_held_out_mazes_share_none_with_the_cache_and_are_the_same_each_time(capsys, seed):
    """Seed 5 is the training mazes' own: each of them must then be made anew."""
    cache = maze.make_mazes(300, 8, seeded(5))
    known = {*files.fingerprints(cache)}
    assert known & {*files.fingerprints(maze.make_mazes(300, 8, seeded(seed)))}
    held_out = files.make_held_out(300, 8, cache, seed)
    found = {*files.fingerprints(held_out)}
    assert held_out.shape == (8, 300) and not found & known and len(found) > 250
    assert not capsys.readouterr().out
    assert torch.equal(held_out, files.make_held_out(300, 8, cache, seed))
    for walls in np.moveaxis(maze.unpack(held_out, 8, 8).numpy(), -1, 0)[::20]:
        assert nx.is_tree(reference.graph(walls))


def test_grid_with_too_few_mazes_says_so(capsys):
    cache = maze.make_mazes(5000, 5, seeded(5))
    held_out = files.fingerprints(files.make_held_out(100, 5, cache))
    shared = sum(one in files.fingerprints(cache) for one in held_out)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "GRID=5 has too few different mazes" in said
    assert shared > 50 and f"{shared} of 100" in said


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "checkpoint.pt")


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


def refusal(path, data, wanted="is not a checkpoint"):
    """The one line with which such a file is refused."""
    with open(path, "wb") as file:
        file.write(data)
    with pytest.raises(UserError, match=wanted) as told:
        load_checkpoint(path, "cpu")
    assert path in str(told.value) and "train" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


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
        refusal(path, seal(to_bytes(content)))
        assert not os.path.exists(trap.path)
    pickle.loads(pickle.dumps(trap))
    assert os.path.exists(trap.path)


FOREIGN = [None, 3, [], {}, "text", torch.ones(3), dict(format=CHECKPOINT_FORMAT)]
FOREIGN += [{name: value for name, value in RIGHT.items() if name != missing} for missing in RIGHT]
FOREIGN += [RIGHT | dict(weights=weights) for weights in (None, 3, "weights")]
FOREIGN += [RIGHT | dict(config=config) for config in (None, [], {})]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_torch_file_is_refused(path, content):
    refusal(path, sealed(torch_bytes(content)))


@pytest.mark.parametrize(
    "changed, named",
    [
        (dict(weights={}), 'Missing key(s) in state_dict: "enter.weight"'),
        (
            dict(weights=SMALL.state_dict() | dict(x=torch.ones(1))),
            'Unexpected key(s) in state_dict: "x"',
        ),
        (dict(config=CONFIG | dict(VISION=2)), "size mismatch for enter.weight"),
        (dict(config=CONFIG | dict(VISION=0)), 'Missing key(s) in state_dict: "table"'),
    ],
)
def test_checkpoint_of_a_network_that_was_changed_since_says_what_differs(path, changed, named):
    told = refusal(path, sealed(torch_bytes(RIGHT | changed)), "another network than mlp")
    assert named in told


def test_checkpoint_of_an_older_program_says_train_again(path, capsys):
    for number in range(CHECKPOINT_FORMAT):
        wanted = f"format {number}, this program reads {CHECKPOINT_FORMAT}: train again"
        refusal(path, sealed(torch_bytes(dict(format=number, config=dict(GRAIN=2)))), wanted)

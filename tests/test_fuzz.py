"""Thousands of inputs that no one would write, from a few seeds: each is taken, or refused in
one line."""

import hashlib
import io
import os
import pickle
import random
import signal
import sys
import zipfile

import pytest
import reference
import torch

import main
import maze
import model
from support import mazefile, solving
from support.agents import build
from support.checkpoint import load_checkpoint, save_checkpoint
from support.errors import UserError

ODD = [
    "",
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "0.5",
    "1e3",
    "1e-400",
    "1e400",
    "-1e9",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1_000",
    "1__0",
    "_1",
    "+1",
    " 1",
    "1 ",
    "٣",
    "²",
    "½",
    "1" * 400,
    "1" * 5000,
    "True",
    "FALSE",
    "None",
    "[]",
    "vin",
    "cnn",
    "off",
    "auto",
    "uniform",
    "map",
    "=",
    "a=b",
    "\0",
    "\n",
    "a\nb",
    "a\rb",
    "\x85",
    "\u2028",
    "\ud800",
    "é",
    "🙂",
    "%s",
    "{}",
    "{0.__class__}",
    "/",
    "..",
    "/dev/null",
    "a" * 10000,
]


def mutated(chance, data, alphabet):
    """A string or bytes with a few places changed, left out, doubled or moved; what comes in is
    taken from the alphabet."""
    for _ in range(chance.randint(1, 3)):
        i, j = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        new = data[:0].join(chance.choice(alphabet) for _ in range(chance.randint(0, 3)))
        data = chance.choice(
            [
                data[:i] + new + data[i:],
                data[:i] + new + data[i + 1 :],
                data[:i] + data[j:] if j - i < 50 else data[:i],
                data[:j] + data[i:j][:100] + data[j:],
            ]
        )
    return data


def taken(action, *arguments):
    """What the action answers, or None where it refuses its arguments as it should: in one line
    that can be printed."""
    try:
        return action(*arguments)
    except UserError as error:
        message = str(error)
        assert message.strip() and len(message.splitlines()) == 1, message
        return None


# Constants


def set_all(arguments):
    reference.override(arguments)
    reference.check()
    return main.config()


@pytest.mark.parametrize("seed", range(3))
def test_any_arguments_are_taken_or_refused_in_one_line(tiny, seed):
    chance, before, done = random.Random(seed), main.config(), 0
    for _ in range(2000):
        arguments = []
        for _ in range(chance.randint(1, 4)):
            name = chance.choice(main.CONSTANTS)
            value = chance.choice(
                [
                    str(before[name]),
                    mutated(chance, str(before[name]), "0123456789.-+e_ aFTx\n"),
                    chance.choice(ODD),
                ]
            )
            argument = f"{name}={value}"
            arguments.append(
                argument if chance.random() < 0.8 else mutated(chance, argument, "=_ABCxyz -\n\0é")
            )
        settings = taken(set_all, arguments)
        if settings:
            done += 1
            assert {name: type(value) for name, value in settings.items()} == {
                name: type(value) for name, value in before.items()
            }
            assert all(
                type(value) is not int or abs(value) < 2**63 for value in settings.values()
            ), arguments
        for name, value in before.items():
            setattr(main, name, value)
    assert 50 < done < 1900


# Mazes


def valid_mazes(chance):
    texts = []
    for _ in range(chance.randint(1, 4)):
        h, w = chance.randint(1, 6), chance.randint(2, 7)
        cells = [chance.choice("##.. ") for _ in range(h * w)]
        start, goal = chance.sample(range(h * w), 2)
        cells[start], cells[goal] = "S", "G"
        texts.append("\n".join("".join(cells[y * w : (y + 1) * w]) for y in range(h)))
    return "\n\n".join(texts) + chance.choice(["", "\n", "\n\n\n"])


def test_any_maze_file_is_taken_or_refused_in_one_line(monkeypatch):
    chance, done = random.Random(0), 0
    for number in range(3000):
        text = valid_mazes(chance)
        if number % 3 == 0:
            content = mutated(chance, text, "#. SG\n\r\t\0\fx*é\u2028\ufeff").encode()
        elif number % 3 == 1:
            content = mutated(chance, text.encode(), [bytes([i]) for i in range(256)])
        else:
            content = bytes(chance.choice(b"#.SG \n") for _ in range(chance.randint(0, 30)))
        monkeypatch.setattr(
            mazefile,
            "open",
            lambda path, encoding: io.TextIOWrapper(io.BytesIO(content), encoding),
            raising=False,
        )
        texts = taken(mazefile.read, "mazes.txt")
        for one in texts or ():
            done += 1
            assert (
                one.walls.size > 1
                and one.start != one.goal
                and not one.walls.flat[one.start]
                and not one.walls.flat[one.goal]
            )
        if texts:  # and is read as it was written
            again = "\n\n".join(solving.draw(one) for one in texts)
            assert again.split() == content.decode().replace(" ", ".").split()
    assert done > 200


def test_whatever_is_read_can_be_walked(tmp_path, capsys):
    chance, path = random.Random(1), tmp_path / "mazes.txt"
    save_checkpoint(
        str(tmp_path / "exact.pt"),
        reference.make_exact(model.Thinker("vin", 4, 0.5)),
        main.config() | dict(MODEL="vin", WIDTH=4, GRID=8),
    )
    for _ in range(30):
        path.write_text("\n\n".join(valid_mazes(chance) for _ in range(3)))
        assert (
            main.main(["solve", str(path), f"CHECKPOINT={tmp_path / 'exact.pt'}", "DEVICE=cpu"])
            == 0
        )
        out, err = capsys.readouterr()
        assert not err and "not solved" not in out and out.splitlines()[-1].startswith("solved ")


# Checkpoints


class Trap:
    """Unpickled as code, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def sealed(data):
    return hashlib.sha256(data).digest() + data


def rezipped(data, change):
    """The archive, whole, with its pickle changed: what the unpickler gets to read is then the
    change."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(
                name, change(old.read(name)) if name.endswith("data.pkl") else old.read(name)
            )
    return file.getvalue()


def apart(action):
    """Runs the action in a process of its own, that may use 2 GB more than now and 60 s; returns
    how much more it used, in MB."""
    if sys.platform != "linux":
        pytest.skip("memory is limited and measured in the ways of Linux")
    import resource

    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(60)
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + 2**31,) * 2)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            action()
            os.write(
                theirs,
                str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024).encode(),
            )
        except BaseException as error:
            os.write(theirs, f"{type(error).__name__}: {error}"[:2000].encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0 and said.replace(".", "").isdigit(), (status, said)
    return float(said)


def checkpoint(path, kind="MODEL=vin", **settings):
    """A small checkpoint, and what is in it."""
    reference.override(["WIDTH=4", "GRID=8", *kind.split()])
    network, settings = build(main.config()), main.config() | settings
    save_checkpoint(str(path), network, settings, batch=1, history=[dict(loss=1.0)])
    return path.read_bytes()


def walks(path):
    """Loads a checkpoint, and has the agent look at a maze: what is taken must be of use."""
    network, settings, progress = load_checkpoint(str(path), "cpu")
    mazes = maze.Mazes(
        torch.zeros(8, 8, 2, dtype=torch.bool), torch.tensor([3, 4]), torch.tensor([60, 61])
    )
    main.rollout(network, mazes, 3)


@pytest.mark.parametrize("kind", ["MODEL=cnn", "VISION=1 MEMORY=gru"])
def test_any_change_of_a_checkpoint_is_noticed_or_refused(tmp_path, kind):
    whole = checkpoint(tmp_path / "a.pt", kind)
    data, alphabet = whole[32:], [bytes([i]) for i in range(256)]

    def change():
        chance = random.Random(0)
        for number in range(800):
            if number % 4 == 0:
                content = mutated(chance, whole, alphabet)
            elif number % 4 == 1:
                content = sealed(mutated(chance, data, alphabet))
            else:
                content = sealed(rezipped(data, lambda text: mutated(chance, text, alphabet)))
            (tmp_path / "a.pt").write_bytes(content)
            loaded = taken(load_checkpoint, str(tmp_path / "a.pt"), "cpu")
            assert loaded is None or number % 4 or content == whole

    apart(change)


WRONG_SETTINGS = (
    [
        ("WIDTH", value)
        for value in (-1, 5, 10**7, 10**8, 10**12, 10**30, 4.0, "4", None, [4], torch.ones(2))
    ]
    + [("GRID", value) for value in (-8, 0, 9, 10**5, 10**12, 8.5, "8", None)]
    + [("LOOKS", value) for value in (-1, 3, 10**12, 2.0, "3", None)]
    + [
        ("GAMMA", value)
        for value in ("x", None, [], float("nan"), float("inf"), -1.0, 2.0, 10**400, torch.ones(3))
    ]
    + [("MODEL", value) for value in ("foo", "", None, [], {}, 3)]
    + [("VISION", value) for value in (-1, 2, 10**4, 10**9, 0.5, "1", None)]
    + [("MEMORY", value) for value in ("foo", None, [], 1)]
    + [("COMPASS", value) for value in ("x", None, 5.0, [])]
)


@pytest.mark.parametrize(
    "kind",
    [
        "MODEL=vin",
        "MODEL=mlp",
        "MODEL=cnn",
        "MODEL=attention",
        "VISION=1 MEMORY=gru",
        "VISION=1 MEMORY=map",
    ],
)
def test_checkpoint_with_wrong_settings_is_refused_or_of_use(tmp_path, kind):
    def each():
        for name, value in WRONG_SETTINGS:
            checkpoint(tmp_path / "a.pt", kind, **{name: value})
            try:
                taken(walks, tmp_path / "a.pt")
            except Exception as error:
                raise AssertionError(f"{name}={value}: {type(error).__name__}: {error}")

    assert apart(each) < 300


def test_checkpoint_without_a_setting_is_refused_or_of_use(tmp_path):
    checkpoint(tmp_path / "a.pt")
    saved = torch.load(io.BytesIO((tmp_path / "a.pt").read_bytes()[32:]))
    for part in (saved, saved["config"], saved["weights"]):
        for name in list(part):
            file, value = io.BytesIO(), part.pop(name)
            torch.save(saved, file)
            part[name] = value
            (tmp_path / "a.pt").write_bytes(sealed(file.getvalue()))
            loaded = taken(walks, tmp_path / "a.pt")
            assert loaded is None


@pytest.mark.parametrize("place", ["config", "weights", "progress", "format"])
def test_code_in_a_checkpoint_is_never_run(tmp_path, place):
    checkpoint(tmp_path / "a.pt")
    saved, trap = torch.load(io.BytesIO((tmp_path / "a.pt").read_bytes()[32:])), tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(str(trap)))).close()
    assert trap.exists()
    trap.unlink()
    saved[place] = (
        Trap(str(trap)) if place == "format" else {**saved[place], "trap": Trap(str(trap))}
    )
    for save in (
        torch.save,
        pickle.dump,
        lambda thing, file: torch.save(thing, file, _use_new_zipfile_serialization=False),
    ):
        file = io.BytesIO()
        save(saved, file)
        for content in file.getvalue(), sealed(file.getvalue()):
            (tmp_path / "a.pt").write_bytes(content)
            with pytest.raises(UserError):
                load_checkpoint(str(tmp_path / "a.pt"), "cpu")
            assert not trap.exists()

"""Thousands of odd inputs from a few seeds: each is taken, or refused in one line."""

import io
import random
import re
import zipfile

import pytest
import torch
from reference import random_mazes
from test_files import sealed
from test_runs import exact

import main
from support import mazefile, settings
from support.agents import build
from support.files import load_checkpoint, save_checkpoint
from support.process import UserError

ODD = "0 -0 1 -1 2 0.5 1e3 1e-400 1e400 -1e9 nan inf -inf 0x10 1_000 1__0 _1 +1 ٣ ² ½ True FALSE"
ODD = [*ODD.split(), "None", "[]", "cnn", "off", "auto", "uniform", "map", "=", "a=b", "%s", "{}"]
ODD += ["", " 1", "1 ", "1" * 400, "1" * 5000, "a" * 10000, "\0", "\n", "a\nb", "a\rb", "\x85"]
ODD += ["\u2028", "\ud800", "é", "🙂", "{0.__class__}", "/", "..", "/dev/null"]
BYTES = [bytes([i]) for i in range(256)]


def mutated(chance, data, alphabet):
    """A string or bytes with a few places changed, left out or doubled."""
    for _ in range(chance.randint(1, 3)):
        i, j = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        new = data[:0].join(chance.choice(alphabet) for _ in range(chance.randint(0, 3)))
        left_out = data[:i] + data[j:] if j - i < 50 else data[:i]
        doubled = data[:j] + data[i:j][:100] + data[j:]
        changed = data[:i] + new + data[i:], data[:i] + new + data[i + 1 :]
        data = chance.choice([*changed, left_out, doubled])
    return data


def taken(action, *arguments):
    """What the action answers, or None where it refuses its arguments in one line."""
    try:
        return action(*arguments)
    except UserError as error:
        message = str(error)
        assert message.strip() and len(message.splitlines()) == 1, message
        return None


def test_any_arguments_are_taken_or_refused_in_one_line():
    chance, before, done = random.Random(0), main.config(), 0

    def settings_of(arguments):
        found = settings.of_run(before, main.AGENTS, arguments)
        settings.check(found)
        return found

    for _ in range(4000):
        arguments = []
        for _ in range(chance.randint(1, 4)):
            name = chance.choice([*main.WRITTEN])
            value = str(before[name])
            change = mutated(chance, value, "0123456789.-+e_ aFTx\n")
            argument = f"{name}={chance.choice([value, change, chance.choice(ODD)])}"
            odd = mutated(chance, argument, "=_ABCxyz -\n\0é")
            arguments.append(argument if chance.random() < 0.8 else odd)
        found = taken(settings_of, arguments)
        if found:
            done += 1
            for name, value in found.items():
                assert type(value) in (type(before[name]), float), arguments
                assert type(value) is not float or type(before[name]) in (float, int), arguments
                assert type(value) is not int or abs(value) < 2**63, arguments
    assert 100 < done < 3900


def valid_mazes(chance):
    texts = []
    for _ in range(chance.randint(1, 4)):
        h, w = chance.randint(1, 6), chance.randint(2, 7)
        cells = [chance.choice("##.. ") for _ in range(h * w)]
        start, goal = chance.sample(range(h * w), 2)
        cells[start], cells[goal] = "S", "G"
        texts.append("\n".join("".join(cells[y * w : (y + 1) * w]) for y in range(h)))
    return "\n\n".join(texts) + chance.choice(["", "\n", "\n\n\n"])


# What a letter that is shown may be in the file; of several goals, one is shown.
SAME = {".": " *X+o·0GgeEB3", "#": "%█1", "S": "sAP2", "G": "geEB3."}


def test_any_maze_file_is_taken_or_refused_in_one_line(tmp_path, capsys):
    """What is taken is as it was written, and can be walked, to the goal."""
    chance, texts, path = random.Random(0), [], tmp_path / "mazes.txt"
    for number in range(900):
        text = valid_mazes(chance)
        if number % 3 == 0:
            content = mutated(chance, text, "#. SG\n\r\t\0\fx*é\u2028\ufeff").encode()
        elif number % 3 == 1:
            content = mutated(chance, text.encode(), BYTES)
        else:
            content = bytes(chance.choice(b"#.SG \n") for _ in range(chance.randint(0, 30)))
        path.write_bytes(content)
        found = taken(mazefile.read, str(path))
        if found:
            shown = [mazefile.as_text(one) for one in found]
            texts += shown
            written = re.split("\n{2,}", content.decode().replace("\r\n", "\n").strip("\n"))
            for one, other in zip(shown, written, strict=True):
                width = max(map(len, other.split("\n")))
                other = "\n".join(line.ljust(width) for line in other.split("\n"))
                assert all(a == b or b in SAME.get(a, "") for a, b in zip(one, other, strict=True))
    assert 30 < len(texts) < 1200
    path.write_text("\n\n".join(texts))
    save_checkpoint(str(tmp_path / "a.pt"), exact(), main.config() | dict(MODEL="linear"))
    files = f"CHECKPOINT={tmp_path / 'a.pt'}", f"OUT_DIR={tmp_path}"
    assert main.main(["solve", str(path), *files]) == 0
    out, err = capsys.readouterr()
    assert not err and "not solved" not in out and out.count("solved in") > 30
    assert out.count("solved in") + out.count("unreachable") == len(texts)


def rezipped(data, change):
    """The archive, whole, with its pickle changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return file.getvalue()


def checkpoint(path, kind, **wrong):
    """A small checkpoint, and what is in it."""
    config = settings.of_run(main.config(), main.AGENTS, [*kind.split(), "WIDTH=4", "GRID=8"])
    save_checkpoint(str(path), build(config), config | wrong, batch=1, history=[dict(loss=1.0)])
    return path.read_bytes()


@pytest.mark.parametrize("kind, times", [("MODEL=linear", 60), ("VISION=1 MEMORY=gru", 600)])
def test_any_change_of_a_checkpoint_is_noticed_or_refused(tmp_path, kind, times):
    path = tmp_path / "a.pt"
    whole, chance = checkpoint(path, kind), random.Random(0)
    for number in range(times):
        if number % 4 == 0:
            content = mutated(chance, whole, BYTES)
        elif number % 4 == 1:
            content = sealed(mutated(chance, whole[32:], BYTES))
        else:
            content = sealed(rezipped(whole[32:], lambda text: mutated(chance, text, BYTES)))
        path.write_bytes(content)
        loaded = taken(load_checkpoint, str(path), "cpu")
        assert loaded is None or number % 4 or content == whole


WRONG_SETTINGS = dict(
    WIDTH=(-1, 5, 10**7, 10**12, 10**30, 4.0, "4", None, [4], torch.ones(2)),
    LOOKS=(-1, 3, 10**12, 2.0, "3", None),
    GOAL_REWARD=("x", None, [], float("nan"), float("inf"), 10**400, torch.ones(3)),
    MODEL=("foo", "", None, [], {}, 3),
    VISION=(-1, 2, 10**9, 0.5, "1", None),
    MEMORY=("foo", None, [], 1),
    COMPASS=("x", None, 5.0, []),
    THINK=("x", None, 0, 1, []),
    GRID=(-5, 0, 7, 10**12, 8.0, "8", None),
)


KINDS = ["MODEL=cnn", "MODEL=attention", "VISION=1 MEMORY=gru", "VISION=1 MEMORY=map"]
KINDS += [f"THINK=False MODEL={name}" for name in ("cnn", "mlp", "attention")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_checkpoint_with_wrong_settings_is_refused_or_of_use(tmp_path, kind, name):
    for value in WRONG_SETTINGS[name]:
        checkpoint(tmp_path / "a.pt", kind, **{name: value})
        if loaded := taken(load_checkpoint, str(tmp_path / "a.pt"), "cpu"):
            taken(main.rollout, loaded[0], random_mazes(2, 8, 8), 3)

"""The README says what bench/results say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table(name):
    """{first cell: {heading: cell}} of the last table in a file of bench/results."""
    lines = (ROOT / "bench" / "results" / f"{name}.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in lines
        if line[:1] == "|"
    ]
    ruler = max(i for i, row in enumerate(rows) if row[0].startswith("---"))
    return {row[0]: dict(zip(rows[ruler - 1], row)) for row in rows[ruler + 1 :]}


def row(start):
    """The cells of the README's row that starts so."""
    (found,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("| ").split(" | ")]


def percent(cell):
    """0.0445 (0.0365), or 0.0445, is 4%."""
    return f"{float(cell.split()[0]):.0%}"


def first(cell, digits):
    return f"{float(cell.split()[0]):.{digits}f}"


@pytest.mark.parametrize("model", ["mlp", "cnn", "attention", "vin"])
def test_row_of_a_network_that_thinks(model):
    _, _, success, optimal, seconds, seeds = row(f"`{model}`")
    times = table("seconds")["python main.py" + f" MODEL={model}" * (model != "mlp")]
    assert seconds == times["seconds"]
    perfect = (ROOT / "bench" / "results" / f"perfect-{model}.md").read_text()
    (number,) = re.findall(r"\| over (\d+) seeds \|", perfect)
    assert seeds == f"{number}; {times['seeds']} timed"
    found = table(f"perfect-{model}")
    failed = int(found["failures in 100,000 held-out"]["worst"])
    detours = int(found["of them solved, but not by a shortest path"]["worst"])
    assert success == ("1.0000 (all)" if failed == 0 else f"{failed} of 100,000 fail")
    assert optimal == ("1.0000 (all)" if failed + detours == 0 else f"{failed + detours} are not")
    beyond = [name for name in found if "not optimal, of" in name]
    assert len(beyond) > 20 and all(found[name]["worst"] == "0" for name in beyond)


def test_rows_of_those_that_do_not_think():
    assert row("random walk")[2] == first(table("explorers")["random walk"]["success"], 3)
    once = table("ablations-once")["dilated CNN"]
    assert row("dilated CNN")[2:4] == [first(once[name], 3) for name in ("success", "optimal")]
    assert row("dilated CNN")[4] == first(once["seconds"], 0)


def sentences():
    """What the README must say, word for word."""
    built_in, constants = table("ablations-built-in"), table("ablations-constants")
    success = {name: percent(cells["success"]) for name, cells in (built_in | constants).items()}
    wrong = {name: percent(cells["backup error"]) for name, cells in (built_in | constants).items()}
    seconds, window = table("seconds"), table("window")
    to_99 = {n: constants[f"TARGET_SYNCS={n}"]["to 99%"] for n in (2, 5, 10)}
    to_99[1] = constants["nothing"]["to 99%"]
    assert to_99[2] == to_99[5] and to_99[1] == to_99[10]
    explorers = table("explorers").values()
    by_hand = max(float(cells["success"]) for cells in explorers)
    one = first(seconds["python main.py NUM_EPISODES=1000000 BSZ=8192"]["seconds"], 0)
    two = first(seconds[f"{TWO} main.py NUM_EPISODES=1000000 BSZ=8192"]["seconds"], 0)
    median = seconds["python main.py"]["seconds"].split()[0]
    yield f"trains a network of 1,108 weights in {float(median):.0f} s on one CPU core"
    once, ten, fifty = (f"{how} (LOOKS={n})" for how, n in LOOKS)
    yield f"Looking once, the same core finds {success[once]} of the goals; 10 times, {success[ten]}"
    yield f"50 times, {success[fifty]}; until nothing changes, all."
    yield f"({wrong[ten]} wrong with 10 looks, {wrong[fifty]} with 50)"
    absolute = "v in place of v / m"
    yield f"it finds {success[absolute]} of the goals, or {success[absolute + ', GAMMA=0.9']} with GAMMA=0.9"
    yield f"if walls may hold values, {success['walls hold values']}"
    yield f"with 0.98 success is {success['GAMMA=0.98']}: one look is wrong by {wrong['GAMMA=0.98']}"
    yield f"With 2 or 5 a batch, 99% comes after {to_99[2]} episodes, with 1 or 10 after {to_99[1]}"
    yield f"({wrong['LAMBDA=0.9']} wrong, not {wrong['nothing']})"
    yield f"walks {percent(window['MEMORY=map']['success'])} of the mazes in 100 steps"
    yield f"the best explorer written by hand {by_hand:.0%}"
    yield f"10^6 episodes take {one} s, shared by two processes {two} s."
    yardstick = first(seconds['python -c "import torch"']["seconds"], 1)
    yield f"where `import torch` alone takes {yardstick}"

    kills = (ROOT / "bench" / "results" / "kills.md").read_text().splitlines()[-1]
    counts = re.match(
        r"(\d+) kills; .*; (\d+) runs ended, 0 with other weights, 0 with an error", kills
    )
    yield "after {} kills at random moments, all {} runs".format(*counts.groups())


TWO = "torchrun --nproc-per-node=2"
LOOKS = ("looks once", 1), ("looks 10 times", 10), ("looks 50 times", 50)


def test_sentences():
    text = " ".join(README.split())
    missing = [sentence for sentence in sentences() if sentence not in text]
    assert not missing


def test_figures_come_from_two_commits_at_most():
    """All times from one; what was learned from it, or from one that learns the same to the last
    bit. The kills, which take an hour, say their own."""
    commits = {
        path.stem: re.search(r"^Commit (\w+), ", path.read_text(), re.M).group(1)
        for path in (ROOT / "bench" / "results").glob("*.md")
        if path.stem != "kills"
    }
    assert len(commits) > 8 and len(set(commits.values())) <= 2
    assert commits["seconds"] == commits["speed-mlp"] == commits["speed-cnn"]


def test_pictures_and_files_that_the_readme_names_are_there():
    named = re.findall(r"\]\(([^)]+)\)", README)
    assert len(named) > 8 and all((ROOT / path).exists() for path in named)

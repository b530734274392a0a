"""The README says what bench/results say, and what the program is."""

import re
from pathlib import Path

import pytest

import main
from support.agents import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXT = " ".join(README.split())


def table(name):
    """{first cell: {heading: cell}} of the table in a file of bench/results."""
    lines = (ROOT / "bench" / "results" / f"{name}.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    ruler = next(i for i, row in enumerate(rows) if row[0].startswith("---"))
    return {row[0]: dict(zip(rows[ruler - 1], row)) for row in rows[ruler + 1 :]}


def row(start):
    """The cells of the README's row that starts so."""
    (found,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("| ").split(" | ")]


def weights(**settings):
    settings = main.config() | settings
    for kind in main.settings.kinds_of_agent(settings):
        settings = settings | main.AGENTS.get(kind, {})
    return f"{sum(w.numel() for w in build(settings).parameters()):,}"


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "attention"])
def test_row_of_an_agent_that_thinks(model):
    _, number, after, proved, seconds = row(f"`{model}`")
    assert number == weights(MODEL=model)
    found = table(f"perfect-{model}")
    batches = found["batches to the proof"]
    assert after == f"{batches['median']} ({batches['worst']})"
    text = (ROOT / "bench" / "results" / f"perfect-{model}.md").read_text()
    (each,) = re.findall(r"^proved after batches: (.*)$", text, re.M)
    each = each.split()
    assert proved == f"{sum(batch != 'inf' for batch in each)} of {len(each)}"
    assert found["wrong views at the end"]["worst"] == "0"
    walked = [name for name in found if name.startswith("failures")]
    assert len(walked) > 20 and all(found[name]["worst"] == "0 + 0" for name in walked)
    assert seconds == table("seconds")[f"`python main.py{SETTINGS[model]}`"]["seconds"]


SETTINGS = {"mlp": ""} | {name: f" MODEL={name}" for name in ("linear", "cnn", "attention")}


def seeds(name):
    """How many seeds a table is of, by its command or by the default of its script."""
    text = (ROOT / "bench" / "results" / f"{name}.md").read_text()
    script, told = re.search(r"python bench/(\w+\.py)(.*)", text).groups()
    script = (ROOT / "bench" / script).read_text()
    return (re.search(r"SEEDS=(\d+)", told) or re.search(r"SEEDS=(\d+)", script))[1]


def test_rows_of_the_other_agents():
    plain, window, by_hand = table("plain"), table("window"), table("explorers")
    for size, grid in ("10x10", 10), ("16x16", 16):
        found, number = plain[f"cnn, {size}"], weights(THINK=False, MODEL="cnn", GRID=grid)
        wanted = [number, found["success"], found["seconds"], seeds("plain")]
        assert row(f"plain CNN, {size}")[1:] == wanted
    found = plain["cnn, 16x16"]
    missed, of = re.match(r"([\d,]+) of ([\d,]+),", found["not"]).groups()
    assert f"Of {of} held-out mazes of 16x16 (" in TEXT
    assert f"it walked all but {missed} by a shortest path" in TEXT
    assert f"from any start: {found['31x31']} and {found['32x32']}" in TEXT
    for memory in "none", "trail", "gru", "map":
        found, number = window[f"MEMORY={memory}"], weights(VISION=2, MEMORY=memory)
        wanted = [number, found["success"], found["seconds"], seeds("window")]
        assert number == found["weights"] and row(f"5x5 cells, {memory}")[1:] == wanted
    best = max(cells["success in 100 steps"] for cells in by_hand.values())
    depth_first = by_hand["depth-first search"]["success in 100 steps"]
    assert f"depth-first search {depth_first}, planning on a map {best}." in TEXT


def test_the_ladder():
    rungs = table("ladder")
    assert len(rungs) == 7 and seeds("ladder") == "3" and "(three seeds)" in TEXT
    for name, found in rungs.items():
        assert row(name)[1:] == [found["success"], found["in 31x31"], found["seconds"]]


def test_what_is_turned():
    turned, memory = table("turned-plain"), table("turned-memory")
    for text, name in {
        "after 15,360 episodes its success is {}": "nothing",
        "shown the maze once, not in every round, {}": "the maze is shown once",
        "without a curriculum {}": "CURRICULUM=off",
        "learning Q in steps, not advantages, {}.": "UNIT=q",
    }.items():
        assert text.format(turned[name]["success"]) in TEXT, name
    fades = memory["how lately as 0.9 ** steps"]["success"]
    assert f"falls from {memory['nothing']['success']} to {fades} (two seeds)" in TEXT
    assert seeds("turned-memory") == "2"


def test_the_kills():
    (found,) = table("kills").values()
    runs, kills = found["runs ended"], f"{int(found['kills']):,}"
    none = found["other weights"] == found["an error"] == "0"
    other = "none" if none else found["other weights"]
    assert f"of {runs} runs that ended after kills at random moments, {kills} in all" in TEXT
    assert f"{other} had other weights" in TEXT


def test_what_is_seen():
    lines = re.search(r"ends like this.*:\n\n((?:    .*\n)+)", README)[1].splitlines()
    mazes, batches = f"{main.EVAL_MAZES:,} mazes", table("perfect-mlp")["batches to the proof"]
    assert f"  {int(batches['median']) * main.BSZ:,} episodes  " in lines[0]
    assert lines[0].endswith("success 1.000  wrong views 0") and len(lines) == 5
    assert lines[1] == f"    walking {mazes} that it has never seen, and drawing pictures"
    assert f"on {mazes} it has never seen: success 1.0000, optimal 1.0000, spl 1.0000" in lines[2]
    assert lines[3].startswith("    proved: of the 65,536 different things that a cell can see")
    least, most = re.findall(r"[\d.]+\d", table("seconds")["`python main.py`"]["seconds"])[1:]
    assert float(least) - 1 < float(lines[4].split()[0]) < float(most) + 1


def test_sentences():
    seconds = table("seconds")
    default, yardstick = seconds["`python main.py`"], seconds[f'`python -c "{IMPORTS}"`']
    assert f"trains a network of {weights()} weights in {default['seconds'].split()[0]} s" in TEXT
    assert f'python -c "{IMPORTS}"` alone takes {yardstick["seconds"].split()[0]} s' in TEXT
    assert f"{default['x']} times" in TEXT
    long, million = (
        cells
        for name, cells in seconds.items()
        if name.startswith("`python") and "UNTIL_PROVED=False" in name
    )
    assert f"200,000 episodes at {long['episodes/s']} a second" in TEXT
    assert f"10^6 in {million['seconds']} s" in TEXT
    solved = [cells for name, cells in seconds.items() if name.startswith("`python main.py solve`")]
    for cells in solved:
        size, steps = re.search(r"of (\S+), (\S+) steps", [*cells.values()][0]).groups()
        assert f"{size} in {cells['seconds']} s" in TEXT and f"{steps} steps" in TEXT
    assert len(solved) == 2


IMPORTS = "import torch, matplotlib.pyplot"


def test_pictures_and_files_that_the_readme_names_are_there():
    named = re.findall(r"\]\(([^)]+)\)", README)
    assert len(named) > 8 and all((ROOT / path).exists() for path in named)


def test_commands_of_the_readme_are_taken():
    commands = re.findall(r"^    python main\.py ((?:\w+=\S+ ?)+)", README, re.M)
    assert len(commands) == 5
    for command in commands:
        settings = main.settings.of_run(main.config(), main.AGENTS, command.split())
        main.settings.check(settings)

"""Seven small experiments, to get a feeling for the constants: theory first, then the data.

    python bench/lab.py [FAST=True] [ONLY=credit,farming] [SEEDS=5]

Draws assets/lab.png and writes bench/results/lab.md. Each panel asks a question that a reader of
the constants has, predicts the answer by a formula (dashed), measures it with the program's own
functions, and ends with a sentence to remember. FAST: smaller and with fewer seeds, into OUT_DIR.
ONLY: measures these anew, and takes the others from the last time. Where a first prediction missed
and another one was derived once that was seen, the table has both.
"""

import os
import sys
import textwrap
import time

import torch
from options import HERE, machine
from panels import axes_of, credit, discount, farming, memory, reach, sync, walk

import main
from support.files import replacing
from support.pictures import library, save

PANELS = dict(reach=reach, credit=credit, discount=discount, walk=walk, sync=sync)
PANELS |= dict(memory=memory, farming=farming)
WIDE, DPI, SHARES = 13, 140, ((1, 1), (1, 1.25), (1, 1.15), (1, 1))
STYLE = {f"axes.spines.{side}": False for side in ("top", "right")} | {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "axes.edgecolor": "#888888",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def error(predicted, measured):
    """(measured - predicted) / predicted; 0 inside a predicted (least, greatest)."""
    if isinstance(predicted, tuple):
        predicted = min(max(measured, predicted[0]), predicted[1])
    return (measured - predicted) / predicted


def holds(predicted, measured):
    return abs(error(predicted, measured)) <= (0 if isinstance(predicted, tuple) else 0.2)


def page(path, data):
    with library().rc_context(STYLE):
        figure = library().figure.Figure(figsize=(WIDE, 19.6), facecolor="white")
        rows = figure.subfigures(4, 1)
        places = []
        for row, shares in zip(rows, SHARES):
            wide = [WIDE * share / sum(shares) for share in shares]
            places += zip(row.subfigures(1, len(shares), width_ratios=shares), wide)
        for i, ((name, panel), (place, wide)) in enumerate(zip(PANELS.items(), places)):
            heading(place, wide, f"{i + 1}. {panel.QUESTION}", panel.PREDICTION)
            panel.draw(place, data[name])
            words = textwrap.fill(panel.sentence(data[name]), int(9.9 * wide))
            place.text(0.2 / wide, 0.135, words, va="top", size=11.5, color="#1f3a5f",
                       weight="bold", linespacing=1.25)  # fmt: skip
        score(*places[-1], data)
        save(figure, path, DPI)


def heading(place, wide, question, prediction):
    place.text(0.2 / wide, 0.94, question, size=15, weight="bold")
    place.text(0.2 / wide, 0.885, prediction, size=10.5, color="#666666")


def score(place, wide, data):
    """How well the predictions hold, panel by panel."""
    words = "(measured − predicted) / predicted; green: within 20%; hollow: first prediction"
    heading(place, wide, "Do the predictions hold?", words)
    axes = axes_of(place, 1, room=dict(left=0.18, bottom=0.1, top=0.84))
    for i, (name, panel) in enumerate(PANELS.items()):
        for what, predicted, measured in panel.checks(data[name]):
            off = max(-1, min(1, error(predicted, measured)))
            colour = "#3c8d5a" if holds(predicted, measured) else "#d1495b"
            how = dict(mfc="none" if "first prediction" in what else colour, alpha=0.6, ms=10)
            axes.plot(off, i, "o", mec=colour, clip_on=False, **how)
    axes.axvspan(-0.2, 0.2, color="#3c8d5a", alpha=0.1, lw=0)
    axes.axvline(0, color="black", ls=(0, (4, 2)), lw=1.1)
    axes.set(yticks=range(len(PANELS)), ylim=(len(PANELS) - 0.5, -0.5), xlim=(-1.05, 1.05))
    axes.set_yticklabels([f"{i + 1}. {name}" for i, name in enumerate(PANELS)])
    axes.set_xticks([-1, -0.5, -0.2, 0, 0.2, 0.5, 1])


def table(data, seconds):
    lines = ["| panel | what | predicted | measured | within 20% |"]
    lines.append("| --- | --- | ---: | ---: | --- |")
    for name, panel in PANELS.items():
        for what, predicted, measured in panel.checks(data[name]):
            verdict = "yes" if holds(predicted, measured) else "no"
            ends = predicted if isinstance(predicted, tuple) else [predicted]
            ends = " to ".join(f"{end:.3g}" for end in ends)
            lines.append(f"| {name} | {what} | {ends} | {measured:.3g} | {verdict} |")
    spent = ", ".join(f"{name} {seconds[name]:.0f}" for name in PANELS)
    lines += [""] + [f"{name}: {PANELS[name].MISSES}\n" for name in PANELS
                     if hasattr(PANELS[name], "MISSES")]  # fmt: skip
    return "\n".join([*lines, f"Seconds: {spent}; {sum(seconds.values()):.0f} in all."])


def run(arguments):
    given = dict(argument.split("=") for argument in arguments)
    fast = given.get("FAST") == "True"
    seeds = int(given.get("SEEDS", 2 if fast else 5))
    torch.set_num_threads(1)
    os.makedirs(main.OUT_DIR, exist_ok=True)
    kept = f"{main.OUT_DIR}/lab{'-fast' if fast else ''}.pt"
    data, seconds = torch.load(kept, weights_only=False) if "ONLY" in given else ({}, {})
    for name in given["ONLY"].split(",") if given.get("ONLY") else PANELS:
        if given.get("ONLY") == "none":
            break
        began = time.perf_counter()
        data[name] = PANELS[name].measure(fast, seeds)
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr, flush=True)
        with replacing(kept) as beside:
            torch.save((data, seconds), beside)
    rows = table(data, seconds)
    print(rows)
    page(f"{main.OUT_DIR}/lab.png" if fast else f"{HERE}/../assets/lab.png", data)
    if not fast:
        with replacing(f"{HERE}/results/lab.md") as beside, open(beside, "w") as file:
            command = " ".join(["python bench/lab.py", *arguments])
            note = " Panels that ONLY does not name: from earlier runs." * ("ONLY" in given)
            file.write(f"# lab\n\n    {command}\n\n{machine()}{note}\n\n{rows}\n")


if __name__ == "__main__":
    run(sys.argv[1:])

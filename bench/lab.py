"""Seven small experiments, to get a feeling for the constants: theory first, then the data.

    python bench/lab.py [FAST=True] [ONLY=credit,farming] [SEEDS=5]

Draws assets/lab.png and writes bench/results/lab.md. Each panel asks a question that a reader of
the constants has, predicts the answer by a formula (dashed), measures it with the program's own
functions, and ends with a sentence to remember. FAST: smaller and with fewer seeds, into OUT_DIR.
ONLY: measures these anew, and takes the others from the last time.
"""

import os
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from panels import credit, discount, farming, memory, reach, sync, walk

import main
from support.files import replacing
from support.pictures import pyplot, save

PANELS = dict(reach=reach, credit=credit, discount=discount, walk=walk, sync=sync)
PANELS |= dict(memory=memory, farming=farming)
HERE = os.path.dirname(os.path.abspath(__file__))
STYLE = {
    "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e8e8e8", "axes.edgecolor":
    "#888888", "xtick.color": "#555555", "ytick.color": "#555555", "axes.axisbelow": True,
    "legend.frameon": False, "font.family": "DejaVu Sans",
}  # fmt: skip


def holds(predicted, measured):
    return abs(measured - predicted) <= 0.2 * abs(predicted)


def page(path, data, seconds):
    plt = pyplot()
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(13, 18.6), facecolor="white", layout="constrained")
        rows = figure.subfigures(4, 1, hspace=0.05)
        places = [part for row, widths in zip(rows, ([1, 1], [5, 7], [5, 7], [1, 1]))
                  for part in row.subfigures(1, 2, width_ratios=widths, wspace=0.03)]  # fmt: skip
        for i, ((name, panel), place) in enumerate(zip(PANELS.items(), places)):
            place.suptitle(f"{i + 1}. {panel.QUESTION}", x=0.01, ha="left", weight="bold", size=14)
            panel.draw(place, data[name])
            place.supxlabel(panel.sentence(data[name]), x=0.01, ha="left", size=10.5,
                            color="#1f3a5f", weight="bold")  # fmt: skip
            place.axes[0].annotate(panel.PREDICTION, (0, 1), (0, 22), "axes fraction",
                                   textcoords="offset points", size=9.5, color="#666666")  # fmt: skip
        score(places[-1], data)
        save(figure, path, 140)


def score(place, data):
    """How well the predictions hold, panel by panel."""
    place.suptitle("Do the predictions hold?", x=0.01, ha="left", weight="bold", size=14)
    axes = place.subplots()
    for i, (name, panel) in enumerate(PANELS.items()):
        for _, predicted, measured in panel.checks(data[name]):
            error = max(-1, min(1, (measured - predicted) / predicted))
            colour = "#3c8d5a" if holds(predicted, measured) else "#d1495b"
            axes.plot(error, i, "o", color=colour, alpha=0.6, ms=9, mec="white")
    axes.axvspan(-0.2, 0.2, color="#3c8d5a", alpha=0.1, lw=0)
    axes.axvline(0, color="black", ls=(0, (4, 2)), lw=1.1)
    axes.set(yticks=range(len(PANELS)), ylim=(len(PANELS) - 0.5, -0.5), xlim=(-1.05, 1.05))
    axes.set_yticklabels([f"{i + 1}. {name}" for i, name in enumerate(PANELS)])
    axes.set(xlabel="(measured − predicted) / predicted; green: within 20%")
    axes.set_xticks([-1, -0.5, -0.2, 0, 0.2, 0.5, 1])


def table(data, seconds):
    lines = ["| panel | what | predicted | measured | within 20% |"]
    lines.append("| --- | --- | ---: | ---: | --- |")
    for name, panel in PANELS.items():
        for what, predicted, measured in panel.checks(data[name]):
            verdict = "yes" if holds(predicted, measured) else "no"
            lines.append(f"| {name} | {what} | {predicted:.3g} | {measured:.3g} | {verdict} |")
    spent = ", ".join(f"{name} {seconds[name]:.0f}" for name in PANELS)
    return "\n".join([*lines, "", f"Seconds: {spent}; {sum(seconds.values()):.0f} in all."])


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
    print(table(data, seconds))
    page(f"{main.OUT_DIR}/lab.png" if fast else f"{HERE}/../assets/lab.png", data, seconds)


if __name__ == "__main__":
    run(sys.argv[1:])

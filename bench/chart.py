"""Draws the ablations of bench/results as a bar chart, bench/results/ablations.png.

python bench/chart.py
"""

import os
import sys

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def rows(name):
    """{first cell: other cells} of the last table in a file of bench/results."""
    found = {}
    with open(os.path.join(FOLDER, name)) as file:
        for line in file:
            if line.startswith("| "):
                first, *others = (cell.strip() for cell in line.strip().strip("|").split(" | "))
                found[first] = others
    return found


def draw(path, tables):
    """Success of each row: its median as a bar, its worst seed as a tick."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(14, 6.5))
    for axis, (title, table) in zip(axes, tables.items()):
        names = [name for name in table if name not in ("turned", "---")]
        median, worst = zip(*(map(float, table[n][0].rstrip(")").split(" (")) for n in names))
        place = range(len(names))
        axis.barh(place, median, color=["tab:blue" if m == 1 else "tab:orange" for m in median])
        axis.plot(worst, place, "k|", ms=9, label="worst of three seeds")
        axis.set_yticks(place, names, fontsize=8)
        axis.invert_yaxis()
        axis.set(
            title=title, xlabel="success on held-out mazes, median of three seeds", xlim=(0, 1.03)
        )
        axis.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    tables = {
        "What is built in, taken away": rows("ablations-built-in.md"),
        "One constant turned": rows("ablations-constants.md"),
    }
    draw(os.path.join(FOLDER, "ablations.png"), tables)

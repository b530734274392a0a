"""How do the agents do that see a window of 5x5 cells?

    python bench/window.py [SEEDS=1] [KEY=VALUE ...]

Trains each by its defaults, `python main.py VISION=2 MEMORY=m SEED=s`, a process of its own, timed
whole; 10,000 held-out mazes. Prints median (worst seed) of each figure.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main

AGENTS = ["MEMORY=map", "MEMORY=none", "MEMORY=trail", "MEMORY=gru"]


def run(arguments):
    seeds = next((int(a[6:]) for a in arguments if a.startswith("SEEDS=")), 1)
    others = [a for a in arguments if not a.startswith("SEEDS=")]
    print(
        "| VISION=2 | weights | success | optimal | spl | loops | seconds | seeds |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for agent in AGENTS:
        found = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                command = [
                    sys.executable,
                    main.__file__,
                    "VISION=2",
                    *agent.split(),
                    f"SEED={seed}",
                ]
                subprocess.run(
                    [*command, f"OUT_DIR={out}", *others], check=True, stdout=subprocess.DEVNULL
                )
                with open(os.path.join(out, "summary.json")) as file:
                    found.append(json.load(file))

        def column(name, worst, digits):
            values = [summary[name] for summary in found]
            return f"{statistics.median(values):.{digits}f} ({worst(values):.{digits}f})"

        figures = [column("success", min, 3), column("optimal", min, 3), column("spl", min, 3)]
        figures += [column("loops", max, 3), column("seconds", max, 0)]
        print(f"| {agent} | {found[0]['params']:,} | {' | '.join(figures)} | {seeds} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])

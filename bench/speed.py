"""How long does each stage of a batch take, alone, and how does thinking grow?

    python bench/speed.py [BSZ=n and other KEY=VALUE of main.py]

The agent is that of a default run, proved. "default" mazes: as in the third batch of a default run,
at level 0.2 of the curriculum; "perfect": at level 1, and with all their walls. Each stage is of
BSZ episodes, but for "evaluate": of EVAL_MAZES held-out mazes. Times are medians of seven.
"""

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
import maze
import model
from support import agents, files, process, report, settings
from support.learning import Adam


def timed(run, repeats=7):
    """Median seconds of run(), after one run to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def proved_agent(device):
    """The agent that `python main.py` leaves: an untrained one thinks differently."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, main.__file__, f"OUT_DIR={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return files.load_checkpoint(f"{folder}/checkpoint.pt", device)[0]


def stages(agent, device, level, fewest=0.0):
    """{stage: (seconds, how many mazes)}, at this level of the curriculum.

    fewest: the least share of walls kept.
    """
    main.DIFFICULTY_MIN = fewest
    b, generator = main.BSZ, torch.Generator(device).manual_seed(0)
    cache = maze.make_mazes(b, main.GRID, torch.Generator().manual_seed(0)).to(device)
    farthest = 1 + round(level * (main.MAX_START_DISTANCE - 1))
    drawing = cache, b, level, farthest, generator
    mazes = main.draw(*drawing)
    thought = agent.change, mazes.walls, mazes.goal, 8 + 2 * farthest
    sight = agent.begin(mazes, farthest)
    epsilon = main.EPSILON * torch.linspace(0, 1, b, device=device) ** main.EPSILON_SHAPE
    acting = agent, mazes, main.MAX_EP_LENGTH, epsilon, generator, farthest
    episodes, _ = main.rollout(*acting)
    table = maze.move_table(mazes, sight.greedy())
    choices = torch.full((main.MAX_EP_LENGTH, b), 4, dtype=torch.int32, device=device)
    learning = copy.deepcopy(agent)
    optimizer = Adam(learning.parameters(), 1e-9, main.GRAD_CLIP)
    learner = main.Learner(learning, copy.deepcopy(agent), optimizer, None, generator)
    held_out = report.test_set(
        main.config(), maze.make_mazes(main.EVAL_MAZES, main.GRID, generator)
    )
    runs = {
        "generate": lambda: maze.make_mazes(b, main.GRID, torch.Generator().manual_seed(0)),
        "draw": lambda: main.draw(*drawing),
        "think, dense": lambda: model.think(*thought),
        "think, lazy": lambda: agents.think_lazily(*thought),
        "move table": lambda: maze.move_table(mazes, sight.greedy()),
        "walk": lambda: maze.walk(table, mazes.start, choices),
        "roll out, with thinking": lambda: main.rollout(*acting),
        "learn": lambda: main.learn(learner, episodes, 0.0, farthest),
        "ask the core for the table": lambda: agent.eval(),
        "exact distances": lambda: maze.distances(mazes.walls, mazes.goal),
    }
    found = {name: (timed(run), b) for name, run in runs.items()}
    found["evaluate"] = timed(lambda: main.evaluate(agent, *held_out), 1), main.EVAL_MAZES
    return found


def growth(agent, device, sizes):
    """A row for each (GRID, BSZ): thinking about perfect mazes to its end, dense and lazy."""
    columns = "GRID | BSZ | open cells | longest way | dense, us a maze | lazy, us a maze"
    print(f"| {columns} | ratio | lazy, ns a cell |\n|{' ---: |' * 8}")
    for grid, b in sizes:
        generator = torch.Generator().manual_seed(0)
        packed = maze.make_mazes(b, grid, generator)
        mazes = maze.draw(packed, grid, 1.0, grid * grid, "random", generator).to(device)
        longest = int(maze.distances(mazes.walls, mazes.goal).max())
        thought = agent.change, mazes.walls, mazes.goal, grid * grid
        both = model.think, agents.think_lazily
        dense, fast = (timed(lambda: think(*thought), 3) / b for think in both)
        cells = int((~mazes.walls).sum()) / b
        sizes = f"{grid} | {b:,} | {cells:,.0f} | {longest:,} | {dense * 1e6:,.0f}"
        ratios = f"{fast * 1e6:,.0f} | {dense / fast:.1f} | {fast / cells * 1e9:,.0f}"
        print(f"| {sizes} | {ratios} |", flush=True)


SIZES = [(8, 1024), (16, 1024), (32, 256), (64, 64), (128, 16)]
SIZES += [(16, b) for b in (64, 256, 4096, 16384)]


def run(arguments):
    before = main.config()
    try:
        vars(main).update(settings.of_run(before, main.AGENTS, arguments))
        settings.check(main.config())
        device = process.pick_device(main.DEVICE, main.THREADS)
        agent = proved_agent(device)
        print(f"on {device}, {torch.get_num_threads()} threads; {main.BSZ:,} episodes a batch\n")
        default, perfect = (stages(agent, device, *how) for how in ((0.2, 0.0), (1.0, 1.0)))
        print(
            "| stage | default, ms | perfect, ms | perfect, mazes/s |\n| --- | ---: | ---: | ---: |"
        )
        for name, (spent, mazes) in perfect.items():
            ms = default[name][0] * 1e3
            print(f"| {name} | {ms:.1f} | {spent * 1e3:.1f} | {mazes / spent:,.0f} |")
        ratios = (x["think, dense"][0] / x["think, lazy"][0] for x in (default, perfect))
        print("\nlazy thinking is {:.1f} and {:.1f} times as fast as dense\n".format(*ratios))
        growth(agent, device, SIZES)
    finally:
        vars(main).update(before)


if __name__ == "__main__":
    run(sys.argv[1:])

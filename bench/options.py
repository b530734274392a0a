"""What the scripts beside this one share: their command lines, how they train, what they print.

python bench/options.py     prints commit, day and machine, as they stand above each table
"""

import contextlib
import datetime
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import main
import maze
from support import settings

FOLDER = tempfile.TemporaryDirectory()  # of all runs, so that they share their mazes


def split(arguments, **defaults):
    """({name: number}, the other arguments): NAME=number replaces one of `defaults`."""
    options, others = defaults, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in options:
            options[name] = int(value)
        else:
            others.append(argument)
    return options, others


@contextlib.contextmanager
def constants(*words):
    """main.py's constants as if these KEY=VALUE stood on the command line."""
    before = main.config()
    try:
        words = [word for part in words for word in part.split()]
        words = [f"OUT_DIR={FOLDER.name}", "DEVICE=cpu", *words]
        vars(main).update(settings.of_run(before, main.AGENTS, words))
        settings.check(main.config())
        yield
    finally:
        vars(main).update(before)


def train():
    """(network, record, held-out mazes) of `main.train` with the constants as they stand."""
    with contextlib.redirect_stdout(io.StringIO()):
        network, record, _, held_out = main.train(torch.device("cpu"))
    return network, record, held_out


@contextlib.contextmanager
def trained(*words):
    """What `train` makes with these `constants`, which hold until the end of the `with` block."""
    with constants(*words):
        yield train()


@contextlib.contextmanager
def replaced(place, name, thing):
    """`thing` in place of what is there: an attribute of a module, or an entry of a dictionary."""
    there = place if isinstance(place, dict) else vars(place)
    before = there[name]
    there[name] = thing
    try:
        yield
    finally:
        there[name] = before


def own(n, grid, difficulty, seed, farthest=None):
    """n of the program's own mazes, starts at most that far, or at any distance."""
    generator = torch.Generator().manual_seed(seed)
    packed = maze.make_mazes(n, grid, generator)
    return maze.draw(packed, grid, difficulty, farthest or grid * grid, "random", generator)


def median(values, worst, digits):
    """How a table says what the seeds gave: median (worst). worst: min or max."""
    return f"{statistics.median(values):.{digits}f} ({worst(values):.{digits}f})"


def machine():
    """The line above every table."""
    ask = dict(capture_output=True, text=True, cwd=HERE)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **ask).stdout.strip()
    with open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else io.StringIO() as file:
        names = [line.split(": ")[1].strip() for line in file if line.startswith("model name")]
    what = f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"
    return f"Commit {commit}, {datetime.date.today()}, {what}, torch {torch.__version__}."


if __name__ == "__main__":
    print(machine())

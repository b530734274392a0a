"""What the scripts beside this one take on their command lines, and how they train."""

import contextlib
import io
import os
import sys
import tempfile

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import main
from support import settings


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
def trained(*arguments):
    """Trains by these KEY=VALUE: (network, record, held-out mazes); main's constants until the end
    of the `with` block are those of the run."""
    before = main.config()
    try:
        with tempfile.TemporaryDirectory() as folder:
            own = [f"OUT_DIR={folder}", "DEVICE=cpu", *arguments]
            vars(main).update(settings.of_run(before, main.AGENTS, own))
            settings.check(main.config())
            with contextlib.redirect_stdout(io.StringIO()):
                network, record, _, held_out = main.train(torch.device("cpu"))
        yield network, record, held_out
    finally:
        vars(main).update(before)


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

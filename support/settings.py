"""The constants of main.py, as the command line turns them: read, checked, or refused in one line.

`settings` is a dictionary: the name of each constant and its value.
"""
import difflib
import os

import torch

from maze import UserError
from model import CORES
from support.window import MEMORIES

WHOLE = ("GRID MAX_START_DISTANCE MAZE_CACHE_SIZE WIDTH LOOKS VISION UPDATES TARGET_SYNCS REPLAY_SIZE "
         "NUM_EPISODES BSZ MAX_EP_LENGTH SEED THREADS EVAL_MAZES EVAL_SAMPLE EVAL_EVERY").split()
CHOICES = dict(GOAL=("random", "corner"), MODEL=tuple(CORES), MEMORY=MEMORIES,
               REPLAY=("off", "uniform", "prioritized"), SHAPING=("none", "manhattan", "oracle"),
               CURRICULUM=("adaptive", "linear", "off"))
HELD_OUT_SEED = 2 ** 32 - 1  # of the held-out mazes; greater than any SEED


def kind_of_agent(settings):
    """The network by its MODEL, if it sees the whole maze; else "map" or "window"."""
    if not settings["VISION"]:
        return settings["MODEL"]
    return "map" if settings["MEMORY"] == "map" else "window"


def of_agent(by_agent, settings):
    """{name: value}: for each constant of `by_agent`, its value for the agent that the settings ask
    for; "mlp" stands for agents that are not named."""
    kind = kind_of_agent(settings)
    return {name: values.get(kind, values["mlp"]) for name, values in by_agent.items()}


def override(settings, by_agent, arguments):
    """The settings after KEY=VALUE arguments. Constants of `by_agent` that are not given, and have not
    been changed, take the value of the agent that the arguments ask for."""
    given = dict(read(settings, argument) for argument in arguments)
    old, new = of_agent(by_agent, settings), of_agent(by_agent, settings | given)
    return settings | {name: new[name] for name in new if settings[name] == old[name]} | given


def read(settings, argument):
    """(name, value) of a KEY=VALUE argument; the value has the type of the constant."""
    name, equals, text = argument.partition("=")
    if not argument.isprintable():
        raise UserError(f"{argument!r} has a character in it that can't be shown")
    if not equals:
        raise UserError(f"{argument!r} is not understood: write KEY=VALUE, as in SEED=3, or solve FILE")
    if name not in settings:
        near = difflib.get_close_matches(name.upper(), settings, 1)
        hint = f": did you mean {near[0]}?" if near else "; they are at the top of main.py"
        raise UserError(f"there is no constant {name!r}{hint}")
    old = settings[name]
    try:
        if isinstance(old, str):
            return name, text
        if isinstance(old, bool):
            return name, {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(old, float):
            return name, float(text)
        # 1e6 is a whole number, too; and a constant that is written as 0 here may become 0.01.
        whole = text.lstrip("+-").replace("_", "").isdigit()
        number = int(text) if whole else float(text)
        if abs(number) >= 2 ** 63:
            raise OverflowError
        return name, int(number) if number == int(number) else number
    except (ValueError, KeyError, OverflowError):
        wanted = "True or False" if isinstance(old, bool) else "a number"
        wanted = "a whole number" if name in WHOLE else wanted
        raise UserError(f"{name}={text} is not {wanted}: the default is {old}") from None


def check(settings, processes=1):
    """Refuses settings that are out of range, or don't go together, before anything is written."""
    def must(name, right, wanted):
        if not right:
            raise UserError(f"{name}={settings[name]} is out of range: it must be {wanted}")

    def between(low, high, names, wanted):
        for name in names.split():
            must(name, low <= settings[name] <= high, wanted)

    s = settings
    for name in WHOLE:
        must(name, isinstance(s[name], int), "a whole number")
    for name, choices in CHOICES.items():
        must(name, s[name] in choices, " or ".join(choices))
    between(5, 256, "GRID", "a whole number from 5 to 256")
    between(0, 1, "DIFFICULTY DIFFICULTY_MIN LAMBDA LR_DECAY EPSILON CURRICULUM_SUCCESS "
            "PRIORITY_ALPHA PRIORITY_BETA", "from 0 to 1")
    between(0, s["DIFFICULTY"], "DIFFICULTY_MIN", f"at most DIFFICULTY={s['DIFFICULTY']}")
    between(1e-300, 1, "CURRICULUM_STEP CURRICULUM_SHARE", "over 0 and at most 1")
    between(1e-300, 1e300, "LR HUBER GRAD_CLIP EPSILON_SHAPE", "a number over 0")
    between(1, 2 ** 31 - 1, "MAX_START_DISTANCE MAZE_CACHE_SIZE UPDATES TARGET_SYNCS REPLAY_SIZE "
            "NUM_EPISODES BSZ MAX_EP_LENGTH EVAL_MAZES EVAL_SAMPLE EVAL_EVERY",
            "a whole number over 0 and under 2^31")
    between(0, 2 ** 31 - 1, "WIDTH LOOKS", "0, or a whole number under 2^31")
    between(0, s["GRID"] - 1, "VISION", f"from 0 to {s['GRID'] - 1}")
    between(0, 1e300, "NOVELTY", "0 or more")
    between(0, 1024, "THREADS", "0 or a number of threads, at most 1024")
    between(0, HELD_OUT_SEED - 1, "SEED", f"a whole number from 0 to {HELD_OUT_SEED - 1}")
    must("GAMMA", 0 < s["GAMMA"] < 1, "over 0 and under 1")
    must("PLOT_EVERY", s["PLOT_EVERY"] > 0, "a number of seconds over 0")
    must("UPDATES", s["UPDATES"] * processes <= s["BSZ"],
         f"at most BSZ={s['BSZ']}, in each process: each update needs an episode")
    must("BSZ", s["BSZ"] % processes == 0, f"a multiple of the {processes} processes")
    must("REPLAY_SIZE", s["REPLAY"] == "off" or s["REPLAY_SIZE"] >= s["BSZ"],
         f"at least BSZ={s['BSZ']}: a batch must fit in")
    plot = s["PLOT_FILE"]
    must("PLOT_FILE", not plot or os.path.basename(plot) and not os.path.isdir(plot)
         and os.path.isdir(os.path.dirname(plot) or "."), "a file in a folder that exists")
    kind = kind_of_agent(s)
    for wrong, message in (
            (not s["VISION"] and s["MEMORY"] != "none",
             f"MEMORY={s['MEMORY']} needs VISION: without it the agent sees the whole maze; choose "
             "VISION=2, or MEMORY=none"),
            (not s["VISION"] and not s["COMPASS"],
             "COMPASS=False needs VISION: without it the agent sees the goal itself; choose VISION=2, "
             "or COMPASS=True"),
            (kind == "map" and not s["COMPASS"],
             "MEMORY=map needs COMPASS=True, to know where on the map the goal is"),
            (kind == "window" and s["MODEL"] != "mlp",
             f"VISION={s['VISION']} with MODEL={s['MODEL']} makes no sense: choose MODEL=mlp, or "
             "MEMORY=map"),
            (kind != "window" and s["SHAPING"] != "none",
             f"SHAPING={s['SHAPING']} does nothing for a network that thinks: a potential in the reward "
             "only shifts the Q that learning starts from (Wiewiora 2003), and its values start at the "
             "goal; choose SHAPING=none, or VISION=2"),
            (kind != "window" and s["NOVELTY"],
             f"NOVELTY={s['NOVELTY']} pays for where an agent has been, which a network that thinks does "
             "not see: choose NOVELTY=0, or VISION=2 with MEMORY=trail"),
            (s["RESUME"] and processes > 1 and s["REPLAY"] != "off",
             f"RESUME=True with {processes} processes and REPLAY={s['REPLAY']}: a checkpoint holds the "
             "memory of the first process alone; choose REPLAY=off, or one process")):
        if wrong:
            raise UserError(message)


def pick_device(name, threads, local_rank=None):
    """The torch device of this name; "auto": a CUDA GPU where there is one. threads: of the CPU."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":  # not mps: operations as small as these wait for it
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"DEVICE={name} can't be used here: choose auto or cpu") from None
    return device

"""The constants of main.py, as the command line turns them: read, checked, or refused in one line.

`settings` is a dictionary: the name of each constant and its value.
"""

import difflib
import os

from model import CORES
from support.agents import MEMORIES
from support.plain import NETWORKS
from support.process import UserError

WHOLE = (
    "GRID MAX_START_DISTANCE MAZE_CACHE_SIZE WIDTH LOOKS VISION UPDATES TARGET_SYNCS REPLAY_SIZE "
    "NUM_EPISODES BSZ MAX_EP_LENGTH SEED THREADS EVAL_MAZES EVAL_SAMPLE EVAL_EVERY"
).split()
CHOICES = dict(
    GOAL=("random", "corner"),
    MODEL=tuple({**CORES, **NETWORKS}),
    CREDIT=("step", "lambda", "episode"),
    UNIT=("q", "advantage"),
    MEMORY=(*MEMORIES, "map"),
    REPLAY=("off", "uniform", "prioritized"),
    SHAPING=("none", "manhattan", "oracle"),
    CURRICULUM=("adaptive", "linear", "off"),
)
# Names, the least and the greatest value, what is wanted.
RANGES = (
    ("GRID", 5, 256, "a whole number from 5 to 256"),
    ("DIFFICULTY DIFFICULTY_MIN LAMBDA LR_DECAY EPSILON", 0, 1, "from 0 to 1"),
    ("CURRICULUM_SUCCESS PRIORITY_ALPHA PRIORITY_BETA", 0, 1, "from 0 to 1"),
    ("CURRICULUM_STEP CURRICULUM_SHARE", 1e-300, 1, "over 0 and at most 1"),
    ("LR HUBER GRAD_CLIP EPSILON_SHAPE", 1e-300, 1e300, "a number over 0"),
    ("GAMMA", 1e-6, 1, "from 1e-6 to 1"),
    ("STEP_REWARD", -1e6, 0, "from -1e6 to 0"),
    ("GOAL_REWARD NOVELTY", 0, 1e6, "from 0 to 1e6"),
    ("MAX_START_DISTANCE MAZE_CACHE_SIZE UPDATES TARGET_SYNCS REPLAY_SIZE NUM_EPISODES BSZ "
     "MAX_EP_LENGTH EVAL_MAZES EVAL_SAMPLE EVAL_EVERY", 1, 2**31 - 1,
     "a whole number over 0 and under 2^31"),
    ("WIDTH", 1, 2**14, f"a whole number from 1 to {2**14}"),
    ("LOOKS", 0, 2**31 - 1, "0, or a whole number under 2^31"),
    ("THREADS", 0, 1024, "0 or a number of threads, at most 1024"),
    ("SEED", 0, 2**32 - 2, f"a whole number from 0 to {2**32 - 2}"),
)  # fmt: skip
HELD_OUT_SEED = 2**32 - 1  # of the held-out mazes; greater than any SEED


def kinds_of_agent(settings):
    """The kinds of agent that these settings ask for, as AGENTS in main.py names them."""
    if not settings["THINK"] and not settings["VISION"]:
        return [f"plain {settings['MODEL']}"]
    thinks = f"thinks {settings['MODEL']}"
    if not settings["VISION"]:
        return [thinks]
    memory = settings["MEMORY"]
    return [thinks, "map"] if memory == "map" else ["window", f"window {memory}"]


def of_run(settings, agents, arguments):
    """The settings of a run: the command line beats `agents`, which beats main.py's constants."""
    given = dict(read(settings, argument) for argument in arguments)
    own = {}
    for kind in kinds_of_agent(settings | given):
        own |= agents.get(kind, {})
    found = settings | own | given
    paths = "OUT_DIR", "CHECKPOINT", "PLOT_FILE"
    return found | {name: os.path.expanduser(found[name]) for name in paths}


def verb_of(arguments):
    """What a command line asks for: "train", "solve" or "prove"."""
    return arguments[0] if arguments[:1] in (["solve"], ["prove"]) else "train"


def split(arguments, usage="", solving=""):
    """(the files to solve, KEY=VALUE arguments, {"start": "y,x", "goal": "y,x", "wall": what} as
    far as given) of a command line.

    Who asks for help gets `usage`, or how `solve` is used, and the program ends.
    """
    verb = verb_of(arguments)
    if arguments[:1] == ["help"] or {"-h", "--help"} & set(arguments):
        print((solving if verb == "solve" else usage).strip())
        raise SystemExit(0)
    if verb == "train":
        return [], arguments, {}
    files, given, told = [], [], {}
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        constant = name.isidentifier() and (name.isupper() or not os.path.exists(argument))
        if verb == "solve" and equals and name in ("START", "GOAL", "WALL"):
            if not value:
                raise UserError(f"{argument} says nothing: write START=y,x GOAL=y,x WALL=0")
            told[name.lower()] = value
        elif verb == "solve" and not (equals and constant):
            files.append(argument)
        else:
            given.append(argument)
    if verb == "solve" and not files:
        raise UserError("solve what? Write: python main.py solve FILE")
    return files, given, told


def read(settings, argument):
    """(name, value) of a KEY=VALUE argument; the value has the type of the constant."""
    name, equals, text = argument.partition("=")
    if not argument.isprintable():
        raise UserError(f"{argument!r} has a character in it that can't be shown")
    if not equals:
        raise UserError(
            f"{argument!r} is not understood: write KEY=VALUE, as in SEED=3, or solve FILE, or "
            "prove"
        )
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
        if abs(number) >= 2**63:
            raise OverflowError
        return name, int(number) if number == int(number) else number
    except (ValueError, KeyError, OverflowError):
        wanted = "True or False" if isinstance(old, bool) else "a number"
        wanted = "a whole number" if name in WHOLE else wanted
        raise UserError(f"{name}={text} is not {wanted}: the default is {old}") from None


def check(settings):
    """Refuses settings that are out of range, or don't go together, before anything is written."""
    s, bsz = settings, settings["BSZ"]

    def require(name, right, wanted):
        if not right:
            raise UserError(f"{name}={s[name]} is out of range: it must be {wanted}")

    for names, least, most, wanted in RANGES:
        for name in names.split():
            require(name, least <= s[name] <= most, wanted)
    for name in WHOLE:
        require(name, isinstance(s[name], int), "a whole number")
    for name, few in CHOICES.items():
        require(name, s[name] in few, " or ".join(few))
    most = f"at most DIFFICULTY={s['DIFFICULTY']}"
    require("DIFFICULTY_MIN", s["DIFFICULTY_MIN"] <= s["DIFFICULTY"], most)
    require("VISION", 0 <= s["VISION"] < s["GRID"], f"from 0 to {s['GRID'] - 1}")
    require("OUT_DIR", s["OUT_DIR"], "the name of a folder")
    require("MAZE_CACHE_FILE", s["MAZE_CACHE_FILE"], "the name of a file")
    require("PLOT_EVERY", s["PLOT_EVERY"] > 0, "a number of seconds over 0")
    most = f"at most {bsz}, as BSZ={bsz}: each learns from episodes of its own"
    require("UPDATES", s["UPDATES"] <= bsz, most)
    plot = s["PLOT_FILE"]
    require("PLOT_FILE", not plot or can_be_file(plot, s), "a file in a folder that exists")
    fits = s["REPLAY"] == "off" or s["REPLAY_SIZE"] >= bsz
    require("REPLAY_SIZE", fits, f"at least BSZ={bsz}: a batch must fit in")
    check_together(s)


def can_be_file(path, settings):
    folder, name = os.path.split(path)
    made = os.path.normpath(folder) == os.path.normpath(settings["OUT_DIR"])  # by the run itself
    return name and not os.path.isdir(path) and (made or os.path.isdir(folder or "."))


def check_together(s):
    """Refuses settings that don't go together."""
    window = bool(s["VISION"]) and s["MEMORY"] != "map"
    thinks = s["MEMORY"] == "map" if s["VISION"] else s["THINK"]
    names = CORES if thinks else NETWORKS
    if not window and s["MODEL"] not in names:
        whose = "an agent that thinks" if thinks else "THINK=False"
        raise UserError(f"MODEL={s['MODEL']} is not for {whose}: choose {' or '.join(names)}")
    if not thinks and s["STEP_REWARD"] == 0 and (s["GAMMA"] == 1 or s["GOAL_REWARD"] == 0):
        problem = "near and far goals are worth the same"
        raise UserError(f"STEP_REWARD=0: {problem}; choose GAMMA=0.98 and GOAL_REWARD=1")
    no_rounds = not thinks and not window and s["MODEL"] == "mlp"
    for whose, holds, otherwise, rules in (
        ("an agent that thinks", thinks, "THINK=False, or VISION=2", THINKS_WITH),
        ("UNIT=advantage", s["UNIT"] == "advantage", "UNIT=q", ADVANTAGE_WITH),
        ("CREDIT=episode", s["CREDIT"] == "episode", "CREDIT=step UNIT=q", EPISODE_WITH),
        (f"CREDIT={s['CREDIT']}", s["CREDIT"] != "lambda", "CREDIT=lambda", NO_LAMBDA_WITH),
        ("VISION=0", not s["VISION"], "VISION=2", WHOLE_WITH),
        ("a window", window, "MEMORY=map", WINDOW_WITH),
        ("MEMORY=map", s["MEMORY"] == "map", "MEMORY=trail", MAP_WITH),
        ("a plain MLP", no_rounds, "MODEL=cnn", MLP_WITH),
    ):
        for name, value, why in rules if holds else ():
            if s[name] != value:
                what = f"{name}={s[name]} is not for {whose}: {why}"
                raise UserError(f"{what}; choose {name}={value}, or {otherwise}")
    if s["SHAPING"] != "none" and s["GAMMA"] == 1:
        problem = "with GAMMA=1 its potential, GAMMA^(d - 1), is the same everywhere"
        raise UserError(f"SHAPING={s['SHAPING']}: {problem}; choose GAMMA=0.98")


# What has only one meaning for some agents, and why.
THINKS_WITH = (
    ("STEP_REWARD", -1.0, "its values are whole steps, and a step costs 1"),
    ("GOAL_REWARD", 0.0, "the value of the goal, 0, is where its thinking begins"),
    ("GAMMA", 1.0, "its values are numbers of steps, which nothing discounts"),
    ("CREDIT", "step", "thinking carries the value of the goal to every cell, so the next cell "
     "says all there is to know, and a return over several steps adds nothing that a look can see"),
    ("UNIT", "q", "it learns Q - V of a look as it is"),
    ("DOUBLE", False, "its value of the next cell comes from thinking, not from the greatest of "
     "several uncertain estimates"),
    ("SHAPING", "none", "a potential in the reward only shifts the values that learning starts "
     "from (Wiewiora 2003), and a look sees differences of values"),
    ("NOVELTY", 0.0, "it pays for where an agent has been, which a cell does not see"),
)  # fmt: skip
ADVANTAGE_WITH = (
    ("CREDIT", "episode", "a network that says advantages only has no V to learn from"),
    ("STEP_REWARD", -1.0, "advantages are steps lost, and a step costs 1"),
    ("GOAL_REWARD", 0.0, "advantages are steps lost, and a step costs 1"),
    ("GAMMA", 1.0, "numbers of steps are not discounted"),
    ("SHAPING", "none", "a potential in the reward would be cut off with the advantage"),
)
EPISODE_WITH = (
    ("TARGET_SYNCS", 1, "it asks no target network"),
    ("DOUBLE", False, "it asks no target network"),
    ("NOVELTY", 0.0, "what a first visit pays is no property of the move, but of the way"),
)
NO_LAMBDA_WITH = (("LAMBDA", 0.9, "it acts with CREDIT=lambda only"),)
WHOLE_WITH = (
    ("MEMORY", "none", "the agent sees the whole maze"),
    ("COMPASS", True, "the agent sees the goal itself"),
)
WINDOW_WITH = (
    ("MODEL", "mlp", "it is the one network there is"),
    ("LOOKS", 0, "it does not think"),
)
MAP_WITH = (("COMPASS", True, "it must know where on its map the goal is"),)
MLP_WITH = (("LOOKS", 0, "it has no rounds"),)


def plot_file(settings, defaults):
    """Where the plot goes: only a run with main.py's own constants replaces training_plot.png."""
    same = all(value == defaults[name] for name, value in settings.items() if name != "RESUME")
    folder = "" if same else settings["OUT_DIR"]
    return settings["PLOT_FILE"] or os.path.join(folder, "training_plot.png")

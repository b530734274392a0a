"""A command and its machine: device, lock, signals, what is said and written, how it ends."""

import contextlib
import os
import re
import shutil
import signal
import sys

import torch

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


def pick_device(name, threads):
    """The torch device of this name; "auto": a CUDA GPU where there is one. threads: of the CPU."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":  # not mps: operations as small as these wait for it
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"DEVICE={name} can't be used here: choose auto or cpu") from None
    return device


@contextlib.contextmanager
def lock(folder):
    """Holds `folder` for this run; a second one is refused. The lock ends with the process."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            message = "wait for it, or choose another OUT_DIR"
            raise UserError(f"another run writes to OUT_DIR={folder}: {message}") from None
        except (ImportError, OSError):  # Windows, and some file systems, have no such locks: there,
            pass  # two runs are the user's care
        for name in os.listdir(folder):
            if re.fullmatch(r".+\.(pt|npz|csv|json|png|gif)\.\d+\.part", name):
                os.remove(os.path.join(folder, name))  # a killed run left it half written
        yield


@contextlib.contextmanager
def stop_on_signal():
    """Yields a function: the exit status, 128 + the signal that asked the run to end; or 0.

    Ctrl-C or SIGTERM once more ends it at once; SIGHUP, which a closed terminal sends twice, never.
    """
    asked, before = [], {}

    def ask(number, frame):
        asked.append(128 + number)
        if number != HANGUP:
            for each in {signal.SIGINT, signal.SIGTERM} & before.keys():
                signal.signal(each, before[each])
        # A print in the midst of another print would raise.
        with contextlib.suppress(OSError):
            os.write(1, b"\nstopping once this batch or evaluation is done; once more: at once\n")

    with contextlib.suppress(ValueError):  # not the main thread: signals are someone else's
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants
                before[number] = signal.signal(number, ask)
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        say("", end="")  # ends a line that waits to be replaced
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------
# What is said

passing = False  # whether the last line on the terminal waits to be replaced


def columns():
    """How wide the terminal is that the run speaks to; 0: it speaks to a file, or to nobody."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    except (AttributeError, ValueError):  # there is no stdout, or it is closed, or odd
        return 0


def say(text, end="\n", replaced=False):
    """Prints a line, if anybody listens; what can't be encoded, escaped.

    replaced: on a terminal the next such line takes its place.
    """
    global passing
    width, encoding = columns() if replaced else 0, getattr(sys.stdout, "encoding", None) or "utf-8"
    text = ("\r" if width else "\n" * passing) + text.ljust(width - 1)
    text, passing = text.encode(encoding, "backslashreplace").decode(encoding), width > 0
    try:
        print(text, end="" if width else end, flush=True)
    except (OSError, ValueError):  # gone: the `tee` of `python main.py | tee log`, or the terminal
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def replacing(path):
    """Gives a path to write to, and renames it to `path` when it is whole."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        error.filename = path  # a disk that is full does not say whose file it was
        raise
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def attempt(path, function, *arguments) -> bool:
    """Calls a function that writes `path`. If it can't, that is a warning: it ends no run."""
    try:
        function(*arguments)
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        say(f"warning: {path} could not be written: {' '.join(reason.split())}")
        return False
    return True


# --------------------------------------------------------------------------------------------------


class UserError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what would be right."""


def exit_status(command, settings, verb):
    """What command() returns, or 0; or 2, and one line on what went wrong, if that is for the user.

    settings(): main.py's constants as they stand. verb: "train", "solve" or "prove".
    """
    status = 2
    try:
        return command() or 0
    except UserError as error:
        message = str(error)
    except OSError as error:
        place, why = error.filename or "a file", error.strerror or error
        message = f"{place} can't be read or written: {why}"
    except (MemoryError, RuntimeError) as error:
        lacking = "out of memory", "not enough memory", "allocate memory", "ALLOC_FAILED"
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in lacking):
            raise
        names = "BSZ", "GRID", "MAZE_CACHE_SIZE", "REPLAY_SIZE", "EVAL_MAZES"
        now = ", ".join(f"{name} (now {settings()[name]})" for name in names)
        cure = f"lower one of {now}" if verb == "train" else f"it is too much for {verb}"
        message = f"memory ran out: {cure}"
    except KeyboardInterrupt:
        message = "stopped at once" if verb == "train" else f"{verb} was stopped"
        status = 130
        path = os.path.join(settings()["OUT_DIR"], "checkpoint.pt")
        if verb == "train" and os.path.exists(path):
            message += f"; the last checkpoint, {path}, is whole: go on with RESUME=True"
    print(f"error: {message}", file=sys.stderr)
    return status


def profiled(function, path):
    """function(), under cProfile: prints the 30 slowest calls, saves all to `path`."""
    import cProfile
    import pstats

    calls = cProfile.Profile()
    result = calls.runcall(function)
    with replacing(path) as beside:
        calls.dump_stats(beside)
    pstats.Stats(calls).sort_stats("cumulative").print_stats(30)
    return result

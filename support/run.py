"""A run, from its lock to its last line: several processes, signals, saving, resuming, progress."""
import contextlib
import csv
import os
import signal
import sys

import torch
import torch.distributed

from maze import UserError, replacing
from support.checkpoint import load_checkpoint, save_checkpoint

# Set by torchrun: which process this is, and of how many.
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
# What a run may be resumed with, though it was begun with other values.
FREE = ("RESUME OUT_DIR PLOT_FILE PLOT_EVERY DEVICE THREADS CHECKPOINT PROFILE NUM_EPISODES "
        "EVAL_MAZES").split()


def all_reduce_sum(x):
    """x, in place, summed over the processes of the run."""
    if WORLD > 1:
        try:
            torch.distributed.all_reduce(x)
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            raise UserError(f"process {RANK} of {WORLD} lost the others: one of them has ended. The "
                            "last checkpoint is whole: go on with RESUME=True") from error
    return x


def any_process(asked, device):
    """Whether this is true in any of the processes."""
    return asked if WORLD == 1 else all_reduce_sum(torch.tensor(int(asked), device=device)).item() > 0


@contextlib.contextmanager
def processes(device):
    """Joins the processes that torchrun started. The first one evaluates and writes the files."""
    if WORLD > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        if WORLD > 1:
            torch.distributed.destroy_process_group()


@contextlib.contextmanager
def lock(folder):
    """Holds `folder` for this run; a second one in it is refused. The lock ends with the process."""
    if RANK:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows: there, two runs are the user's care
            pass
        except BlockingIOError:
            raise UserError(f"another run writes to OUT_DIR={folder}: wait for it, or choose another "
                            "OUT_DIR") from None
        for name in os.listdir(folder):
            if name.endswith(".part"):  # a killed run left it half written
                os.remove(os.path.join(folder, name))
        yield


@contextlib.contextmanager
def stop_on_signal():
    """Yields a function: whether Ctrl-C or SIGTERM asked the run to end. The second one ends it."""
    asked = []

    def ask(number, frame):
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        # A print in the midst of another print would raise.
        os.write(1, b"\nstopping once this batch or evaluation is done; once more: at once\n")

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: signals are someone else's
        pass
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_aside(path):
    """Keeps the checkpoint of an earlier run, which a new one would replace. Returns what to say."""
    if not os.path.exists(path):
        return ""
    aside = f"{path.removesuffix('.pt')}.previous.pt"
    os.replace(path, aside)
    return f"the agent of the last run is kept as {aside}, until another run begins\n"


def keep(path, run, network, target, settings, seconds, optimizer, replay, generator):
    """Saves all that `resume` needs to go on as if nothing had happened, and metrics.csv beside it."""
    save_checkpoint(path, network, settings, **dict(run, seconds=seconds), optimizer=optimizer.state(),
                    target=target.state_dict(), generator=generator.get_state(), replay=replay.state() if replay else None)
    metrics = os.path.join(os.path.dirname(path), "metrics.csv")
    with replacing(metrics) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, run["history"][0])
        writer.writeheader()
        writer.writerows(run["history"])


def resume(path, settings, network, target, optimizer, replay, generator):
    """Takes a run up where its checkpoint left it: (its progress, the seconds that it has taken)."""
    saved, then, run = load_checkpoint(path, next(network.parameters()).device)
    for name, value in settings.items():
        if name not in FREE and then.get(name) != value:
            raise UserError(f"{name}={value} now, but the run in {path} has {name}={then.get(name)}: "
                            "resume with the same constants")
    network.load_state_dict(saved.state_dict())
    target.load_state_dict(run.pop("target"))
    optimizer.restore(run.pop("optimizer"))
    try:
        generator.set_state(run.pop("generator").cpu())
    except RuntimeError:
        raise UserError(f"the run in {path} was begun on another kind of device, whose random numbers "
                        f"are not those of {generator.device.type}: choose the same DEVICE") from None
    # A row that is there only because the run was stopped goes: the run ends as if it had never been.
    if run["batch"] * settings["BSZ"] < settings["NUM_EPISODES"]:
        run["history"] = [row for row in run["history"] if (row["episodes"] // settings["BSZ"] - 1)
                          % settings["EVAL_EVERY"] == 0]
    memory = run.pop("replay")
    if replay:
        replay.restore(memory)
    return run, run.pop("seconds")


def first_lines(settings, by_agent, network, replay, cache, episodes):
    """What the run will be, in two lines."""
    stored = replay.bytes() if replay else 0
    own = " ".join(f"{name}={settings[name]}" for name in by_agent)
    return (f"{settings['MODEL']} with {parameters(network):,} weights, {episodes:,} episodes on "
            f"{cache.device}; maze cache {cache.numel() / 1e6:.1f} MB, replay {stored / 1e6:.1f} MB\n"
            f"set by the agent or by you: {own}")


def show_progress(run, episodes, settings):
    """One line: where the run is, how fast, how long still, how good. A terminal's is rewritten."""
    row = run["history"][-1]
    share, spent = row["episodes"] / episodes, row["seconds"]
    line = (f"{share:4.0%}  {row['episodes']:,} episodes  {row['episodes'] / spent:,.0f}/s  "
            f"{spent / share - spent:3.0f} s left  level {row['level']:.2f}  loss {row['loss']:.1e}  "
            f"q_error {row['q_error']:.1e}  success {row['success']:.3f}")
    if sys.stdout.isatty():
        print(f"\r{line:<120}", end="" if share < 1 else "\n", flush=True)
    else:
        print(line, flush=True)
    if said := warning(run["history"], settings):
        print(f"\nwatch out: {said}", flush=True)


def warning(history, settings):
    """What to say when the loss has risen and stays high; None while all is well."""
    # A new level of the curriculum may cost something: only rows of the last level are compared.
    losses = [row["loss"] for row in history if row["level"] == history[-1]["level"]]
    if len(losses) < 4 or min(losses[-3:]) < max(0.1, 10 * min(losses[:-3])):
        return None
    return (f"the loss has risen, from {min(losses[:-3]):.1e} to {losses[-1]:.1e}. Usual causes: LR too "
            f"high (now {settings['LR']:g}), targets that move too fast "
            f"(TARGET_SYNCS={settings['TARGET_SYNCS']}; try 1), credit from far away "
            f"(LAMBDA={settings['LAMBDA']:g}; try less)")


def stop_if_not_finite(settings, *numbers):
    """Ends the run if any of these tensors contains NaN or inf."""
    if not torch.stack([x.isfinite().all() for x in numbers]).all():
        raise UserError("the loss, its gradient or a weight contains NaN or inf, so nothing more can be "
                        "learned; the last good checkpoint is kept. Try a smaller LR (now "
                        f"{settings['LR']:g}) or GRAD_CLIP (now {settings['GRAD_CLIP']:g})")


def parameters(network):
    return sum(weights.numel() for weights in network.parameters())


def lacks_memory(error):
    lacking = "out of memory", "not enough memory", "allocate memory", "ALLOC_FAILED"
    return isinstance(error, MemoryError) or any(text in str(error) for text in lacking)


def profiled(function, path):
    """function() under cProfile: prints the 30 slowest calls, saves all to `path`."""
    import cProfile
    import pstats
    calls = cProfile.Profile()
    calls.runcall(function)
    with replacing(path) as beside:
        calls.dump_stats(beside)
    pstats.Stats(calls).sort_stats("cumulative").print_stats(30)


def exit_status(command, settings):
    """0 after command(), or 2, and one line that says what went wrong, if that is for the user."""
    try:
        command()
        return 0
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} can't be read or written: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        names = "BSZ", "GRID", "MAZE_CACHE_SIZE", "REPLAY_SIZE"
        now = ", ".join(f"{name} (now {settings()[name]})" for name in names)
        message = f"memory ran out: lower one of {now}"
    except KeyboardInterrupt:
        message = "stopped at once"
        path = os.path.join(settings()["OUT_DIR"], "checkpoint.pt")
        if os.path.exists(path):
            message += f"; the last checkpoint, {path}, is whole: go on with RESUME=True"
    print(f"error: {message}", file=sys.stderr)
    return 2

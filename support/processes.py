"""The processes of a run: those that torchrun started, the lock of its folder, and signals."""

import contextlib
import os
import re
import signal
import sys

import torch
import torch.distributed

from support.errors import UserError

# Set by torchrun: which process this is, and of how many.
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def pick_device(name, threads):
    """The torch device of this name; "auto": a CUDA GPU where there is one. threads: of the CPU."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":  # not mps: operations as small as these wait for it
        name = "cuda" if torch.cuda.is_available() else "cpu"
    unusable = UserError(f"DEVICE={name} can't be used here: choose auto or cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise unusable
        if WORLD > 1 and (device.index is not None or device.type == "mps"):
            raise UserError(f"DEVICE={name} is not for several processes: choose cuda or cpu")
        if WORLD > 1 and device.type == "cuda":  # each has its own
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", RANK)))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise unusable from None
    return device


def all_reduce_sum(x):
    """x, in place, summed over the processes of the run."""
    if WORLD > 1:
        try:
            torch.distributed.all_reduce(x)
        except RuntimeError as error:
            lost = "closed", "connect", "peer", "timed out", "timeout", "broken pipe", "remote"
            if not any(word in str(error).lower() for word in lost):
                raise
            raise UserError(
                f"process {RANK} of {WORLD} lost the others: one of them has ended. The "
                "last checkpoint is whole: go on with RESUME=True"
            ) from error
    return x


def any_of_them(asked: bool, device) -> bool:
    """Whether this is true in any of the processes."""
    if WORLD == 1:
        return asked
    return all_reduce_sum(torch.tensor(int(asked), device=device)).item() > 0


def first_process_first(device, function, *arguments):
    """function(*arguments), which the first process calls before the others do."""
    result = function(*arguments) if RANK == 0 else None
    all_reduce_sum(torch.zeros(1, device=device))
    return result if RANK == 0 else function(*arguments)


def seed_differently(generator, seed: int, batch: int):
    """Gives every process but the first random numbers of its own for this batch."""
    if RANK:
        generator.manual_seed(hash((seed, batch, RANK)) % 2**32)


@contextlib.contextmanager
def joined(folder, device):
    """Holds the lock of `folder`, joins the processes and minds signals.

    Yields a function: whether Ctrl-C or SIGTERM asked the run to end. The first process evaluates
    and writes the files.
    """
    with lock(folder), stop_on_signal() as asked_to_stop:
        if WORLD > 1:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield asked_to_stop
        finally:
            if WORLD > 1:
                torch.distributed.destroy_process_group()


@contextlib.contextmanager
def lock(folder):
    """Holds `folder` for this run; a second one is refused. The lock ends with the process."""
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
            message = "wait for it, or choose another OUT_DIR"
            raise UserError(f"another run writes to OUT_DIR={folder}: {message}") from None
        for name in os.listdir(folder):
            if re.fullmatch(r".+\.(pt|npz|csv|json|png|gif)\.\d+\.part", name):
                os.remove(os.path.join(folder, name))  # a killed run left it half written
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
        with contextlib.suppress(OSError):
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


def say(text, end="\n"):
    """Prints, if anybody listens: Ctrl-C ends the `tee` of `python main.py | tee log` at once."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

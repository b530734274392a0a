"""Mistakes of the user, and how a command ends."""

import os
import sys


class UserError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what would be right."""


def lacks_memory(error):
    lacking = "out of memory", "not enough memory", "allocate memory", "ALLOC_FAILED"
    return isinstance(error, MemoryError) or any(text in str(error) for text in lacking)


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
        message = (
            f"{error.filename or 'a file'} can't be read or written: {error.strerror or error}"
        )
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        names = "BSZ", "GRID", "MAZE_CACHE_SIZE", "REPLAY_SIZE"
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

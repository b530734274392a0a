"""What `python main.py prove` says, and a run at its end: is every view answered rightly?"""

import model
from model import Thinker
from support.errors import UserError

SIGNS = "#-=+"  # a wall; farther from the goal, as far, nearer
ACTIONS = "up", "down", "left", "right"


def thinker_of(network):
    """The `Thinker` in a network, or None."""
    return network if isinstance(network, Thinker) else getattr(network, "thinker", None)


def wrong_views(network):
    """How many views the agent answers wrongly; None for an agent that does not think."""
    thinker = thinker_of(network)
    if thinker is None:
        return None
    return int(model.wrong_views(thinker).sum())


def report(network) -> int:
    """Prints what is proved of the agent: 0 if all views are right, else 1, and shows a few."""
    if (wrong := wrong_views(network)) is None:
        raise UserError(
            "this agent does not think, so nothing can be proved of it; choose THINK=True, and "
            "VISION=0 or MEMORY=map"
        )
    for line in sentences(network, wrong, most=3):
        print(line)
    return int(wrong > 0 or thinker_of(network).most_looks > 0)


def sentences(network, wrong, most=1):
    """Lines that say what is proved; or show `most` of the wrong views."""
    thinker = thinker_of(network)
    if wrong:
        yield f"not proved: {wrong:,} of the {model.VIEWS:,} things that a cell can see are wrong"
        wrongly = model.wrong_views(thinker).nonzero()[:most, 0]
        for view in wrongly.tolist():
            yield picture(thinker, view)
    elif thinker.most_looks:
        yield (
            f"all {model.VIEWS:,} views are right, but LOOKS={thinker.most_looks} ends its "
            "thinking: goals farther away than that are not found"
        )
    elif network is thinker:
        yield (
            f"proved: of the {model.VIEWS:,} different things that a cell can see, it answers "
            "every one right; so it walks every maze, of any size, by a shortest path"
        )
    else:
        yield (
            f"proved for its planner: all {model.VIEWS:,} views are right, so it plans a shortest "
            "path on its map; but what it has not seen yet it takes for open"
        )


def picture(thinker, view: int) -> str:
    """A view as text, 3x3, with what the network says and what would be right."""
    digit = [SIGNS[view // 4**k % 4] for k in range(8)]
    rows = [digit[:3], [digit[3], "o", digit[4]], digit[5:]]
    right = model.backup(thinker.planes)[:, view]
    said = ", ".join(f"{a} {q:+.2f}" for a, q in zip(ACTIONS, thinker.table[:, view].tolist()))
    wanted = ", ".join(f"{a} {q:+.0f}" for a, q in zip(ACTIONS, right.tolist()))
    went, change = ACTIONS[int(thinker.action[view])], int(thinker.change[view])
    ways = " or ".join(a for a, q in zip(ACTIONS, right) if q == right.max())
    notes = (
        f"it says Q - V: {said}; V changes by {change:+d}, it goes {went}",
        f"right is:      {wanted}; V changes by {int(right.max()):+d}, it goes {ways}",
        "(o: the cell; #: wall; + nearer to the goal, = as far, - farther)",
    )
    return "\n".join(f"    {' '.join(row)}    {note}" for row, note in zip(rows, notes))

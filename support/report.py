"""How well an agent does: its metrics, the end of a run, and what is proved of it."""

import json
import math
import os
import signal
import time

import torch

import maze
import model
from support import pictures
from support.learning import parameters
from support.process import UserError, attempt, replacing, say
from support.settings import HELD_OUT_SEED

SIGNS = "#-=+"  # a wall; farther from the goal, as far, nearer
ACTIONS = "up", "down", "left", "right"


# --------------------------------------------------------------------------------------------------
# Metrics: held against breadth-first search and the exact Q


def test_sets(settings, packed, cells=2**22):
    """`test_set` in parts of so many cells: all at once may be more than the memory holds."""
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    for part in packed.split(max(1, cells // settings["GRID"] ** 2), 1):
        yield test_set(settings, part, generator)


def test_set(settings, packed, generator=None):
    """(the bit-packed mazes, each with all its walls, a goal and a start, and the distances there).

    Drawn on the CPU, so that they are the same on any device.
    """
    generator = generator or torch.Generator().manual_seed(HELD_OUT_SEED)
    how = settings["GRID"], 1.0, settings["MAX_START_DISTANCE"], settings["GOAL"], generator
    mazes = maze.draw(packed.cpu(), *how).to(packed.device)
    return mazes, maze.distances(mazes.walls, mazes.goal)


def score(network, episodes, sight, distance, exact) -> dict[str, torch.Tensor]:
    """The metrics of each of B greedy episodes: a dictionary of float tensors (B,).

    sight: what the network knew of the mazes. distance (H, W, B) and Q, exact (4, H, W, B): the
    right ones. Q of an agent that sees the whole maze is held against Q* in every cell from which
    the goal can be reached; that of an agent with a window depends on its way: in the cells of it.
    """
    mazes, away = episodes.mazes, episodes.cells != episodes.mazes.goal
    walked, shortest, success = away[:-1].sum(0), maze.shortest(mazes, distance), ~away[-1]
    if network.whole_maze:
        error, counts = sight.q() - exact, distance > 0
    else:
        error, counts = sight.q() - maze.along(exact, episodes.cells), away
    error, number = torch.where(counts, error, 0).flatten(1, -2), 4 * counts.flatten(0, -2).sum(0)
    loops = ~success & goes_round(episodes.cells)
    found = dict(success=success, optimal=success & (walked == shortest), loops=loops)
    found["spl"] = success * shortest / torch.maximum(walked, shortest)  # Anderson et al. 2018
    found["q_error"] = error.abs().sum((0, 1)) / number
    found["q_bias"] = error.sum((0, 1)) / number
    return {name: values.float() for name, values in found.items()}


def goes_round(cells):
    """Whether a walk (T + 1, B) ends in a round of at most T / 2 steps, walked twice over: (B,)."""
    t = len(cells) - 1
    caught = torch.zeros_like(cells[0], dtype=torch.bool)
    for period in range(1, t // 2 + 1):
        caught |= (cells[t - period :] == cells[t - 2 * period : t - period + 1]).all(0)
    return caught


def row(settings, record, learning_rate, scores, means, wrong_views) -> dict:
    """A row of a run's history. means: tensors, of which the mean counts.

    scores: of EVAL_SAMPLE held-out mazes, then of training mazes.
    """
    held_out = min(settings["EVAL_SAMPLE"], settings["EVAL_MAZES"])
    return dict(
        episodes=record["batch"] * settings["BSZ"],
        env_steps=record["env_steps"],
        updates=record["batch"] * settings["UPDATES"],
        seconds=time.perf_counter() - record["began"],
        level=record["level"],
        **{name: numbers.mean().item() for name, numbers in means.items()},
        learning_rate=learning_rate,
        **average(scores, slice(held_out)),
        train_success=average(scores, slice(held_out, None))["success"],
        wrong_views=wrong_views,
    )


def joined(parts) -> dict[str, torch.Tensor]:
    """The metrics of all parts of a set of mazes."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def average(scores, part=slice(None)) -> dict[str, float]:
    """The mean of each metric."""
    return {name: values[part].mean().item() for name, values in scores.items()}


def by_distance(scores, shortest, wide=10):
    """success and q_error of mazes whose shortest way takes 1..10, 11..20, ... steps."""
    bands, found = (shortest - 1).div(wide, rounding_mode="floor"), {}
    for band in bands.unique().tolist():
        inside = bands == band
        found[f"{band * wide + 1}-{(band + 1) * wide}"] = dict(
            mazes=int(inside.sum()),
            success=scores["success"][inside].mean().item(),
            q_error=scores["q_error"][inside].mean().item(),
        )
    return found


def steps_away(q, settings):
    """How far from the goal the actions seem to lead; an advantage: how many steps they lose."""
    if settings["UNIT"] == "advantage":
        return -q
    return steps_of_q(q, settings["GAMMA"], settings["STEP_REWARD"], settings["GOAL_REWARD"])


def steps_of_q(q, gamma=1.0, step=-1.0, goal=0.0) -> torch.Tensor:
    """The d(s') for which `maze.optimal_q` gives q; inf where none is large enough."""
    if gamma == 1:
        return (q - goal) / step - 1
    end = step / (1 - gamma)  # what walking on for ever would earn
    return ((q - end) / (goal - gamma * end)).clamp(min=0).log() / torch.tensor(gamma).log()


def wrong_views(network):
    """How many views the agent answers wrongly; None for an agent that does not think."""
    return int(model.wrong_views(network).sum()) if isinstance(network, model.Thinker) else None


# --------------------------------------------------------------------------------------------------
# The end of a run


def figures(reporter, network, record, unseen, known):
    """Prints the figures of a run that has ended, and saves them as summary.json.

    unseen: (mazes, distances, scores) of the mazes that the network has never seen, in parts;
    known: scores of some that it trained on. Returns the summary, and five mazes to be drawn.
    """
    settings, history, stopped = reporter.settings, record["history"], record["stopped"]
    last, wrong, number = history[-1], history[-1]["wrong_views"], settings["EVAL_MAZES"]
    if stopped:
        say(
            f"{signal.Signals(stopped - 128).name} stopped it after {last['episodes']:,} of "
            f"{settings['NUM_EPISODES']:,} episodes; go on with RESUME=True"
        )
    say(f"walking {number:,} mazes that it has never seen, and drawing pictures")
    parts, few, lowest, by_chance = [], None, math.inf, None
    for mazes, distance, part in unseen:
        if not parts:
            by_chance = random_walk(mazes, settings)
        shortest, success = maze.shortest(mazes, distance), part["success"]
        if success.mean() < lowest:
            worst = (shortest - 1e6 * success).argsort(descending=True, stable=True)[:5]
            lowest, few = success.mean(), mazes.select(worst)  # failures, then the farthest goals
        parts.append(part | dict(shortest=shortest))
    scores = joined(parts)
    bands = by_distance(scores, scores.pop("shortest"))
    success = average(scores)["success"]

    def proved(row):
        return row["wrong_views"] == 0 and settings["LOOKS"] == 0

    summary = dict(
        **average(scores),
        generalization_gap=average(joined(list(known)))["success"] - success,
        wrong_views=wrong,
        proved=None if wrong is None else proved(last),
        random_walk=by_chance,
        eval_mazes=number,
        episodes=last["episodes"],
        env_steps=last["env_steps"],
        updates=last["updates"],
        seconds=None,
        seconds_to_99=first(history, lambda row: row["success"] >= 0.99),
        seconds_to_proof=first(history, proved),
        stopped=stopped > 0,
        params=parameters(network),
        device=str(few.goal.device),
        seed=settings["SEED"],
        torch=torch.__version__,
        by_distance=bands,
        config=settings,
    )
    say(
        f"on {number:,} mazes it has never seen: success {success:.4f}, optimal "
        f"{summary['optimal']:.4f}, spl {summary['spl']:.4f}, q_error {summary['q_error']:.1e}"
    )
    if wrong is not None:
        say("\n".join(sentences(network, wrong)))
    write_summary(summary, record)
    return summary, few


def end_of_run(reporter, record, summary, mazes, walks):
    """Draws the pictures, and prints the last line.

    walks: of the agent of the first evaluation and of the last in these mazes: (agent, `Episodes`,
    what it knew of them).
    """
    if not reporter.saved:
        reporter.save()
    settings, plot_file = reporter.settings, reporter.plot_file
    attempt(plot_file, pictures.course, plot_file, record, settings, summary)
    attempt("a picture of the agent", show_agent, record, settings, mazes, walks)
    attempt(f"{settings['OUT_DIR']}/summary.json", write_summary, summary, record)
    say(
        f"{summary['seconds']:.1f} s in all; see {plot_file} and {settings['OUT_DIR']}/: "
        "rollouts.png, agent.gif, checkpoint.pt, metrics.csv, summary.json"
    )


def write_summary(summary, record):
    """summary.json, with the seconds until now."""
    summary["seconds"] = time.perf_counter() - record["began"]
    path = os.path.join(summary["config"]["OUT_DIR"], "summary.json")
    with replacing(path) as beside, open(beside, "w") as file:
        json.dump(summary, file, indent=1)


def first(history, condition):
    """The seconds of the first row of the history for which it holds, or None."""
    return next((row["seconds"] for row in history if condition(row)), None)


def random_walk(mazes, settings, n=1000) -> float:
    """The share of n of these mazes in which a random walk finds the goal."""
    few, device = mazes.select(slice(n)), mazes.goal.device
    generator = torch.Generator(device).manual_seed(settings["SEED"])
    shape = settings["MAX_EP_LENGTH"], len(few.goal)
    choices = torch.randint(4, shape, dtype=torch.int32, generator=generator, device=device)
    arrived = maze.walk(maze.move_table(few), few.start, choices)[-1] == few.goal
    return arrived.float().mean().item()


@torch.no_grad()
def show_agent(record, settings, mazes, walks):
    """rollouts.png and agent.gif, and weights.png of MODEL=linear."""
    distance, rows = maze.distances(mazes.walls, mazes.goal), []
    farthest = int(maze.shortest(mazes, distance).max())
    for row, (agent, episodes, _) in zip((record["history"][0], record["history"][-1]), walks):
        looks = ()
        if agent.whole_maze and isinstance(agent, model.Thinker):
            most = min(3 * farthest, agent.most_looks or 3 * farthest)
            looks = model.looks(agent.change, mazes.walls, mazes.goal, most)
        rows.append((f"after {row['episodes']:,} episodes", looks, episodes.cells))
    agent, episodes, sight = walks[-1]
    cells = episodes.cells
    if agent.whole_maze:
        potential = maze.potential(mazes, settings["SHAPING"], settings["GAMMA"])
        away = steps_away(sight.q() + potential, settings)  # shaping takes it from Q
    else:  # it has no opinion of cells where it has not been
        away = torch.full((4, *distance.shape), math.nan, device=distance.device).flatten(1, 2)
        here = steps_away(sight.q() + episodes.potential, settings)
        away = away.scatter(1, cells.expand(4, -1, -1), here).view(4, *distance.shape)

    def draw(name, picture, *shown):
        path = os.path.join(settings["OUT_DIR"], name)
        attempt(path, picture, path, *shown)

    unit = settings["UNIT"]
    draw("rollouts.png", pictures.walks, mazes, cells, away, distance, farthest, unit)
    draw("agent.gif", pictures.thinking, mazes, rows, farthest)
    if isinstance(core := getattr(agent, "core", None), model.Linear):
        draw("weights.png", pictures.weights, core.q)


# --------------------------------------------------------------------------------------------------
# The proof, in words


def prove(network) -> int:
    """Prints what is proved of the agent: 0 if all views are right, else 1, and shows a few."""
    if (wrong := wrong_views(network)) is None:
        raise UserError(
            "this agent does not think, so nothing can be proved of it; choose THINK=True, and "
            "VISION=0 or MEMORY=map"
        )
    say("\n".join(sentences(network, wrong, most=3)))
    return int(wrong > 0 or network.most_looks > 0)


def sentences(thinker, wrong, most=1):
    """Lines that say what is proved; or show `most` of the wrong views."""
    if wrong:
        yield f"not proved: {wrong:,} of the {model.VIEWS:,} things that a cell can see are wrong"
        wrongly = model.wrong_views(thinker).nonzero()[:most, 0]
        for view in wrongly.tolist():
            yield view_as_text(thinker, view)
    elif thinker.most_looks:
        yield (
            f"all {model.VIEWS:,} views are right, but LOOKS={thinker.most_looks} ends its "
            "thinking: goals farther away than that are not found"
        )
    elif thinker.whole_maze:
        yield (
            f"proved: of the {model.VIEWS:,} different things that a cell can see, it answers "
            "every one right; so it walks every maze, of any size, by a shortest path"
        )
    else:
        yield (
            f"proved for its planner: all {model.VIEWS:,} views are right, so it plans a shortest "
            "path on its map; but what it has not seen yet it takes for open"
        )


def view_as_text(thinker, view: int) -> str:
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

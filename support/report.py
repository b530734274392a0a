"""The end of a run: its figures, on the screen and in summary.json, and its pictures."""

import copy
import itertools
import json
import math
import os
import time

import torch

import maze
import model
from support import metrics, pictures, proof
from support.files import replacing
from support.metrics import average
from support.processes import say
from support.run import parameters


def report(reporter, network, record, packed, evaluate, rollout, stopped) -> dict:
    """Writes summary.json and the pictures, and prints the last lines. Returns the summary.

    packed: bit-packed mazes that the network has never seen, and that it trained on; evaluate,
    rollout: main's.
    """
    settings, plot_file = reporter.settings, reporter.plot_file
    out, history = settings["OUT_DIR"], record["history"]
    (mazes, distance), known = (metrics.test_set(settings, some) for some in packed)
    say(f"walking {len(mazes.goal):,} mazes that it has never seen, and drawing pictures")
    last, scores = history[-1], evaluate(network, mazes, distance)

    def proved(row):
        return row["wrong_views"] == 0 and settings["LOOKS"] == 0

    success, wrong = average(scores)["success"], last["wrong_views"]
    summary = dict(
        **average(scores),
        generalization_gap=average(evaluate(network, *known))["success"] - success,
        wrong_views=wrong,
        proved=None if wrong is None else proved(last),
        random_walk=random_walk(mazes, settings),
        eval_mazes=len(mazes.goal),
        episodes=last["episodes"],
        env_steps=last["env_steps"],
        updates=last["updates"],
        seconds=None,
        seconds_to_99=first(history, lambda row: row["success"] >= 0.99),
        seconds_to_proof=first(history, proved),
        stopped=stopped,
        params=parameters(network),
        device=str(mazes.goal.device),
        seed=settings["SEED"],
        torch=torch.__version__,
        by_distance=metrics.by_distance(scores, maze.shortest(mazes, distance)),
        config=settings,
    )
    summary["seconds"] = time.perf_counter() - record["began"]
    write_summary(out, summary)
    say(
        f"on {len(mazes.goal):,} mazes it has never seen: success {success:.4f}, optimal "
        f"{summary['optimal']:.4f}, spl {summary['spl']:.4f}, q_error {summary['q_error']:.1e}"
    )
    if wrong is not None:
        say("\n".join(proof.sentences(network, wrong)))
    try:
        pictures.course(plot_file, record, settings, summary)
        draw_agent(network, record, mazes, distance, scores, settings, evaluate, rollout)
    except Exception as error:  # a by-product never costs the result
        say(f"warning: not all pictures could be drawn: {type(error).__name__}: {error}")
    summary["seconds"] = time.perf_counter() - record["began"]
    write_summary(out, summary)
    say(
        f"{summary['seconds']:.1f} s in all; see {plot_file} and {out}/: rollouts.png, agent.gif, "
        "checkpoint.pt, metrics.csv, summary.json"
    )
    return summary


def write_summary(folder, summary):
    with replacing(os.path.join(folder, "summary.json")) as beside, open(beside, "w") as file:
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
def draw_agent(network, record, mazes, distance, scores, settings, evaluate, rollout):
    """rollouts.png and agent.gif, of mazes in which the agent fails, or failed early on."""
    early, steps = copy.deepcopy(network), settings["MAX_EP_LENGTH"]
    early.load_state_dict(record["early"])
    some = scores["success"].argsort(stable=True)[:256]  # failures first
    early_success = evaluate(early, mazes.select(some), distance[..., some])["success"]
    some = some[(2 * scores["success"][some] + early_success).argsort(stable=True)[:5]]
    few, distance = mazes.select(some), distance[..., some]
    farthest, rows = int(maze.shortest(few, distance).max()), []
    for row, agent in ((record["history"][0], early), (record["history"][-1], network)):
        walks, sight = rollout(agent, few, steps)
        values = values_by_look(agent, few) if isinstance(agent, model.Thinker) else []
        rows.append((f"after {row['episodes']:,} episodes", values, walks.cells))
    if network.whole_maze:
        potential = 0.0  # which shaping takes from Q
        if settings["SHAPING"] != "none":
            potential = maze.potential(few, settings["SHAPING"], settings["GAMMA"])
        away = metrics.steps_away(sight.q() + potential, settings)
    else:  # it has no opinion of cells where it has not been
        away = torch.full((4, *distance.shape), math.nan, device=distance.device).flatten(1, 2)
        here = metrics.steps_away(sight.q() + walks.potential, settings)
        away = away.scatter(1, walks.cells.expand(4, -1, -1), here).view(4, *distance.shape)
    out = settings["OUT_DIR"]
    pictures.walks(os.path.join(out, "rollouts.png"), few, walks.cells, away, distance, farthest)
    if isinstance(core := getattr(network, "core", None), model.Linear):
        pictures.weights(os.path.join(out, "weights.png"), core.q)
    pictures.thinking(os.path.join(out, "agent.gif"), few, rows, farthest)


def values_by_look(thinker, mazes, most=300):
    """V (H, W, B) as it is at first, and after each look until no view changes."""
    values, before = [], None
    looks = model.looks(thinker.change, mazes.walls, mazes.goal)
    for value, view in itertools.islice(looks, min(most, thinker.most_looks or most) + 1):
        values.append(value.clone())
        if before is not None and torch.equal(view, before):
            break
        before = view
    return values

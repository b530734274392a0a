"""The end of a run: its figures, on the screen and in summary.json, and its pictures."""

import copy
import json
import math
import os
import time

import torch

import maze
from maze import replacing
from model import Thinker
from support import gif, metrics, pictures
from support.metrics import average
from support.processes import say
from support.run import parameters


def report(reporter, network, record, held_out, known, evaluate, rollout) -> dict:
    """Writes summary.json and the pictures, and prints the last lines. Returns the summary.

    held_out, known: (mazes, distances) that the network has never seen, and that it trained on;
    evaluate, rollout: main's.
    """
    settings, plot_file = reporter.settings, reporter.plot_file
    out, history, (mazes, distance) = settings["OUT_DIR"], record["history"], held_out
    say(f"walking {len(mazes.goal):,} mazes that it has never seen, and drawing pictures")
    last, scores = history[-1], evaluate(network, mazes, distance)
    success = average(scores)["success"]
    summary = dict(
        **average(scores),
        generalization_gap=average(evaluate(network, *known))["success"] - success,
        random_walk=random_walk(mazes, settings),
        eval_mazes=len(mazes.goal),
        episodes=last["episodes"],
        env_steps=last["env_steps"],
        updates=last["updates"],
        seconds=None,
        seconds_to_99=next((row["seconds"] for row in history if row["success"] >= 0.99), None),
        params=parameters(network),
        device=str(mazes.goal.device),
        seed=settings["SEED"],
        torch=torch.__version__,
        backup_error=None,
        backup_error_worst=None,
        by_distance=metrics.by_distance(scores, maze.shortest(mazes, distance)),
        config=settings,
    )
    backup = None
    if thinker := network if network.whole_maze else getattr(network, "thinker", None):
        backup = metrics.one_look(thinker, mazes.goal.device)
        summary["backup_error"], summary["backup_error_worst"] = metrics.relative_error(*backup)
    draw_agent(network, record, mazes, distance, scores, settings, evaluate, rollout)
    pictures.course(plot_file, record, settings, summary, backup)
    summary["seconds"] = time.perf_counter() - record["began"]
    path = os.path.join(out, "summary.json")
    with replacing(path) as beside, open(beside, "w") as file:
        json.dump(summary, file, indent=1)
    say(
        f"on {len(mazes.goal):,} mazes it has never seen: success {success:.4f}, optimal "
        f"{summary['optimal']:.4f}, spl {summary['spl']:.4f}, q_error {summary['q_error']:.1e}"
    )
    if backup:
        mean, worst = summary["backup_error"], summary["backup_error_worst"]
        wrong = f"wrong by {mean:.1%} on average, by {worst:.0%} at worst"
        say(f"one look, against the exact backup: {wrong}")
    say(
        f"{summary['seconds']:.1f} s in all; see {plot_file} and {out}/: rollouts.png, agent.gif, "
        "checkpoint.pt, metrics.csv, summary.json"
    )
    return summary


def random_walk(mazes, settings, n=1000) -> float:
    """The share of n of these mazes in which a random walk finds the goal."""
    few, device = mazes.select(slice(n)), mazes.goal.device
    generator = torch.Generator(device).manual_seed(settings["SEED"])
    shape = settings["MAX_EP_LENGTH"], len(few.goal)
    choices = torch.randint(4, shape, dtype=torch.int32, generator=generator, device=device)
    table, _ = maze.move_table(few)
    return (maze.walk(table, few.start, choices)[-1] == few.goal).float().mean().item()


@torch.no_grad()
def draw_agent(network, record, mazes, distance, scores, settings, evaluate, rollout):
    """rollouts.png and agent.gif, of mazes in which the agent fails, or failed early on."""
    early, gamma, steps = copy.deepcopy(network), settings["GAMMA"], settings["MAX_EP_LENGTH"]
    early.load_state_dict(record["early"])
    some = scores["success"].argsort(stable=True)[:256]  # failures first
    early_success = evaluate(early, mazes.select(some), distance[..., some])["success"]
    some = some[(2 * scores["success"][some] + early_success).argsort(stable=True)[:5]]
    few, distance = mazes.select(some), distance[..., some]
    farthest, rows = int(maze.shortest(few, distance).max()), []
    for row, agent in ((record["history"][0], early), (record["history"][-1], network)):
        walks, thoughts = rollout(agent, few, steps)
        looks = []
        if isinstance(agent, Thinker):
            agent.think(few, lambda thoughts, to=looks: to.append(thoughts.steps_away()))
        rows.append((f"after {row['episodes']:,} episodes", looks, walks.cells))
    if network.whole_maze:
        away = thoughts.q_steps()
    else:  # it has no opinion of cells where it has not been
        away = torch.full((4, *distance.shape), math.nan, device=distance.device).flatten(1, 2)
        here = metrics.q_along(network, walks, thoughts).clamp(min=0).log() / math.log(gamma)
        away = away.scatter(1, walks.cells.expand(4, -1, -1), here).view(4, *distance.shape)
    out = settings["OUT_DIR"]
    pictures.walks(os.path.join(out, "rollouts.png"), few, walks.cells, away, distance, farthest)
    gif.thinking(os.path.join(out, "agent.gif"), few, rows, farthest)

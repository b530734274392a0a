"""The end of a run: its figures, on the screen and in summary.json, and its pictures."""
import copy
import json
import os
import time

import torch

import maze
import model
from maze import replacing
from support import pictures
from support.run import parameters
from support.settings import HELD_OUT_SEED


def average(scores, part=slice(None)):
    """The mean of each metric."""
    return {name: values[part].mean().item() for name, values in scores.items()}


def by_distance(scores, shortest, wide=10):
    """success and q_error of mazes whose shortest way takes 1..10, 11..20, ... steps."""
    bands, found = (shortest - 1).div(wide, rounding_mode="floor"), {}
    for band in bands.unique().tolist():
        inside = bands == band
        found[f"{band * wide + 1}-{(band + 1) * wide}"] = dict(
            mazes=int(inside.sum()), success=scores["success"][inside].mean().item(),
            q_error=scores["q_error"][inside].mean().item())
    return found


def report(network, run, held_out, known, settings, started, plot_file, evaluate, rollout):
    """Writes summary.json and the pictures, and prints the last lines. Returns the summary.

    held_out, known: (mazes, distances) that the network has never seen, and that it trained on;
    evaluate, rollout: main's; started: when the run began, by time.perf_counter().
    """
    out, history, (mazes, distance) = settings["OUT_DIR"], run["history"], held_out
    last, scores = history[-1], evaluate(network, mazes, distance)
    success = average(scores)["success"]
    summary = dict(
        **average(scores), generalization_gap=average(evaluate(network, *known))["success"] - success,
        eval_mazes=len(mazes.goal), episodes=last["episodes"], env_steps=last["env_steps"],
        updates=last["updates"], seconds=None,
        seconds_to_99=next((row["seconds"] for row in history if row["success"] >= 0.99), None),
        params=parameters(network), device=str(mazes.goal.device), seed=settings["SEED"],
        torch=torch.__version__, backup_error=None, backup_error_worst=None,
        by_distance=by_distance(scores, maze.shortest(mazes, distance)), config=settings)
    backup = None
    if thinker := network if network.whole_maze else getattr(network, "thinker", None):
        backup = one_look(thinker, mazes.goal.device)
        summary["backup_error"], summary["backup_error_worst"] = relative_error(*backup)
    draw_agent(network, run, mazes, distance, scores, settings, evaluate, rollout)
    pictures.course(plot_file, run, settings, summary["by_distance"], backup)
    summary["seconds"] = time.perf_counter() - started
    path = os.path.join(out, "summary.json")
    with replacing(path) as beside, open(beside, "w") as file:
        json.dump(summary, file, indent=1)
    print(f"on {len(mazes.goal):,} mazes it has never seen: success {success:.4f}, optimal "
          f"{summary['optimal']:.4f}, spl {summary['spl']:.4f}, q_error {summary['q_error']:.1e}")
    if backup:
        print(f"one look, against the exact backup: wrong by {summary['backup_error']:.1%} on average, "
              f"by {summary['backup_error_worst']:.0%} at worst")
    print(f"{summary['seconds']:.1f} s in all; see {plot_file} and {out}/: rollouts.png, agent.gif, "
          "checkpoint.pt, metrics.csv, summary.json")
    return summary


def one_look(thinker, device="cpu", n=2000):
    """`learned_backup` in n mazes of random walls, in which a patch takes all its forms."""
    mazes = maze.random_walls(n, 16, torch.Generator().manual_seed(HELD_OUT_SEED)).to(device)
    return learned_backup(thinker, mazes, maze.distances(mazes.walls, mazes.goal))


@torch.no_grad()
def learned_backup(thinker, mazes, distance):
    """(Q of one look, exact Q), both (4, N), in units of m, where all that the core sees is exact.

    exact: gamma * V*(s') for each action in each cell, but the goal, from which it can be reached.
    distance (H, W, B): the exact one.
    """
    thoughts = model.Thoughts(thinker, mazes.walls, mazes.goal)
    worth = torch.where(distance < 0, model.NO_VALUE, model.GRAIN * (1.0 - distance))
    thoughts.inside(thoughts.worth).copy_(worth.masked_fill(mazes.walls, model.NO_CELL))
    cell, lane = (distance > 0).flatten(0, 1).nonzero().t()
    at = maze.in_padded(cell, mazes.walls.shape[1], thinker.core.radius) * thoughts.shape[2] + lane
    looks = [thinker.look(thoughts.patches(part)) for part in at.split(4096)]
    learned, m = (torch.cat(parts, -1) for parts in zip(*looks))
    there = thoughts.worth[at + thoughts.beside]
    there = torch.where(there == model.NO_CELL, thoughts.worth[at], there)  # a wall: it stays
    return learned, ((there - model.GRAIN - m) * thinker.log2_unit).exp2()


def relative_error(learned, exact):
    """(mean, worst) of |learned - exact| / exact."""
    error = (learned - exact).abs() / exact
    return error.mean().item(), error.max().item()


@torch.no_grad()
def draw_agent(network, run, mazes, distance, scores, settings, evaluate, rollout):
    """rollouts.png and agent.gif, of mazes in which the agent fails, or failed early in training."""
    early, gamma, steps = copy.deepcopy(network), settings["GAMMA"], settings["MAX_EP_LENGTH"]
    early.load_state_dict(run["early"])
    some = scores["success"].argsort(stable=True)[:256]  # failures first
    failed_early = evaluate(early, mazes.select(some), distance[..., some])["success"]
    some = some[(2 * scores["success"][some] + failed_early).argsort(stable=True)[:5]]
    few, distance = mazes.select(some), distance[..., some]
    exact, farthest, rows = maze.optimal_q(few, distance, gamma), int(maze.shortest(few, distance).max()), []
    for row, agent in ((run["history"][0], early), (run["history"][-1], network)):
        walks, thoughts = rollout(agent, few, steps)
        values = []
        if isinstance(agent, model.Thinker):
            agent.think(few, lambda thoughts: values.append(thoughts.values()))
        rows.append((f"after {row['episodes']:,} episodes", values, walks.cells))
    if network.whole_maze:
        q = thoughts.q_values()
    else:  # it has no opinion of cells where it has not been
        q = torch.full_like(exact, float("nan")).flatten(1, 2)
        here = model.q_along(network, walks, thoughts)
        q = q.scatter(1, walks.cells.expand(4, -1, -1), here).view_as(exact)
    out = settings["OUT_DIR"]
    pictures.walks(os.path.join(out, "rollouts.png"), few, walks.cells, q, exact, gamma, farthest)
    pictures.thinking(os.path.join(out, "agent.gif"), few, rows, gamma, farthest)

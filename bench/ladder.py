"""From a network into which nothing is built to the default agent, one thing added at a time.

    python bench/ladder.py [SEEDS=3] [FIRST=100] [EPISODES=30720] [KEY=VALUE ...]

Mazes of 10x10. Each rung is tuned anew, in runs of a third of the episodes with another seed: LR
three times less or more, then HUBER ten times more, then UPDATES four times more. Then SEEDS runs
of EPISODES, or to the proof. Prints success in held-out mazes and in 200 perfect ones of 31x31,
never trained on, as many steps as there are cells: median (worst seed); on the way, after a
quarter, half and three quarters of the episodes, the median; seconds of training; how many seeds
are proved.
"""

import statistics
import sys
import time

import torch
import torch.nn as nn
from options import constants, median, replaced, split, trained
from plain import others

import main
import maze
import model
from support import plain, report
from support.agents import build, returns
from support.learning import parameters

DQN = "CREDIT=step UNIT=q GAMMA=0.9 STEP_REWARD=0 GOAL_REWARD=1 TARGET_SYNCS=8"
CNN = "THINK=False MODEL=cnn"
COMMON = "GRID=10 EVAL_MAZES=1000 EVAL_EVERY=5 MAZE_CACHE_SIZE=16384"


class ResNet(plain.CNN):
    """A residual network: each convolution has weights of its own, the maze goes into the first."""

    layers = 16

    def __init__(self, width, grid, rounds):
        super().__init__(width, grid, rounds)
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(self.layers)]
        self.again = nn.ModuleList(convolutions).to(memory_format=torch.channels_last)

    def forward(self, mazes, farthest=None):
        state = torch.relu(self.enter(plain.images(mazes)))
        for convolution in self.again:
            state = torch.relu(state + convolution(state))
        return self.leave(state).permute(1, 2, 3, 0)


class Looker(nn.Module):
    """Its state is V, a number a cell; all cells look at their neighbours, and V becomes max Q.

    In each look Q should be the backup of the look before. differences: a cell sees V of the others
    less its own, and says Q less its own; else V itself, and Q. Not clipped, not in whole steps.
    """

    whole_maze = True

    def __init__(self, width, differences):
        super().__init__()
        self.core = nn.Sequential(nn.Linear(17, width), nn.ReLU(), nn.Linear(width, 4))
        model.zeros(self.core[-1])
        self.differences = differences

    def features(self, value, walls):
        """What each cell sees: (H, W, B, 17)."""
        (h, w, _), v, closed = walls.shape, maze.padded(value, 1, 0), maze.padded(walls, 1, True)
        near = [(slice(1 + i, h + 1 + i), slice(1 + j, w + 1 + j)) for i, j in model.AROUND]
        closed = torch.stack([closed[place] for place in near], -1)
        v = torch.stack([v[place] for place in near], -1) - value[..., None] * self.differences
        own = value[..., None] * (not self.differences)
        return torch.cat([closed.float(), torch.where(closed, 0, v), own], -1)

    def answer(self, seen, value):
        return self.core(seen) + value[..., None] * self.differences

    @torch.no_grad()
    def begin(self, mazes, farthest=None):
        (h, w, _), value = mazes.walls.shape, torch.zeros(mazes.walls.shape)
        looking = ~mazes.walls & (torch.arange(h * w).view(h, w, 1) != mazes.goal)
        most = 8 + 2 * farthest if farthest else int((~mazes.walls).sum((0, 1)).max()) + 2
        for _ in range(most):
            seen = self.features(value, mazes.walls)
            q = self.answer(seen, value)
            now = torch.where(looking, q.amax(-1), 0).clamp(-h * w, h * w)
            still = (now - value).abs().max() < 0.01
            value = now
            if still:
                break
        return Looks(self, mazes, value, q.permute(3, 0, 1, 2))

    def q(self, episodes, steps):
        """Q, or Q - V, in N of the steps: (4, N)."""
        return self.core(episodes.seen[:-2].flatten(1).index_select(1, steps).t()).t()

    def kinds(self, episodes):
        return None

    def next_value(self, episodes, best=None):
        value, onward = episodes.seen[-2:, :-1]
        return onward - value * self.differences


class Looks:
    def __init__(self, agent, mazes, value, answers):
        self.agent, self.mazes, self.value, self.answers = agent, mazes, value, answers

    def greedy(self):
        return self.answers.argmax(0).to(torch.uint8)

    def q(self):
        return self.answers

    def seen(self, cells):
        """What was to be seen in each visited cell, V there, and V in the next: (19, T + 1, B)."""
        seen = self.agent.features(self.value, self.mazes.walls).permute(3, 0, 1, 2)
        value = maze.along(self.value, cells)
        onward = torch.cat([value[1:], value[-1:]])
        return torch.cat([maze.along(seen, cells), value[None], onward[None]])


def resnet(settings):
    network = ResNet(settings["WIDTH"], settings["GRID"], settings["LOOKS"])
    return plain.Plain(network, returns(settings))


# What is tuned, in this order, by which factors.
TRIED = ("LR", (1 / 3, 3)), ("HUBER", (10,)), ("UPDATES", (4,))
# What is added, the constants, what is built in place of them.
RUNGS = (
    ("16 convolutions, each with weights of its own; one-step TD", f"{CNN} {DQN}", resnet),
    ("the same convolution again and again, the maze in sight", f"{CNN} {DQN}", build),
    ("credit from the whole episode", f"{CNN} UNIT=q GAMMA=0.9 STEP_REWARD=0 GOAL_REWARD=1", build),
    ("advantages in steps, not Q", CNN, build),
    ("its state is V, learned by looking again", "WIDTH=64", lambda s: Looker(s["WIDTH"], False)),
    ("it sees differences of V", "WIDTH=64", lambda s: Looker(s["WIDTH"], True)),
    ("clipped to one step, and V in whole steps: the default", "", build),
)


def one_run(words, make, given):
    """(success, in 31x31, seconds of training, proved, weights, what was tuned, on the way)."""
    began, words = time.perf_counter(), (COMMON, words, *given)
    with replaced(main, "build", make), trained(*words) as (network, record, held_out):
        spent = time.perf_counter() - began
        scores = main.evaluate(network, *report.test_set(main.config(), held_out))
        success, beyond = scores["success"].mean().item(), others(network, 31, 1.0, 200)[0]
        proved, weights = report.wrong_views(network) == 0, parameters(network)
        own = f"{main.LR:.2g}, {main.HUBER:g}, {main.UPDATES}"
        return success, beyond, spent, proved, weights, own, on_the_way(record["history"])


def on_the_way(history):
    """Success after a quarter, half and three quarters of the episodes, as last evaluated."""
    found = []
    for share in 0.25, 0.5, 0.75:
        until = [row for row in history if row["episodes"] <= share * main.NUM_EPISODES]
        found.append((until or history[:1])[-1]["success"])
    return found


def tuned(words, make, episodes, given):
    """The best LR, then HUBER, then UPDATES, KEY=VALUE, in short runs with another seed."""
    short = [f"NUM_EPISODES={max(1024, episodes // 3)} SEED=7", *given]

    def score(trial):
        own = [f"{key}={value}" for key, value in trial.items()]
        return one_run(words, make, [*short, *own])[:2]

    with constants(words):
        best = {name: vars(main)[name] for name, _ in TRIED}
    best_score = score(best)
    for name, factors in TRIED:
        middle = best[name]
        for factor in factors if best_score[0] < 1 else ():  # 1 is the most there is
            trial = best | {name: type(middle)(middle * factor)}
            if (found := score(trial)) > best_score:
                best, best_score = trial, found
    return [f"{key}={value}" for key, value in best.items()]


def run(arguments):
    options, given = split(arguments, SEEDS=3, FIRST=100, EPISODES=30720)
    torch.set_num_threads(1)
    heads = "added", "weights", "LR, HUBER, UPDATES", "on the way", "success", "in 31x31", "seconds"
    print(f"| {' | '.join(heads)} | proved |\n|{' --- |' * 4}{' ---: |' * 4}")
    for name, words, make in RUNGS:
        best = tuned(words, make, options["EPISODES"], given)
        common = [f"NUM_EPISODES={options['EPISODES']}", *given, *best]
        seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
        runs = [one_run(words, make, [*common, f"SEED={seed}"]) for seed in seeds]
        way = [f"{statistics.median(values):.2f}" for values in zip(*(found[6] for found in runs))]
        cells = [name, f"{runs[0][4]:,}", runs[0][5], " ".join(way)]
        for i, worst in (0, min), (1, min), (2, max):
            cells.append(median([found[i] for found in runs], worst, 1 if i == 2 else 3))
        print(f"| {' | '.join(cells)} | {sum(found[3] for found in runs)} of {len(runs)} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    run(sys.argv[1:])

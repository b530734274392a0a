"""What do the constants do for agents that don't think? One is turned in each row.

    python bench/turned.py AGENT=plain|trail [SEEDS=3] [FIRST=100] [BUILT_IN=0] [KEY=VALUE ...]

plain: the CNN on 10x10 mazes; trail: VISION=2 MEMORY=trail. Each run is shorter than the agent's
own, so that what helps can be seen. Below "DQN": credit from one step, discounted Q, 8 target
syncs a batch, and what is turned from there. Prints the median (worst seed) of success in
MAX_EP_LENGTH steps (plain: 100, trail: 200) on 2,000 held-out mazes; then, plain: in 200 perfect
mazes of 31x31 cells; trail: the share of the held-out mazes in which it goes round for ever. A row
whose weights are those of the row that it was turned from says so: there the constant does nothing.
BUILT_IN=1: only what is not a constant is turned.
"""

import contextlib
import copy
import sys

import torch
import torch.nn as nn
from options import median, replaced, split, trained
from plain import others

import main
from support import agents, plain, report

# --------------------------------------------------------------------------------------------------
# What is built in, and cannot be turned by a constant


class OwnLayers(plain.CNN):
    """16 layers, each with weights of its own."""

    def __init__(self, width, grid, rounds):
        super().__init__(width, grid, rounds)
        self.layers = nn.ModuleList(copy.deepcopy(self.again) for _ in range(16))
        for layer in self.layers:
            layer.reset_parameters()
        del self.again

    def forward(self, mazes, farthest=None):
        entered = self.entered(mazes)
        state = torch.relu(entered)
        for layer in self.layers:
            state = torch.relu(layer(state) + entered)
        return self.leave(state).permute(1, 2, 3, 0)


class OutOfSight(plain.CNN):
    """The maze and the goal are shown once, not in every round."""

    def forward(self, mazes, farthest=None):
        state = torch.relu(self.entered(mazes))
        for _ in range(min(farthest or 64, 64) + 2):
            state = torch.relu(self.again(state) + state)
        return self.leave(state).permute(1, 2, 3, 0)


class AllRounds(plain.CNN):
    with_gradient = 10**9


class FourRounds(plain.CNN):
    with_gradient = 4


class HowOften(agents.Trail):
    def remembered(self, sight, near):
        often, lately = super().remembered(sight, near)
        return [often, lately * 0]


class HowLately(agents.Trail):
    def remembered(self, sight, near):
        often, lately = super().remembered(sight, near)
        return [often * 0, lately]


class Fading(agents.Trail):
    """How lately as 0.9 ** steps, which says nothing after some forty steps."""

    def remembered(self, sight, near):
        often, _ = super().remembered(sight, near)
        return [often, 0.9 ** (len(sight.notes) - sight.last.gather(0, near))]


# --------------------------------------------------------------------------------------------------

Q = "UNIT=q STEP_REWARD=0 GOAL_REWARD=1"
FIRST = (
    "CURRICULUM=off",
    "CURRICULUM=linear",
    "EPSILON=0",
    "EPSILON=0.3",
    "REPLAY=uniform",
    "REPLAY=prioritized",
)
SPEED = (
    "UPDATES=4",
    "UPDATES=64",
    "BSZ=256",
    "LR=0.0005",
    "LR=0.03",
    "HUBER=1",
    "MAZE_CACHE_SIZE=64",
)
DQN = (
    "TARGET_SYNCS=1",
    "TARGET_SYNCS=32",
    "DOUBLE=True",
    "GAMMA={low}",
    "GAMMA={high}",
    "SHAPING=manhattan",
    "SHAPING=oracle",
    "NOVELTY=0.01",
    "NOVELTY=0.3",
    "CREDIT=lambda LAMBDA=0",
    "CREDIT=lambda LAMBDA=0.5",
    "CREDIT=lambda",
    "CREDIT=lambda LAMBDA=1",
)
AGENTS = {
    "plain": dict(
        own="THINK=False MODEL=cnn GRID=10 NUM_EPISODES=15360",
        turned=(*SPEED, "WIDTH=4", "WIDTH=32", "LOOKS=8", "LOOKS=16"),
        built_in={
            "layers of their own": OwnLayers,
            "the maze is shown once": OutOfSight,
            "gradient through all rounds": AllRounds,
            "gradient through four rounds": FourRounds,
        },
        where=(plain.NETWORKS, "cnn"),
        gammas=(0.9, 0.8, 0.98),
    ),
    "trail": dict(
        own="VISION=2 MEMORY=trail NUM_EPISODES=20480",
        turned=("LR=0.003", "WIDTH=16", "COMPASS=False", "MAX_EP_LENGTH=100"),
        built_in={
            "how often, not how lately": HowOften,
            "how lately, not how often": HowLately,
            "how lately as 0.9 ** steps": Fading,
        },
        where=(agents.MEMORIES, "trail"),
        gammas=(0.98, 0.8, 0.999),
    ),
}


def rows(agent):
    """Of an entry of AGENTS: (name, KEY=VALUE, class, the name of the row that it turns)."""
    usual, low, high = agent["gammas"]
    yield "nothing", "", None, None
    yield "UNIT=q", "UNIT=q", None, "nothing"
    yield f"{Q} GAMMA={usual}", f"{Q} GAMMA={usual}", None, "nothing"
    for turned in (*FIRST, *agent["turned"]):
        yield turned, turned, None, "nothing"
    for name, kind in agent["built_in"].items():
        yield name, "", kind, "nothing"
    dqn = f"{Q} GAMMA={usual} CREDIT=step TARGET_SYNCS=8"
    yield f"DQN: {dqn}", dqn, None, "nothing"
    for turned in DQN:
        turned = turned.format(low=low, high=high)
        yield f"DQN, {turned}", f"{dqn} {turned}", None, f"DQN: {dqn}"


def one_run(arguments, kind, where):
    """(success, the second figure, all weights) of one run."""
    with contextlib.ExitStack() as stack:
        if kind:
            stack.enter_context(replaced(*where, kind))
        network, _, held_out = stack.enter_context(trained("EVAL_MAZES=2000", *arguments))
        found = report.average(main.evaluate(network, *report.test_set(main.config(), held_out)))
        second = found["loops"] if main.VISION else others(network, 31, 1.0, 200)[0]
        return found["success"], second, torch.cat([w.flatten() for w in network.parameters()])


def run(arguments):
    options, given = split(arguments, SEEDS=3, FIRST=100, BUILT_IN=0)
    name = given.pop(0).removeprefix("AGENT=")
    agent, found = AGENTS[name], {}
    torch.set_num_threads(1)
    seeds = range(options["FIRST"], options["FIRST"] + options["SEEDS"])
    print(f"Of `python main.py {' '.join([agent['own'], *given])}`:\n")
    print(f"| turned | success | {'31x31' if name == 'plain' else 'loops'} | |")
    print("| --- | ---: | ---: | --- |")
    for title, turned, kind, base in rows(agent):
        if options["BUILT_IN"] and base and not kind:
            continue
        own = [*agent["own"].split(), *turned.split(), *given]
        runs = [one_run([*own, f"SEED={seed}"], kind, agent["where"]) for seed in seeds]
        success, second, weights = zip(*runs)
        found[title] = weights
        same = base and all(map(torch.equal, weights, found[base]))
        worst = min if name == "plain" else max
        print(
            f"| {title} | {median(success, min, 3)} | {median(second, worst, 3)} "
            f"| {'the same weights' * bool(same)} |",
            flush=True,
        )


if __name__ == "__main__":
    run(sys.argv[1:])

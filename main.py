"""A deep Q-network learns to walk mazes that it has never seen, by a shortest path.

python main.py                      train with the constants below
python main.py MODEL=cnn SEED=3     the same, with some of them overridden
python main.py RESUME=True          go on with the run in OUT_DIR where it stopped
python main.py solve FILE           walk the mazes in a file with the trained agent

A small network looks at one cell and those around it, and gives Q of the four moves; the best Q is
the cell's new value. It thinks: cells look again and again, until no value changes. What one look
has to learn is the Bellman backup, Q(s, a) = r + GAMMA * V(s').
"""

import time

started = time.perf_counter()  # before the imports, so that they count

import copy
import math
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F

import maze
import model
from maze import Mazes
from model import Episodes
from support import mazefile, metrics, processes, settings, solving
from support.adam import Adam
from support.agents import build, recall
from support.checkpoint import load_checkpoint
from support.errors import exit_status
from support.processes import RANK, WORLD, all_reduce_sum, say
from support.replay import Replay, minibatches
from support.report import report
from support.reward import bounds, with_bonus
from support.run import Reporter, profiled, resume, stop_if_not_finite

# fmt: off
# The maze
GRID = 16               # cells on a side, 5..256; an even GRID ends in a row and a column of wall
DIFFICULTY = 1.0        # most walls kept, 0 (an empty hall) .. 1 (one path between any two cells)
DIFFICULTY_MIN = dict(mlp=0.0, window=0.5)  # fewest; a training maze draws its share in between,
                        # times the curriculum's level. Evaluation walks mazes with all their walls
GOAL = "random"         # "random": any open cell; "corner": the bottom-right room
MAX_START_DISTANCE = 100  # steps from the farthest start; over MAX_EP_LENGTH it can't be walked
MAZE_CACHE_SIZE = 16_384  # different mazes to train on
MAZE_CACHE_FILE = "mazes.npz"  # under OUT_DIR; made again when its settings differ

# The agent. Where a constant has several values, the agent picks its own, by its MODEL, or "window"
# if it sees a window, or "map" if it draws a map; "mlp" stands for all that are not named.
MODEL = "mlp"           # "mlp", "cnn", "attention": they learn the backup; "vin": it is built in
WIDTH = dict(mlp=48, cnn=24, attention=32, vin=16, window=128)  # units or channels of a layer
LOOKS = 0               # rounds of looking while the network thinks; 0: until no value changes
VISION = 0              # 0: sees the whole maze; r: the (2r + 1)^2 cells around it, through walls
COMPASS = True          # with VISION: knows how far the goal is to the south and to the east
MEMORY = "none"         # with VISION: "none", "trail" (where it was), "gru" (recurrent), "map"

# Learning
GAMMA = dict(mlp=0.5, window=0.98)  # discount a step; small: ratios of values are clear
LAMBDA = dict(mlp=0.0, window=0.9)  # 0: targets of one step; 1: to the end of the greedy way
LR = dict(mlp=0.01, cnn=0.005, attention=0.005, window=0.002)  # Adam's step size at the start
LR_DECAY = 0.5          # share of the run, at its end, in which the step size falls to 0
UPDATES = dict(mlp=40, cnn=80, attention=80, window=20)  # gradient steps a batch, on its parts
TARGET_SYNCS = dict(mlp=1, window=4)  # times a batch that the target network is copied
DOUBLE = False          # double DQN: the online network picks the next action, the target values it
HUBER = dict(mlp=0.1, vin=0.01, window=0.05)  # TD error at which the loss turns linear
GRAD_CLIP = 1.0         # greatest norm of the gradient
REPLAY = "off"          # learn from a replay memory: "off", "uniform", "prioritized" (by TD error)
REPLAY_SIZE = 16_384    # episodes in it
PRIORITY_ALPHA = 0.6    # prioritized: exponent of the priority; 0: uniform, 1: proportional
PRIORITY_BETA = 0.4     # prioritized: exponent of importance weights at first; 1 at the end

# Reward, beside the 1 for reaching the goal; for agents with a window and no map
SHAPING = "none"        # potential-based: "manhattan": of the straight distance, "oracle": the true
NOVELTY = 0.0           # for each cell that is new in this episode

# Exploration: episode i of a batch acts at random with chance
# EPSILON * (i / (BSZ - 1)) ** EPSILON_SHAPE
EPSILON = 1.0           # of the most exploring episode, 0..1
EPSILON_SHAPE = 1.5     # 1: evenly from 0 to EPSILON; higher: more episodes are nearly greedy

# Curriculum: a level from 0 to 1 raises walls (to DIFFICULTY) and start distances together
CURRICULUM = "adaptive"  # "adaptive": by success; "linear": by time; "off": level 1 from the start
CURRICULUM_SUCCESS = dict(mlp=0.8, window=0.7)  # adaptive: in the least exploring quarter
CURRICULUM_STEP = dict(mlp=0.1, window=0.05)  # adaptive: what such success raises the level by
CURRICULUM_SHARE = 0.5  # linear: share of the run after which the level is 1

# The run
NUM_EPISODES = dict(mlp=20_480, map=10_240, window=102_400)  # episodes in all, in whole batches
BSZ = 1024              # episodes side by side
MAX_EP_LENGTH = 100     # steps after which an episode is cut off; it still bootstraps
SEED = 0                # of mazes, weights and exploration; held-out mazes have their own
DEVICE = "auto"         # "auto": a CUDA GPU where there is one, else the CPU; "cuda:1", "mps"
THREADS = 1             # CPU threads, 0: torch's choice; operations as small as these lose by more
EVAL_MAZES = 10_000     # held-out mazes in the final evaluation, and of training mazes a quarter
EVAL_SAMPLE = 256       # held-out, and as many training mazes, in each evaluation on the way
EVAL_EVERY = dict(mlp=2, window=5)  # batches from one evaluation to the next; each saves, too
OUT_DIR = "out"         # for all that a run writes, but for the plot
PLOT_FILE = ""          # "": training_plot.png, if the constants are as here; else in OUT_DIR
PLOT_EVERY = 30         # seconds after which the plot is drawn anew while training runs
RESUME = False          # go on with the run that OUT_DIR holds, with the same constants
CHECKPOINT = ""         # the file that `solve` walks with; "": checkpoint.pt under OUT_DIR
PROFILE = False         # run under cProfile: prints the 30 slowest calls, saves training_stats
# fmt: on

# Only names above this line are constants. Each dict becomes the value for this agent, a number.
CONSTANTS = [name for name in globals() if name.isupper() and name not in settings.OTHERS]
BY_AGENT = {name: globals()[name] for name in CONSTANTS if isinstance(globals()[name], dict)}


def config() -> dict:
    """Every constant with its present value."""
    return {name: globals()[name] for name in CONSTANTS}


globals().update(settings.of_agent(BY_AGENT, config()))
DEFAULTS = config()


# --------------------------------------------------------------------------------------------------
# Training: draw mazes -> act -> learn -> evaluate


class Learner(NamedTuple):
    """All that changes while it learns. replay: a `Replay`, or None."""

    online: torch.nn.Module
    target: torch.nn.Module
    optimizer: Adam
    replay: Replay | None
    generator: torch.Generator


def train(device, reporter=None, asked_to_stop=lambda: False):
    """Trains an agent with the constants as they stand.

    Returns the network, the record of the run with its history, and the bit-packed mazes that it
    trained on, and that it has never seen. reporter: see `support.run.Reporter`.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator(device).manual_seed(SEED)
    online = build(config()).to(device)
    replay = Replay.of(config(), device) if REPLAY != "off" else None
    optimizer = Adam(online.parameters(), LR)
    learner = Learner(online, copy.deepcopy(online), optimizer, replay, generator)
    # Shuffled, so that every update learns from all kinds of exploration; alike in all processes.
    order = torch.randperm(BSZ, generator=generator, device=device)[RANK::WORLD]
    epsilon = EPSILON * (order / max(1, BSZ - 1)) ** EPSILON_SHAPE
    least_exploring = order < max(1, BSZ // 4)
    batches = math.ceil(NUM_EPISODES / BSZ)
    record = dict(batch=0, level=float(CURRICULUM == "off"), env_steps=0, history=[], began=started)
    if RESUME:
        record = resume(f"{OUT_DIR}/checkpoint.pt", config(), learner)
    wanted = f"{OUT_DIR}/{MAZE_CACHE_FILE}", MAZE_CACHE_SIZE, GRID, SEED, device, say
    cache = processes.first_process_first(device, maze.load_cache, *wanted)
    held_out = maze.held_out(EVAL_MAZES, GRID, settings.HELD_OUT_SEED, cache, device, say)
    sample = test_set(torch.cat([held_out[:, :EVAL_SAMPLE], cache[:, :EVAL_SAMPLE]], 1))
    if reporter:
        reporter.begin(learner, cache, batches)

    for batch in range(record["batch"], batches):
        processes.seed_differently(generator, SEED, batch)
        # Act. It thinks once, and a step is a look-up; with a window, it is asked at each step.
        mazes = draw(cache, len(order), record["level"], generator)
        episodes, thoughts = rollout(online, mazes, MAX_EP_LENGTH, epsilon, generator)

        # Learn.
        optimizer.lr = LR * min(1, (1 - batch / batches) / LR_DECAY) if LR_DECAY else LR
        losses, grad_norms = learn(learner, episodes, thoughts, batch / batches)
        stop_if_not_finite(config(), losses, grad_norms, *online.parameters())

        # Raise the level, evaluate.
        away = episodes.cells != episodes.mazes.goal
        counts = [away[:-1].sum(), (~away[-1] & least_exploring).sum(), least_exploring.sum()]
        steps, arrived, tried = all_reduce_sum(torch.stack(counts)).tolist()
        level = next_level(record["level"], (batch + 1) / batches, arrived / max(1, tried))
        record.update(batch=batch + 1, env_steps=record["env_steps"] + steps, level=level)
        stopping = batch + 1 == batches or processes.any_of_them(asked_to_stop(), device)
        if RANK == 0 and (batch % EVAL_EVERY == 0 or stopping):
            means = dict(loss=losses, grad_norm=grad_norms, epsilon=epsilon)
            scores = evaluate(online, *sample)
            record["history"].append(metrics.row(config(), record, optimizer.lr, scores, means))
            record.setdefault("early", copy.deepcopy(online.state_dict()))  # for the pictures
            if reporter:
                reporter.evaluated(learner, record)
        if stopping:
            break
    return online, record, cache, held_out


def draw(cache, n: int, level: float, generator) -> Mazes:
    """n training mazes at the curriculum's level."""
    index = torch.randint(cache.shape[1], (n,), generator=generator, device=cache.device)
    share = torch.rand(n, generator=generator, device=cache.device)
    difficulty = level * (DIFFICULTY_MIN + share * (DIFFICULTY - DIFFICULTY_MIN))
    farthest = 1 + round(level * (MAX_START_DISTANCE - 1))
    return maze.draw(cache[:, index], GRID, difficulty, farthest, GOAL, generator)


def next_level(level: float, share_done: float, success: float) -> float:
    """The curriculum's level after a batch. share_done: of the run."""
    if CURRICULUM == "linear":
        return min(1.0, share_done / CURRICULUM_SHARE)
    if CURRICULUM == "adaptive" and success >= CURRICULUM_SUCCESS:
        return min(1.0, level + CURRICULUM_STEP)
    return level


# --------------------------------------------------------------------------------------------------
# Acting: network -> Q -> moves -> episodes


@torch.no_grad()
def rollout(network, mazes: Mazes, steps: int, epsilon=None, generator=None):
    """Walks every maze for `steps` steps, greedily but for random actions with chance epsilon (B,).

    Returns the `Episodes`, and what the network thought: its `along(cells)` is learned from.
    """
    choices = choose_actions(steps, mazes, epsilon, generator)
    if network.whole_maze:
        thoughts = network.think(mazes)
        table, greedy = maze.move_table(mazes, thoughts.q)
        cells = maze.walk(table, mazes.start, choices)
        actions = torch.where(choices == 4, model.along(greedy, cells[:-1]), choices)
    else:
        thoughts = network.begin(mazes, learning=epsilon is not None)
        table, _ = maze.move_table(mazes)
        actions = choices  # the same tensor: `walk` replaces each 4 in it by the action taken
        cells = maze.walk(table, mazes.start, actions, lambda cells: thoughts.see(cells).argmax(0))
        thoughts.see(cells[-1])
    return with_reward(mazes, cells, actions.long()), thoughts


def choose_actions(steps: int, mazes: Mazes, epsilon, generator):
    """(steps, B) int32: a random action, 0..3, with chance epsilon (B,); else 4, the greedy one."""
    shape = steps, len(mazes.goal)
    if epsilon is None:
        return torch.full(shape, 4, dtype=torch.int32, device=mazes.goal.device)
    # Under epsilon, each of 0..3 is as likely, but for the steps of 2^-16 that `uniform` takes.
    return (maze.uniform(shape, generator) * (4 / epsilon.clamp(min=1e-30))).clamp_(max=4).int()


def with_reward(mazes: Mazes, cells, actions) -> Episodes:
    """The episodes with what their steps earn: 1 for reaching the goal, NOVELTY and SHAPING."""
    reached = cells == mazes.goal
    reward = (reached[1:] & ~reached[:-1]).float()
    reward, potential = with_bonus(reward, mazes, cells, NOVELTY, SHAPING, GAMMA)
    return Episodes(mazes, cells, actions, reward, potential)


# --------------------------------------------------------------------------------------------------
# Learning: what was seen -> targets -> TD errors -> a gradient step


def learn(learner: Learner, episodes: Episodes, thoughts, share_done: float) -> torch.Tensor:
    """UPDATES gradient steps, each on its own share of these episodes, or of remembered ones.

    thoughts: what the online network thought when it walked. share_done: of the run.
    Returns the losses and the norms of the gradient, (2, UPDATES).
    """
    online, _, optimizer, replay, generator = learner
    n, results = len(episodes.mazes.goal), []
    weight = torch.ones(n, device=episodes.cells.device)
    if replay:
        replay.add(episodes.mazes, episodes.cells, episodes.actions)
        beta = PRIORITY_BETA + (1 - PRIORITY_BETA) * share_done
        *remembered, index, weight = replay.sample(n, generator, beta)
        episodes, thoughts = with_reward(*remembered), None
    syncs = min(TARGET_SYNCS, UPDATES)
    for sync in range(syncs):
        first, last = sync * UPDATES // syncs, (sync + 1) * UPDATES // syncs
        lanes = slice(first * n // UPDATES, last * n // UPDATES)  # episodes until the next sync
        seen, td_target, counts = fixed_targets(learner, episodes.select(lanes), lanes, thoughts)
        by_step = episodes.actions[:, lanes], td_target, weight[lanes].expand_as(td_target)
        for part, steps in minibatches(counts, last - first):
            minibatch = [x[:, part].flatten()[steps] for x in by_step]
            seen_here = [x[..., part] for x in seen]
            loss, grad_norm, error = update(online, optimizer, seen_here, steps, *minibatch)
            results.append(torch.stack([loss, grad_norm]))
            if replay:
                errors = torch.zeros_like(td_target[:, part]).flatten().scatter(0, steps, error)
                replay.set_priority(index[lanes][part], errors.view(len(td_target), -1))
        thoughts = None  # the online network has changed
    return torch.stack(results, 1)


def fixed_targets(learner: Learner, episodes: Episodes, lanes: slice, thoughts):
    """Syncs the target network: (what it saw on the way, the target of each step, which count).

    lanes: which of the batch these episodes are. thoughts: those of the acting network, while the
    target has the same weights; None: the target thinks anew. No gradient passes through thinking:
    each look is learned by itself, from values that stay as they are.
    """
    online, target = learner.online, learner.target
    # With double DQN the target is copied one sync late: else the two networks would be the same.
    if not DOUBLE:
        target.load_state_dict(online.state_dict())
    anew = DOUBLE or thoughts is None
    seen = recall(target, episodes) if anew else thoughts.along(episodes.cells, lanes)
    limits = bounds(NOVELTY, MAX_EP_LENGTH)
    targets = model.td_targets(online, target, seen, episodes, GAMMA, LAMBDA, DOUBLE, limits)
    if DOUBLE:
        target.load_state_dict(online.state_dict())
    return seen, *targets


def update(online, optimizer, seen, steps, action, td_target, weight):
    """One gradient step on the TD errors Q(s, a) - td_target in N `steps` of what was `seen`.

    action, td_target, weight (N,), targets in the units of Q. Returns the loss, the norm of the
    gradient, and the TD errors (N,), all on the device.
    """
    q = online.q(seen, steps)  # (4, N)
    error = q.gather(0, action[None])[0] - td_target
    # Huber's loss over HUBER, so that its slope is at most 1.
    loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=HUBER)
    number = all_reduce_sum(torch.full((), float(len(steps)), device=steps.device))
    loss = (loss * weight).sum() / number.clamp(min=1)
    gradient = torch.autograd.grad(loss, list(online.parameters()))
    gradient = all_reduce_sum(torch.cat([part.flatten() for part in gradient]))
    grad_norm = gradient.norm()
    optimizer.step(gradient * (GRAD_CLIP / (grad_norm + 1e-6)).clamp(max=1))
    return all_reduce_sum(loss.detach()), grad_norm, error.detach()


# --------------------------------------------------------------------------------------------------
# Evaluation


def test_set(packed):
    """(the mazes with all walls, each with a goal and a start, the distance of each cell to it)."""
    generator = torch.Generator().manual_seed(settings.HELD_OUT_SEED)
    mazes = maze.draw(packed.cpu(), GRID, 1.0, MAX_START_DISTANCE, GOAL, generator)
    mazes = mazes.to(packed.device)  # drawn on the CPU, so that they are the same on any device
    return mazes, maze.distances(mazes.walls, mazes.goal)


@torch.no_grad()
def evaluate(network, mazes: Mazes, distance, steps=None, cells=2**20):
    """How the greedy agent does in each maze: a dictionary of float tensors (B,).

    distance (H, W, B): the exact one. steps: after which it has failed, MAX_EP_LENGTH if not given.
    cells: how many to think about at once.
    """
    scores, chunk = [], max(1, cells // distance[..., 0].numel())
    for i in range(0, len(mazes.goal), chunk):
        part, d = mazes.select(slice(i, i + chunk)), distance[..., i : i + chunk]
        episodes, thoughts = rollout(network, part, steps or MAX_EP_LENGTH)
        wrong = metrics.q_minus_optimal(network, episodes, thoughts, d, GAMMA)
        scores.append(metrics.score(episodes, d, *wrong))
    return {name: torch.cat([part[name] for part in scores]) for name in scores[0]}


# --------------------------------------------------------------------------------------------------
# The command line


def run():
    """Trains, and reports. Returns the summary, or None in a process that does not report."""
    device = pick_device()
    with processes.joined(OUT_DIR, device) as asked_to_stop:
        reporter = Reporter(config(), BY_AGENT, DEFAULTS) if RANK == 0 else None
        network, record, cache, held_out = train(device, reporter, asked_to_stop)
        if RANK == 0:
            sets = test_set(held_out), test_set(cache[:, : math.ceil(EVAL_MAZES / 4)])
            return report(reporter, network, record, *sets, evaluate, rollout)


def solve(path: str, start="", goal=""):
    """Walks the mazes of a file with the agent of CHECKPOINT. start, goal: "y,x" if it has none."""
    device, texts = pick_device(), mazefile.read(path, start, goal)
    network, _, _ = load_checkpoint(CHECKPOINT or f"{OUT_DIR}/checkpoint.pt", device)
    solving.solve(texts, network, device, rollout, f"{OUT_DIR}/solved.png")


def pick_device():
    return processes.pick_device(DEVICE, THREADS)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""

    def command():
        given, places = settings.split(arguments, __doc__)
        globals().update(settings.override(config(), BY_AGENT, given))
        settings.check(config(), WORLD)
        if arguments[:1] == ["solve"]:
            solve(arguments[1], **places)
        elif PROFILE:
            profiled(run, f"{OUT_DIR}/training_stats")
        else:
            run()

    return exit_status(command, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

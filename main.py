"""A deep Q-network learns to walk mazes that it has never seen, by a shortest path.

    python main.py                      train with the constants below
    python main.py MODEL=cnn SEED=3     the same, with some of them overridden
    python main.py RESUME=True          go on with the run in OUT_DIR where it stopped
    python main.py solve FILE           walk the mazes in a text file with the trained agent
"""
import time

started = time.perf_counter()

import contextlib
import copy
import csv
import difflib
import json
import os
import signal
import sys

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which counts FLOPs, is talkative in some versions of torch

import torch
import torch.distributed
import torch.nn.functional as F

import maze
import model
from maze import UserError, replacing
from support.checkpoint import load_checkpoint, save_checkpoint
from support.replay import Replay
from support.window import MEMORIES, build

# The maze
GRID = 16                    # cells on a side, 5..256; rooms sit at even coordinates, so an even GRID ends in a wall
DIFFICULTY = 1.0             # share of walls kept, 0 (an empty hall) to 1 (exactly one path between any two cells)
DIFFICULTY_MIN = dict(mlp=0.0, window=0.5)  # each training maze draws its own share between the two, times the curriculum's level
GOAL = "random"              # "random": any open cell; "corner": the bottom-right room
MAX_START_DISTANCE = 100     # steps from the farthest start to the goal; over MAX_EP_LENGTH it can't be walked in time
MAZE_CACHE_SIZE = 16_384     # different mazes to train on; a few can be learned by heart (see generalization_gap)
MAZE_CACHE_FILE = "mazes.npz"  # under OUT_DIR; made again when its settings differ

# The agent. Where a constant names several values, MODEL picks its own, "mlp" stands for those not named;
# an agent with a window picks "window", one that draws a map picks "map".
MODEL = "mlp"                # "mlp", "cnn", "attention": a core that learns the backup; "vin": one that is told all of it but walls
WIDTH = 0                    # units or channels of a hidden layer; 0: the model's own
LOOKS = 0                    # how often each cell looks while the network thinks; 0: until no value changes; 1: just once
VISION = 0                   # 0: sees the whole maze; r: only the (2r + 1)^2 cells around it, walls don't block the view
COMPASS = True               # with VISION: it knows how far the goal is to the north or south and east or west
MEMORY = "none"              # with VISION: "none"; "trail": of its visits; "gru": a recurrent state; "map": of all it has seen

# Learning
GAMMA = dict(mlp=0.5, window=0.98)  # discount a step; low: no two ways look alike; a network that thinks sees as far with it
LAMBDA = dict(mlp=0.0, window=0.9)  # 0: credit moves one cell a target sync; 1: along a whole greedy path at once
LR = dict(mlp=0.01, cnn=0.005, attention=0.005, window=0.002)  # Adam's step size at the start
LR_DECAY = 0.5               # share of the run, at its end, over which the step size falls linearly to 0
UPDATES = dict(mlp=40, cnn=80, attention=80, window=20)  # gradient steps a batch of episodes, each on BSZ / UPDATES of them
TARGET_SYNCS = dict(mlp=1, window=4)  # times a batch that the target network is copied from the online one, and thinks anew
DOUBLE = dict(mlp=False, window=True)  # double DQN: the online network picks the next action, the target network values it
HUBER = dict(mlp=0.1, vin=0.01, window=0.05)  # TD error at which the loss turns from squared to linear; small: small errors count, too
GRAD_CLIP = 1.0              # greatest norm of the gradient
REPLAY = "off"               # "off": learn from the newest batch; "uniform": from any of the last REPLAY_SIZE episodes;
REPLAY_SIZE = 16_384         # ... "prioritized": from those with great TD errors more often
PRIORITY_ALPHA = 0.6         # prioritized: 0: as uniform; 1: as often as the TD error is great
PRIORITY_BETA = 0.4          # prioritized: how far weights make up for that at the start; 1, at the end: wholly

# Reward, beside the 1 for reaching the goal
SHAPING = "none"             # with VISION and no map; potential-based: "manhattan": of the distance as the crow flies, "oracle": of the true one
NOVELTY = 0.0                # the same; for each cell that is new in this episode

# Exploration: episode i of a batch acts at random with probability EPSILON * (i / (BSZ - 1)) ** EPSILON_SHAPE
EPSILON = 1.0                # of the most exploring episode, 0..1
EPSILON_SHAPE = 1.5          # 1: evenly spread from 0 to EPSILON; higher: more episodes are nearly greedy

# Curriculum: a level from 0 to 1 raises walls (to DIFFICULTY) and start distances (to MAX_START_DISTANCE) together
CURRICULUM = "adaptive"      # "adaptive": by success; "linear": by time; "off": level 1 from the start
CURRICULUM_SUCCESS = dict(mlp=0.8, window=0.7)  # adaptive: success, in the least exploring quarter of a batch, that raises the level ...
CURRICULUM_STEP = dict(mlp=0.1, window=0.05)  # ... by this much
CURRICULUM_SHARE = 0.5       # linear: share of the run after which the level is 1

# The run
NUM_EPISODES = dict(mlp=20_480, window=102_400)  # single episodes in all, rounded up to whole batches
BSZ = 1024                   # episodes side by side
MAX_EP_LENGTH = 100          # steps after which an episode is cut off; it still bootstraps
SEED = 0                     # of training mazes, weights and exploration; held-out mazes have a seed of their own
DEVICE = "auto"              # "auto": a CUDA GPU where there is one, else the CPU; "cpu", "cuda", "cuda:1", "mps"
THREADS = 1                  # CPU threads, 0: torch's choice; vin's operations are too small to share, cnn and mlp gain
EVAL_MAZES = 10_000          # held-out mazes in the final evaluation
EVAL_SAMPLE = 256            # of them, in the evaluations on the way ...
EVAL_EVERY = 5               # ... one in so many batches; each also saves the checkpoint
OUT_DIR = "out"              # for all that a run writes, but for the plot
PLOT_FILE = "training_plot.png"
PLOT_EVERY = 30              # seconds after which the plot is drawn anew while training runs
RESUME = False               # go on with the run that OUT_DIR holds, with the same constants
CHECKPOINT = ""              # the file that `solve` walks with; "": checkpoint.pt under OUT_DIR
PROFILE = False              # run under cProfile: prints the 30 slowest calls, saves OUT_DIR/training_stats

CONSTANTS = [name for name, value in list(globals().items()) if name.isupper() and isinstance(value, (bool, int, float, str, dict))]
BY_MODEL = {name: globals()[name] for name in CONSTANTS if isinstance(globals()[name], dict)}


def set_by_model(before=None):
    """Gives each constant in BY_MODEL the value for the agent that is now asked for, where it still has the one for `before`."""
    for name, values in BY_MODEL.items():
        if before is None or globals()[name] == values.get(before, values["mlp"]):
            globals()[name] = values.get(agent(), values["mlp"])


def agent():
    """The kind of agent that MODEL, VISION and MEMORY ask for."""
    return MODEL if not VISION else "map" if MEMORY == "map" else "window"


set_by_model()
HELD_OUT_SEED = 2 ** 32 - 1  # greater than any SEED
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # set by torchrun: this process, of how many


# ----------------------------------------------------------------------------------------------------------------------
# Training: mazes -> rollout -> replay -> DQN update -> evaluate


def train():
    """Trains an agent with the constants as they stand, writes what came of it, and returns the summary."""
    device = pick_device()
    os.makedirs(OUT_DIR, exist_ok=True)
    with only_run_here(), processes(device), stop_on_signal() as asked_to_stop:
        torch.manual_seed(SEED)
        generator = torch.Generator(device).manual_seed(SEED)
        cache, held_out, sample = load_mazes(device)

        online = build(config()).to(device)
        target = copy.deepcopy(online)
        optimizer = model.Adam(online.parameters(), LR)
        replay = None
        if REPLAY != "off":
            replay = Replay(REPLAY_SIZE, GRID, MAX_EP_LENGTH, PRIORITY_ALPHA * (REPLAY == "prioritized"), device)
        order = torch.randperm(BSZ, generator=generator, device=device)[RANK::WORLD]  # shuffled: each update gets all kinds
        epsilon = EPSILON * (order / max(1, BSZ - 1)) ** EPSILON_SHAPE
        calm = order <= BSZ // 4
        batches = -(-NUM_EPISODES // BSZ)
        tell_budget(online, replay, cache, batches)
        run = begin(online, optimizer, replay, sample, generator)

        for batch in range(run["batch"], batches):
            # Act. The network thinks once about a maze; each step of the episode is then a look-up.
            mazes = draw(cache, len(order), run["level"], generator)
            episodes, thoughts = rollout(online, mazes, MAX_EP_LENGTH, epsilon, generator)
            away = episodes.cells != mazes.goal
            steps, arrived, tried = total(torch.stack([away[:-1].sum(), (~away[-1, calm]).sum(), calm.sum()])).tolist()

            # Learn.
            optimizer.lr = LR * min(1, (1 - batch / batches) / LR_DECAY) if LR_DECAY else LR
            losses, grad_norms = learn(online, target, optimizer, replay, episodes, thoughts, batch / batches, generator)
            stop_if_not_finite(losses, grad_norms, *online.parameters())

            # Evaluate.
            run.update(batch=batch + 1, env_steps=run["env_steps"] + steps,
                       level=next_level(run["level"], (batch + 1) / batches, arrived / max(1, tried)))
            stopping = total(torch.tensor(int(asked_to_stop()), device=device)) or run["batch"] == batches
            if RANK == 0 and (batch % EVAL_EVERY == 0 or stopping):
                measure(run, online, sample, loss=losses.mean().item(), grad_norm=grad_norms.mean().item(),
                        epsilon=epsilon.mean().item(), level=run["level"], learning_rate=optimizer.lr)
                keep(run, online, optimizer, replay, generator)
                show_progress(run, batches)
            if stopping:
                break
        if RANK == 0:
            known = cache[:, torch.arange(EVAL_MAZES, device=device) % MAZE_CACHE_SIZE]
            return report(online, run, exam(held_out), exam(known), device)


def learn(online, target, optimizer, replay, episodes, thoughts, progress, generator):
    """UPDATES gradient steps on these episodes, or on as many out of the replay memory: (losses, norms of the gradient).

    thoughts: what the online network thought when it walked. progress: the share of the run done.
    """
    n, weight, results = episodes.cells.shape[1], None, []
    if replay:
        replay.add(*episodes[:3])
        *remembered, index, weight = replay.sample(n, generator, PRIORITY_BETA + (1 - PRIORITY_BETA) * progress)
        episodes, thoughts = with_reward(*remembered), None
    syncs = [step for step in range(UPDATES) if step * TARGET_SYNCS // UPDATES > (step - 1) * TARGET_SYNCS // UPDATES]
    for sync, until in zip(syncs, syncs[1:] + [UPDATES]):
        # The target network is a copy, and it thinks for itself: about the episodes of the updates until the next sync.
        target.load_state_dict(online.state_dict())
        lanes = slice(sync * n // UPDATES, until * n // UPDATES)
        some = episodes.select(lanes)
        seen = recall(target, some) if sync or thoughts is None else [x[..., lanes] for x in thoughts.along(episodes.cells)]
        for step in range(sync, until):
            part = slice(step * n // UPDATES - lanes.start, (step + 1) * n // UPDATES - lanes.start)
            loss, grad_norm, error = update(online, target, optimizer, some.select(part), [x[..., part] for x in seen],
                                            None if weight is None else weight[lanes][part])
            if replay:
                replay.learn(index[lanes][part], error)
            results.append(torch.stack([loss, grad_norm]))
    return torch.stack(results, 1)


def recall(network, episodes):
    """What there was to see along these episodes, as this network thinks of them."""
    if network.whole_maze:
        return network.think(episodes.mazes).along(episodes.cells)
    memory = network.begin(episodes.mazes, learning=True)
    for cells in episodes.cells:
        memory.see(cells)
    return memory.along(episodes.cells)


def load_mazes(device):
    """(training mazes, held-out mazes, both bit-packed; the exam of the evaluations on the way: some of each)."""
    def load():
        return maze.load_cache(in_out_dir(MAZE_CACHE_FILE), MAZE_CACHE_SIZE, GRID, SEED, device)

    cache = load() if RANK == 0 else None
    total(torch.zeros(1, device=device))  # the other processes wait until the first one has saved them
    cache = load() if RANK else cache
    held_out = maze.held_out(EVAL_MAZES, GRID, HELD_OUT_SEED, cache, device)
    return cache, held_out, exam(torch.cat([held_out[:, :EVAL_SAMPLE], cache[:, :EVAL_SAMPLE]], 1))


def begin(online, optimizer, replay, sample, generator):
    """The progress of a run: of a new one, or, with RESUME, of the one in OUT_DIR."""
    if RESUME:
        run = resume(online, optimizer, replay, generator)
    else:
        always = torch.ones(len(sample[0].goal), device=sample[0].goal.device)
        walks, _ = rollout(online, sample[0], MAX_EP_LENGTH, always, torch.Generator(always.device).manual_seed(SEED))
        run = dict(batch=0, level=float(CURRICULUM == "off"), env_steps=0, history=[],
                   random_walk=(walks.cells[-1] == sample[0].goal).float().mean().item())
    if RANK:  # every process draws its own mazes
        generator.manual_seed((SEED + RANK * 1_000_003 + run["batch"]) % HELD_OUT_SEED)
    return run


def measure(run, online, sample, **row):
    """Adds a row to the history: what is given, and how the greedy agent does in held-out and in training mazes."""
    scores, half = evaluate(online, *sample), min(EVAL_SAMPLE, EVAL_MAZES)
    run["history"].append(dict(
        episodes=run["batch"] * BSZ, env_steps=run["env_steps"], updates=run["batch"] * UPDATES,
        seconds=time.perf_counter() - started, **row, **average(scores, slice(half)),
        train_success=average(scores, slice(half, None))["success"]))
    run.setdefault("early", {name: value.clone() for name, value in online.state_dict().items()})


def draw(cache, n, level, generator):
    """n training mazes at the curriculum's level."""
    index = torch.randint(cache.shape[1], (n,), generator=generator, device=cache.device)
    share = torch.rand(n, generator=generator, device=cache.device)
    difficulty = level * (DIFFICULTY_MIN + share * (DIFFICULTY - DIFFICULTY_MIN))
    farthest = 1 + round(level * (MAX_START_DISTANCE - 1))
    return maze.draw(cache[:, index], GRID, difficulty, farthest, GOAL, generator)


def next_level(level, progress, success):
    """The curriculum's level after a batch: `progress` is the share of the run done."""
    if CURRICULUM == "linear":
        return min(1.0, progress / CURRICULUM_SHARE)
    if CURRICULUM == "adaptive" and success >= CURRICULUM_SUCCESS:
        return min(1.0, level + CURRICULUM_STEP)
    return level


@torch.no_grad()
def rollout(network, mazes, steps, epsilon=None, generator=None):
    """Walks every maze for `steps` steps, greedily but for random actions with probability epsilon (B,).

    Returns the episodes, and what the network thought: its `along(cells)` is what learning needs.
    """
    choices = choose_actions(steps, mazes, epsilon, generator)
    if network.whole_maze:
        thoughts = network.think(mazes)
        table, greedy = maze.move_table(mazes, thoughts.q)
        cells = maze.walk(table, mazes.start, choices)
        choices += (choices == 4) * (model.along(greedy, cells[:-1]).int() - 4)
    else:
        thoughts = network.begin(mazes, learning=epsilon is not None)
        table, _ = maze.move_table(mazes, torch.zeros(1, device=mazes.goal.device).expand(4, *mazes.walls.shape))
        cells = maze.walk(table, mazes.start, choices, lambda cells: thoughts.see(cells).argmax(0))
        thoughts.see(cells[-1])
    return with_reward(mazes, cells, choices.long()), thoughts


def choose_actions(steps, mazes, epsilon, generator):
    """(steps, B) int32: a random action, 0..3, with probability epsilon (B,); else 4, the greedy one. No epsilon: all 4."""
    shape = steps, len(mazes.goal)
    if epsilon is None:
        return torch.full(shape, 4, dtype=torch.int32, device=mazes.goal.device)
    scale = 4 / 2 ** 16 / epsilon.clamp(min=1e-30)  # under epsilon, each of 0..3 is as likely
    return torch.addcmul(scale * (2 ** 15 + 0.5), maze.dice(shape, generator), scale).clamp_(max=4).int()


def with_reward(mazes, cells, actions):
    return model.Episodes(mazes, cells, actions, *model.pay(mazes, cells, potential(mazes), GAMMA, NOVELTY))


def potential(mazes):
    """What SHAPING holds each cell to be worth, (H, W, B): GAMMA to the power of the steps that it takes to be left; or None."""
    if SHAPING == "none":
        return None
    if SHAPING == "oracle":
        distance = maze.distances(mazes.walls, mazes.goal)
    else:
        h, w, b = mazes.walls.shape
        y, x = torch.arange(h, device=mazes.goal.device), torch.arange(w, device=mazes.goal.device)
        distance = (y[:, None, None] - mazes.goal // w).abs() + (x[:, None] - mazes.goal % w).abs()
    return torch.where(distance > 0, GAMMA ** (distance - 1.0), 0.0)


def update(online, target, optimizer, episodes, seen, weight=None):
    """One gradient step on the TD errors of a few episodes, each weighted with weight (B,).

    Returns the loss, the norm of the gradient, and the TD errors (T, B), all on the device.
    """
    error, counts = model.td_error(online, target, seen, episodes, GAMMA, LAMBDA, DOUBLE, 1 + NOVELTY * MAX_EP_LENGTH)
    error = error * counts
    loss = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=HUBER)  # over HUBER: its slope is at most 1
    loss = (loss if weight is None else loss * weight).sum() / total(counts.sum()).clamp(min=1)
    gradient = total(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(online.parameters()))]))
    grad_norm = gradient.norm()
    optimizer.step(gradient * (GRAD_CLIP / (grad_norm + 1e-6)).clamp(max=1))
    return total(loss.detach()), grad_norm, error.detach()


def total(x):
    """x, in place, summed over the processes of a run; a run is one process, if not started by torchrun."""
    if WORLD > 1:
        torch.distributed.all_reduce(x)
    return x


def stop_if_not_finite(*numbers):
    """Ends the run if any of these tensors holds an infinity or what is no number at all."""
    if not torch.stack([x.isfinite().all() for x in numbers]).all():
        raise UserError("the loss, its gradient or a weight is no longer a finite number, so nothing more can be learned; the last good "
                        f"checkpoint is kept. Try a smaller LR (now {LR:g}) or GRAD_CLIP (now {GRAD_CLIP:g}) and start again")


def rising(history):
    """What to say when the loss has risen and stays high; None while all is well."""
    losses = [row["loss"] for row in history if row["level"] == history[-1]["level"]]  # a new level may cost something
    if len(losses) < 4 or min(losses[-3:]) < max(0.1, 10 * min(losses[:-3])):
        return None
    return (f"the loss has risen, from {min(losses[:-3]):.1e} to {losses[-1]:.1e}. Usual causes: LR too high (now {LR:g}), "
            f"targets that move too fast (TARGET_SYNCS={TARGET_SYNCS}; try 1), credit from far away (LAMBDA={LAMBDA:g}; try less)")


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation


def exam(packed):
    """Bit-packed mazes at full difficulty with a random goal and a start at any distance, and the exact distances."""
    generator = torch.Generator(packed.device).manual_seed(HELD_OUT_SEED)
    mazes = maze.draw(packed, GRID, 1.0, MAX_START_DISTANCE, GOAL, generator)
    return mazes, maze.distances(mazes.walls, mazes.goal)


@torch.no_grad()
def evaluate(network, mazes, distance, chunk=1024, steps=None):
    """How the greedy agent does in each maze: a dictionary of float tensors (B,). distance (H, W, B) is the exact one."""
    scores = []
    for i in range(0, len(mazes.goal), chunk):
        part, d = mazes.select(slice(i, i + chunk)), distance[..., i:i + chunk]
        episodes, thoughts = rollout(network, part, steps or MAX_EP_LENGTH)
        away = episodes.cells != part.goal
        walked, shortest, success = away[:-1].sum(0), maze.shortest(part, d), ~away[-1]
        exact = maze.optimal_q(part, d, GAMMA)
        if network.whole_maze:  # Q is compared in all open cells but the goal, where nothing is left to choose ...
            wrong, counts = thoughts.q_values() - exact, ~part.walls & (d != 0)
        else:  # ... or in those on its way
            wrong, counts = q_along(network, episodes, thoughts) - model.along(exact, episodes.cells), away
        wrong, counts = (wrong * counts).flatten(1, -2), counts.flatten(0, -2).sum(0) * 4
        loops = torch.zeros_like(success)
        loops[~success] = goes_round(episodes.cells[:, ~success])
        scores.append(dict(success=success, optimal=success & (walked == shortest),
                           spl=success * shortest / torch.maximum(walked, shortest), loops=loops,
                           q_error=wrong.abs().sum((0, 1)) / counts, q_bias=wrong.sum((0, 1)) / counts))
    return {name: torch.cat([part[name].float() for part in scores]) for name in scores[0]}


def q_along(network, episodes, thoughts):
    """Q in the visited cells (4, T + 1, B), as it is without the potential that SHAPING took from it."""
    q, log_m = network.q(thoughts.along(episodes.cells))
    return q * log_m.exp() + episodes.potential


@torch.no_grad()
def backup_error(thinker, mazes, distance):
    """How wrong one look of the core is where all that it sees is exact: (mean, worst) of |q - exact| / exact.

    mazes: random walls, so that the patch takes all forms. exact: gamma * V*(s') in units of m, for each action in each
    cell from which the goal can be reached.
    """
    thoughts, (h, w, b), r = model.Thoughts(thinker, mazes.walls, mazes.goal), mazes.walls.shape, thinker.core.radius
    exact = torch.where(distance < 0, model.NO_VALUE, model.GRAIN * (1 - distance))
    thoughts.n.view(h + 2 * r, w + 2 * r, b)[r:r + h, r:r + w] = exact.masked_fill(mazes.walls, model.NO_CELL)
    cells, errors = (distance > 0).flatten(0, 1).nonzero(), []
    for cell, lane in (part.t() for part in cells.split(1 << 16)):
        at = maze.in_padded(cell, w, r) * b + lane
        q, m = thinker.look(thoughts.patches(at))
        n = thoughts.n[at + thoughts.patch[thinker.beside]]
        n = torch.where(n == model.NO_CELL, thoughts.n[at], n) - model.GRAIN
        wanted = ((n - m) * thinker.log_unit).exp()
        errors.append((q - wanted).abs() / wanted)
    errors = torch.cat(errors, 1)
    return errors.mean().item(), errors.max().item()


def goes_round(cells):
    """Whether a walk (T + 1, B) ends in a round of at most T / 2 steps that it has walked twice over: (B,) bool."""
    t = len(cells) - 1
    caught = torch.zeros_like(cells[0], dtype=torch.bool)
    for period in range(1, t // 2 + 1):
        caught |= (cells[t - period:] == cells[t - 2 * period:t - period + 1]).all(0)
    return caught


def average(scores, part=slice(None)):
    return {name: values[part].mean().item() for name, values in scores.items()}


def by_distance(scores, shortest, wide=10):
    """success and q_error of mazes whose shortest way takes 1..10, 11..20, ... steps."""
    bands = (shortest - 1).div(wide, rounding_mode="floor")
    return {f"{band * wide + 1}-{(band + 1) * wide}":
            dict(mazes=int((bands == band).sum()), **{name: scores[name][bands == band].mean().item() for name in ("success", "q_error")})
            for band in range(int(bands.max()) + 1) if (bands == band).any()}


# ----------------------------------------------------------------------------------------------------------------------
# Telling


def tell_budget(network, replay, cache, batches):
    """What the run will take, before it begins."""
    if RANK:
        return
    stored = sum(x.numel() * x.element_size() for x in vars(replay).values() if isinstance(x, torch.Tensor)) if replay else 0
    print(f"{MODEL} with {parameters(network):,} parameters, {batches * BSZ:,} episodes on {cache.device}; "
          f"cache {cache.numel() / 1e6:.1f} MB, replay {stored / 1e6:.1f} MB", flush=True)


def show_progress(run, batches):
    """One line: where the run is, how fast, how long still, how good. On a terminal it rewrites itself. Now and then, the plot."""
    history = run["history"]
    row = history[-1]
    share = row["episodes"] / (batches * BSZ)
    spent = row["seconds"]
    line = (f"{share:4.0%}  {row['episodes']:,} episodes  {row['episodes'] / spent:,.0f}/s  {spent / share - spent:3.0f} s left"
            f"  level {row['level']:.2f}  loss {row['loss']:.1e}  q_error {row['q_error']:.1e}  success {row['success']:.4f}")
    print(f"\r{line:<120}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() and share < 1 else "\n", flush=True)
    if warning := rising(history):
        print(f"\nwatch out: {warning}", flush=True)
    if row["seconds"] - run.get("plotted", 0) > PLOT_EVERY and share < 1:
        run["plotted"] = row["seconds"]
        plot(run)


def report(network, run, held_out, cached, device):
    """The final evaluation, and every file that the run leaves behind. Returns the summary."""
    mazes, distance = held_out
    history, scores = run["history"], evaluate(network, *held_out)
    mean, last = average(scores), history[-1]
    summary = dict(
        **mean, generalization_gap=average(evaluate(network, *cached))["success"] - mean["success"], eval_mazes=len(mazes.goal),
        episodes=last["episodes"], env_steps=last["env_steps"], updates=last["updates"], seconds=None,
        seconds_to_99=next((row["seconds"] for row in history if row["success"] >= 0.99), None),
        params=parameters(network), device=str(device), seed=SEED, torch=torch.__version__,
        backup_error=None, backup_error_worst=None,
        by_distance=by_distance(scores, maze.shortest(mazes, distance)), config=config())
    if agent() != "window":
        thinker = network if network.whole_maze else network.thinker
        fields = maze.random_walls(2000, 16, torch.Generator(device).manual_seed(HELD_OUT_SEED))
        summary["backup_error"], summary["backup_error_worst"] = backup_error(thinker, fields, maze.distances(fields.walls, fields.goal))
    early = copy.deepcopy(network)
    early.load_state_dict(run["early"])
    failures_first = mazes.select(scores["success"].argsort(stable=True)[:6])
    show_walks(network, failures_first)
    show_agent([early, network], failures_first)
    plot(run, summary["by_distance"])
    summary["seconds"] = time.perf_counter() - started
    with replacing(in_out_dir("summary.json")) as beside, open(beside, "w") as file:
        json.dump(summary, file, indent=1)
    print(f"on {summary['eval_mazes']:,} mazes it has never seen: success {mean['success']:.4f}, optimal {mean['optimal']:.4f}, "
          f"spl {mean['spl']:.4f}, q_error {mean['q_error']:.1e}")
    if agent() != "window":
        print(f"one look of the core, against the exact backup: wrong by {summary['backup_error']:.1%} on average, "
              f"{summary['backup_error_worst']:.0%} at worst")
    print(f"{summary['seconds']:.1f} s in all; see {PLOT_FILE} and {OUT_DIR}/: rollouts.png, agent.gif, "
          "checkpoint.pt, metrics.csv, summary.json")
    return summary


def plot(run, bands=None):
    """The course of the run, to PLOT_FILE; bands: `by_distance`, once it is known."""
    plt, history = pyplot(), run["history"]
    column = {name: [row[name] for row in history] for name in history[0]}
    figure, axes = plt.subplots(2, 3, figsize=(14, 7))
    figure.subplots_adjust(left=0.05, right=0.96, bottom=0.08, top=0.94, wspace=0.16, hspace=0.3)
    success, error, far, loss, norm, course = axes.flat
    x = [episodes / 1000 for episodes in column["episodes"]]
    success.plot(x, column["success"], label="held-out mazes")
    success.plot(x, column["train_success"], "--", label="training mazes")
    success.axhline(run["random_walk"], color="gray", ls="--", label="random walk")
    success.set(title="Success of the greedy agent, on full mazes", ylim=(-0.02, 1.02))
    error.semilogy(x, column["q_error"], label="q_error: mean |Q - Q*|")
    over = [(a, bias) for a, bias in zip(x, column["q_bias"]) if bias > 0]
    under = [(a, -bias) for a, bias in zip(x, column["q_bias"]) if bias < 0]
    for points, name in ((over, "overestimates, mean Q - Q*"), (under, "underestimates, mean Q* - Q")):
        error.semilogy(*zip(*points or [(x[0], float("nan"))]), ".", label=name)
    error.set(title="How far Q is from the exact Q*")
    if bands:
        share = [band["success"] for band in bands.values()]
        far.bar(range(len(bands)), share, color=["tab:blue" if s == 1 else "tab:orange" for s in share], label="success")
        far.set_xticks(range(len(bands)), bands, rotation=30, fontsize=8)
        far.set(title="By steps from start to goal, at the end", ylim=(0, 1.25))
        far_error = far.twinx()
        far_error.semilogy(range(len(bands)), [band["q_error"] for band in bands.values()], "k.-", lw=1, label="q_error (right)")
        far_error.set_ylim(1e-8, 10)
        far_error.legend(fontsize=8, loc="upper left")
    else:
        far.axis("off")
        far.set(title="(success by distance: at the end of the run)")
    loss.semilogy(x, column["loss"], color="tab:red", label=f"loss (Huber / delta); {TARGET_SYNCS} target syncs a batch")
    loss.set(title="Loss", xlabel="thousand episodes")
    norm.semilogy(x, column["grad_norm"], color="tab:purple", label="before clipping")
    norm.axhline(GRAD_CLIP, color="gray", ls=":", label=f"GRAD_CLIP = {GRAD_CLIP:g}")
    norm.set(title="Gradient norm", xlabel="thousand episodes")
    course.plot(x, column["level"], label="curriculum level: walls, distances")
    course.plot(x, column["epsilon"], label="epsilon, mean")
    course.plot(x, [rate / LR for rate in column["learning_rate"]], label="learning rate / LR")
    course.set(title="What the run is set to", xlabel="thousand episodes", ylim=(-0.02, 1.05))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc="center right" if axis in (success, course) else "upper right")
    with replacing(PLOT_FILE) as beside:
        figure.savefig(beside, dpi=100, format="png")
    plt.close(figure)


def pyplot():
    import matplotlib  # here, because it takes a while to load and only pictures need it
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt


@torch.no_grad()
def show_walks(network, mazes):
    """rollouts.png: above, what each cell of these few mazes is worth to the agent, its best action there and the way that it
    walks; below, the exact values."""
    plt = pyplot()
    (h, w, n), distance = mazes.walls.shape, maze.distances(mazes.walls, mazes.goal)
    episodes, thoughts = rollout(network, mazes, MAX_EP_LENGTH)
    exact = maze.optimal_q(mazes, distance, GAMMA)
    if network.whole_maze:
        q = thoughts.q_values()
    else:  # it has no opinion of cells where it has not been
        q = torch.full_like(exact, float("nan")).flatten(1, 2)
        q = q.scatter(1, episodes.cells.expand(4, -1, -1), q_along(network, episodes, thoughts)).view_as(exact)
    board = torch.full((2, h + 2, n, w + 2), -1.0)  # all mazes in one image: a single axis draws fast
    for row, values in enumerate((q, exact)):
        board[row, 1:-1, :, 1:-1] = values.amax(0).masked_fill(mazes.walls, -1.0).permute(0, 2, 1).cpu()
    figure = plt.figure(figsize=(2.4 * n, 5.4))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.86))
    colors = plt.get_cmap("viridis").with_extremes(under="#282c34", bad="#888888")
    axis.imshow(board.view(2 * (h + 2), n * (w + 2)).numpy(), cmap=colors, vmin=GAMMA ** MAX_START_DISTANCE, vmax=1)
    for row, values in enumerate((q, exact)):
        show = ~mazes.walls & (distance > 0) & values.isfinite().all(0)
        y, x, i = show.nonzero().cpu().numpy().T
        best = values.argmax(0)[show].cpu()
        dx, dy = torch.tensor([[0, 0, -1, 1], [-1, 1, 0, 0]])[:, best].float().numpy()
        axis.quiver(x + 1 + i * (w + 2), y + 1 + row * (h + 2), dx, dy, color="white", alpha=0.6, angles="xy", scale_units="xy",
                    scale=1.6, pivot="mid", width=0.0008, headwidth=4)
    cells, goal = episodes.cells.cpu(), mazes.goal.tolist()
    for i, shortest in enumerate(maze.shortest(mazes, distance).tolist()):
        steps = int((cells[:-1, i] != goal[i]).sum())
        x, y = cells[:, i] % w + 1 + i * (w + 2), cells[:, i] // w + 1
        x, y = x.numpy(), y.numpy()
        axis.plot(x, y, color="tab:red", lw=2)
        axis.plot(x[0], y[0], "o", color="white", ms=6, mec="tab:red")
        for row in range(2):
            axis.plot(goal[i] % w + 1 + i * (w + 2), goal[i] // w + 1 + row * (h + 2), "*", color="gold", mec="black", ms=11)
        axis.text((i + 0.5) * (w + 2) - 0.5, -1.2, f"{steps} steps, shortest {shortest}" if cells[-1, i] == goal[i] else
                  f"FAILED, shortest {shortest}", ha="center", color="black" if cells[-1, i] == goal[i] else "tab:red")
    axis.axis("off")
    figure.suptitle("Above: what the agent thinks each cell is worth (yellow: near the goal), its best action, and the way it walks "
                    "(red) from the dot to the star.\nBelow: the exact values.", fontsize=10, y=0.995)
    with replacing(in_out_dir("rollouts.png")) as beside:
        figure.savefig(beside, dpi=80, format="png")
    plt.close(figure)


def show_agent(networks, mazes):
    """agent.gif: the agent walks these mazes, early in training (above) and at its end."""
    from PIL import Image  # matplotlib needs it, so it is there
    (h, w, n), goal, lane = mazes.walls.shape, mazes.goal.cpu(), torch.arange(mazes.walls.shape[2])
    walks = [rollout(network, mazes, MAX_EP_LENGTH)[0].cells.cpu() for network in networks]
    boards = [mazes.walls.flatten(0, 1).to("cpu", torch.uint8).clone() for _ in walks]
    steps = max(int((cells != goal).any(1).sum()) for cells in walks) + 1
    frames = []
    for t in range(min(steps, MAX_EP_LENGTH + 1)):
        picture = []
        for board, cells in zip(boards, walks):
            board[cells[t], lane] = 2
            now = board.clone()
            now[goal, lane] = 3
            now[cells[t], lane] = torch.where(cells[t] == goal, 5, 4).to(torch.uint8)
            picture.append(maze.padded(now.view(h, w, n), 1, 1).transpose(1, 2).flatten(1))
        picture = torch.cat(picture).repeat_interleave(6, 0).repeat_interleave(6, 1)
        frames.append(Image.fromarray(picture.numpy(), "P"))
        frames[-1].putpalette(bytes.fromhex("ebebe6 282c34 9bc4ee dc3c3c 1e5ac8 2fa84f"))  # open, wall, trail, goal, agent, there
    with replacing(in_out_dir("agent.gif")) as beside:
        frames[0].save(beside, format="GIF", save_all=True, append_images=frames[1:] + 12 * frames[-1:], duration=80, loop=0)


# ----------------------------------------------------------------------------------------------------------------------
# Never losing a run


def keep(run, network, optimizer, replay, generator):
    """Saves all that `resume` needs to go on as if nothing had happened, and the metrics up to here."""
    progress = dict(run, seconds=time.perf_counter() - started, optimizer=optimizer.state(), generator=generator.get_state(),
                    replay=replay.state() if replay else None)
    save_checkpoint(in_out_dir("checkpoint.pt"), network, config(), **progress)
    with replacing(in_out_dir("metrics.csv")) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, run["history"][0])
        writer.writeheader()
        writer.writerows(run["history"])


def resume(network, optimizer, replay, generator):
    """Takes a run up where its checkpoint left it; returns its progress."""
    global started
    path = in_out_dir("checkpoint.pt")
    saved, settings, progress = load_checkpoint(path, next(network.parameters()).device)
    free = ("RESUME", "OUT_DIR", "PLOT_FILE", "PLOT_EVERY", "DEVICE", "THREADS", "CHECKPOINT", "PROFILE", "NUM_EPISODES", "EVAL_MAZES")
    for name, value in config().items():
        if name not in free and settings.get(name) != value:
            raise UserError(f"{name}={value} now, but the run in {path} has {name}={settings.get(name)}: resume with the same constants")
    network.load_state_dict(saved.state_dict())
    optimizer.restore(progress.pop("optimizer"))
    generator.set_state(progress.pop("generator").cpu())
    # A row that is there only because the run was stopped goes: the run then ends as if it had never been.
    if progress["batch"] * BSZ < NUM_EPISODES:
        progress["history"] = [row for row in progress["history"] if (row["episodes"] // BSZ - 1) % EVAL_EVERY == 0]
    if replay:
        replay.restore(progress.pop("replay"))
    started = time.perf_counter() - progress.pop("seconds")
    return progress


@contextlib.contextmanager
def processes(device):
    """Joins the processes that torchrun started. The first one makes the cache, evaluates, tells and writes."""
    if WORLD == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        raise UserError(f"process {RANK} of {WORLD} lost the others: one of them has ended. The last checkpoint, in {OUT_DIR}, "
                        "is whole: go on with RESUME=True") from error
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def only_run_here():
    """Holds OUT_DIR for this run; a second one in it is refused. The lock goes with the process, however it ends."""
    if RANK:
        yield
        return
    with open(in_out_dir("lock"), "w") as file:
        try:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows: there, two runs are the user's care
            pass
        except BlockingIOError:
            raise UserError(f"another run writes to OUT_DIR={OUT_DIR}: wait for it, or choose another OUT_DIR") from None
        for name in os.listdir(OUT_DIR):
            if name.endswith(".part"):  # a killed run left it half written
                os.remove(in_out_dir(name))
        yield


@contextlib.contextmanager
def stop_on_signal():
    """Yields a function: whether Ctrl-C or SIGTERM asked the run to end after this batch. The second time, it ends at once."""
    asked = []

    def ask(number, frame):
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.write(1, b"\nstopping after this batch; once more: at once\n")  # a print, in the midst of another print, raises

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


# ----------------------------------------------------------------------------------------------------------------------
# Solving mazes from a file


def solve(path):
    """Walks each maze of a text file with the agent of CHECKPOINT, and prints the walks."""
    device = pick_device()
    texts = maze.read_mazes(path)
    network, settings, _ = load_checkpoint(CHECKPOINT or in_out_dir("checkpoint.pt"), device)
    walks = {}
    for shape in sorted({text.walls.shape for text in texts}):  # mazes of one size are walked side by side
        numbers = [number for number, text in enumerate(texts) if text.walls.shape == shape]
        mazes = maze.stack([texts[number] for number in numbers], device)
        steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest path can have
        cells = rollout(network, mazes, steps)[0].cells.cpu()
        shortest = maze.shortest(mazes, maze.distances(mazes.walls, mazes.goal)).tolist()
        for column, number in enumerate(numbers):
            walks[number] = cells[:, column], shortest[column]
    solved = optimal = 0
    for number, text in enumerate(texts):
        cells, shortest = walks[number]
        limit = int((~text.walls).sum())
        taken = int((cells[:limit + 1] != text.goal).sum())
        print(maze.format_maze(text, cells[:taken + 1].tolist()))
        if shortest < 0:
            print(f"maze {number + 1}: unreachable\n")
        elif taken <= limit:
            solved, optimal = solved + 1, optimal + (taken == shortest)
            print(f"maze {number + 1}: solved in {taken} steps (shortest {shortest})\n")
        else:
            print(f"maze {number + 1}: not solved in {limit} steps (shortest {shortest})\n")
    print(f"solved {solved} of {len(texts)}, by a shortest path {optimal}")


# ----------------------------------------------------------------------------------------------------------------------
# Settings


def config():
    """Every constant with its present value."""
    return {name: globals()[name] for name in CONSTANTS}


def override(arguments):
    """Sets constants from KEY=VALUE arguments; each keeps its type. Those in BY_MODEL that are not given follow MODEL."""
    before, given = agent(), {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not argument.isprintable():
            raise UserError(f"{argument!r} has a character in it that can't be shown")
        if not equals:
            raise UserError(f"{argument!r} is not understood: write KEY=VALUE, as in SEED=3, or solve FILE")
        if name not in CONSTANTS:
            near = difflib.get_close_matches(name.upper(), CONSTANTS, 1)
            raise UserError(f"there is no constant {name!r}" + (f": did you mean {near[0]}?" if near else "; they are at the top of main.py"))
        kind = type(globals()[name])
        try:
            if kind is bool:
                value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif kind is int and float(text) == int(float(text)):  # 1e6 and 10_000 are whole numbers, too
                value = int(text) if text.lstrip("+-").replace("_", "").isdigit() else int(float(text))
            else:
                value = kind(text)
        except (ValueError, KeyError, OverflowError):
            wanted = {bool: "True or False", int: "a whole number", float: "a number"}[kind]
            raise UserError(f"{name}={text} is not {wanted}: the default is {globals()[name]}") from None
        given[name] = value
    globals().update(given)
    set_by_model(before)
    globals().update(given)


def check():
    """Refuses constants that are out of range, before anything is written."""
    def must(name, right, wanted):
        if not right:
            raise UserError(f"{name}={globals()[name]} is out of range: it must be {wanted}")

    must("GRID", 5 <= GRID <= 256, "a whole number from 5 to 256")
    for name in ("DIFFICULTY", "DIFFICULTY_MIN", "LAMBDA", "LR_DECAY", "EPSILON", "CURRICULUM_SUCCESS", "PRIORITY_ALPHA", "PRIORITY_BETA"):
        must(name, 0 <= globals()[name] <= 1, "from 0 to 1")
    must("DIFFICULTY_MIN", DIFFICULTY_MIN <= DIFFICULTY, f"at most DIFFICULTY={DIFFICULTY}")
    must("GAMMA", 0 < GAMMA < 1, "over 0 and under 1")
    for name in ("CURRICULUM_STEP", "CURRICULUM_SHARE"):
        must(name, 0 < globals()[name] <= 1, "over 0 and at most 1")
    for name in ("LR", "HUBER", "GRAD_CLIP", "EPSILON_SHAPE"):
        must(name, 0 < globals()[name] < float("inf"), "a number over 0")
    for name in ("MAX_START_DISTANCE", "MAZE_CACHE_SIZE", "UPDATES", "TARGET_SYNCS", "REPLAY_SIZE", "NUM_EPISODES", "BSZ",
                 "MAX_EP_LENGTH", "EVAL_MAZES", "EVAL_SAMPLE", "EVAL_EVERY"):
        must(name, 1 <= globals()[name] < 2 ** 31, "a whole number over 0 and under 2^31")
    must("LOOKS", 0 <= LOOKS < 2 ** 31, "0 or a number of looks")
    must("WIDTH", 0 <= WIDTH < 2 ** 31, "0 or a number of units")
    must("VISION", 0 <= VISION < GRID, f"from 0 to {GRID - 1}")
    must("NOVELTY", 0 <= NOVELTY < float("inf"), "0 or more")
    must("PLOT_EVERY", PLOT_EVERY > 0, "a number of seconds over 0")
    must("THREADS", 0 <= THREADS <= 1024, "0 or a number of threads, at most 1024")
    must("UPDATES", UPDATES * WORLD <= BSZ, f"at most BSZ={BSZ}, in each process: each update needs an episode")
    must("BSZ", BSZ % WORLD == 0, f"a multiple of the {WORLD} processes")
    must("REPLAY_SIZE", REPLAY == "off" or REPLAY_SIZE >= BSZ, f"at least BSZ={BSZ}: a batch must fit in")
    must("SEED", 0 <= SEED < HELD_OUT_SEED, "a whole number from 0 to 4294967294")
    must("PLOT_FILE", os.path.basename(PLOT_FILE) and not os.path.isdir(PLOT_FILE) and os.path.isdir(os.path.dirname(PLOT_FILE) or "."),
         "a file in a folder that exists")
    for name, choices in (("GOAL", ("random", "corner")), ("MODEL", tuple(model.CORES)), ("REPLAY", ("off", "uniform", "prioritized")),
                          ("MEMORY", MEMORIES), ("SHAPING", ("none", "manhattan", "oracle")),
                          ("CURRICULUM", ("adaptive", "linear", "off"))):
        must(name, globals()[name] in choices, " or ".join(choices))
    for wrong, message in (
            (not VISION and MEMORY != "none", f"MEMORY={MEMORY} needs VISION: without it the agent sees the whole maze; choose VISION=2, or MEMORY=none"),
            (not VISION and not COMPASS, "COMPASS=False needs VISION: without it the agent sees the goal itself; choose VISION=2, or COMPASS=True"),
            (VISION and MEMORY == "map" and not COMPASS, "MEMORY=map needs COMPASS=True, to think from where the goal is"),
            (VISION and MEMORY != "map" and MODEL != "mlp", f"VISION={VISION} with MODEL={MODEL} makes no sense: choose MODEL=mlp, or MEMORY=map"),
            (agent() != "window" and SHAPING != "none", f"SHAPING={SHAPING} does nothing for a network that thinks: a potential in the reward only "
             "moves the Q that it starts from (Wiewiora 2003), and its values start from the goal; choose SHAPING=none, or VISION=2"),
            (agent() != "window" and NOVELTY, f"NOVELTY={NOVELTY} pays for where an agent has been, which a network that thinks does not see: "
             "choose NOVELTY=0, or VISION=2 with MEMORY=trail")):
        if wrong:
            raise UserError(message)


def pick_device():
    """The torch device that DEVICE names; "auto": a CUDA GPU where there is one. On a CPU, with as many threads as THREADS says."""
    if THREADS:
        torch.set_num_threads(THREADS)
    if DEVICE == "auto":
        if WORLD > 1 and torch.cuda.is_available():
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")  # not mps: operations this small wait for it
    try:
        device = torch.device(DEVICE)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"DEVICE={DEVICE} can't be used here: choose auto or cpu") from None
    return device


def in_out_dir(name):
    return os.path.join(OUT_DIR, name)


def parameters(network):
    return sum(weights.numel() for weights in network.parameters())


def lacks_memory(error):
    lacking = "out of memory", "not enough memory", "allocate memory", "ALLOC_FAILED"
    return isinstance(error, MemoryError) or any(text in str(error) for text in lacking)


def main(arguments):
    """Runs the command line; returns the exit status."""
    try:
        if arguments[:1] == ["solve"]:
            if len(arguments) < 2 or "=" in arguments[1]:
                raise UserError("solve what? Write: python main.py solve FILE")
            override(arguments[2:])
            check()
            if SHAPING != "none":
                raise UserError(f"SHAPING={SHAPING} shapes training, and solve only walks: leave it out")
            solve(arguments[1])
            return 0
        override(arguments)
        check()
        if not PROFILE:
            train()
            return 0
        import cProfile
        import pstats
        profile = cProfile.Profile()
        profile.runcall(train)
        with replacing(in_out_dir("training_stats")) as beside:
            profile.dump_stats(beside)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(30)
        return 0
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} can't be read or written: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        message = f"memory ran out: lower BSZ (now {BSZ}), GRID ({GRID}), MAZE_CACHE_SIZE ({MAZE_CACHE_SIZE}) or REPLAY_SIZE ({REPLAY_SIZE})"
    except KeyboardInterrupt:
        message = "stopped at once"
        if arguments[:1] != ["solve"] and os.path.exists(in_out_dir("checkpoint.pt")):
            message += f"; the last checkpoint, in {OUT_DIR}, is whole: go on with RESUME=True"
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

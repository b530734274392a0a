"""A deep Q-network learns to walk mazes that it has never seen, by a shortest path.

    python main.py                      train with the constants below
    python main.py MODEL=cnn SEED=3     the same, with some of them overridden
    python main.py solve FILE           walk the mazes in a text file with the trained agent
"""
import time

started = time.perf_counter()

import copy
import csv
import difflib
import json
import os
import sys

import torch
import torch.nn.functional as F

import maze
import model
from maze import UserError, replacing

# The maze
GRID = 16                    # cells on a side, 5..256; rooms sit at even coordinates, so an even GRID ends in a wall
DIFFICULTY = 1.0             # share of walls kept, 0 (an empty hall) to 1 (exactly one path between any two cells)
DIFFICULTY_MIN = 0.0         # each training maze draws its own share between this and what the curriculum allows
GOAL = "random"              # "random": any open cell; "corner": the bottom-right room
MAX_START_DISTANCE = 100     # steps from the farthest start to the goal; over MAX_EP_LENGTH it can't be walked in time
MAZE_CACHE_SIZE = 16_384     # different mazes to train on; a few can be learned by heart (see generalization_gap)
MAZE_CACHE_FILE = "mazes.npz"  # under OUT_DIR; made again when its settings differ

# The agent
MODEL = "vin"                # "vin", "cnn" or "mlp"
WIDTH = 0                    # units or channels of a hidden layer; 0: the model's own, vin 64, cnn 12, mlp 512

# Learning
GAMMA = 0.99                 # discount a step; lower: far goals fade, higher: near and far paths are harder to tell apart
LAMBDA = 0.9                 # 0: credit moves one cell a target sync; 1: along a whole greedy path at once
LR = 0.01                    # Adam's step size at the start
LR_DECAY = 0.5               # share of the run, at its end, over which the step size falls linearly to 0
UPDATES = 10                 # gradient steps a batch of episodes, each on BSZ / UPDATES of them
TARGET_SYNCS = 10            # times a batch that the target network is copied from the online one, at most UPDATES
DOUBLE = True                # double DQN: the online network picks the next action, the target network values it
HUBER = 0.01                 # TD error at which the loss turns from squared to linear; small: small errors count, too
GRAD_CLIP = 1.0              # greatest norm of the gradient
REPLAY = "off"               # "off": learn from the newest batch; "uniform": from any of the last REPLAY_SIZE episodes
REPLAY_SIZE = 16_384         # episodes kept

# Exploration: episode i of a batch acts at random with probability EPSILON * (i / (BSZ - 1)) ** EPSILON_SHAPE
EPSILON = 1.0                # of the most exploring episode, 0..1
EPSILON_SHAPE = 1.5          # 1: evenly spread from 0 to EPSILON; higher: more episodes are nearly greedy

# Curriculum: a level from 0 to 1 raises walls (to DIFFICULTY) and start distances (to MAX_START_DISTANCE) together
CURRICULUM = "adaptive"      # "adaptive": by success; "linear": by time; "off": level 1 from the start
CURRICULUM_SUCCESS = 0.9     # adaptive: success, in the least exploring quarter of a batch, that raises the level ...
CURRICULUM_STEP = 0.05       # ... by this much
CURRICULUM_SHARE = 0.5       # linear: share of the run after which the level is 1

# The run
NUM_EPISODES = 102_400       # single episodes in all, rounded up to whole batches
BSZ = 1024                   # episodes side by side
MAX_EP_LENGTH = 100          # steps after which an episode is cut off; it still bootstraps
SEED = 0                     # of training mazes, weights and exploration; held-out mazes have a seed of their own
DEVICE = "auto"              # "auto", "cpu", "cuda", "cuda:1", "mps"
THREADS = 1                  # CPU threads, 0: torch's choice; vin's operations are too small to share, cnn and mlp gain
EVAL_MAZES = 10_000          # held-out mazes in the final evaluation
EVAL_SAMPLE = 256            # of them, in the evaluations on the way ...
EVAL_EVERY = 5               # ... one in so many batches
OUT_DIR = "out"              # for all that a run writes, but for the plot
PLOT_FILE = "training_plot.png"
CHECKPOINT = ""              # the file that `solve` walks with; "": checkpoint.pt under OUT_DIR
PROFILE = False              # run under cProfile: prints the 30 slowest calls, saves OUT_DIR/training_stats

CONSTANTS = [name for name, value in list(globals().items()) if name.isupper() and isinstance(value, (bool, int, float, str))]
HELD_OUT_SEED = 2 ** 32 - 1  # greater than any SEED


# ----------------------------------------------------------------------------------------------------------------------
# Training: mazes -> rollout -> replay -> DQN update -> evaluate


def train():
    """Trains an agent with the constants as they stand, writes what came of it, and returns the summary."""
    device = pick_device()
    os.makedirs(OUT_DIR, exist_ok=True)
    torch.manual_seed(SEED)
    generator = torch.Generator(device).manual_seed(SEED)
    cache = maze.load_cache(in_out_dir(MAZE_CACHE_FILE), MAZE_CACHE_SIZE, GRID, SEED, device)
    held_out = maze.held_out(EVAL_MAZES, GRID, HELD_OUT_SEED, cache, device)
    sampled = min(EVAL_SAMPLE, EVAL_MAZES)
    sample = exam(torch.cat([held_out[:, :sampled], cache[:, :sampled]], 1))

    online = model.MODELS[MODEL](GRID, WIDTH, GAMMA).to(device)
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters(), lr=LR, fused=device.type != "mps")
    replay = None if REPLAY == "off" else model.Replay(REPLAY_SIZE, GRID, MAX_EP_LENGTH, device)
    rank = torch.randperm(BSZ, generator=generator, device=device)  # shuffled: each update gets episodes of every kind
    epsilon = EPSILON * (rank / max(1, BSZ - 1)) ** EPSILON_SHAPE
    calm = rank <= BSZ // 4
    batches = -(-NUM_EPISODES // BSZ)
    print(f"{MODEL} with {parameters(online):,} parameters, {batches * BSZ:,} episodes on {device}", flush=True)

    level, env_steps, history = float(CURRICULUM == "off"), 0, []
    for batch in range(batches):
        # Act. A maze is planned once; each step of its episode is then a look-up in the plan.
        mazes = draw(cache, level, generator)
        q, plan = think(online, mazes)
        episodes = rollout(mazes, q, MAX_EP_LENGTH, epsilon, generator)
        away = episodes.cells != mazes.goal
        env_steps += away[:-1].sum()
        success = 1 - away[-1, calm].float().mean().item()
        level = next_level(level, (batch + 1) / batches, success)

        # Learn, from these episodes or from as many out of the replay memory.
        if replay:
            replay.add(episodes)
            episodes = replay.sample(BSZ, generator)
            plan = online.plan(episodes.mazes)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (1 - batch / batches) / LR_DECAY) if LR_DECAY else LR
        losses, grad_norms = [], []
        for step in range(UPDATES):
            part = slice(step * BSZ // UPDATES, (step + 1) * BSZ // UPDATES)
            if synced := step == 0 or step * TARGET_SYNCS // UPDATES > (step - 1) * TARGET_SYNCS // UPDATES:
                target.load_state_dict(online.state_dict())
            loss, grad_norm = update(online, online if synced else target, optimizer, episodes.select(part), [x[..., part] for x in plan])
            losses.append(loss)
            grad_norms.append(grad_norm)

        if batch % EVAL_EVERY == 0 or batch + 1 == batches:
            scores = evaluate(online, *sample)
            history.append(dict(
                episodes=(batch + 1) * BSZ, env_steps=int(env_steps), updates=(batch + 1) * UPDATES,
                seconds=time.perf_counter() - started, loss=torch.stack(losses).mean().item(),
                grad_norm=torch.stack(grad_norms).mean().item(), epsilon=epsilon.mean().item(), level=level,
                learning_rate=optimizer.param_groups[0]["lr"], **average(scores, slice(sampled)),
                train_success=average(scores, slice(sampled, None))["success"]))
            show_progress(history, batches)
    return report(online, history, exam(held_out), exam(cache[:, :EVAL_MAZES]), device)


def draw(cache, level, generator):
    """BSZ training mazes at the curriculum's level."""
    index = torch.randint(cache.shape[1], (BSZ,), generator=generator, device=cache.device)
    hardest = DIFFICULTY_MIN + level * (DIFFICULTY - DIFFICULTY_MIN)
    difficulty = torch.rand(BSZ, generator=generator, device=cache.device) * (hardest - DIFFICULTY_MIN) + DIFFICULTY_MIN
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
def think(network, mazes):
    """(Q (4, H, W, B), plan) for a batch of mazes."""
    plan = network.plan(mazes)
    return network(mazes, plan), plan


@torch.no_grad()
def rollout(mazes, q, steps, epsilon=None, generator=None):
    """Walks every maze for `steps` steps, greedily in q (4, H, W, B) but for random actions with probability epsilon (B,)."""
    table, greedy = maze.move_table(mazes, q)
    choices = choose_actions(steps, mazes, epsilon, generator)
    cells = maze.walk(table, mazes.start, choices)
    actions = torch.where(choices == 4, greedy.gather(0, cells[:-1]), choices).long()
    return model.Episodes(mazes, cells, actions)


def choose_actions(steps, mazes, epsilon, generator):
    """(steps, B) int32: a random action, 0..3, with probability epsilon (B,); else 4, the greedy one. No epsilon: all 4."""
    shape = steps, len(mazes.goal)
    if epsilon is None:
        return torch.full(shape, 4, dtype=torch.int32, device=mazes.goal.device)
    dice = torch.rand(shape, generator=generator, device=epsilon.device)
    return (dice * (4 / epsilon.clamp(min=1e-30))).clamp_(max=4).int()  # under epsilon, each of 0..3 is as likely


def update(online, target, optimizer, episodes, plan):
    """One gradient step on the TD errors of a few episodes. Returns loss and gradient norm, on the device.

    A target network that was copied this very moment is the online one: then one forward pass gives the Q of both.
    """
    q = model.along(online(episodes.mazes, plan), episodes.cells)
    with torch.no_grad():
        q_target = q if target is online else model.along(target(episodes.mazes, plan), episodes.cells)
    error, alive = model.td_error(q, q_target, episodes, GAMMA, LAMBDA, DOUBLE)
    loss = (F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=HUBER) * alive).sum() / alive.sum() / HUBER
    optimizer.zero_grad()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(online.parameters(), GRAD_CLIP)
    optimizer.step()
    return loss.detach(), grad_norm


# ----------------------------------------------------------------------------------------------------------------------
# Evaluation


def exam(packed):
    """Bit-packed mazes at full difficulty with a random goal and a start at any distance, and the exact distances."""
    generator = torch.Generator(packed.device).manual_seed(HELD_OUT_SEED)
    mazes = maze.draw(packed, GRID, 1.0, MAX_START_DISTANCE, GOAL, generator)
    return mazes, maze.distances(mazes.walls, mazes.goal)


@torch.no_grad()
def evaluate(network, mazes, distance, chunk=4096):
    """How the greedy agent does in each maze: a dictionary of float tensors (B,). distance (H, W, B) is the exact one."""
    scores = []
    for i in range(0, len(mazes.goal), chunk):
        part, d = mazes.select(slice(i, i + chunk)), distance[..., i:i + chunk]
        q, _ = think(network, part)
        cells = rollout(part, q, MAX_EP_LENGTH).cells
        away = cells != part.goal
        walked, shortest = away[:-1].sum(0), d.flatten(0, 1).gather(0, part.start[None])[0]
        ordered = cells.sort(0).values
        again = (ordered[1:] == ordered[:-1]).any(0)  # a greedy agent that comes to a cell again goes round for ever
        success = ~away[-1]
        counts = ~part.walls & (d != 0)  # open cells; in the goal itself there is nothing left to choose
        error = (q - maze.optimal_q(part, d, GAMMA)).abs().mean(0)
        scores.append(dict(success=success, optimal=success & (walked == shortest),
                           spl=success * shortest / torch.maximum(walked, shortest), loops=~success & again,
                           q_error=(error * counts).sum((0, 1)) / counts.sum((0, 1))))
    return {name: torch.cat([part[name].float() for part in scores]) for name in scores[0]}


def average(scores, part=slice(None)):
    return {name: values[part].mean().item() for name, values in scores.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Telling


def show_progress(history, batches):
    """One line: where the run is, how fast, how long still, how good. On a terminal it rewrites itself."""
    row = history[-1]
    share = row["episodes"] / (batches * BSZ)
    spent = row["seconds"]
    line = (f"{share:4.0%}  {row['episodes']:,} episodes  {row['episodes'] / spent:,.0f}/s  {spent / share - spent:3.0f} s left"
            f"  level {row['level']:.2f}  loss {row['loss']:.1e}  q_error {row['q_error']:.1e}  success {row['success']:.4f}")
    print(f"\r{line:<120}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() and share < 1 else "\n", flush=True)


def report(network, history, held_out, cached, device):
    """The final evaluation, and every file that the run leaves behind. Returns the summary."""
    results = evaluate(network, *held_out)
    scores = average(results)
    train_success = average(evaluate(network, *cached))["success"]
    last = history[-1]
    summary = dict(
        **scores, generalization_gap=train_success - scores["success"], eval_mazes=len(held_out[0].goal),
        episodes=last["episodes"], env_steps=last["env_steps"], updates=last["updates"], seconds=None,
        seconds_to_99=next((row["seconds"] for row in history if row["success"] >= 0.99), None),
        params=parameters(network), device=str(device), seed=SEED, torch=torch.__version__, config=config())
    model.save_checkpoint(in_out_dir("checkpoint.pt"), network, config())
    with replacing(in_out_dir("metrics.csv")) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
    plot(history)
    show_walks(network, held_out[0].select(results["success"].argsort(stable=True)[:8]))  # failures first
    summary["seconds"] = time.perf_counter() - started
    with replacing(in_out_dir("summary.json")) as beside, open(beside, "w") as file:
        json.dump(summary, file, indent=1)
    print(f"on {summary['eval_mazes']:,} mazes it has never seen: success {scores['success']:.4f}, optimal {scores['optimal']:.4f}, "
          f"spl {scores['spl']:.4f}, q_error {scores['q_error']:.1e}")
    print(f"{summary['seconds']:.1f} s in all; see {PLOT_FILE} and {OUT_DIR}/: rollouts.png, agent.gif, "
          "checkpoint.pt, metrics.csv, summary.json")
    return summary


def plot(history):
    """The course of the run, to PLOT_FILE."""
    import matplotlib  # here, because it takes a while to load and only the end of a run needs it
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    column = {name: [row[name] for row in history] for name in history[0]}
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), layout="constrained", sharex=True)
    success, loss, norm, course = axes.flat
    x = column["episodes"]
    success.plot(x, column["success"], label="held-out mazes")
    success.plot(x, column["train_success"], "--", label="training mazes")
    success.set(title="Success of the greedy agent, at full difficulty", ylim=(-0.02, 1.02))
    loss.semilogy(x, column["loss"], label="loss (Huber / delta)")
    loss.semilogy(x, column["q_error"], label="q_error, mean |Q - Q*|")
    loss.set(title="Loss, and distance from the exact Q*")
    norm.semilogy(x, column["grad_norm"], label="before clipping")
    norm.axhline(GRAD_CLIP, color="gray", ls=":", label="GRAD_CLIP")
    norm.set(title="Gradient norm", xlabel="episodes")
    course.plot(x, column["level"], label="curriculum level")
    course.plot(x, column["epsilon"], label="mean epsilon")
    course.plot(x, [rate / LR for rate in column["learning_rate"]], label="learning rate / LR")
    course.set(title="What the run is set to", xlabel="episodes", ylim=(-0.02, 1.05))
    for axis in axes.flat:
        axis.legend()
        axis.grid(alpha=0.3)
    with replacing(PLOT_FILE) as beside:
        figure.savefig(beside, dpi=100, format="png")
    plt.close(figure)


def show_walks(network, mazes):
    """rollouts.png: what each cell of these few mazes is worth to the agent, and the way it walks; agent.gif: it walks."""
    import matplotlib.pyplot as plt
    from PIL import Image  # matplotlib needs it, so it is there
    distance = maze.distances(mazes.walls, mazes.goal).flatten(0, 1).gather(0, mazes.start[None])[0].tolist()
    q, _ = think(network, mazes)
    cells = rollout(mazes, q, MAX_EP_LENGTH).cells.cpu()
    value, walls, goal = q.amax(0).cpu(), mazes.walls.cpu(), mazes.goal.tolist()
    value[walls] = float("nan")

    figure, axes = plt.subplots(2, -(-len(goal) // 2), figsize=(11, 6), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, axis in zip(range(len(goal)), axes.flat):
        steps = int((cells[:-1, i] != goal[i]).sum())
        axis.imshow(walls[..., i], cmap="gray_r", vmin=0, vmax=1)
        axis.imshow(value[..., i], cmap="viridis", vmin=0, vmax=1)
        axis.plot(cells[:, i] % GRID, cells[:, i] // GRID, color="white", lw=1.5)
        axis.plot(cells[0, i] % GRID, cells[0, i] // GRID, "o", color="white")
        axis.plot(goal[i] % GRID, goal[i] // GRID, "*", color="red", ms=12)
        axis.set_title(f"{steps} steps, shortest {distance[i]}" if int(cells[-1, i]) == goal[i] else f"failed, shortest {distance[i]}")
    figure.suptitle("The way walked (white) to the goal (red); colour: max Q, what the agent thinks each cell is worth")
    with replacing(in_out_dir("rollouts.png")) as beside:
        figure.savefig(beside, dpi=100, format="png")
    plt.close(figure)

    colors = bytes((235, 235, 230, 40, 44, 52, 150, 190, 235, 220, 60, 60, 30, 90, 200))  # open, wall, trail, goal, agent
    board, frames = walls.to(torch.uint8).permute(2, 0, 1).flatten(1), []
    lane = torch.arange(len(goal))
    for at in cells[:int((cells != mazes.goal.cpu()).any(1).sum()) + 1]:
        board[lane, at], frame = 2, board.clone()
        frame[lane, mazes.goal.cpu()] = 3
        frame[lane, at] = 4
        frame = F.pad(frame.view(-1, GRID, GRID), (1, 1, 1, 1), value=1)
        frame = torch.cat(frame.unbind(), 1).repeat_interleave(6, 0).repeat_interleave(6, 1)
        frames.append(Image.fromarray(frame.numpy(), "P"))
        frames[-1].putpalette(colors)
    with replacing(in_out_dir("agent.gif")) as beside:
        frames[0].save(beside, format="GIF", save_all=True, append_images=frames[1:] + 10 * frames[-1:], duration=80, loop=0)


# ----------------------------------------------------------------------------------------------------------------------
# Solving mazes from a file


def solve(path):
    """Walks each maze of a text file with the agent of CHECKPOINT, and prints the walks."""
    device = pick_device()
    texts = maze.read_mazes(path)
    network, settings = model.load_checkpoint(CHECKPOINT or in_out_dir("checkpoint.pt"), device)
    if settings["MODEL"] == "mlp":
        for number, text in enumerate(texts, 1):
            if text.walls.shape != (settings["GRID"], settings["GRID"]):
                raise UserError("maze {} is {}x{}, but an mlp trained at GRID={} walks only mazes of that size: train one at "
                                "the size, or a MODEL=vin".format(number, *text.walls.shape, settings["GRID"]))
    walks = {}
    for shape in sorted({text.walls.shape for text in texts}):  # mazes of one size are walked side by side
        numbers = [number for number, text in enumerate(texts) if text.walls.shape == shape]
        mazes = maze.stack([texts[number] for number in numbers], device)
        steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest path can have
        q, _ = think(network, mazes)
        cells = rollout(mazes, q, steps).cells.cpu()
        shortest = maze.distances(mazes.walls, mazes.goal).flatten(0, 1).gather(0, mazes.start[None])[0].tolist()
        for column, number in enumerate(numbers):
            walks[number] = cells[:, column], shortest[column]
    solved = optimal = 0
    for number, text in enumerate(texts):
        cells, shortest = walks[number]
        limit = int((~text.walls).sum())
        taken = int((cells[:limit] != text.goal).sum())
        print(maze.format_maze(text, cells[:taken + 1].tolist()))
        if shortest < 0:
            print(f"maze {number + 1}: unreachable\n")
        elif taken < limit:
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
    """Sets constants from KEY=VALUE arguments; each keeps its type."""
    for argument in arguments:
        name, equals, text = argument.partition("=")
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
        globals()[name] = value


def check():
    """Refuses constants that are out of range, before anything is written."""
    def must(name, right, wanted):
        if not right:
            raise UserError(f"{name}={globals()[name]} is out of range: it must be {wanted}")

    must("GRID", 5 <= GRID <= 256, "a whole number from 5 to 256")
    for name in ("DIFFICULTY", "DIFFICULTY_MIN", "LAMBDA", "LR_DECAY", "EPSILON", "CURRICULUM_SUCCESS"):
        must(name, 0 <= globals()[name] <= 1, "from 0 to 1")
    must("DIFFICULTY_MIN", DIFFICULTY_MIN <= DIFFICULTY, f"at most DIFFICULTY={DIFFICULTY}")
    must("GAMMA", 0 < GAMMA < 1, "over 0 and under 1")
    for name in ("CURRICULUM_STEP", "CURRICULUM_SHARE"):
        must(name, 0 < globals()[name] <= 1, "over 0 and at most 1")
    for name in ("LR", "HUBER", "GRAD_CLIP", "EPSILON_SHAPE"):
        must(name, 0 < globals()[name] < float("inf"), "a number over 0")
    for name in ("MAX_START_DISTANCE", "MAZE_CACHE_SIZE", "UPDATES", "TARGET_SYNCS", "REPLAY_SIZE", "NUM_EPISODES", "BSZ",
                 "MAX_EP_LENGTH", "EVAL_MAZES", "EVAL_SAMPLE", "EVAL_EVERY"):
        must(name, globals()[name] >= 1, "a whole number over 0")
    must("WIDTH", WIDTH >= 0, "0 or a number of units")
    must("THREADS", THREADS >= 0, "0 or a number of threads")
    must("UPDATES", UPDATES <= BSZ, f"at most BSZ={BSZ}: each update needs an episode")
    must("REPLAY_SIZE", REPLAY == "off" or REPLAY_SIZE >= BSZ, f"at least BSZ={BSZ}: a batch must fit in")
    must("SEED", 0 <= SEED < HELD_OUT_SEED, "a whole number from 0 to 4294967294")
    must("PLOT_FILE", os.path.isdir(os.path.dirname(PLOT_FILE) or "."), "in a folder that exists")
    for name, choices in (("GOAL", ("random", "corner")), ("MODEL", tuple(model.MODELS)), ("REPLAY", ("off", "uniform")),
                          ("CURRICULUM", ("adaptive", "linear", "off"))):
        must(name, globals()[name] in choices, " or ".join(choices))


def pick_device():
    """The torch device that DEVICE names; "auto": a GPU where there is one. On a CPU, with as many threads as THREADS says."""
    if THREADS:
        torch.set_num_threads(THREADS)
    if DEVICE == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
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


def main(arguments):
    """Runs the command line; returns the exit status."""
    try:
        if arguments[:1] == ["solve"]:
            if len(arguments) < 2 or "=" in arguments[1]:
                raise UserError("solve what? Write: python main.py solve FILE")
            override(arguments[2:])
            check()
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
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Pictures of a run: its course, what the agent thinks and where it walks, and how it thinks.

matplotlib and its picture library are loaded when the first picture is drawn: they take a while.
Without pyplot, whose choice of a window to draw in is the user's.
"""

import contextlib
import itertools
import math
import os
import sys

import torch

from maze import neighbours, padded
from support.process import replacing


def library():
    """matplotlib. What MPLBACKEND names is for the user's own figures: it may not be there."""
    own = "" if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", "")
    import matplotlib.figure

    if own:
        os.environ["MPLBACKEND"] = own
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = own
    return matplotlib


def save(figure, path, dpi):
    with replacing(path) as beside:
        figure.savefig(beside, dpi=dpi, format=os.path.splitext(path)[1][1:] or "png")


def course(path, record, settings, summary=None):
    """training_plot.png. record: of the run, with its history; summary: once it is known."""
    history = record["history"]
    column = {name: [row[name] for row in history] for name in history[0]}
    figure = library().figure.Figure(figsize=(14, 7))
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.05, right=0.96, bottom=0.08, top=0.94, wspace=0.16, hspace=0.3)
    success, error, far, loss, level, wrong = axes.flat
    x = [episodes / 1000 for episodes in column["episodes"]]
    success.plot(x, column["success"], label="held-out mazes")
    success.plot(x, column["train_success"], "--", label="training mazes")
    if summary:
        success.axhline(summary["random_walk"], color="gray", ls="--", label="random walk")
    success.set(title="Success of the greedy agent", ylim=(-0.02, 1.02))
    error.semilogy(x, column["q_error"], label="q_error: mean |Q - Q*|")
    for sign, name in (1, "mean Q - Q*, where over"), (-1, "mean Q* - Q, where under"):
        bias = [sign * bias if sign * bias > 0 else math.nan for bias in column["q_bias"]]
        error.semilogy(x, bias, ".", label=name)
    error.set(title="Error of Q in held-out mazes")
    loss.semilogy(x, column["loss"], color="tab:red", label="loss (Huber, over HUBER)")
    loss.semilogy(x, column["grad_norm"], color="tab:purple", label="norm of the gradient")
    loss.axhline(settings["GRAD_CLIP"], color="gray", ls=":", label="GRAD_CLIP")
    loss.set(title=f"Loss (target syncs a batch: {settings['TARGET_SYNCS']})")
    level.plot(x, column["level"], label="curriculum level: walls and distances")
    level.plot(x, column["epsilon"], label="epsilon, mean")
    rate = [rate / settings["LR"] for rate in column["learning_rate"]]
    level.plot(x, rate, label="learning rate / LR")
    level.set(title="Curriculum, exploration, learning rate", ylim=(-0.02, 1.05))
    plot_bands(far, summary["by_distance"]) if summary else far.axis("off")
    if history[-1]["wrong_views"] is None:
        wrong.axis("off")
    else:
        plot_wrong_views(wrong, x, column["wrong_views"], settings)
    for axis in success, error, loss, level, wrong:
        axis.set_xlabel("thousand episodes")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in success, error, loss, level:
        axis.legend(fontsize=8, loc="center right" if axis in (success, level) else "upper right")
    save(figure, path, 100)


def plot_bands(axis, bands):
    """Success by the steps from start to goal."""
    share = [band["success"] for band in bands.values()]
    colors = ["tab:blue" if s == 1 else "tab:orange" for s in share]
    axis.bar(range(len(bands)), share, color=colors)
    axis.set_xticks(range(len(bands)), bands, rotation=30, fontsize=8)
    axis.set(title="Success by steps to the goal, at the end", ylim=(0, 1.05))


def plot_wrong_views(axis, x, wrong, settings):
    """How many of all the things that a cell can see are answered wrongly, and the proof."""
    axis.plot(x, wrong, "o-", ms=4, color="tab:red")
    axis.set_yscale("symlog", linthresh=1)
    axis.set(title="Wrong views, of 65,536 that there are", ylim=(-0.4, 2e5))
    axis.set_yticks([0, 1, 10, 100, 1000, 10_000, 65_536])
    axis.set_yticklabels(["0", "1", "10", "100", "1,000", "10,000", "65,536"])
    if 0 in wrong and settings["LOOKS"] == 0:
        proved = x[wrong.index(0)]
        what = "it walks every maze perfectly" if not settings["VISION"] else "its planner"
        axis.axvline(proved, color="tab:green", ls="--")
        axis.plot(proved, 0, "*", ms=16, color="tab:green")
        how = dict(textcoords="offset points", ha="right", color="tab:green")
        axis.annotate(f"proved: {what}", (proved, 0), (-12, 24), **how)


def weights(path, linear):
    """weights.png: all the weights of the core MODEL=linear. linear: its nn.Linear(16, 4)."""
    table = torch.cat([linear.weight.detach().cpu().view(4, 2, 8), torch.zeros(4, 2, 1)], 2)
    place = torch.tensor([0, 1, 2, 3, 8, 4, 5, 6, 7])  # the cell itself in the middle
    figure = library().figure.Figure(figsize=(9.6, 5))
    axes = figure.subplots(2, 4)
    for action, name in enumerate(("up", "down", "left", "right")):
        for plane, what in enumerate(("wall", "difference")):
            axis, square = axes[plane, action], table[action, plane, place].view(3, 3).numpy()
            axis.imshow(square, cmap="RdBu", vmin=-1, vmax=1)
            for y, x in ((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)):
                color = "white" if abs(square[y, x]) > 0.6 else "black"
                text = f"{square[y, x] + 0:.2f}".replace("-0.00", "0.00")
                axis.text(x, y, text, ha="center", va="center", color=color, fontsize=9)
            axis.set(xticks=[], yticks=[])
            bias = f"{name}: bias {linear.bias[action].item():.2f}" if plane == 0 else ""
            axis.set_title(bias, fontsize=10)
            if action == 0:
                axis.set_ylabel(f"weights of\n{what}", fontsize=10)
    figure.suptitle("All 68 weights of MODEL=linear: Q - V = -1 + difference in the next cell")
    save(figure, path, 80)


SHADES_SAY = {
    "q": "what each cell is worth to the agent (yellow: near the goal)",
    "advantage": "how many steps its best action seems to lose (yellow: none)",
}


def walks(path, mazes, cells, away, distance, farthest, unit="q"):
    """rollouts.png: how far from the goal the cells of a few mazes are, as the agent sees it, its
    best action there, and the way it walks; below, the exact distances.

    away (4, H, W, n): how far from the goal each action seems to lead; inf where the goal can't be
    reached, nan where it is unknown. distance (H, W, n): the exact one, or -1.
    """
    h, w, n = mazes.walls.shape
    board = torch.full((2, h + 2, n, w + 2), math.nan)  # one image of all: a single axis draws fast
    exact = neighbours(torch.where(distance < 0, math.inf, distance.float()), math.inf)
    for row, after in enumerate((away, exact)):
        here = 1 + after.amin(0)
        here = here.clamp(max=farthest).where(here.isfinite(), here).masked_fill(mazes.walls, -1)
        board[row, :, :, :] = padded(here, 1, -1).permute(0, 2, 1).cpu()
    figure = library().figure.Figure(figsize=(max(7, 2.4 * n), 5.4))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.86))
    extremes = dict(under="#282c34", over="#888888", bad="#888888")
    colors = library().colormaps["viridis_r"].with_extremes(**extremes)
    board = board.view(2 * (h + 2), n * (w + 2)).numpy()
    axis.imshow(board, cmap=colors, vmin=0, vmax=farthest)
    for row, after in enumerate((away, exact) if max(h, w) <= 64 else ()):  # else too small to see
        show = ~mazes.walls & after.amin(0).isfinite()
        show.view(h * w, n)[mazes.goal, torch.arange(n)] = False
        y, x, i = show.nonzero().cpu().numpy().T
        best = after.argmin(0)[show].cpu()
        dx, dy = torch.tensor([[0, 0, -1, 1], [-1, 1, 0, 0]])[:, best].float().numpy()
        x, y = x + 1 + i * (w + 2), y + 1 + row * (h + 2)
        how = dict(angles="xy", scale_units="xy", scale=1.6, pivot="mid", width=0.0008, headwidth=4)
        axis.quiver(x, y, dx, dy, color="white", alpha=0.6, **how)
    cells, goal = cells.cpu(), mazes.goal.tolist()
    for i in range(n):
        taken, arrived = int((cells[:-1, i] != goal[i]).sum()), bool(cells[-1, i] == goal[i])
        x, y = (cells[:, i] % w + 1 + i * (w + 2)).numpy(), (cells[:, i] // w + 1).numpy()
        axis.plot(x, y, color="tab:red", lw=2)
        axis.plot(x[0], y[0], "o", color="white", ms=6, mec="tab:red")
        x, y = goal[i] % w + 1 + i * (w + 2), goal[i] // w + 1
        for row in range(2):
            axis.plot(x, y + row * (h + 2), "*", color="gold", mec="black", ms=11)
        said, color = (f"{taken} steps", "black") if arrived else ("FAILED", "tab:red")
        axis.text((i + 0.5) * (w + 2) - 0.5, -1.2, said, ha="center", color=color)
    axis.axis("off")
    said = f"Above: {SHADES_SAY[unit]}, its best action, and the way it walks (red)\n"
    said += "from the dot to the star. Below: the exact values."
    figure.suptitle(said, fontsize=10, y=0.995)
    save(figure, path, 80)


# --------------------------------------------------------------------------------------------------
# agent.gif

COLORS = "f4f4ee 282c34 e04040 1e5ac8 9cc3f0"  # open, wall, goal, agent, trail
OPEN, WALL, GOAL, AGENT, TRAIL, FIRST_SHADE = 0, 1, 2, 3, 4, 8
SHADES = 64


def thinking(path, mazes, rows, farthest):
    """agent.gif: values spread through a few mazes as the network thinks, then it walks them.

    rows: a list of (title, looks, cells): looks, as by `model.looks`, none for an agent that does
    not think about the whole maze; cells (T + 1, n).
    """
    film = frames(mazes, rows, farthest)
    with replacing(path) as beside:
        how = dict(format="GIF", save_all=True, duration=70, loop=0)
        next(film).save(beside, append_images=film, **how)


def frames(mazes, rows, farthest):
    """The pictures of agent.gif, one by one: about 300 of at most 1,300 pixels, or 1 a cell."""
    from PIL import Image, ImageDraw

    (h, w, n), goal, lane = mazes.walls.shape, mazes.goal.cpu(), torch.arange(len(mazes.goal))
    scale = max(1, min(8, 1000 // (n * (w + 2))))
    ground = torch.where(mazes.walls, WALL, OPEN).to("cpu", torch.uint8).flatten(0, 1)
    title = torch.full((16, n * (w + 2) * scale), OPEN, dtype=torch.uint8)
    shades = library().colormaps["viridis_r"](torch.linspace(0, 1, SHADES).numpy())[:, :3] * 255
    palette = bytes.fromhex(COLORS).ljust(3 * FIRST_SHADE, b"\0")
    palette += shades.astype("uint8").tobytes()

    def frame(shown, doing, t):
        parts = []
        for value, (_, _, cells) in zip(shown, rows):
            board = ground.clone()
            if value is not None:
                away = -value.cpu().flatten(0, 1)
                shade = FIRST_SHADE + (away / farthest * (SHADES - 1)).clamp(0, SHADES - 1)
                board = torch.where(board != WALL, shade.to(torch.uint8), board)
            board[cells[:t].cpu(), lane] = TRAIL
            board[goal, lane] = GOAL
            board[cells[min(t, len(cells) - 1)].cpu(), lane] = AGENT
            board = padded(board.view(h, w, n), 1, WALL).transpose(1, 2).flatten(1)
            parts += [title, board.repeat_interleave(scale, 0).repeat_interleave(scale, 1)]
        image = Image.fromarray(torch.cat(parts).numpy())
        image.putpalette(palette)
        for i, (text, *_) in enumerate(rows):
            place = 4, 2 + i * image.height // len(rows)
            ImageDraw.Draw(image).text(place, f"{text}   {doing[i]}", fill=WALL)
        return image

    thoughts = [iter(looks) for _, looks, _ in rows]
    shown, look, at_once = [None] * len(rows), [-1] * len(rows), 1
    while any(more := [list(itertools.islice(each, at_once)) for each in thoughts]):
        shown = [new[-1][0] if new else value for new, value in zip(more, shown)]
        look = [before + len(new) for before, new in zip(look, more)]
        yield frame(shown, [f"look {k}" if new else "" for k, new in zip(look, more)], 0)
        at_once = max(2, farthest // 50)
    longest = max(int((cells != mazes.goal).any(1).sum()) for _, _, cells in rows)
    last = min(longest, len(rows[0][2]) - 1)
    for t in [*range(0, last, max(1, last // 100)), *16 * [last]]:
        yield frame(shown, ["walking"] * len(rows), t)

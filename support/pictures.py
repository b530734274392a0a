"""Pictures of a run: its course, what the agent thinks and where it walks, and how it thinks.

matplotlib and its picture library are loaded when the first picture is drawn: they take a while.
"""

import math

import torch

from maze import neighbours, padded, replacing


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure, path, dpi):
    with replacing(path) as beside:
        figure.savefig(beside, dpi=dpi, format="png")
    pyplot().close(figure)


def course(path, record, settings, summary=None, backup=None):
    """training_plot.png. record: of the run, with its history.

    summary, and backup, (learned, exact) Q of a look: once they are known.
    """
    plt, history = pyplot(), record["history"]
    column = {name: [row[name] for row in history] for name in history[0]}
    figure, axes = plt.subplots(2, 3, figsize=(14, 7))
    figure.subplots_adjust(left=0.05, right=0.96, bottom=0.08, top=0.94, wspace=0.16, hspace=0.3)
    success, error, far, loss, level, learned = axes.flat
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
    draw_bands(far, summary["by_distance"]) if summary else far.axis("off")
    draw_backup(learned, *backup) if backup else learned.axis("off")
    for axis in success, error, loss, level:
        axis.set_xlabel("thousand episodes")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in success, error, loss, level:
        axis.legend(fontsize=8, loc="center right" if axis in (success, level) else "upper right")
    save(figure, path, 100)


def draw_bands(axis, bands):
    """Success by the steps from start to goal."""
    share = [band["success"] for band in bands.values()]
    colors = ["tab:blue" if s == 1 else "tab:orange" for s in share]
    axis.bar(range(len(bands)), share, color=colors)
    axis.set_xticks(range(len(bands)), bands, rotation=30, fontsize=8)
    axis.set(title="Success by steps to the goal, at the end", ylim=(0, 1.05))


def draw_backup(axis, learned, exact, points=6000):
    """What one look of the core says, against the exact backup."""
    learned, exact = learned.flatten().cpu(), exact.flatten().cpu()
    some = torch.linspace(0, len(exact) - 1, points).long()
    ends = [0, 1.2 * exact.max().item()]
    spread = torch.linspace(-0.02, 0.02, 97)[some % 97] * ends[1]  # exact Q has few values
    axis.plot(
        (exact[some] + spread).numpy(),
        learned[some].numpy(),
        ".",
        ms=2,
        alpha=0.5,
        label="an action in a cell",
    )
    axis.plot(ends, ends, "k--", lw=1, label="exact")
    axis.set(title="What was learned: Q of one look", xlabel="exact Q of the backup, in units of m")
    axis.legend(fontsize=8, loc="upper left")


def walks(path, mazes, cells, steps, distance, farthest):
    """rollouts.png: how far from the goal the cells of a few mazes are, as the agent sees it, its
    best action there, and the way it walks; below, the exact distances.

    steps (4, H, W, n): how far from the goal each action seems to lead, log Q / log GAMMA; inf
    where there is no value, nan where it is unknown. distance (H, W, n): the exact one, or -1.
    """
    plt, (h, w, n) = pyplot(), mazes.walls.shape
    board = torch.full((2, h + 2, n, w + 2), math.nan)  # one image of all: a single axis draws fast
    exact = neighbours(torch.where(distance < 0, math.inf, distance.float()), math.inf)
    for row, after in enumerate((steps, exact)):
        away = 1 + after.amin(0)
        away = away.clamp(max=farthest).where(away.isfinite(), away).masked_fill(mazes.walls, -1)
        board[row, :, :, :] = padded(away, 1, -1).permute(0, 2, 1).cpu()
    figure = plt.figure(figsize=(max(7, 2.4 * n), 5.4))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.86))
    colors = plt.get_cmap("viridis_r").with_extremes(under="#282c34", over="#888888", bad="#888888")
    board = board.view(2 * (h + 2), n * (w + 2)).numpy()
    axis.imshow(board, cmap=colors, vmin=0, vmax=farthest)
    for row, after in enumerate((steps, exact)):
        show = ~mazes.walls & after.amin(0).isfinite()
        show.view(h * w, n)[mazes.goal, torch.arange(n)] = False
        y, x, i = show.nonzero().cpu().numpy().T
        best = after.argmin(0)[show].cpu()
        dx, dy = torch.tensor([[0, 0, -1, 1], [-1, 1, 0, 0]])[:, best].float().numpy()
        axis.quiver(
            x + 1 + i * (w + 2),
            y + 1 + row * (h + 2),
            dx,
            dy,
            color="white",
            alpha=0.6,
            angles="xy",
            scale_units="xy",
            scale=1.6,
            pivot="mid",
            width=0.0008,
            headwidth=4,
        )
    cells, goal = cells.cpu(), mazes.goal.tolist()
    for i in range(n):
        steps, arrived = int((cells[:-1, i] != goal[i]).sum()), bool(cells[-1, i] == goal[i])
        x, y = (cells[:, i] % w + 1 + i * (w + 2)).numpy(), (cells[:, i] // w + 1).numpy()
        axis.plot(x, y, color="tab:red", lw=2)
        axis.plot(x[0], y[0], "o", color="white", ms=6, mec="tab:red")
        for row in range(2):
            axis.plot(
                goal[i] % w + 1 + i * (w + 2),
                goal[i] // w + 1 + row * (h + 2),
                "*",
                color="gold",
                mec="black",
                ms=11,
            )
        axis.text(
            (i + 0.5) * (w + 2) - 0.5,
            -1.2,
            f"{steps} steps" if arrived else "FAILED",
            ha="center",
            color="black" if arrived else "tab:red",
        )
    axis.axis("off")
    figure.suptitle(
        "Above: what each cell is worth to the agent (yellow: near the goal), its best "
        "action, and the way it walks (red) from the dot to the star.\nBelow: the exact "
        "values.",
        fontsize=10,
        y=0.995,
    )
    save(figure, path, 80)

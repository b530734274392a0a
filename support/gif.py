"""agent.gif: values spread through a few mazes as the network thinks, then it walks them."""

import torch

from maze import padded, replacing
from support.pictures import pyplot

COLORS = "f4f4ee 282c34 e04040 1e5ac8 9cc3f0"  # open, wall, goal, agent, trail
OPEN, WALL, GOAL, AGENT, TRAIL, FIRST_SHADE = 0, 1, 2, 3, 4, 8
SHADES = 64


def thinking(path, mazes, rows, farthest, scale=8):
    """agent.gif: values spread through a few mazes as the network thinks, then it walks them.

    rows: a list of (title, looks, cells): looks, how far from the goal the cells seem to be after
    each look, a list of (H, W, n), empty for an agent that does not think about the whole maze;
    cells (T + 1, n).
    """
    from PIL import Image, ImageDraw

    plt, (h, w, n) = pyplot(), mazes.walls.shape
    shades = (plt.get_cmap("viridis_r")(torch.linspace(0, 1, SHADES).numpy())[:, :3] * 255).astype(
        "uint8"
    )
    palette = bytes.fromhex(COLORS).ljust(3 * FIRST_SHADE, b"\0") + shades.tobytes()
    goal, lane = mazes.goal.cpu(), torch.arange(n)
    trails = [torch.zeros(h * w, n, dtype=torch.bool) for _ in rows]
    most = max(len(looks) for _, looks, _ in rows)
    steps = max(int((cells != mazes.goal).any(1).sum()) for _, _, cells in rows) + 1
    frames = []
    for t in [*range(0, most, 2), *range(most, most + min(steps, len(rows[0][2])))]:
        boards = []
        for (title, looks, cells), trail in zip(rows, trails):
            board = torch.where(mazes.walls, WALL, OPEN).to("cpu", torch.uint8).flatten(0, 1)
            if looks:
                away = looks[min(t, len(looks) - 1)].cpu().flatten(0, 1)
                shade = FIRST_SHADE + (away / farthest * (SHADES - 1)).clamp(0, SHADES - 1)
                board = torch.where(away.isfinite() & (board != WALL), shade.to(torch.uint8), board)
            board[goal, lane] = GOAL
            if t >= most:
                here = cells[min(t - most, len(cells) - 1)].cpu()
                trail[here, lane] = True
                board[trail & (board != GOAL)] = TRAIL
                board[here, lane] = AGENT
            else:
                board[cells[0].cpu(), lane] = AGENT
            picture = padded(board.view(h, w, n), 1, WALL).transpose(1, 2).flatten(1)
            picture = picture.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
            image = Image.new("P", (picture.shape[1], picture.shape[0] + 16), OPEN)
            image.paste(Image.fromarray(picture.numpy(), "P"), (0, 16))
            doing = f"look {t + 1}" if t < min(most, len(looks)) else "walking" if t >= most else ""
            ImageDraw.Draw(image).text((4, 2), f"{title}   {doing}", fill=WALL)
            boards.append(image)
        frame = Image.new("P", (boards[0].width, sum(image.height for image in boards)))
        for i, image in enumerate(boards):
            frame.paste(image, (0, i * image.height))
        frame.putpalette(palette)
        frames.append(frame)
    with replacing(path) as beside:
        frames[0].save(
            beside,
            format="GIF",
            save_all=True,
            append_images=frames[1:] + 15 * frames[-1:],
            duration=70,
            loop=0,
        )

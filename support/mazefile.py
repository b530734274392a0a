"""Mazes from files: text, pictures and numpy arrays; and walks through them, as text."""

import os
from typing import NamedTuple

import numpy as np
import torch

import maze
from maze import Mazes
from support import pictures
from support.errors import UserError
from support.metrics import steps_away

LETTERS = {
    "#": "wall",
    "%": "wall",
    ".": "open",
    " ": "open",
    "S": "start",
    "A": "start",
    "P": "start",
    "G": "goal",
    "B": "goal",
}
PICTURES = ".png", ".jpg", ".jpeg", ".gif", ".bmp"


class FileMaze(NamedTuple):
    """One maze of a file: walls (H, W) bool array, start and goal cells."""

    walls: np.ndarray
    start: int
    goal: int


def read(path, start="", goal=""):
    """The mazes of a file, a list of FileMaze. Raises UserError for what can't be understood.

    Text: `#` or `%` wall, `.` or space open, `S`, `A` or `P` start, `G` or `B` goal, a blank line
    between two mazes. In a Pac-Man layout (`%` and `P`) the only `.`, its food, is the goal.
    A picture: dark walls on light ground. A numpy array (.npy): not 0 is wall. For the last two,
    start and goal as "y,x"; a picture may show them as a green and a red cell instead.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in PICTURES:
        return [from_picture(path, start, goal)]
    if ending == ".npy":
        return [from_array(path, start, goal)]
    if start or goal:
        raise UserError(
            f"{path} is a text: mark the start as S and the goal as G in it, without START and GOAL"
        )
    return from_text(path)


# --------------------------------------------------------------------------------------------------
# Text


def from_text(path):
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None
    mazes, block = [], []
    for number, line in enumerate(lines + [""], 1):
        line = line.rstrip("\r")
        for column, character in enumerate(line, 1):
            if character not in LETTERS:
                raise UserError(
                    f"{path}, line {number}: {character!r} in column {column}; a maze is made "
                    "of # . S G and spaces"
                )
        if line:
            if block and len(line) != len(block[0][1]):
                raise UserError(
                    f"{path}, line {number}: {len(line)} characters, but the line above has "
                    f"{len(block[0][1])}; an empty line, without blanks, parts two mazes"
                )
            block.append((number, line))
        elif block:
            mazes.append(parse(path, block))
            block = []
    if not mazes:
        raise UserError(f"{path}: no maze in it; draw one with # . S G")
    return mazes


def parse(path, block):
    """block: the numbered lines of one maze."""
    first, text = block[0][0], "".join(line for _, line in block)
    if "%" in text and "G" not in text and "B" not in text and text.count(".") == 1:
        block = [(number, line.replace(".", "G")) for number, line in block]  # Pac-Man's only food
        text = text.replace(".", "G")
    kinds = [LETTERS[letter] for letter in text]
    for name, letter in ("start", "S"), ("goal", "G"):
        found = [number for number, line in block for c in line if LETTERS[c] == name]
        if not found:
            raise UserError(
                f"{path}, line {first}: the maze that begins here has no {name}, {letter}"
            )
        if len(found) > 1:
            raise UserError(f"{path}, line {found[1]}: a second {name}, {letter}; a maze has one")
    walls = np.array([kind == "wall" for kind in kinds]).reshape(len(block), -1)
    return FileMaze(walls, kinds.index("start"), kinds.index("goal"))


# --------------------------------------------------------------------------------------------------
# Pictures and arrays


def from_picture(path, start, goal):
    from PIL import Image  # matplotlib brings it

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path} is not a picture: {type(error).__name__}") from None
    red, green, blue = (pixels[..., i] for i in range(3))
    kind = np.where(pixels.sum(2) < 384, 1, 0)  # dark: a wall
    kind[(green > red + 60) & (green > blue + 60)] = 2
    kind[(red > green + 60) & (red > blue + 60)] = 3
    size = cell_size(kind)
    h, w = kind.shape
    if h % size or w % size:
        raise UserError(
            f"{path}: {w}x{h} pixels, and cells that seem to be {size} pixels wide, which "
            "does not divide it: crop it to whole cells"
        )
    cells = kind.reshape(h // size, size, w // size, size)[:, size // 2, :, size // 2]
    if max(cells.shape) > 1024:
        raise UserError(
            f"{path}: cells of {size} pixels make it {cells.shape[1]}x{cells.shape[0]}: is it "
            "blurred or a photo? It takes sharp squares of one size"
        )
    places = []
    for name, color, number, given in (("start", "green", 2, start), ("goal", "red", 3, goal)):
        if given:
            places.append(place(path, name, given, cells == 1))
            continue
        found = np.flatnonzero(cells == number)
        if len(found) != 1:
            grid = (
                ", as no larger squares fit: is it blurred, or has it lines?" if size == 1 else ""
            )
            raise UserError(
                f"{path}: {cells.shape[1]}x{cells.shape[0]} cells of {size} pixels{grid}, "
                f"{len(found)} of them {color}: paint one {color} as the {name}, or say "
                f"where it is, {'START' if name == 'start' else 'GOAL'}=y,x"
            )
        places.append(int(found[0]))
    return FileMaze(cells == 1, *places)


def cell_size(kind):
    """The greatest size of squares, in pixels, to whose edges all changes of colour keep."""
    edges = [
        np.flatnonzero((kind[1:] != kind[:-1]).any(1)) + 1,
        np.flatnonzero((kind[:, 1:] != kind[:, :-1]).any(0)) + 1,
        kind.shape,
    ]
    return int(np.gcd.reduce(np.concatenate(edges)))


def from_array(path, start, goal):
    try:
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise ValueError
    except (ValueError, EOFError, AttributeError):  # an archive has no dtype
        raise UserError(f"{path} is not a numpy array of numbers") from None
    if array.ndim != 2 or not array.size:
        raise UserError(
            f"{path}: an array of shape {array.shape}; a maze has rows and columns, not 0 is wall"
        )
    if not start or not goal:
        raise UserError(f"{path}: say where start and goal are, START=y,x GOAL=y,x")
    walls = array != 0
    return FileMaze(walls, place(path, "start", start, walls), place(path, "goal", goal, walls))


def place(path, name, text, walls):
    """The cell that "y,x" names."""
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"the {name} of {path}, {text!r}, is not understood: write y,x") from None
    h, w = walls.shape
    if not (0 <= y < h and 0 <= x < w) or walls[y, x]:
        inside = (
            f"outside of its {h} rows and {w} columns"
            if not (0 <= y < h and 0 <= x < w)
            else "a wall"
        )
        raise UserError(f"the {name} of {path}, row {y} and column {x}, is {inside}")
    return y * w + x


# --------------------------------------------------------------------------------------------------
# Walking through them


def solve(texts, network, settings, rollout, picture):
    """Walks each of these FileMazes; prints the walks, and draws a few into the file `picture`.

    settings: of the run that made the network; rollout: main's.
    """
    walks, device = {}, next(network.parameters()).device
    for shape in sorted({text.walls.shape for text in texts}):  # mazes of one size, side by side
        numbers = [number for number, text in enumerate(texts) if text.walls.shape == shape]
        mazes = stack([texts[number] for number in numbers], device)
        steps = int((~mazes.walls).sum((0, 1)).max())  # more than a shortest path can have
        episodes, sight = rollout(network, mazes, steps)
        cells, distance = episodes.cells.cpu(), maze.distances(mazes.walls, mazes.goal)
        shortest = maze.shortest(mazes, distance).tolist()
        for column, number in enumerate(numbers):
            walks[number] = cells[:, column], shortest[column]
        if 0 in numbers and network.whole_maze:
            few, distance, away = (
                mazes.select(slice(5)),
                distance[..., :5],
                steps_away(sight.q(), settings),
            )
            os.makedirs(os.path.dirname(picture) or ".", exist_ok=True)
            farthest = max(1, int(distance.max()))
            pictures.walks(picture, few, cells[:, :5], away[..., :5], distance, farthest)
    print_walks(texts, walks)


def stack(texts, device="cpu"):
    """FileMazes of one size, as `Mazes`."""
    walls = torch.from_numpy(np.stack([text.walls for text in texts], -1)).to(device)
    goal, start = torch.tensor([[text.goal, text.start] for text in texts], device=device).unbind(1)
    return Mazes(walls, goal, start)


def as_text(text, cells=()):
    """A FileMaze as text, the walked cells as `*`."""
    letters = np.where(text.walls, "#", ".")
    letters.flat[list(cells)] = "*"
    letters.flat[text.start], letters.flat[text.goal] = "S", "G"
    return "\n".join("".join(row) for row in letters)


def print_walks(texts, walks):
    """Prints each maze with its walk and a verdict, then the sum.

    walks: for each maze, the cells of the walk (T + 1,), and the length of a shortest one, -1 if
    there is none.
    """
    solved = optimal = 0
    for number, text in enumerate(texts, 1):
        cells, shortest = walks[number - 1]
        limit = int((~text.walls).sum())
        taken = int((cells[: limit + 1] != text.goal).sum())
        print(as_text(text, cells[: taken + 1].tolist()))
        if shortest < 0:
            print(f"maze {number}: unreachable\n")
        elif taken <= limit:
            solved, optimal = solved + 1, optimal + (taken == shortest)
            print(f"maze {number}: solved in {taken} steps (shortest {shortest})\n")
        else:
            print(f"maze {number}: not solved in {limit} steps (shortest {shortest})\n")
    print(f"solved {solved} of {len(texts)}, by a shortest path {optimal}")

"""python main.py solve FILE ...        walks the mazes of these files; - reads standard input

A FILE holds text, a picture or a numpy array. START=y,x and GOAL=y,x, row and column from 0, say
where start and goal are if it does not, or beat what it says. WALL= says what the wall is: a
character of a text, a number of an array, a shade of a picture, 0 (black) to 255 (white).

Text      # % or block letters are wall, blanks and . floor, S s A P start, G g E e B goal; X * + o
          mark a path, which is floor; an empty line parts two mazes. Or digits, also with commas
          or blanks between: 1 wall, 0 floor, 2 start, 3 goal. Of several goals the nearest counts.
          A line whose blanks at the end were cut off is filled up, where the others end in wall.
Drawing   +---+ or o---o and | between the cells: walls become cells, too, so each step counts 2.
Moving AI a .map file: @ O T W are wall. Pac-Man: walls %, start P, goal the only dot.
Picture   dark walls, light floor (or WALL=), one green cell as the start, one red as the goal;
          other bright colours are a painted path, floor. A light margin is cut off, and START and
          GOAL count without it.
Array     .npy, or .npz with one array: not 0 is wall; or 1 wall, 0 floor, 2 start, 3 goal.
"""

import io
import math
import os
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

import maze
from maze import Mazes
from support import pictures
from support.process import UserError, say
from support.report import steps_away

# Whatever the file, it is seen as an array (H, W) of codes, and text in these letters.
FLOOR, WALL, START, GOAL = 0, 1, 2, 3
LETTERS = ". ·0X*+o", "#%█1", "SsAP2", "GgEeB3"
PATH = set("X*+o")
VERDICT = re.compile(r"maze \d+: (unreachable|(not )?solved in .*)|solved \d+ of \d+, by .*")
MOST = 2**23  # cells; each takes up to a kilobyte
FOREIGN = {b"%PDF": "a PDF", b"<": "an SVG picture or a web page"} | dict.fromkeys(
    (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "an archive"
)  # how files begin that hold no maze


def read(path, start="", goal="", wall=""):
    """The mazes of a file, each as `Mazes` of one lane. Raises UserError for what is no maze.

    What a file is shows in how it begins, not in its name. start, goal, wall: START, GOAL, WALL.
    """
    name = "standard input" if path == "-" else path if path.isprintable() else repr(path)
    try:
        file = Path(os.path.expanduser(path))
        data = sys.stdin.buffer.read() if path == "-" else file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {name}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder: name the files in it") from None
    for beginning, kind in FOREIGN.items():
        if data.startswith(beginning):
            raise UserError(f"{name} is {kind}: save the maze as a PNG picture or as text")
    if data.startswith((b"\x93NUMPY", b"PK")):
        parsed = [from_array(name, data, wall)]
    elif (text := decoded(data)) is not None:
        parsed = from_text(name, text, wall)
    else:
        parsed = [from_picture(name, data, wall)]
    return [finish(*one, start, goal) for one in parsed]


def finish(where, codes, hint, start, goal):
    """The maze with its start and goal. where, hint: for messages, what it is, what was taken as
    wall. start, goal: "y,x", or "" where the codes say it."""
    if codes.size > MOST:
        raise UserError(f"{where} is too large: {codes.size:,} cells; {MOST:,} are the most")
    cells = []
    for name, code, given in ("start", START, start), ("goal", GOAL, goal):
        found = np.flatnonzero(codes == code)
        cells.append([place(where, codes, hint, name, given)] if given else found)
        if not len(cells[-1]):
            marks = "S, or a green cell, or 2" if code == START else "G, or a red cell, or 3"
            raise UserError(f"{where} has no {name}: write {marks}, or say {name.upper()}=y,x")
    (start, *more), goals = cells
    if more:
        raise UserError(f"{where} has {len(cells[0])} starts; a maze has one")
    walls, goal = torch.from_numpy(codes == WALL)[..., None], goals[0]
    if len(goals) > 1:
        away = maze.distances(walls, torch.tensor([start])).numpy().flat[goals]
        goal = goals[np.where(away < 0, codes.size, away).argmin()]
    if start == goal:
        raise UserError(f"{where} has start and goal in one cell")
    return Mazes(walls, torch.tensor([goal]), torch.tensor([start]))


def place(where, codes, hint, name, text):
    """The cell that "y,x" names."""
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        key, wanted = name.upper(), "y,x: the row and the column, from 0"
        raise UserError(f"{key}={text} is not understood: write {key}={wanted}") from None
    (h, w), of = codes.shape, f"the {name}, row {y} and column {x}, is"
    if not (0 <= y < h and 0 <= x < w):
        raise UserError(f"{where}: {of} outside of its {h} rows and {w} columns")
    if codes[y, x] == WALL:
        raise UserError(f"{where}: {of} a wall; {hint}")
    return y * w + x


# --------------------------------------------------------------------------------------------------
# Text


def decoded(data):
    """The bytes as text, or None if they are none."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or re.match(r"P[1-6]\s", text) else text  # P2: a picture as text


def from_text(name, text, wall):
    """What is seen of each maze of a text."""
    lines, parsed, block = re.split("\r?\n", text), [], []
    if header := re.match(r"type \w+\s+height (\d+)\s+width (\d+)\s+map *\r?\n", text):
        rows = [row.translate(str.maketrans("@OTWGS", "####..")) for row in lines[4:] if row]
        size = f"{len(rows)} {max(map(len, rows), default=0)}"
        if size != " ".join(header.groups()):
            raise UserError(f"{name}: its map has height and width {size}, not as its head says")
        lines = [*4 * [""], *rows]
    for number, line in enumerate([*lines, ""], 1):
        verdict = VERDICT.fullmatch(line) and (block or parsed)  # as `solve` prints it
        if line and not verdict:
            block.append((number, line))
        elif block:
            parsed.append(from_block(name, *zip(*block), wall, verdict))
            block = []
    if not parsed:
        raise UserError(f"{name} is empty: no maze in it")
    return parsed


def from_block(name, numbers, lines, wall, verdict):
    """What is seen of one maze, these lines. verdict: whether one of `solve` stands below it."""
    where = f"{name}, line {numbers[0]}: the maze that begins here"
    parts = [parted(line) for line in lines]
    lines = parts if all(parts) else lines
    text = "".join(lines)
    drawing = not wall and lines[0][0] in "o+" and re.search("[-|]", text)
    walls = set(wall or LETTERS[WALL] + ("-|" if drawing else ""))
    table = {letter: str(code) for code, letters in enumerate(LETTERS) for letter in letters}
    table |= dict.fromkeys(LETTERS[WALL] if wall else "", "0") | dict.fromkeys(walls, "1")
    if "%" in text and text.count(".") == 1 and not set(text) & set(LETTERS[GOAL]):
        table["."] = "3"  # Pac-Man's only food
    for number, line in zip(numbers, lines):
        if wrong := set(line) - table.keys():
            column = min(map(line.index, wrong))
            raise UserError(
                f"{name}, line {number}: {line[column]!r} in column {column + 1}; a maze is made "
                "of # . S G and spaces, see solve --help"
            )
    found = set(text) & walls
    if not found and not verdict and (marks := set(text) & PATH):
        raise UserError(
            f"{where} has no wall, and {min(marks)}, which marks a path: write walls as #, or say "
            f"WALL={min(marks)}"
        )
    if drawing:
        lines, numbers = from_drawing(where, lines), numbers[:1] * len(lines)
    width = max(map(len, lines))
    # Editors cut off blanks; where floor is written otherwise, a character is missing.
    full = [(number, line) for number, line in zip(numbers, lines) if len(line) == width]
    fill = " " in text and "." not in text and all(table[line[-1]] == "1" for _, line in full)
    for number, line in zip(numbers, lines):
        if len(line) < width and not fill:
            raise UserError(
                f"{name}, line {number}: {len(line)} characters, but line {full[0][0]} has "
                f"{width}: fill it up with `.`; an empty line, without blanks, parts two mazes"
            )
    codes = "".join(line.ljust(width).translate(str.maketrans(table)) for line in lines)
    codes = np.frombuffer(codes.encode(), np.uint8).reshape(len(lines), width) - ord("0")
    taken = " ".join(sorted(found))
    other = {"1": "0", "0": "1"}.get(taken, ".")
    return where, codes, f"{taken} is wall here: if {other} is to be, say WALL={other}"


def parted(line):
    """A line of CSV, or of digits with blanks between, without what parts them; or None."""
    cells = line.strip("[] ").rstrip("],;")
    commas = re.search("[,;]", cells)
    cells = [cell.strip(" '\"") for cell in (re.split("[,;]", cells) if commas else cells.split())]
    digits = all(cell.isdigit() for cell in cells)
    return "".join(cells) if (commas or digits) and {*map(len, cells)} == {1} else None


def from_drawing(where, lines):
    """The lines of a maze whose walls are drawn between its cells: each post, each wall or gap
    between two posts, and each cell becomes one letter."""
    width, post = max(map(len, lines)), lines[0][0]
    posts = [(y, x) for y, line in enumerate(lines) for x, c in enumerate(line) if c == post]
    high, wide = (math.gcd(*at) for at in zip(*posts))
    if min(high, wide) < 2 or (len(lines) - 1) % high or (width - 1) % wide:
        raise UserError(f"{where} is a drawing whose {post} do not stand at equal distances")
    grid = np.array([line.ljust(width) for line in lines]).view(np.uint32).reshape(-1, width)
    for step in high, wide:  # the rows, then the columns
        between = grid[1:].reshape(-1, step, grid.shape[1])[:, :-1]
        letter, blank = between.max(1), ord(" ")  # the least of all letters
        if ((between != letter[:, None]) & (between != blank)).any():
            raise UserError(f"{where} is a drawing with several letters in one cell")
        squeezed = np.empty((2 * len(letter) + 1, grid.shape[1]), np.uint32)
        squeezed[::2], squeezed[1::2] = grid[::step], letter
        grid = squeezed.T
    grid[::2, ::2] = ord("#")  # the posts
    return ["".join(map(chr, row)) for row in grid.tolist()]


# --------------------------------------------------------------------------------------------------
# Pictures and arrays


def from_picture(name, data, wall):
    """What is seen in a picture of square cells."""
    colors, index, counts = colors_of(name, data)
    red, green, blue = colors.T
    marks = START * ((green > red + 60) & (green > blue + 60))
    marks += GOAL * ((red > green + 60) & (red > blue + 60))
    main, left = [], np.where(marks, 0, counts)  # the two most frequent colours
    while left.any() and len(main) < 2:
        main.append(colors[left.argmax()])
        left = left * (color_distance(colors, main[-1]) > 16)
    shade = numeric(name, wall or "0")
    main.sort(key=lambda color: abs(color.mean() - shade))
    none, white = np.full(3, -999), np.full(3, 255)
    dark, light = main if len(main) == 2 else (none, *(main or [white]))  # dark: or as WALL= says
    if len(main) == 1 and np.count_nonzero(marks == 0) > 1:
        raise UserError(
            f"{name} shows little but {shown(light)}: walls must differ more from floor"
        )
    from_dark, from_light = color_distance(colors, dark), color_distance(colors, light)
    near = 16 if len(colors) <= 16 else min(64, abs(dark - light).max() / 4)  # noise, or none
    third = np.minimum(from_dark, from_light) > near
    bright = (np.ptp(colors, 1) >= 100) | (colors.min(1) >= 200)
    bright &= colors.max(1) >= 200
    path = third & bright & ~bright[from_dark.argmin()]  # of walls, too: then which is which?
    is_wall = ~path & (from_dark < from_light)
    code_of = np.where(marks, marks, np.where(is_wall, WALL, FLOOR))

    codes, margin = code_of[index], ""
    if len(main) == 2 and (around := gaps(codes, FLOOR)) <= 2:  # a light margin, wall or floor
        box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(codes))
        if around == 0 and gaps(codes[box], WALL) <= 2:
            codes, index, margin = codes[box], index[box], ", without its margin,"
        elif not wall and (around == 0 or (from_light > near)[index].mean() > 0.25):
            raise UserError(
                f"{name}: its rim is {shown(light)}: if that is floor, say WALL={dark.mean():.0f}; "
                f"if it is the wall, WALL={light.mean():.0f}"
            )
    size = cell_size(codes)
    middle = (slice(size // 2, None, size),) * 2
    codes, index = codes[middle], index[middle]
    h, w = codes.shape
    where = f"{name}: a picture of {w}x{h} cells of {size} pixels{margin}"
    lines = ": is it blurred, a photo, or has it lines?" if size == 1 else ""
    for code, color, what in (START, "green", "start"), (GOAL, "red", "goal"):
        if (found := np.count_nonzero(codes == code)) > 1:
            raise UserError(f"{where} has {found} {color} ones; one can be, the {what}{lines}")
    odd = (third & ~path & (marks == 0))[index]
    if odd.any():
        raise UserError(
            f"{where} has {odd.sum()} of another colour, such as {shown(colors[index[odd][0]])}: "
            f"neither wall, {shown(dark)}, nor floor, {shown(light)}{lines}"
        )
    hint = f"{shown(dark)} is wall here: if {shown(light)} is to be, say WALL={light.mean():.0f}"
    (y, x), beside = np.nonzero(codes > WALL), np.pad(codes, 1, constant_values=WALL)
    beside = beside[[y, y + 2, y + 1, y + 1], [x + 1, x + 1, x, x + 2]]
    if (beside == WALL).all(0).any() and not wall:  # dark floor, light walls?
        raise UserError(
            f"{where} has walls all around its start or goal; {hint}; else WALL={dark.mean():.0f}"
        )
    return where, codes, hint


def colors_of(name, data):
    """(the colours of a picture (n, 3), which of them each pixel has, how many pixels each)."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # matplotlib brings it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            if image.mode[0] in "IF":  # more than 8 bits of grey
                grey = np.asarray(image, float)
                image = Image.fromarray((grey * 255 / max(1e-9, grey.max())).astype(np.uint8))
            paper = Image.new("RGBA", image.size, "white")
            pixels = np.asarray(Image.alpha_composite(paper, image.convert("RGBA")))
    except UnidentifiedImageError:
        known = "not a text file, an array, or a picture of a known type: PNG is one, HEIC is not"
        raise UserError(f"{name} is {known}") from None
    except Exception as error:  # a damaged file can make the reader raise anything
        raise UserError(f"{name} is a picture that can't be read: {ascii(str(error))}") from None
    packed = (pixels[..., :3].astype(np.int32) << [16, 8, 0]).sum(-1)
    packed, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    return packed[:, None] >> [16, 8, 0] & 255, index.reshape(pixels.shape[:2]), counts


def color_distance(colors, color):
    """How far each of the colours is from this one."""
    return abs(colors - color).max(1)


def shown(color):
    """A colour in words."""
    if np.ptp(color) > 20:
        return "#{:02x}{:02x}{:02x}".format(*color)
    return {0: "black", 255: "white"}.get(round(color.mean()), f"grey {color.mean():.0f}")


def gaps(codes, code):
    """How many pieces of the rim are of another code, if at least half of it is of this one."""
    rim = np.concatenate([codes[0], codes[1:, -1], codes[-1, -2::-1], codes[-2:0:-1, 0]])
    same = rim == code
    return (same & ~np.roll(same, 1)).sum() if same.mean() >= 0.5 else math.inf


def cell_size(codes):
    """The greatest size of squares, in pixels, to whose edges all changes of colour keep."""
    edges = [np.flatnonzero(np.diff(codes, axis=axis).any(1 - axis)) + 1 for axis in (0, 1)]
    return int(np.gcd.reduce(np.concatenate([*edges, codes.shape])))


def numeric(name, wall):
    """WALL=, where it says a number."""
    try:
        return float(wall)
    except ValueError:
        raise UserError(f"WALL={wall}: {name} has numbers or shades, 0 to 255: say one") from None


def from_array(name, data, wall):
    """What is seen in a numpy array, or in an archive that holds one."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if data.startswith(b"PK"):
            (array,) = array.values()
        if array.dtype.kind not in "biuf":
            raise ValueError
    except Exception:  # a damaged file can make the reader raise anything
        one = "one numpy array of numbers, or an archive of one"
        raise UserError(f"{name} is not {one}, or is damaged") from None
    if array.ndim != 2 or not array.size:
        raise UserError(f"{name}: an array of shape {array.shape}; a maze has rows and columns")
    where = f"{name}: an array of {len(array)} rows and {array.shape[1]} columns"
    values = np.unique(array).tolist()
    coded = {*values} <= {0, 1, 2, 3} and (array == 2).sum() == 1 and (array == 3).any()
    if len(values) > 2 and not coded and not wall:
        raise UserError(f"{where} has {len(values)} different numbers: say which is wall, WALL=1")
    codes = array == numeric(name, wall) if wall else array != 0
    codes = np.where(array > 1, array, codes) if coded else codes
    taken = wall or ("1" if coded else "not 0")
    hint = f"{taken} is wall here: if another number is to be, say WALL={int(taken == '0')}"
    return where, codes.astype(np.uint8), hint


# --------------------------------------------------------------------------------------------------
# Walking through them


def side_by_side(mazes, device):
    """The mazes of one size as one batch: {(H, W): (`Mazes`, how many steps to walk)}."""
    batches = {}
    for shape in sorted({one.walls.shape[:2] for one in mazes}):
        parts = zip(*(one for one in mazes if one.walls.shape[:2] == shape))
        batch = Mazes(*(torch.cat(part, -1) for part in parts)).to(device)
        limit = int((~batch.walls).sum((0, 1)).max())  # more than a shortest path can have
        batches[shape] = batch, limit
    return batches


def show(mazes, batches, walks, settings, path):
    """Prints each of these mazes with its walk and a verdict, then the sum; draws a few to `path`.

    walks: the `Episodes` and what the agent knew, of the batches that `side_by_side` made, in turn.
    settings: of the run that made the network.
    """
    found, drawing, solved, optimal = {}, None, 0, 0
    for (shape, (batch, _)), (episodes, sight) in zip(batches.items(), walks):
        cells, distance = episodes.cells.cpu(), maze.distances(batch.walls, batch.goal)
        found[shape] = zip(cells.unbind(1), maze.shortest(batch, distance).tolist())
        if shape == mazes[0].walls.shape[:2] and hasattr(sight, "greedy"):  # it saw the whole maze
            few, distance = batch.select(slice(5)), distance[..., :5]
            potential = maze.potential(few, settings["SHAPING"], settings["GAMMA"])
            away = steps_away(sight.q()[..., :5] + potential, settings)
            farthest = max(1, int(distance.max()))
            drawing = few, cells[:, :5], away, distance, farthest, settings["UNIT"]
    for number, one in enumerate(mazes, 1):
        cells, shortest = next(found[one.walls.shape[:2]])
        limit = int((~one.walls).sum())
        taken = int((cells[: limit + 1] != one.goal).sum())
        arrived = taken <= limit
        solved, optimal = solved + arrived, optimal + (taken == shortest)
        verdict = f"{'' if arrived else 'not '}solved in {min(taken, limit)} steps"
        verdict = f"{verdict} (shortest {shortest})" if shortest >= 0 else "unreachable"
        say(as_text(one, cells[: taken + 1].tolist()))
        say(f"maze {number}: {verdict}\n")
    say(f"solved {solved} of {len(mazes)}, by a shortest path {optimal}")
    try:
        if drawing:
            pictures.walks(path, *drawing)
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or error or "memory ran out"
        print(f"warning: {path} can't be drawn: {why}", file=sys.stderr)


def as_text(one, cells=()):
    """A maze as text, the walked cells as `*`."""
    letters = np.where(one.walls[..., 0], "#", ".")
    letters.flat[list(cells)] = "*"
    letters.flat[one.start], letters.flat[one.goal] = "S", "G"
    return "\n".join("".join(row) for row in letters)

"""The world: mazes, what a move does in them, and the exact answers against which the agent is held.

Conventions, the same in all three modules:

- The batch is the LAST axis: walls are (H, W, B), Q-values (4, H, W, B). All cells of a row or a column then lie in
  one strided slice, and stepping to a neighbour is slicing, without a gather.
- A cell is one number, y * W + x. Actions are 0..3 = up, down, left, right. Outside the grid is wall.
"""
import json
import math
import os
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

CACHE_FORMAT = 2


class UserError(Exception):
    """Something that the user can put right; the message says what was wrong and what would be right."""


class Mazes(NamedTuple):
    """A batch of B mazes of one size, each with a goal and a start.

    walls (H, W, B) bool; goal (B,) int64 cell; start (B,) int64 cell.
    """
    walls: torch.Tensor
    goal: torch.Tensor
    start: torch.Tensor

    def select(self, index):
        """The mazes at `index`: a slice or a (N,) int64 tensor."""
        return Mazes(self.walls[..., index], self.goal[index], self.start[index])


@contextmanager
def replacing(path):
    """Gives a path beside `path` to write to, and renames it to `path` once it is whole: a reader, or a run that is cut
    off, meets the old file or the new one, never a half."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        error.filename = path  # a disk that is full does not say whose file it was
        raise
    finally:
        if os.path.exists(beside):
            os.remove(beside)


# ----------------------------------------------------------------------------------------------------------------------
# Generation


def carve(n, grid, generator, device="cpu"):
    """n perfect mazes by randomized depth-first search, all at once.

    Rooms sit at even coordinates; a walker in each maze enters a random unvisited neighbouring room, or climbs back
    where there is none, until it has come home: 2 * (rooms - 1) moves in every maze, so that no maze waits for another.
    Returns walls, (grid, grid, n) bool.
    """
    side = (grid + 1) // 2
    width = 2 * side + 3  # a rim of two cells, whose rooms count as visited: no move needs a bounds check
    moves = 2 * (side * side - 1)
    lane = torch.arange(n, device=device)
    step = torch.tensor([-2 * width, 2 * width, -2, 2], device=device)[:, None] * n  # from room to room

    # The unvisited neighbours are four bits; with a throw of a twelve-sided die they pick the step. 0 means: climb back.
    pick = torch.zeros(16, 12, dtype=torch.int64)
    for free in range(1, 16):
        options = [a for a in range(4) if free >> a & 1]
        pick[free] = torch.tensor([int(step[options[die % len(options)]]) for die in range(12)])
    enter = pick.flatten().to(device)
    climb = torch.where(enter != 0, n, -n)
    four = torch.cartesian_prod(*[torch.arange(12, dtype=torch.uint8, device=device)] * 4)  # a random number costs more than a look-up
    die = four[torch.randint(12 ** 4, (moves // 2, (n + 1) // 2), generator=generator, device=device)].view(moves, -1)[:, :n]

    fresh = torch.zeros(width, width, n, dtype=torch.uint8, device=device)
    fresh[2:-2:2, 2:-2:2] = 1
    fresh = fresh.view(-1)
    root = torch.randint(side * side, (n,), generator=generator, device=device)
    path = torch.empty(moves + 1, n, dtype=torch.int64, device=device)  # where each walker was: cell * n + lane
    path[0] = ((root // side + 1) * 2 * width + (root % side + 1) * 2) * n + lane
    stack = torch.empty(side * side + 1, n, dtype=torch.int64, device=device)
    stack[0] = path[0]
    stack, above, top = stack.view(-1), stack[1:].view(-1), lane.clone()

    # Everything is written in place into these: at a thousand mazes an allocation costs as much as the operation.
    around = torch.empty(4, n, dtype=torch.int64, device=device)
    bits = torch.empty(4, n, dtype=torch.uint8, device=device)
    flat_around, flat_bits, low, high, even, odd = around.view(-1), bits.view(-1), bits[:2], bits[2:], bits[0], bits[1]
    key = torch.empty(n, dtype=torch.int32, device=device)
    move = torch.empty(n, dtype=torch.int64, device=device)
    visited = torch.zeros(n, dtype=torch.uint8, device=device)

    fresh.index_copy_(0, path[0], visited)
    for here, there, throw in zip(path[:-1].unbind(), path[1:].unbind(), die.unbind()):
        torch.add(here, step, out=around)
        torch.index_select(fresh, 0, flat_around, out=flat_bits)
        torch.add(low, high, alpha=4, out=low)  # four numbers, each 0 or 1, to one of four bits
        torch.add(even, odd, alpha=2, out=even)
        torch.add(throw, even, alpha=12, out=key)
        torch.index_select(enter, 0, key, out=move)
        torch.add(here, move, out=move)
        above.index_copy_(0, top, move)  # above the top: read three lines on if the move enters, else garbage
        torch.index_select(climb, 0, key, out=move)
        torch.add(top, move, out=top)
        torch.index_select(stack, 0, top, out=there)
        fresh.index_copy_(0, there, visited)

    walls = torch.ones(width, width, n, dtype=torch.bool, device=device)
    walls[2:-2:2, 2:-2:2] = False
    walls.view(-1).index_fill_(0, (path[1:] + path[:-1]).bitwise_right_shift_(1).view(-1), False)  # between two rooms
    return walls[2:2 + grid, 2:2 + grid]


def make_mazes(n, grid, generator, device="cpu", chunk=4096):
    """n perfect mazes, bit-packed: (ceil(grid * grid / 8), n) uint8. Chunks keep the walkers' state in the CPU's cache."""
    return torch.cat([pack(carve(min(chunk, n - i), grid, generator, device)) for i in range(0, n, chunk)], 1)


def pack(walls):
    """Eight cells to a byte: walls (H, W, B) bool -> (ceil(H * W / 8), B) uint8."""
    cells = walls.flatten(0, 1)
    cells = F.pad(cells.to(torch.uint8), (0, 0, 0, -len(cells) % 8)).unflatten(0, (-1, 8))
    return sum(cells[:, i] << i for i in range(8))


def unpack(packed, height, width):
    """The inverse of pack: (bytes, B) uint8 -> walls (H, W, B) bool."""
    bit = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=packed.device)
    cells = (packed[:, None] & bit[:, None]).ne(0).flatten(0, 1)
    return cells[:height * width].unflatten(0, (height, width))


# ----------------------------------------------------------------------------------------------------------------------
# The cache, and the mazes held out from it


def load_cache(path, n, grid, seed, device="cpu", say=print):
    """The n training mazes, bit-packed as by `make_mazes`: read from `path` when its settings match, else made and saved."""
    settings = json.dumps(dict(format=CACHE_FORMAT, mazes=n, grid=grid, seed=seed))
    why = "there is none yet"
    if os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as file:
                stored, packed = str(file["settings"]), file["packed"]  # a damaged member fails zip's own checksum
            if stored == settings and packed.shape == (math.ceil(grid * grid / 8), n) and packed.dtype == np.uint8:
                return torch.from_numpy(packed).to(device)
            why = f"{path} has other settings: {stored}"
        except Exception as error:  # a damaged file can make the reader raise anything
            why = f"{path} cannot be read: {type(error).__name__}"
    say(f"making {n:,} mazes of {grid}x{grid} ({why})")
    packed = make_mazes(n, grid, torch.Generator(device).manual_seed(seed), device)
    with replacing(path) as beside, open(beside, "wb") as file:
        np.savez(file, settings=settings, packed=packed.cpu().numpy())
    return packed


def held_out(n, grid, seed, cache, device="cpu", say=print):
    """n mazes from their own seed, bit-packed; one that is also in the training `cache` is made anew.

    A small grid may not have enough different mazes for that: then some are shared, and the run says so.
    """
    generator = torch.Generator(device).manual_seed(seed)
    packed, known = make_mazes(n, grid, generator, device), set(fingerprints(cache))
    for attempt in range(8):
        shared = [i for i, maze in enumerate(fingerprints(packed)) if maze in known]
        if not shared or attempt == 7:
            break
        packed[:, shared] = make_mazes(len(shared), grid, generator, device)
    if shared:
        say(f"GRID={grid} has too few different mazes: {len(shared):,} of {n:,} held-out mazes are also training mazes")
    return packed


def fingerprints(packed):
    """The bytes of each maze of a bit-packed batch, to be compared."""
    return [maze.tobytes() for maze in packed.cpu().numpy().T]


# ----------------------------------------------------------------------------------------------------------------------
# Drawing a batch: difficulty, goals and starts


def draw(packed, grid, difficulty, max_start_distance, goal, generator):
    """B of the bit-packed mazes as `Mazes`, each thinned out and given a goal and a start.

    packed (bytes, B) uint8. difficulty: the share of walls kept, a number or (B,) in [0, 1]. goal: "random", any open
    cell that has an open neighbour, or "corner", the bottom-right room. The start is a random open cell, from which the
    goal can be reached in 1..max_start_distance steps.
    """
    walls = unpack(packed, grid, grid)
    keep = torch.rand(walls.shape, generator=generator, device=walls.device) < difficulty
    walls = walls & keep
    if goal == "corner":
        corner = (grid - 1) // 2 * 2
        goal = torch.full((walls.shape[2],), corner * grid + corner, device=walls.device)
    else:
        up, down, left, right = neighbours(walls, True)
        goal = choose(~(walls | up & down & left & right), generator)
    distance = distances(walls, goal)
    return Mazes(walls, goal, choose((distance > 0) & (distance <= max_start_distance), generator))


def choose(mask, generator):
    """A random cell among those where mask (H, W, B) is true: (B,) int64. Each maze must have one."""
    count = mask.flatten(0, 1).cumsum(0, dtype=torch.int32)
    nth = (torch.rand(count.shape[1], generator=generator, device=mask.device) * count[-1]).int()
    return (count <= nth).sum(0)


def neighbours(x, outside):
    """For each cell, the value of x (H, W, B) in the cell that each action leads to: (4, H, W, B)."""
    rim = padded(x, 1, outside)
    return torch.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])


def padded(x, radius, outside):
    """x (H, W, B) with a rim of `radius` cells that hold the value `outside`: (H + 2 radius, W + 2 radius, B)."""
    h, w, b = x.shape
    rim = x.new_full((h + 2 * radius, w + 2 * radius, b), outside)
    rim[radius:radius + h, radius:radius + w] = x
    return rim


def around(cells, w, radius):
    """The window of (2 radius + 1)^2 cells around each of `cells` (...), row by row, as cells of a `padded` maze whose own
    width is w: ((2 radius + 1)^2, ...)."""
    reach = torch.arange(-radius, radius + 1, device=cells.device)
    return in_padded(cells, w, radius) + (reach[:, None] * (w + 2 * radius) + reach).view(-1, *[1] * cells.dim())


def beside(cells, w):
    """Each of `cells` (...), and where up, down, left and right of it lead, as cells of a maze `padded` by 1: (5, ...)."""
    offset = torch.tensor([0, -w - 2, w + 2, -1, 1], device=cells.device)
    return in_padded(cells, w, 1) + offset.view(-1, *[1] * cells.dim())


def in_padded(cells, w, radius):
    """`cells` of a maze w wide, as cells of it `padded`."""
    return cells + cells.div(w, rounding_mode="floor") * (2 * radius) + radius * (w + 2 * radius + 1)


# ----------------------------------------------------------------------------------------------------------------------
# Moving


def move_table(mazes, q):
    """Where each action leads, for walking by look-up: (table, greedy).

    table (H * W * 5 * B,): entry (cell * 5 + action) * B + b is the place, next_cell * 5 * B + b, to which the action
    leads in maze b; action 4 is the greedy one of q (4, H, W, B). A wall leaves the agent where it is, and from the
    goal nothing leads away. greedy (H * W, B) uint8: the greedy action itself.
    """
    h, w, b = mazes.walls.shape
    small = h * w * 5 * b < 2 ** 31  # 32-bit indices are faster where they reach
    lane = torch.arange(b, dtype=torch.int32 if small else torch.int64, device=q.device)
    place = torch.arange(h * w, dtype=lane.dtype, device=q.device).view(h, w, 1) * (5 * b) + lane
    is_open = (~neighbours(mazes.walls, True)).to(lane.dtype)
    table = torch.empty(h * w, 5, b, dtype=lane.dtype, device=q.device)
    column = table.view(h, w, 5, b).unbind(2)
    best, greedy = q[0], torch.zeros(h, w, b, dtype=torch.uint8, device=q.device)
    for action, offset in enumerate((-w, w, -1, 1)):
        torch.add(place, is_open[action], alpha=offset * 5 * b, out=column[action])
        if action == 0:
            column[4].copy_(column[0])
            continue
        better = q[action] > best  # argmax and where, by arithmetic: many times faster over an axis of four
        best = torch.maximum(best, q[action])
        column[4].addcmul_(better.to(lane.dtype), column[action] - column[4])
        greedy = torch.maximum(greedy, better * torch.tensor(action, dtype=torch.uint8))
    table[mazes.goal, :, torch.arange(b, device=q.device)] = (mazes.goal * (5 * b) + lane).to(lane.dtype)[:, None]
    return table.view(-1), greedy.flatten(0, 1)


def walk(table, start, choices, react=None):
    """The cells on each way from start (B,), one look-up in a `move_table` a step: (T + 1, B) int64.

    choices (T, B): 0..3, or 4 for the greedy action: the table's, or what react(cells (B,)) answers, which then takes the
    4's place in `choices`.
    """
    t, b = choices.shape
    place = torch.empty(t + 1, b, dtype=table.dtype, device=table.device)
    place[0] = start * (5 * b) + torch.arange(b, device=table.device)
    entry, places = torch.empty_like(place[0]), place.unbind()
    for here, choice, there in zip(places, choices.unbind(), places[1:]):
        if react:
            choice.copy_(torch.where(choice == 4, react(here.div(5 * b, rounding_mode="trunc").long()), choice))
        torch.add(here, choice, alpha=b, out=entry)
        torch.index_select(table, 0, entry, out=there)
    return place.div(5 * b, rounding_mode="trunc").long()


# ----------------------------------------------------------------------------------------------------------------------
# The exact answers


def spread(u, by, combine):
    """Raises u (H, W, B), in place, to the least fixed point of u(s) = max(u(s), max_a combine(u(s'), by[a](s))); by (4, H, W, B).

    Value iteration in Gauss-Seidel order, row by row and column by column in each direction: value crosses a corridor
    in one sweep, so that a round is needed for each few turns of the way to the goal, not for each of its steps.
    """
    row, column = u.unbind(0), u.unbind(1)
    up, down, left, right = by[0].unbind(0), by[1].unbind(0), by[2].unbind(1), by[3].unbind(1)
    h, w = len(row), len(column)
    row_, column_ = torch.empty_like(u[0]), torch.empty_like(u[:, 0])  # scratch
    sweeps = [(row[y - 1], up[y], row_, row[y]) for y in range(1, h)]
    sweeps += [(column[x - 1], left[x], column_, column[x]) for x in range(1, w)]
    sweeps += [(row[y + 1], down[y], row_, row[y]) for y in reversed(range(h - 1))]
    sweeps += [(column[x + 1], right[x], column_, column[x]) for x in reversed(range(w - 1))]
    before = torch.empty_like(u)
    for _ in range(h * w):
        before.copy_(u)
        for ahead, step, scratch, here in sweeps:
            combine(ahead, step, out=scratch)
            torch.maximum(here, scratch, out=here)
        if torch.equal(u, before):
            break
    return u


def distances(walls, goal):
    """Steps from each cell to the goal by a shortest path: (H, W, B) int32, -1 where the goal can't be reached."""
    h, w, b = walls.shape
    kind, far = (torch.int16, 2 ** 14) if h * w < 2 ** 14 else (torch.int32, 2 ** 30)  # what fits takes half the time
    cost = torch.where(walls, far, 1).to(kind)
    nearness = torch.full((h * w, b), -far, dtype=kind, device=walls.device).scatter_(0, goal[None], 0).view(h, w, b)
    distance = -spread(nearness, cost.expand(4, -1, -1, -1), torch.sub).int()  # into a wall it falls to -far: never up
    return torch.where(distance < far, distance, -1)


def shortest(mazes, distance):
    """Steps on a shortest way from each start, given `distances` (H, W, B): (B,)."""
    return distance.flatten(0, 1).gather(0, mazes.start[None])[0]


def optimal_q(mazes, distance, gamma):
    """Q*(s, a) = gamma ** d(s'), where s' is the cell that a leads to: (4, H, W, B). 0 where the goal can't be reached."""
    ahead = neighbours(distance, -1)
    ahead = torch.where(neighbours(mazes.walls, True), distance, ahead)
    return torch.where(ahead < 0, 0.0, gamma ** ahead.float())


# ----------------------------------------------------------------------------------------------------------------------
# Mazes as text


class TextMaze(NamedTuple):
    """One maze of a text file: walls (H, W) bool array, start and goal cells."""
    walls: np.ndarray
    start: int
    goal: int


def read_mazes(path):
    """The mazes of a text file, a list of TextMaze: `#` wall, `.` or space open, `S` start, `G` goal, a blank line between
    two mazes. Raises UserError, with the line's number, for anything else."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None
    mazes, block = [], []
    for number, line in enumerate(lines + [""], 1):
        line = line.rstrip("\r")
        for column, character in enumerate(line, 1):
            if character not in "#. SG":
                raise UserError(f"{path}, line {number}: {character!r} in column {column}; a maze is made of # . S G and spaces")
        if line:
            if block and len(line) != len(block[0][1]):
                raise UserError(f"{path}, line {number}: {len(line)} characters, but the line above has {len(block[0][1])}")
            block.append((number, line))
        elif block:
            mazes.append(parse_maze(path, block))
            block = []
    if not mazes:
        raise UserError(f"{path}: no maze in it; draw one with # . S G")
    return mazes


def parse_maze(path, block):
    first, text = block[0][0], "".join(line for _, line in block)
    for letter, name in ("S", "start"), ("G", "goal"):
        found = [number for number, line in block for character in line if character == letter]
        if not found:
            raise UserError(f"{path}, line {first}: the maze that begins here has no {name}, {letter}")
        if len(found) > 1:
            raise UserError(f"{path}, line {found[1]}: a second {name}, {letter}; a maze has one")
    walls = np.array([character == "#" for character in text]).reshape(len(block), -1)
    return TextMaze(walls, text.index("S"), text.index("G"))


def stack(texts, device="cpu"):
    """TextMazes of one size as a batch."""
    walls = torch.from_numpy(np.stack([text.walls for text in texts], -1)).to(device)
    goal, start = torch.tensor([[text.goal, text.start] for text in texts], device=device).unbind(1)
    return Mazes(walls, goal, start)


def format_maze(text, cells=()):
    """A TextMaze as text, the walked cells as `*`."""
    letters = np.where(text.walls, "#", ".")
    letters.flat[list(cells)] = "*"
    letters.flat[text.start], letters.flat[text.goal] = "S", "G"
    return "\n".join("".join(row) for row in letters)

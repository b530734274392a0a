"""The world: mazes, what a move does in them, rewards, and the exact answers.

Conventions, the same in all three modules:

- The batch is the LAST axis: walls are (H, W, B), Q-values (4, H, W, B). One cell of all mazes is
  then one piece of memory. A maze's place in its batch is called its lane.
- A cell is one number, y * W + x. Actions are 0..3 = up, down, left, right. Outside is wall.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Mazes(NamedTuple):
    """A batch of B mazes of one size, each with a goal and a start."""

    walls: torch.Tensor  # (H, W, B) bool
    goal: torch.Tensor  # (B,) int64, a cell
    start: torch.Tensor  # (B,) int64, a cell

    def to(self, device):
        return Mazes(*(x.to(device) for x in self))

    def select(self, index):
        """The mazes at `index`: a slice or a (N,) int64 tensor."""
        return Mazes(self.walls[..., index], self.goal[index], self.start[index])


# --------------------------------------------------------------------------------------------------
# Generation


@torch.inference_mode()  # its calls cost a fifth less
def carve(n: int, grid: int, generator: torch.Generator, device="cpu") -> torch.Tensor:
    """n perfect mazes by randomized depth-first search, all at once: walls (grid, grid, n) bool.

    Rooms sit at even coordinates. In each maze a walker starts in a random room, and then:

        for each of the 2 * (rooms - 1) moves:
            free = the neighbouring rooms that nobody has visited
            if free: open the wall to a random one of them, go there, push it on the stack
            else: pop the stack and climb back to the room that is now on its top

    All walkers are home after the same number of moves.
    """
    side = (grid + 1) // 2
    width = 2 * side + 3  # with a rim of visited rooms, so that no move needs a bounds check
    moves = 2 * (side * side - 1)
    lane = torch.arange(n, device=device)
    offsets = [-2 * width * n, 2 * width * n, -2 * n, 2 * n]  # to the room above, below, ...
    offset = torch.tensor(offsets, device=device)[:, None]
    # Where a throw leads: a die of twelve sides is fair among 1, 2, 3 or 4 ways; 0: climb back.
    ways = [[to for a, to in enumerate(offsets) if bits >> a & 1] or [0] for bits in range(16)]
    enter = torch.tensor([to[throw % len(to)] for to in ways for throw in range(12)], device=device)
    rise = torch.where(enter != 0, n, -n)
    die = torch.randint(12, (moves, n), dtype=torch.uint8, generator=generator, device=device)

    fresh = torch.zeros(width, width, n, dtype=torch.uint8, device=device)
    fresh[2:-2:2, 2:-2:2] = 1  # rooms that nobody has visited
    fresh = fresh.view(-1)
    root = torch.randint(side * side, (n,), generator=generator, device=device)
    path = torch.empty(moves + 1, n, dtype=torch.int64, device=device)  # places: cell * n + lane
    path[0] = ((root // side + 1) * 2 * width + (root % side + 1) * 2) * n + lane
    stack = torch.empty(side * side + 1, n, dtype=torch.int64, device=device)
    stack[0] = path[0]
    stack, above, top = stack.view(-1), stack[1:].view(-1), lane.clone()
    fresh.index_fill_(0, path[0], 0)
    for here, there, throw in zip(path[:-1], path[1:], die):
        free = fresh.index_select(0, (here + offset).view(-1)).view(4, n)
        pairs = torch.add(free[:2], free[2:], alpha=4)
        bits = torch.add(pairs[0], pairs[1], alpha=2)
        key = torch.add(throw, bits, alpha=12).int()
        above.index_copy_(0, top, here + enter.index_select(0, key))  # who climbs reads it never
        top += rise.index_select(0, key)
        torch.index_select(stack, 0, top, out=there)
        fresh.index_fill_(0, there, 0)

    walls = torch.ones(width, width, n, dtype=torch.bool, device=device)
    walls[2:-2:2, 2:-2:2] = False
    between = (path[1:] + path[:-1]) // 2  # the walls between two rooms
    walls.view(-1).index_fill_(0, between.view(-1), False)
    return walls[2 : 2 + grid, 2 : 2 + grid]


def make_mazes(n: int, grid: int, generator, device="cpu", chunk=4096) -> torch.Tensor:
    """n perfect mazes, bit-packed: (ceil(grid * grid / 8), n) uint8. A chunk fits a CPU's cache."""
    chunk = min(chunk, 2**25 // grid**2)  # fewer of large mazes
    sizes = [min(chunk, n - i) for i in range(0, n, chunk)]
    return torch.cat([pack(carve(size, grid, generator, device)) for size in sizes], 1)


def pack(walls):
    """Eight cells to a byte: walls (H, W, B) bool -> (ceil(H * W / 8), B) uint8."""
    cells = walls.flatten(0, 1)
    cells = F.pad(cells.to(torch.uint8), (0, 0, 0, -len(cells) % 8)).unflatten(0, (-1, 8))
    return sum(cells[:, i] * 2**i for i in range(8))


def unpack(packed, height, width):
    """The inverse of pack: (bytes, B) uint8 -> walls (H, W, B) bool."""
    bit = torch.tensor([2**i for i in range(8)], dtype=torch.uint8, device=packed.device)
    cells = (packed[:, None] & bit[:, None]).bool().flatten(0, 1)
    return cells[: height * width].unflatten(0, (height, width))


# --------------------------------------------------------------------------------------------------
# Drawing a batch: difficulty, goals and starts


def draw(packed, grid: int, difficulty, max_start_distance: int, goal: str, generator) -> Mazes:
    """B of the bit-packed mazes, each with some of its walls, a goal and a start.

    packed (bytes, B) uint8. difficulty: the share of walls kept, a number or (B,), 0..1. goal:
    "random", any open cell that has an open neighbour, or "corner", the bottom-right room. start: a
    random open cell from which the goal can be reached in 1..max_start_distance steps.
    """
    walls = unpack(packed, grid, grid)
    share = torch.as_tensor(difficulty, device=walls.device)
    walls &= torch.rand(walls.shape, generator=generator, device=walls.device) < share
    if goal == "corner":
        corner = (grid - 1) // 2 * (grid + 1) * 2
        goal = torch.full((walls.shape[2],), corner, device=walls.device)
    else:
        goal = choose(~walls & ~neighbours(walls, True).all(0), generator)
    return Mazes(walls, goal, choose(distances(walls, goal, max_start_distance) > 0, generator))


def choose(mask, generator) -> torch.Tensor:
    """A random cell where mask (H, W, B) is true: (B,) int64. Each maze must have one."""
    h, w, b = mask.shape
    # The row first, then the cell in it: to add up all cells takes many times longer.
    in_rows = mask.sum(1, dtype=torch.int32).cumsum(0)
    nth = (torch.rand(b, generator=generator, device=mask.device) * in_rows[-1]).int()
    y = (in_rows <= nth).sum(0)
    row = mask.gather(0, y.expand(1, w, b))[0]
    nth = nth - in_rows.gather(0, y[None])[0] + row.sum(0)  # in its row
    return y * w + (row.cumsum(0) <= nth).sum(0)


def neighbours(x, outside) -> torch.Tensor:
    """x (H, W, B) above, below, left and right of each cell, be it a wall or not: (4, H, W, B)."""
    rim = padded(x, 1, outside)
    return torch.stack([rim[:-2, 1:-1], rim[2:, 1:-1], rim[1:-1, :-2], rim[1:-1, 2:]])


def padded(x, radius: int, outside) -> torch.Tensor:
    """x (H, W, B) with a rim of `radius` cells of the value `outside`, all around."""
    h, w, b = x.shape
    rim = x.new_full((h + 2 * radius, w + 2 * radius, b), outside)
    rim[radius : radius + h, radius : radius + w] = x
    return rim


def in_padded(cells, w: int, radius: int) -> torch.Tensor:
    """Cells of a maze w wide, numbered as in the same maze `padded` by the radius."""
    y = cells.div(w, rounding_mode="floor")
    return cells + y * (2 * radius) + radius * (w + 2 * radius + 1)


# --------------------------------------------------------------------------------------------------
# Moving


def move_table(mazes: Mazes, greedy=None) -> torch.Tensor:
    """Where each action leads, for walking by look-up: (H * W * 5 * B,).

    Entry (cell * 5 + action) * B + b is the cell to which the action leads in maze b; action 4 is
    the one in greedy (H, W, B) uint8, where that is given. A wall leaves the agent where it is, and
    from the goal nothing leads away.
    """
    (h, w, b), device = mazes.walls.shape, mazes.walls.device
    kind = torch.int32 if h * w * 5 * b < 2**31 else torch.int64  # 32 bits are faster
    cell = torch.arange(h * w, dtype=kind, device=device).view(h, w, 1)
    is_open = ~neighbours(mazes.walls, True)
    table = torch.empty(h * w, 5, b, dtype=kind, device=device)
    for action, offset in enumerate((-w, w, -1, 1)):
        there = table.view(h, w, 5, b)[:, :, action]
        torch.add(cell, is_open[action], alpha=offset, out=there)
    if greedy is not None:
        torch.gather(table[:, :4], 1, greedy.view(h * w, 1, b).long(), out=table[:, 4:])
    table[mazes.goal, :, torch.arange(b, device=device)] = mazes.goal.to(kind)[:, None]
    return table.view(-1)


def walk(table, start, choices, act=None) -> torch.Tensor:
    """The cells on each way from start (B,): (T + 1, B) int64, one look-up in `table` a step.

    choices (T, B): 0..3, or 4 for the greedy action: the table's, or what act(cells (B,)) answers,
    which then takes the 4's place in `choices`.
    """
    t, b = choices.shape
    lane = torch.arange(b, dtype=table.dtype, device=table.device)
    with torch.inference_mode(act is None):
        cells = torch.empty(t + 1, b, dtype=table.dtype, device=table.device)
        cells[0] = start
        entry, cell = torch.empty_like(lane), cells.unbind()
        offset = torch.add(lane, choices, alpha=b).unbind()
        for step, (here, there) in enumerate(zip(cell, cell[1:])):
            if act:
                greedy = act(here.long()).to(choices.dtype)
                choices[step] = torch.where(choices[step] == 4, greedy, choices[step])
                torch.add(lane, choices[step], alpha=b, out=offset[step])
            torch.add(offset[step], here, alpha=5 * b, out=entry)
            torch.index_select(table, 0, entry, out=there)
    return cells.long()


def along(x, cells) -> torch.Tensor:
    """x (..., H, W, B) in the cells (T, B), each in its own lane: (..., T, B)."""
    index = cells * cells.shape[1] + torch.arange(cells.shape[1], device=cells.device)
    return x.flatten(-3).index_select(-1, index.flatten()).unflatten(-1, cells.shape)


# --------------------------------------------------------------------------------------------------
# Rewards


def rewards(mazes: Mazes, cells, step=-1.0, goal=0.0, novelty=0.0, shaping="none", gamma=1.0):
    """What the steps of a walk over `cells` (T + 1, B) earn, (T, B), and the potential there.

    step: for every step; goal: for the one that reaches the goal; nothing after that.
    novelty: for the first visit of a cell in an episode, so that walking to and fro earns nothing.
    shaping: gamma * potential(s') - potential(s), potential 0 in the goal, which leaves the best
    policy the best and takes potential(s) from its Q (Ng et al. 1999). Potential (T + 1, B).
    """
    arrived = cells == mazes.goal
    reward = torch.where(arrived[1:], step + goal, step)
    if novelty:
        t = torch.arange(float(len(cells)), device=cells.device)[:, None].expand_as(cells)
        first = torch.full(mazes.walls.shape, torch.inf, device=cells.device).flatten(0, 1)
        first.scatter_reduce_(0, cells, t, "amin")
        reward = reward + novelty * (first.gather(0, cells) == t)[1:]
    phi = along(potential(mazes, shaping, gamma), cells)
    return (reward + gamma * phi[1:] - phi[:-1]) * ~arrived[:-1], phi


def potential(mazes: Mazes, shaping: str, gamma: float) -> torch.Tensor:
    """What shaping holds each cell to be worth: gamma ** (steps to the goal - 1), (H, W, B).

    "manhattan": on a straight way, "oracle": on a shortest; 0 in the goal and where it is cut off.
    """
    if shaping == "none":
        return torch.zeros((), device=mazes.goal.device).expand(mazes.walls.shape)  # no memory
    if shaping == "oracle":
        distance = distances(mazes.walls, mazes.goal)
    else:
        h, w, _ = mazes.walls.shape
        y, x = (torch.arange(size, device=mazes.goal.device) for size in (h, w))
        distance = (y[:, None, None] - mazes.goal // w).abs() + (x[:, None] - mazes.goal % w).abs()
    return torch.where(distance > 0, gamma ** (distance - 1.0), 0.0)


# --------------------------------------------------------------------------------------------------
# The exact answers


@torch.inference_mode()
def distances(walls, goal, most=None) -> torch.Tensor:
    """Steps from each cell to the goal by a shortest path, or -1: (H, W, B) int32.

    Breadth-first search in all mazes at once; it touches only the cells at its front. most: -1 also
    in cells that are farther than that. goal (B,) int64.
    """
    (_, w, b), unseen = walls.shape, -2
    distance = padded(torch.where(walls, -1, unseen).int(), 1, -1)
    flat, width = distance.view(-1), (w + 2) * b
    front = in_padded(goal, w, 1) * b + torch.arange(b, device=goal.device)
    flat[front], step = 0, 0
    while len(front) and step != most:
        step, found = step + 1, []
        for offset in (-width, width, -b, b):
            near = front + offset
            near = near[flat[near] == unseen]
            flat[near] = step  # at once, so that no other cell of the front finds it again
            found.append(near)
        front = torch.cat(found)
    return distance[1:-1, 1:-1].clamp(min=-1).contiguous()


def shortest(mazes: Mazes, distance) -> torch.Tensor:
    """Steps on a shortest way from each start, given `distances` (H, W, B): (B,)."""
    return along(distance, mazes.start[None])[0]


def optimal_q(mazes: Mazes, distance, gamma=1.0, step=-1.0, goal=0.0) -> torch.Tensor:
    """Q*(s, a) of rewards `step` and `goal`, where the way on from s' takes d(s') steps.

        sum of gamma^t * step over t = 0 .. d(s'), + gamma^d(s') * goal

    (4, H, W, B); where the goal can't be reached d(s') is infinite. distance: as by `distances`.
    """
    away = torch.where(distance < 0, torch.inf, distance.float())
    blocked = neighbours(mazes.walls, True)  # a wall leaves the agent where it is
    away = torch.where(blocked, away, neighbours(away, torch.inf))
    if gamma == 1:
        return step * (away + 1) + goal
    return step * (1 - gamma ** (away + 1)) / (1 - gamma) + gamma**away * goal

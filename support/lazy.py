"""The same as `model.think`, for less: a cell looks again only when it may see something new.

Between two looks the value of a cell moves by the change that it said last. So it is kept as a
line over the number of looks, V = base + slope * looks, and only the cells at the front of the
news are touched: those beside a cell that has turned, until the two can't see each other
differently any more.
"""

import torch

import model
from maze import in_padded, padded
from model import AROUND

# A wall is kept as a cell that is far below all others and falls faster: seen once, never news.
WALL_BASE, WALL_SLOPE = -(2**30), -100


@torch.inference_mode()
def think(change, walls, goal, most: int):
    """(V, view), each (H, W, B) int32, number for number those of `model.think`."""
    (h, w, b), device = walls.shape, walls.device
    wall = padded(walls, 1, True)
    looking = ~wall
    looking.view(-1, b).scatter_(0, in_padded(goal, w, 1)[None], False)  # the goal stays worth 0

    # The first look: all values are 0, so all neighbours are walls or alike.
    inside = [(slice(1 + i, h + 1 + i), slice(1 + j, w + 1 + j)) for i, j in AROUND]
    beside_walls = sum(wall[there] * 4**k for k, there in enumerate(inside))  # (H, W, B) int64
    beside_walls = padded(beside_walls.int(), 1, 0)
    alike = sum(2 * 4**k for k in range(8))
    view = (alike - 2 * beside_walls) * looking
    base = torch.where(wall, WALL_BASE, 0).int()
    if most:
        slope = torch.where(wall, WALL_SLOPE, change[view] * looking).int()
        front = torch.zeros_like(walls)
        for there in inside:
            front |= (slope[there] != slope[1:-1, 1:-1]) & ~wall[there]
        at = (padded(front, 1, False) & looking).view(-1).nonzero()[:, 0]
    else:
        slope, at = torch.where(wall, WALL_SLOPE, 0).int(), goal[:0]

    # The others, of the cells `at` only: their numbers in the flattened padded maze.
    shape, looking, beside_walls = wall.shape, looking.view(-1), beside_walls.view(-1)
    base, slope, view = base.view(-1), slope.view(-1), view.view(-1)
    ticket = torch.empty_like(base)
    around = torch.tensor([[(i * (w + 2) + j) * b] for i, j in AROUND], device=device)
    power = torch.tensor([[4**k] for k in range(8)], dtype=torch.int32, device=device)
    many = int(looking.sum()) / 3
    for look in range(1, most + 1):
        if look > 2 and len(at) > many:  # of a young network all cells have news all the time
            return model.think(change, walls, goal, most)
        near = (at + around).view(-1)
        difference = base.index_select(0, near).view(8, -1).sub_(base.index_select(0, at))
        drift = slope.index_select(0, near).view(8, -1).sub_(slope.index_select(0, at))
        difference.add_(drift, alpha=look).clamp_(-1, 1)
        seen = (difference * power).sum(0, dtype=torch.int32)
        seen += alike - beside_walls.index_select(0, at)
        if torch.equal(seen, view.index_select(0, at)):
            break
        view.index_copy_(0, at, seen)
        if look == most:
            break
        unsettled = at.masked_select(apart(difference, drift).any(0))
        said, before = change.index_select(0, seen), slope.index_select(0, at)
        turned = (said != before).nonzero()[:, 0]
        news = at.index_select(0, turned)
        said, before = said.index_select(0, turned), before.index_select(0, turned)
        base.index_add_(0, news, (before - said) * look)
        slope.index_copy_(0, news, said)
        near = (news + around).view(-1)
        drift = slope.index_select(0, near).view(8, -1).sub_(said)
        unlike = apart(difference.index_select(1, turned), drift)
        near = near.masked_select(unlike.view(-1))
        near = near.masked_select(looking.index_select(0, near))
        at = torch.cat([unsettled, news.masked_select(unlike.any(0)), near])
        number = torch.arange(len(at), dtype=torch.int32, device=device)
        ticket.index_copy_(0, at, number)  # of a cell that is there twice, one ticket is left
        at = at.masked_select(ticket.index_select(0, at) == number)
    else:
        look = most
    value = (base + slope * look).masked_fill(wall.view(-1), 0)
    return tuple(x.view(shape)[1:-1, 1:-1] for x in (value, view))


def apart(difference, drift):
    """Whether two cells may yet see each other differently: one drifts away from the other.

    Unless the difference, -1, 0 or 1 as it is seen, is clipped already and grows.
    """
    return difference * drift < drift.abs()

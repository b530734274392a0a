"""All agents: those that see the whole maze, those that see a window, and those that draw a map."""

from model import Thinker
from support.mapper import Mapper
from support.window import Local


def build(settings):
    """The network that these settings, a dictionary of main.py's constants, ask for."""
    core, width, gamma = settings["MODEL"], settings["WIDTH"], settings["GAMMA"]
    if not settings["VISION"]:
        return Thinker(core, width, gamma, settings["LOOKS"])
    if settings["MEMORY"] == "map":
        return Mapper(core, width, gamma, settings["LOOKS"], settings["VISION"])
    return Local(width, settings["VISION"], settings["COMPASS"], settings["MEMORY"])


def recall(network, episodes):
    """What there was to see along these episodes, as this network thinks of them."""
    if network.whole_maze:
        return network.think(episodes.mazes).along(episodes.cells)
    memory = network.begin(episodes.mazes, learning=True)
    for cells in episodes.cells:
        memory.see(cells)
    return memory.along(episodes.cells)

"""The fusion methods by name. A new method is one file here and one line in METHODS."""

from fusion.methods import average, coconet, fnet, itfuse, laplacian, maximum, u2fusion
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training

METHODS: dict[str, Method] = {
    "average": average.METHOD,
    "maximum": maximum.METHOD,
    "laplacian": laplacian.METHOD,
    "u2fusion": u2fusion.METHOD,
    "coconet": coconet.METHOD,
    "itfuse": itfuse.METHOD,
    "fnet": fnet.METHOD,
}

__all__ = ["METHODS", "Fuser", "Method", "Phase", "Precision", "Published", "Training"]

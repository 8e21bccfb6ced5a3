"""The fusion methods by name. A new method is one file here and one line in METHODS."""

from pathlib import Path

from fusion.methods import (
    auifnet,
    average,
    cddfuse,
    coconet,
    crossfuse,
    dwt,
    emma,
    fnet,
    guided,
    itfuse,
    laph,
    laplacian,
    lrrnet,
    maximum,
    mda,
    murf,
    swinfusion,
    u2fusion,
)
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training

METHODS: dict[str, Method] = {
    "average": average.METHOD,
    "maximum": maximum.METHOD,
    "laplacian": laplacian.METHOD,
    "dwt": dwt.METHOD,
    "guided": guided.METHOD,
    "auifnet": auifnet.METHOD,
    "swinfusion": swinfusion.METHOD,
    "u2fusion": u2fusion.METHOD,
    "coconet": coconet.METHOD,
    "laph": laph.METHOD,
    "murf": murf.METHOD,
    "lrrnet": lrrnet.METHOD,
    "cddfuse": cddfuse.METHOD,
    "mda": mda.METHOD,
    "itfuse": itfuse.METHOD,
    "crossfuse": crossfuse.METHOD,
    "emma": emma.METHOD,
    "fnet": fnet.METHOD,
}


def packaged_weights(name: str) -> Path | None:
    """Return the weights of a method that this project trained and ships, None where there are none."""
    path = Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    return path if path.is_file() else None


__all__ = ["METHODS", "Fuser", "Method", "Phase", "Precision", "Published", "Training", "packaged_weights"]

"""List the sources of every method's weights and the files that are present, or convert an authors' file.

`python -m fusion.weights --folder DIR` lists, for every method with weights, the repository where its authors publish
them, the files with their SHA-256, and the files found in DIR (in a folder of the method's name, or anywhere below by
file name). `python -m fusion.weights --convert METHOD PATH --output FILE.safetensors` reads the authors' file or folder
as `fusion.fuse --weights` does, without running code in it, and writes the network's tensors with the digest of their
source.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from fusion.fuse import weights_digest
from fusion.methods import METHODS, find_method, packaged_weights
from fusion.weights import write_state
from pipeline.artefacts import sha256_file
from pipeline.stage import InputError, run


def describe(name: str, folder: Path) -> list[str]:
    """Return lines about a method's weights: where they are published, and which files are in `folder`."""
    published, shipped = find_method(name).published, packaged_weights(name)
    lines = [name]
    if shipped:
        lines.append(f"  shipped with this project: {shipped.name}, sha256 {sha256_file(shipped)}")
    if published is None:
        return [*lines, "  no source of published weights is recorded"]
    lines.append(f"  published: {published.repository} (licence: {published.licence})")
    for file, digest in published.files.items():
        found = find(folder, name, file, digest)
        state = f"not in {folder}"
        if found is not None:
            actual = sha256_file(found)
            verdict = (
                "as expected" if actual == digest else f"expected {digest}" if digest else "expected digest unknown"
            )
            state = f"{found}, sha256 {actual}, {verdict}"
        lines.append(f"  {file}: {state}" if found else f"  {file}: {state}; expected sha256 {digest or 'unknown'}")
    return lines


def find(folder: Path, method: str, file: str, digest: str) -> Path | None:
    """Return a file called `file` below `folder`, preferably in the method's folder, else with this digest."""
    if (folder / method / file).is_file():
        return folder / method / file
    matches = sorted(path for path in folder.rglob(Path(file).name) if path.is_file()) if folder.is_dir() else []
    expected = [path for path in matches if len(matches) > 1 and sha256_file(path) == digest]
    return (expected or matches or [None])[0]


def convert(name: str, weights: Path, output: Path) -> None:
    """Write the tensors of the authors' weights as safetensors with our names, and their digest as metadata."""
    if not METHODS[name].needs_weights:
        raise InputError(f"--convert {name}: the method has no network; expected a method with weights")
    if not weights.exists():
        raise InputError(f"--convert {name} {weights}: the path does not exist; expected a weights file or folder")
    network = find_method(name).network(weights)
    write_state(output, network.state_dict(), ("converted_from", f"{name} {weights_digest(weights)}"))
    logging.info("%s: %d tensors from %s", output, len(network.state_dict()), weights)


def main(argv: Sequence[str] | None = None) -> None:
    """List or convert weights."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("weights"), help="folder to search (default: weights)")
    parser.add_argument("--convert", nargs=2, metavar=("METHOD", "PATH"), help="method, its authors' file or folder")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the safetensors file that --convert writes")
    options = parser.parse_args(argv)
    if options.convert is None:
        names = [name for name, entry in METHODS.items() if entry.needs_weights]
        print("\n".join(line for name in names for line in describe(name, options.folder)))
        return
    name, path = options.convert
    if name not in METHODS:
        raise InputError(f"--convert {name} is unknown; expected one of {', '.join(METHODS)}")
    if options.output is None or options.output.suffix != ".safetensors":
        raise InputError(f"--output {options.output}: expected a file name ending in .safetensors")
    convert(name, Path(path), options.output)


if __name__ == "__main__":
    run(main)

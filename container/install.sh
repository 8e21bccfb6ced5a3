#!/bin/sh
# Install this checkout with what its pyproject.toml pins into .venv beside it; Dockerfile and benchmark.def call this.
# uv and not pip alone: pip would put two builds of OpenCV over each other.
set -eu
cd "$(dirname "$0")/.."
pip install --no-cache-dir uv
uv sync --no-cache --no-dev --extra onnx --extra slurm --compile-bytecode
chmod -R a+rX .

"""Shared foundations of all stages: files, pairs, devices and command lines; and the planning of a run."""

import os

# Must be set before torch is imported. By default, torch's threads spin while they wait for each other: on a machine
# that is busy with other work, an iteration of FNet's training took twenty times the processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

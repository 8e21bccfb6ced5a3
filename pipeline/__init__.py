"""What every stage stands on: files, pairs, devices, command lines; and how a run is planned."""

import os

# Read when torch is first imported. By default torch's threads spin while they wait for one another: on a machine that
# is busy with other work, an iteration of FNet's training took twenty times the processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""The smallest jobs through a real SLURM; `python tests/cluster/slurm.py` sends whole runs, and interrupts them."""

import pytest
import slurm


@pytest.mark.slow
def test_jobs_go_through_slurm_and_ask_for_what_their_rules_say(tmp_path):
    if reason := slurm.why_not():
        pytest.skip(reason)
    try:
        slurm.smallest_jobs(tmp_path)
    except slurm.NotStartedError as error:
        pytest.skip(f"SLURM does not start here: {error}")

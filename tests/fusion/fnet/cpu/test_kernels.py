"""What compiled code computes does not depend on when it was compiled."""

import os
import subprocess
import sys


def test_kernels_round_alike_whether_just_compiled_or_kept_on_disk(tmp_path):
    program = (
        "import torch; from fusion.fnet.fast import prepare; from fusion.fnet.network import FNet;"
        "torch.manual_seed(0); print(prepare(FNet())(*torch.rand(2, 1, 1, 30, 27)).numpy().tobytes().hex())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, kept = (
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True).stdout
        for _ in range(2)
    )
    assert compiled == kept and list(tmp_path.rglob("*.nbc"))

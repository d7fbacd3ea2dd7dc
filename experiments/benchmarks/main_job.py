"""Wall time and memory of the main job, cold and warm: `python experiments/benchmarks/main_job.py [override ...]`.

Cold: an empty cache of compiled programs. Warm: the same command again. The machine decides the seconds; quote ratios.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OPTIM_CACHE": str(Path(folder) / "cache")}
        command = [sys.executable, "-m", "optim.app.cli", "run", "--quiet", f"out={folder}/out", *sys.argv[1:]]
        print(f"optim run {' '.join(sys.argv[1:])} on {os.cpu_count()} cores")
        seconds = []
        for label in ("cold", "warm", "warm"):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
            print(f"  {label:<6}{seconds[-1]:7.1f} s", flush=True)
        # bytes on macOS, KiB elsewhere
        unit = 2**30 if sys.platform == "darwin" else 2**20
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
        print(f"  cold / warm {seconds[0] / min(seconds[1:]):.2f}, peak memory {memory:.1f} GiB")

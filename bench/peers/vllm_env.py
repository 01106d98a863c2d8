"""The environment in which vLLM's CPU backend runs as it should.

Without an OpenMP library preloaded it uses one core when its threads are bound to cores; `vllm serve`
preloads PyTorch's for its engine process, but an engine in this process has to be started with it.
Intel's library, which vLLM's wheels bring, is preferred, as vLLM's documentation advises.
"""

import glob
import importlib.util
import os
import sys


def openmp_library():
    """Path of the library to preload; None where neither is installed."""
    torch = importlib.util.find_spec("torch")
    home = os.path.dirname(torch.origin) if torch else ""
    candidates = [
        os.path.join(sys.prefix, "lib", "libiomp5.so"),
        *glob.glob(os.path.join(home, "lib", "libgomp*.so*")),
        *glob.glob(os.path.join(os.path.dirname(home), "torch.libs", "libgomp*.so*")),
    ]
    return next((path for path in candidates if os.path.exists(path)), None)


def environment(threads, kv_gib):
    """Variables for vLLM with so many compute threads and GiB of keys and values."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    variables = {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    preloaded = os.environ.get("LD_PRELOAD", "")
    library = openmp_library()
    if library and not any(name in preloaded for name in ("libiomp", "libgomp", "libomp")):
        variables["LD_PRELOAD"] = ":".join(filter(None, [preloaded, library]))
    return variables


def run_with(variables):
    """Starts this program again where the environment lacks some; returns when it has all."""
    missing = {key: value for key, value in variables.items() if os.environ.get(key) != value}
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **missing})


# The server itself, not the `vllm` command: that one stops where the package has another name.
SERVER = "vllm.entrypoints.openai.api_server"

if __name__ == "__main__":  # python vllm_env.py THREADS GIB ARGUMENTS...: as `vllm serve ARGUMENTS...`
    os.environ.update(environment(int(sys.argv[1]), int(sys.argv[2])))
    os.execv(sys.executable, [sys.executable, "-m", SERVER, *sys.argv[3:]])

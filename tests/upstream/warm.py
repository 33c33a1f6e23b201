"""Processes that need not import torch, diffusers and the rest: a server has imported them, and each is a fork of it.

A training script at its smallest computes for a second or two, and spent seven before that on imports, which are the
same every time. A fork is a process like any other: it has its own environment, working directory, arguments, output
files, signals and memory; what it shares with the others is only what was imported before any of them began. That the
bits are those of a process which imports everything itself, test_warm.py shows.

The server takes requests as lines of JSON and answers each with an exit code; see :func:`run`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: What upstream's scripts and their libraries import sooner or later, classes that are loaded on demand included.
IMPORTED = (
    "torch", "torch.distributed.fsdp", "torch._dynamo", "numpy", "PIL.Image", "transformers", "diffusers", "accelerate",
    "peft", "wandb", "absl.app", "ml_collections.config_flags", "inflect",
)  # fmt: skip
ON_DEMAND = {
    "transformers": (
        "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer", "T5EncoderModel", "UMT5EncoderModel",
        "Qwen2_5_VLForConditionalGeneration", "Qwen2Tokenizer", "Qwen2VLProcessor", "Qwen2VLImageProcessor",
    ),
    "diffusers": (
        "StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline", "QwenImagePipeline",
        "QwenImageEditPipeline", "AutoencoderKLQwenImage", "WanPipeline",
    ),
}  # fmt: skip

_servers: dict[tuple[str, ...], subprocess.Popen[str]] = {}


def run(
    words: Sequence[str],
    cwd: Path,
    environments: Sequence[dict[str, str]],
    stdout: Path,
    stderr: Path,
    timeout: float,
) -> int:
    """Run ``python *words``, one process for each of the environments at the same time, and wait for them.

    Args:
        words: a Python file and its arguments.
        cwd: working directory.
        environments: whole environments; variables that Python itself or a library's import reads
            (``PYTHONHASHSEED``, ``OMP_NUM_THREADS``, ``HF_HUB_OFFLINE``) have to be the same in every call.
        stdout, stderr: files that are written anew.
        timeout: seconds.

    Returns:
        0, or the exit code of the first process that failed (negative: its signal); the others are killed then.

    Raises:
        subprocess.TimeoutExpired: the processes are killed.
    """
    # A clone holds nothing that the server imports; what else is on the path may, and makes a server of its own.
    path = environments[0].get("PYTHONPATH", "").split(os.pathsep)
    own = tuple(entry for entry in path if Path(entry).is_relative_to(ROOT))
    server = _servers.get(own)
    if server is None or server.poll() is not None:
        server = _servers[own] = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            env={**environments[0], "PYTHONPATH": os.pathsep.join(own)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert server.stdin is not None and server.stdout is not None
    request = {
        "words": [str(word) for word in words],
        "cwd": str(cwd),
        "environments": list(environments),
        "stdout": str(stdout),
        "stderr": str(stderr),
    }
    try:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired([sys.executable, *words], timeout)
        answer = server.stdout.readline()
    except BaseException:
        del _servers[own]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        raise
    if not answer:
        raise RuntimeError(f"the server of warm processes ended with exit code {server.wait()}")
    return int(answer)


def serve() -> None:
    """Import, then answer requests until there are no more."""
    from lean import without_unused

    without_unused()
    modules = {name: importlib.import_module(name) for name in IMPORTED}
    for name, attributes in ON_DEMAND.items():
        for attribute in attributes:
            getattr(modules[name], attribute)
    # What was imported stays for good, so no collection in a fork has to look through it, or to copy its pages.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        for stream in ("stdout", "stderr"):
            Path(request[stream]).write_bytes(b"")
        running = {_fork(request, environment) for environment in request["environments"]}
        first = 0
        while running:
            pid, status = os.wait()
            running.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if code and not first:
                first = code
                for other in running:
                    os.kill(other, signal.SIGKILL)
        print(first, flush=True)


def _fork(request: dict[str, Any], environment: dict[str, str]) -> int:
    """Start one process of a request; its process ID."""
    return os.fork() or _become(request, environment)


def _become(request: dict[str, Any], environment: dict[str, str]) -> NoReturn:
    """Be the process that was asked for, from its first line to its end."""
    import numpy as np
    import torch

    for number, name in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(name, os.O_APPEND | (os.O_WRONLY if number else os.O_RDONLY))
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0)  # the server's may hold requests that it has read ahead
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["cwd"])
    script = request["words"][0]
    sys.argv = list(request["words"])
    path = environment.get("PYTHONPATH", "").split(os.pathsep)
    installed = [entry for entry in sys.path if entry not in path and entry != str(HERE)]
    sys.path[:] = [str(Path(script).resolve().parent), *path, *installed]
    np.random.seed()  # a new process draws its own, as Python's module sees to itself
    torch.default_generator.seed()
    runpy.run_path(script, run_name="__main__")
    raise SystemExit(0)


if __name__ == "__main__":
    serve()

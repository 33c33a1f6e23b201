"""torch alone suffices: every other third-party package is hidden, then the overlay is imported and used."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

# Runs in a process of its own. torch comes first, with what it imports for itself; what else that brought in is then
# hidden too, so that an `import numpy` of ours cannot succeed because torch had loaded it.
SCRIPT = """
import contextlib, importlib, io, json, pkgutil, sys
import torch, torch.nn.functional, torch.distributed, torch.utils.checkpoint

ALLOWED = set(sys.stdlib_module_names) | {"torch", "torchgen", "functorch", "pcpo_overlay"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hide())
for name in list(sys.modules):
    if name.split(".")[0] not in ALLOWED and not name.startswith("_"):
        sys.modules[name] = None

def failures(names):
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return failed

hidden = failures(["numpy", "diffusers", "matplotlib", "rich", "yaml", "pytest"])

import pcpo_overlay
modules = [module.name for module in pkgutil.walk_packages(pcpo_overlay.__path__, "pcpo_overlay.")]
failed = failures(name for name in modules if not name.endswith(".__main__"))

from pcpo_overlay.config import resolve
from pcpo_overlay.losses import log_hinge_loss, log_ratio
assert resolve("full").active
x = torch.randn(2, 4, 8, 8, requires_grad=True)
rho = log_ratio(x, x.detach(), torch.randn(2, 4, 8, 8), torch.ones(2))
log_hinge_loss(rho, torch.ones(2), 1e-4).mean().backward()

from pcpo_overlay.__main__ import main
tables = {}
for sampler in ("ddim", "dancegrpo", "flow-grpo"):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["weights", sampler, "--steps", "5", "--json"]) == 0
    tables[sampler] = json.loads(out.getvalue())

print(json.dumps({
    "hidden": sorted(hidden), "modules": modules, "failed": failed,
    "gradient": float(x.grad.abs().sum()), "tables": tables,
}))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What a process with torch alone could do."""
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def test_the_finder_hides_what_is_installed(seen: dict[str, Any]) -> None:
    assert seen["hidden"] == ["diffusers", "matplotlib", "numpy", "pytest", "rich", "yaml"]


def test_every_module_imports_with_torch_alone(seen: dict[str, Any]) -> None:
    modules = set(seen["modules"])
    names = (
        "config",
        "losses",
        "schedules",
        "variance",
        "weights",
        "tools.weights.table",
        "hooks",
        "tools.cli.weights",
    )
    assert {
        f"pcpo_overlay.{name}" for name in (*names, "tools.weights.table", "tools.weights.plot")
    } <= modules
    # What drives git belongs to apply.py, and nothing else may need it.
    failed = {k: v for k, v in seen["failed"].items() if not k.startswith("pcpo_overlay.vendoring.")}
    assert failed == {}


def test_losses_work_with_torch_alone(seen: dict[str, Any]) -> None:
    assert seen["gradient"] > 0


def test_the_command_line_works_with_torch_alone(seen: dict[str, Any]) -> None:
    assert {sampler: len(table["resolved"]["weight"]) for sampler, table in seen["tables"].items()} == {
        "ddim": 5,
        "dancegrpo": 5,
        "flow-grpo": 5,
    }

"""DanceGRPO's own launch scripts, run line by line with recorders in the place of launcher and installers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.upstream("DanceGRPO")

RECORDED = (
    "torchrun",
    "accelerate",
    "python",
    "python3",
    "pip",
    "pip3",
    "git",
    "sudo",
    "yes",
    "apt-get",
    "wget",
    "huggingface-cli",
)
SCRIPTS = (
    "finetune_flux_grpo.sh",
    "finetune_flux_grpo_8gpus.sh",
    "finetune_flux_grpo_8gpus_lora.sh",
    "finetune_hunyuan_grpo.sh",
    "finetune_qwenimage_edit_grpo.sh",
    "finetune_qwenimage_grpo.sh",
    "finetune_sd_grpo.sh",
    "finetune_skyreels_i2v.sh",
    "finetune_wan_2_1_grpo.sh",
)


def calls(clone: Path, script: str, folder: Path) -> list[dict[str, Any]]:
    """What a script calls, in order, with the mode each call would see."""
    shims = folder / "bin"
    shims.mkdir(parents=True)
    log = folder / "calls.jsonl"
    body = (
        f"#!{sys.executable}\nimport json, os, sys\n"
        "call = {'argv': [os.path.basename(sys.argv[0]), *sys.argv[1:]], 'PCPO': os.environ.get('PCPO')}\n"
        f"open({str(log)!r}, 'a').write(json.dumps(call) + '\\n')\n"
    )
    for name in RECORDED:
        (shims / name).write_text(body)
        (shims / name).chmod(0o755)
    subprocess.run(
        ["bash", str(clone / "scripts" / "finetune" / script)],
        cwd=folder,
        env={"PATH": f"{shims}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(folder), "PCPO": "full"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_calls_what_it_called_with_the_mode(upstream_clone: Any, tmp_path: Path, script: str) -> None:
    pristine, patched = (
        calls(upstream_clone("DanceGRPO", is_patched), script, tmp_path / str(is_patched))
        for is_patched in (False, True)
    )
    assert sorted(map(json.dumps, pristine)) == sorted(map(json.dumps, patched))
    (launch,) = [c for c in patched if c["argv"][0] == "torchrun"]
    assert launch["PCPO"] == "full"
    (trainer,) = [a for a in launch["argv"] if a.endswith(".py")]
    text = (upstream_clone("DanceGRPO", True) / trainer).read_text()
    assert "pcpo.start(" in text, f"{trainer} is not patched"


def test_the_list_is_complete(upstream_clone: Any) -> None:
    there = (upstream_clone("DanceGRPO", False) / "scripts" / "finetune").glob("*.sh")
    assert sorted(path.name for path in there) == sorted(SCRIPTS)

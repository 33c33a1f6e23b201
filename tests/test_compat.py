"""What the compatibility layer supplies on the libraries of today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pcpo_overlay import compat
from pcpo_overlay.compat.lora import LoRAAttnProcessor, lora_layers


@pytest.fixture
def unet() -> Any:
    compat.install()
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
    )


def forward(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor(10), states).sample


def with_lora(unet: Any, trained: bool) -> Any:
    torch.manual_seed(2)
    unet.set_attn_processor(
        {
            name: LoRAAttnProcessor(16, None if name.endswith("attn1.processor") else 12)
            for name in unet.attn_processors
        }
    )
    if trained:
        for layer in lora_layers(unet).values():
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    return unet


def test_fresh_lora_is_the_network_itself(unet: Any) -> None:
    before = forward(unet)
    torch.testing.assert_close(forward(with_lora(unet, trained=False)), before, rtol=1e-5, atol=1e-6)


def test_lora_saves_and_loads(unet: Any, tmp_path: Path) -> None:
    base = forward(unet)
    tuned = forward(with_lora(unet, trained=True))
    assert float((tuned - base).abs().max()) > 1e-3
    unet.save_attn_procs(tmp_path)
    again = with_lora(unet, trained=False)
    again.load_attn_procs(tmp_path)
    assert torch.equal(forward(again), tuned)


def test_a_lora_file_of_another_network_is_refused(unet: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "x").mkdir()
    state = {"mid.processor.to_q_lora.down.weight": torch.zeros(4, 16)}
    save_file(state, tmp_path / "x" / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="does not fit this UNet"):
        unet.load_attn_procs(tmp_path / "x")


def test_install_twice_wraps_once() -> None:
    compat.install()
    import diffusers.utils
    from accelerate import Accelerator
    from diffusers import StableDiffusionPipeline
    from diffusers.image_processor import VaeImageProcessor

    def names() -> tuple[Any, ...]:
        return (
            diffusers.utils.randn_tensor,
            Accelerator.save_state,
            StableDiffusionPipeline._encode_prompt,
            VaeImageProcessor.postprocess,
        )

    before = names()
    compat.install()
    assert names() == before


def test_bfloat16_images_come_out_in_float32() -> None:
    compat.install()
    from diffusers.image_processor import VaeImageProcessor

    image = torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)
    result = VaeImageProcessor().postprocess(image, output_type="pt", do_denormalize=[True])
    assert result.dtype == torch.float32
    assert float(result.mean()) == 0.5


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python before 3.12 has imp itself")
def test_imp_load_source(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("value = 3\n")
    compat.install()
    import imp

    assert imp.load_source("settings", str(tmp_path / "settings.py")).value == 3


def test_pinned_tuples_are_lists_for_dancegrpo(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils import pin_memory as pinning

    def pin_of_today(data: Any, device: Any = None) -> Any:
        return type(data)(pinning.pin_memory(item) for item in data) if isinstance(data, tuple) else data

    monkeypatch.setattr(pinning, "pin_memory", pin_of_today)
    compat.install("ddpo")
    assert pinning.pin_memory is pin_of_today
    compat.install("dancegrpo_flux")
    assert pinning.pin_memory((1, ("a", "b"))) == [1, ["a", "b"]]
    before = pinning.pin_memory
    compat.install("dancegrpo_flux")
    assert pinning.pin_memory is before


def test_pinned_lists_of_an_older_torch_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils import pin_memory as pinning

    def pin_of_old(data: Any, device: Any = None) -> Any:
        return list(data) if isinstance(data, tuple) else data

    monkeypatch.setattr(pinning, "pin_memory", pin_of_old)
    compat.install("dancegrpo_flux")
    assert pinning.pin_memory is pin_of_old


def test_an_adapter_that_nothing_wraps_is_its_own_module() -> None:
    from peft import LoraConfig, get_peft_model

    compat.install("flow_grpo")
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))
    assert model.module is model
    assert "module" not in dict(model.named_modules())


@pytest.mark.parametrize(
    ("script", "upstream"),
    [
        ("scripts/train.py", "ddpo-pytorch"),
        ("scripts/train_sd3.py", "flow_grpo"),
        ("fastvideo/train_grpo_flux.py", "DanceGRPO"),
        ("scripts/train_sd3_sft.py", "flow_grpo"),
    ],
)
def test_the_runner_supplies_what_the_script_needs(
    script: str, upstream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / script
    path.parent.mkdir()
    path.write_text("")
    asked: list[str] = []
    monkeypatch.setattr(compat, "install_for", asked.append)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    compat.main([str(path)])
    assert asked == [upstream]


def test_runner_without_a_script() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pcpo_overlay.compat"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("usage:")

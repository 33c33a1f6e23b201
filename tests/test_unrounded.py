"""In half precision the tape keeps the prediction as training computes it, and still leads to the drawn sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcpo_overlay.config import parse
from pcpo_overlay.flow_grpo import UnroundedGuidance
from pcpo_overlay.losses import expand_to
from pcpo_overlay.schedules import sd3_sigmas
from pcpo_overlay.steps import flow_grpo_steps

SCALE = 4.5


class Network(torch.nn.Module):
    """Returns a tuple with what it was made to return, as diffusers' transformers do without ``return_dict``."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
        return (self.output,)


#: The network, its output, the guided output in bfloat16, and the noise.
Step = tuple[Network, Tensor, Tensor, Tensor]


def guided_in_bf16(output: Tensor) -> Tensor:
    unconditional, conditional = output.to(torch.bfloat16).chunk(2)
    return (unconditional + SCALE * (conditional - unconditional)).float()


@pytest.fixture
def step() -> Step:
    generator = torch.Generator().manual_seed(0)
    # a half-precision network's output, as accelerate hands it on: bfloat16 values in float32
    output = torch.randn(6, 16, 8, 8, generator=generator).bfloat16().float()
    z = torch.randn(3, 16, 8, 8, generator=generator)
    return Network(output), output, guided_in_bf16(output), z


def test_prediction_in_trainings_precision_and_the_noise_that_fits_it(step: Step) -> None:
    network, output, used, z = step
    sigmas = sd3_sigmas(10)
    schedule = flow_grpo_steps(sigmas, sigmas[:-1] * 1000, 0.7, parse("match"))
    i = 4
    w, std = schedule.weight_native[i].expand(3), schedule.std[i]
    guidance = UnroundedGuidance(network, SCALE)
    network(hidden_states=None)
    trained, fitted = guidance.as_trained(used, z, w)
    guidance.close()
    unconditional, conditional = output.chunk(2)
    assert torch.equal(trained, unconditional + SCALE * (conditional - unconditional))
    assert not torch.equal(trained, used)
    # mean - and so sample - from either pair: c*pred is w*std*pred, the rest of the mean is common to both
    c = expand_to(w, z) * std
    torch.testing.assert_close(-c * trained + std * fitted, -c * used + std * z, rtol=0, atol=1e-6)


def test_a_sampler_without_guidance_is_taken_as_it_is(step: Step) -> None:
    network, _, used, z = step
    network.output = used
    guidance = UnroundedGuidance(network, SCALE)
    network(hidden_states=None)
    assert guidance.as_trained(used, z, torch.ones(3)) == (used, z)
    guidance.close()


def test_it_stops_listening(step: Step) -> None:
    network, _, used, z = step
    guidance = UnroundedGuidance(network, SCALE)
    guidance.close()
    network(hidden_states=None)
    assert guidance.as_trained(used, z, torch.ones(3)) == (used, z)


def test_what_it_saw_before_it_stopped_is_forgotten(step: Step) -> None:
    network, _, used, z = step
    guidance = UnroundedGuidance(network, SCALE)
    network(hidden_states=None)
    guidance.close()
    assert guidance.as_trained(used, z, torch.ones(3)) == (used, z)


def test_an_output_belongs_to_one_step(step: Step) -> None:
    network, _, used, z = step
    guidance = UnroundedGuidance(network, SCALE)
    network(hidden_states=None)
    guidance.as_trained(used, z, torch.ones(3))
    assert guidance.as_trained(used, z, torch.ones(3)) == (used, z)
    guidance.close()

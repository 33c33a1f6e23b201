"""Epochs of a toy trainer through the hooks: what is trained and recorded, worked out beside it in float64.

The policy is one number, ``pred = theta*x``; its steps are those of a real schedule, and its log probabilities exact.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from pcpo_overlay import hooks
from pcpo_overlay.config import HookError, PCPOError, parse
from pcpo_overlay.flow_grpo import UniquePrompts
from pcpo_overlay.objective import Objective
from pcpo_overlay.ranks import TorchRanks
from pcpo_overlay.record.metrics import PADDING
from pcpo_overlay.rollout import Rollout
from pcpo_overlay.schedules import dancegrpo_sigmas, ddim_timesteps, sd_alphas_cumprod
from pcpo_overlay.session import Session
from pcpo_overlay.steps import ddim_steps
from pcpo_overlay.tape import Tape

STEPS, BATCH, ROLLOUTS, XI = 4, 3, 2, 1e-2


def accelerator(**changed):
    """What a session asks of accelerate's Accelerator."""
    alone = {
        "device": torch.device("cpu"),
        "mixed_precision": "no",
        "sync_gradients": True,
        "scaler": None,
        "num_processes": 1,
        "process_index": 0,
        "is_main_process": True,
        "autocast": contextlib.nullcontext,
    }
    return SimpleNamespace(**{**alone, **changed})


def settings(**changed):
    return {
        "seed": 0,
        "clip_range": XI,
        "sampling_steps": STEPS,
        "vq_coef": 0.5,
        "mq_coef": 0.25,
        "sample": {"num_steps": STEPS, "guidance_scale": 4.5},
        "train": {"clip_range": XI, "cfg": True, "timestep_fraction": 0.75},
        **changed,
    }


@pytest.fixture
def start(tmp_path, monkeypatch):
    """``start(TRAINER, MODE, ranks=None, **settings)``: a session that the hooks act on."""
    monkeypatch.setenv("PCPO_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # a run puts its own in its place
    monkeypatch.setattr("atexit.register", lambda *_: None)
    with contextlib.ExitStack() as stack:

        def make(trainer, mode, ranks=None, **changed):
            made = Session(parse(mode))
            made.start(trainer, ranks or accelerator(), settings(**changed))
            stack.enter_context(hooks.using(made))
            return made

        yield make


def records(tmp_path, kind):
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def run_json(tmp_path):
    return json.loads((tmp_path / "run" / "run.json").read_text())


def ddim(steps=STEPS):
    return SimpleNamespace(
        config={"prediction_type": "epsilon"},
        alphas_cumprod=sd_alphas_cumprod().float(),
        timesteps=ddim_timesteps(steps),
        num_inference_steps=steps,
    )


class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(1.0))


class Toy:
    """ddpo-pytorch's loop: rollouts, shuffled samples and steps, gradients accumulated over all of an epoch."""

    def __init__(self, mode):
        self.policy, self.scheduler = Policy(), ddim()
        self.schedule = ddim_steps(
            self.scheduler.alphas_cumprod, self.scheduler.timesteps, STEPS, 1.0, parse(mode), "epsilon"
        )
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def rollout(self, epoch=0):
        """Columns of all samples: x, z, upstream's log probability, advantage; and what PCPO adds."""
        hooks.begin_epoch(epoch)
        parts = []
        for _ in range(ROLLOUTS):
            hooks.begin_rollout(accelerator(), None)
            x, z = self.draw(BATCH, STEPS, 2, 2), self.draw(BATCH, STEPS, 2, 2)
            for i, timestep in enumerate(self.scheduler.timesteps):
                pred = self.policy.theta.detach() * x[:, i]
                hooks.record_step(pred, z[:, i], self.scheduler, timestep, 1.0)
            sample = {
                "x": x,
                "z": z,
                "pred_old": self.policy.theta.detach() * x,
                "log_probs": -0.5 * z.square().mean((2, 3)),
                "timesteps": self.scheduler.timesteps.repeat(BATCH, 1),
                "advantage": self.draw(BATCH),
            }
            hooks.end_rollout(sample)
            parts.append(sample)
        hooks.log_rewards(torch.arange(6.0))
        samples = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        perm = torch.randperm(ROLLOUTS * BATCH, generator=self.generator)
        samples = {key: value[perm] for key, value in samples.items()}
        perms = torch.stack([torch.randperm(STEPS, generator=self.generator) for _ in perm])
        for key in ("x", "z", "pred_old", "log_probs", "timesteps"):
            where = perms.reshape(*perms.shape, *(1,) * (samples[key].ndim - 2)).expand(samples[key].shape)
            samples[key] = samples[key].gather(1, where)
        hooks.permute(samples, perms)
        return samples

    def of_step(self, column, timestep):
        at = (self.schedule.timestep == timestep.reshape(-1, 1)).int().argmax(1)
        return column[at]

    def train(self, samples, divisor, inner_epoch=0, step=0):
        """One optimizer step on everything; returns its gradient, and the losses as upstream would log them."""
        self.policy.zero_grad()
        losses = []
        for batch in range(ROLLOUTS):
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            sample = {key: value[rows] for key, value in samples.items()}
            for i in range(STEPS):
                timestep = sample["timesteps"][:, i]
                hooks.begin_step(sample, i, timestep)
                pred = self.policy.theta * sample["x"][:, i]
                matched = hooks.match_step(pred, sample["x"][:, i], "rest")  # type: ignore[arg-type]
                w = self.of_step(self.schedule.weight_policy, timestep).reshape(-1, 1, 1)
                # x' - mean over the std: the mean moves by -c = -w*std per unit of the prediction
                now = sample["z"][:, i] + w * (pred - sample["pred_old"][:, i])
                log_prob = -0.5 * now.square().mean((1, 2))
                if matched is not None:
                    assert matched[0] is sample["x"][:, i] or torch.equal(matched[0], sample["x"][:, i])
                    assert matched[2] == "rest"
                    assert not matched[1].requires_grad
                    log_prob = matched[1]
                advantage, old = sample["advantage"], sample["log_probs"][:, i]
                rho = torch.exp(log_prob - old)
                clipped = torch.clamp(rho, 1 - XI, 1 + XI)
                loss = torch.maximum(-advantage * rho, -advantage * clipped).mean() / divisor
                loss = hooks.loss(loss, log_prob, old, advantage, None, divisor)
                loss.backward()
                losses.append(loss.detach())
        hooks.gradients(None, self.policy)
        gradient = float(self.policy.theta.grad)  # type: ignore[arg-type]
        hooks.log_step(0, inner_epoch, step)
        return gradient, losses

    def expected(self, samples, objective, weights, divisor):
        """The same by hand: gradient, mean loss before the division, and the policy's log ratios."""
        theta = self.policy.theta.detach().double().requires_grad_()
        total, logs, credits = torch.zeros((), dtype=torch.float64), [], []
        for i in range(STEPS):
            timestep = samples["timesteps"][:, i]
            d = theta * samples["x"][:, i].double() - samples["pred_old"][:, i].double()
            m1, m2 = (d * samples["z"][:, i]).mean((1, 2)), d.square().mean((1, 2))
            w = self.of_step(weights, timestep)
            true = self.of_step(self.schedule.weight_policy, timestep)
            u = -(w * m1 + 0.5 * w**2 * m2)
            logs.append(-(true * m1 + 0.5 * true**2 * m2).detach())
            credits.append((u.expm1() if objective == "clip" else u).detach())
            a = samples["advantage"].double()
            if objective == "clip":
                rho = u.exp()
                each = torch.maximum(-a * rho, -a * rho.clamp(1 - XI, 1 + XI))
            else:
                each = torch.relu(XI * a.abs() - a * u)
            total = total + each.mean() * ROLLOUTS
        (gradient,) = torch.autograd.grad(total / divisor, theta)
        return (
            float(gradient),
            float(total.detach()) / (ROLLOUTS * STEPS),
            torch.stack(logs),
            torch.stack(credits),
        )


MODES = {
    "observe": ("clip", "weight_policy"),
    "log": ("hinge", "weight_policy"),
    "match": ("hinge", "weight_policy"),
    "full,weights=native": ("hinge", "weight_policy"),
    "full,weights=native,variance=paper": ("hinge", "weight_policy"),
    "full": ("hinge", "weight"),
    "full,variance=paper": ("hinge", "weight"),
    "full,tape=cpu": ("hinge", "weight"),
    "observe,tape=off": ("clip", "weight_policy"),
}


@pytest.mark.parametrize("mode", MODES)
def test_two_updates_of_every_mode(start, tmp_path, mode):
    """Gradients, on and off the policy, with a loss that the trainer divides; and all that is recorded of them."""
    divisor = ROLLOUTS * STEPS
    session, toy = start("ddpo", mode), Toy(mode)
    objective, column = MODES[mode]
    weights = getattr(toy.schedule, column)
    epoch_logs, losses = [], []
    samples = toy.rollout()
    for update in range(2):
        gradient, told = toy.train(samples, divisor, update, 10 + update)
        expected, loss, logs, credits = toy.expected(samples, objective, weights, divisor)
        assert gradient == pytest.approx(expected, rel=1e-5)
        assert not any(loss.requires_grad for loss in told)
        (*_, record) = records(tmp_path, "step")
        assert (record["epoch"], record["inner_epoch"], record["step"]) == (0, update, 10 + update)
        assert record["samples"] == ROLLOUTS * BATCH * STEPS
        assert record["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-9)
        assert record["grad_norm"] == pytest.approx(abs(expected), rel=1e-5)
        assert record["grad_layer"] == "theta"
        assert record["ratio_mean"] == pytest.approx(float(logs.exp().mean()), rel=1e-5)
        assert record["approx_kl"] == pytest.approx(float(logs.square().mean()) / 2, rel=1e-3, abs=1e-12)
        assert record["credit_max"] == pytest.approx(float(credits.max()), rel=1e-4, abs=1e-6)
        assert ("kl" in record) == (mode != "observe,tape=off")
        if "kl" in record:
            assert (record["kl"] == 0) == (update == 0)
        epoch_logs.append(logs)
        losses.append(loss)
        with torch.no_grad():
            toy.policy.theta.add_(0.05)
    assert (session.tape.nbytes > 0) == ("off" not in mode)
    held = session.tape.nbytes
    hooks.end_epoch(0)
    assert session.tape.nbytes == 0  # before the trainer evaluates and saves
    (epoch,) = records(tmp_path, "epoch")
    assert epoch["samples"] == 2 * ROLLOUTS * BATCH * STEPS
    assert epoch["tape_bytes"] == held
    assert epoch["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert epoch["ratio_mean"] == pytest.approx(float(torch.cat(epoch_logs).exp().mean()), rel=1e-5)
    assert epoch["reward_mean"] == 2.5
    assert epoch["reward_std"] == pytest.approx(math.sqrt(35 / 12))
    assert epoch["reward_count"] == 6
    assert 0 < epoch["seconds_sampling"] < epoch["seconds_total"]
    steps = records(tmp_path, "step")
    assert epoch["grad_norm"] == pytest.approx(sum(step["grad_norm"] for step in steps) / 2)
    assert run_json(tmp_path)["resolved"]["weight"] == pytest.approx(toy.schedule.weight.tolist(), rel=1e-6)


def test_what_is_kept_of_a_step(start):
    """Predictions in every recording mode, the noise only where something is matched, nothing under tape=off."""
    one_step = BATCH * 4 * 4  # float32
    for mode, tensors in (("match", 2), ("full", 2), ("log", 1), ("observe", 1)):
        assert sample_once(mode).nbytes == STEPS * (tensors * one_step + BATCH * 2 * 4)
    assert sample_once("observe,tape=off").nbytes == 0
    assert sample_once("full,tape=cpu").on_cpu


def sample_once(mode):
    session, toy = Session(parse(mode)), Toy(mode)
    with hooks.using(session):
        hooks.begin_rollout(accelerator(), None)
        x = toy.draw(BATCH, 2, 2)
        for timestep in toy.scheduler.timesteps:
            hooks.record_step(x, x, toy.scheduler, timestep, 1.0)
        hooks.end_rollout({"log_probs": torch.zeros(BATCH, STEPS)})
    return session.tape


def test_a_second_epoch_is_matched_with_its_own_rollouts(start, tmp_path):
    session, toy = start("ddpo", "full"), Toy("full")
    for epoch in range(3):
        samples = toy.rollout(epoch)
        gradient, _ = toy.train(samples, 1)
        expected, *_ = toy.expected(samples, "hinge", toy.schedule.weight, 1)
        assert gradient == pytest.approx(expected, rel=1e-5)
        (*_, step) = records(tmp_path, "step")
        assert step["ratio_min"] == step["ratio_max"] == 1  # nothing was changed since they were drawn
        with torch.no_grad():
            toy.policy.theta.add_(0.1)
        if epoch:  # an epoch may have no end
            hooks.end_epoch(epoch)
    assert [record["epoch"] for record in records(tmp_path, "epoch")] == [1, 2]
    assert [record["samples"] for record in records(tmp_path, "epoch")] == [ROLLOUTS * BATCH * STEPS] * 2
    assert session.tape.nbytes == 0


def test_the_tape_holds_one_epoch(start):
    session, toy = start("ddpo", "full"), Toy("full")
    held = set()
    for epoch in range(3):  # without an end
        toy.rollout(epoch)
        held.add(session.tape.nbytes)
    assert len(held) == 1


def test_epochs_and_steps_are_counted_where_the_trainer_does_not(start, tmp_path):
    start("ddpo", "observe")
    toy = Toy("observe")
    for _ in range(2):
        samples = toy.rollout(None)
        toy.train(samples, 1)
        hooks.end_epoch()
    hooks.begin_epoch(4)  # a trainer that resumed
    hooks.begin_epoch()
    for epoch in (None, 5):
        toy_step(toy)
        hooks.log_step(epoch)
    hooks.end_epoch(7)
    steps = records(tmp_path, "step")
    assert [(step["epoch"], step["step"]) for step in steps[2:]] == [(5, 2), (5, 3)]
    assert [record["epoch"] for record in records(tmp_path, "epoch")] == [0, 1, 7]


def toy_step(toy, loss=0.5, sample=None):
    """One backward pass on two samples, without a rollout."""
    hooks.begin_step(sample or {}, 0, torch.tensor([1, 1]))
    zeros = torch.zeros(2)
    hooks.loss(torch.tensor(loss), zeros, zeros, torch.ones(2))


@pytest.mark.parametrize(
    ("trainer", "setting"),
    [("ddpo", "resume_from"), ("dancegrpo_flux_lora", "resume_from_lora_checkpoint")],
)
def test_a_resumed_epoch_replaces_its_records(start, tmp_path, trainer, setting):
    for epochs in (range(2), range(1, 2)):
        start(trainer, "observe", **{setting: "a" if epochs.start else ""})
        for epoch in epochs:
            hooks.begin_epoch(epoch)
            toy_step(None)
            hooks.log_step(epoch, 0, epoch)
            hooks.end_epoch(epoch)
    assert [record["epoch"] for record in records(tmp_path, "step")] == [0, 1]
    aside = (tmp_path / "run" / "metrics.superseded.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in aside] == ["step", "epoch"]


def test_a_run_that_does_not_resume_is_refused_the_folder(start):
    start("ddpo", "observe", resume_from="")
    with pytest.raises(PCPOError, match="already holds the metrics of a run"):
        start("ddpo", "observe", resume_from="")


def test_a_trainer_whose_options_change_nothing_is_refused(start):
    with pytest.raises(PCPOError, match="unique_prompts changes nothing on ddpo"):
        start("ddpo", "full,unique_prompts=true")


def test_the_end_of_a_run(start, tmp_path):
    before = sys.excepthook
    session = start("ddpo", "observe")
    assert sys.excepthook is not before  # an exception will be told in run.json
    run = run_json(tmp_path)
    assert (run["status"], run["mode"], run["upstream"], run["clip_range"]) == (
        "running",
        "observe",
        "ddpo",
        XI,
    )
    hooks.finish()
    assert run_json(tmp_path)["status"] == "finished"
    assert session.recorder.metrics.on_cpu


# ------------------------------------------------------------ gradients and scalers


def test_gradient_statistics_belong_to_one_step(start, tmp_path):
    start("ddpo", "observe")
    policy = Policy()
    policy.theta.grad = torch.tensor(8.0)
    scaled = accelerator(scaler=SimpleNamespace(get_scale=lambda: 4.0))
    hooks.begin_epoch(0)
    for step, told in enumerate((scaled, None, accelerator(sync_gradients=False))):
        toy_step(None)
        if told is not None:
            hooks.gradients(told, policy)
        hooks.log_step(0, 0, step)
    hooks.gradients(scaled, policy)
    hooks.gradients(
        accelerator(sync_gradients=False), policy
    )  # the accumulation goes on: those are not this step's
    toy_step(None)
    hooks.log_step(0, 0, 3)
    hooks.end_epoch(0)
    steps = records(tmp_path, "step")
    assert [step.get("grad_norm") for step in steps] == [2.0, None, None, None]
    (epoch,) = records(tmp_path, "epoch")
    assert epoch["grad_norm"] == 2.0  # the mean of the steps that have one
    assert epoch["grad_layer"] == "theta"


def test_a_model_without_gradients_is_told_once(start, capsys):
    start("ddpo", "observe")
    for _ in range(2):
        hooks.gradients(None, Policy())
    assert capsys.readouterr().err.count("no gradient statistics") == 1


def test_non_finite_losses_are_warned_of_once(start, tmp_path, capsys):
    start("ddpo", "observe")
    hooks.begin_epoch(0)
    for step in range(2):
        toy_step(None, math.nan)
        hooks.log_step(0, 0, step)
    assert [step["nonfinite"] for step in records(tmp_path, "step")] == [1, 1]
    assert capsys.readouterr().err.count("warning: 1 non-finite") == 1


# ------------------------------------------------------------ other trainers' ways


def test_samples_of_zeroed_gradients_are_not_recorded(start, tmp_path):
    """DanceGRPO's FLUX zeroes what an accumulation leaves over; ddpo-pytorch takes it along."""
    start("dancegrpo_flux", "observe", train={})
    assert left_over(tmp_path) == [2, 2]


def test_samples_that_are_carried_over_are_recorded(start, tmp_path):
    start("ddpo", "observe")
    assert left_over(tmp_path) == [2, 4]


def left_over(tmp_path):
    for epoch in range(2):
        hooks.begin_epoch(epoch)
        toy_step(None)
        hooks.log_step(epoch, 0, epoch)
        toy_step(None)  # no optimizer step follows on
    return [step["samples"] for step in records(tmp_path, "step")]


@pytest.mark.parametrize(("mq", "masked"), [(0.25, 0.25), (0.0, 0.5)])
def test_two_losses_are_weighted_as_the_trainer_does(start, tmp_path, mq, masked):
    """HunyuanVideo trains two rewards on one ratio; a loss of weight 0 is not what is trained."""
    start("dancegrpo_hunyuan", "log", mq_coef=mq)
    hooks.begin_epoch(0)
    for _ in range(2):
        hooks.begin_step({}, 0, torch.tensor([1, 1]))
        new, old = torch.tensor([0.1, 0.1], requires_grad=True), torch.zeros(2)
        both = [
            hooks.loss(torch.zeros(()), new, old, torch.tensor(advantage), XI, 2)
            for advantage in ([1.0, -1.0], [-2.0, -3.0])
        ]
    # by hand: max(0, xi*|A| - A*log rho), averaged over the batch and divided
    first, second = ((XI + 0.1) / 2 / 2, (2 * XI + 0.2 + 3 * XI + 0.3) / 2 / 2)
    assert [loss.item() for loss in both] == pytest.approx([first, second])
    assert all(loss.requires_grad for loss in both)
    hooks.log_step(0, 0, 0)
    (step,) = records(tmp_path, "step")
    assert step["samples"] == 4
    assert step["loss"] == pytest.approx(2 * (0.5 * first + mq * second))
    assert step["fraction_masked"] == (0.0 if mq else masked)
    assert run_json(tmp_path)["clip_range"] == XI  # it comes with the loss


def test_kl_terms_and_their_running_mean(start, tmp_path):
    start("flow_grpo", "observe")
    for epoch, terms in enumerate(([0.1, 0.3], [0.8])):
        hooks.begin_epoch(epoch)
        for kl in terms:
            toy_step(None)
            hooks.log_kl(torch.tensor(kl))
        hooks.log_step(epoch, 0, epoch)
        hooks.end_epoch(epoch)
    assert [step["kl_loss"] for step in records(tmp_path, "step")] == pytest.approx([0.2, 0.8])
    assert [epoch["kl_running_mean"] for epoch in records(tmp_path, "epoch")] == pytest.approx([0.2, 0.4])


def test_an_evaluation_takes_no_time_of_the_epochs(start, tmp_path, monkeypatch):
    clock = iter(float(2**n) for n in range(30))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    start("flow_grpo", "observe")  # 1
    hooks.begin_epoch(0)  # 2
    hooks.log_eval({"avg": [1.0, -10.0, 2.0], "ocr": [0.5, 0.5, -10.0]}, 7)  # 4
    hooks.log_rewards([1.0])  # 8
    hooks.end_epoch(0)  # 16
    hooks.begin_epoch(1)  # 32
    hooks.end_epoch(1)  # 64, without rewards
    (evaluation,) = records(tmp_path, "eval")
    assert (evaluation["epoch"], evaluation["step"], evaluation["seconds"]) == (0, 7, 2.0)
    assert (evaluation["reward_mean"], evaluation["reward_count"]) == (1.5, 2)
    assert evaluation["rewards"] == {"avg": 1.5, "ocr": 0.5}
    first, second = records(tmp_path, "epoch")
    assert (first["seconds_sampling"], first["seconds_training"], first["seconds_total"]) == (4, 8, 12)
    assert "reward_mean" in first and "reward_mean" not in second


def test_ranks_with_fewer_samples_are_padded_and_gathered(start, tmp_path):
    padded = []

    def pad(rows, dim, pad_index):
        assert (dim, pad_index) == (0, PADDING)
        padded.append(rows)
        return torch.cat([rows, torch.full_like(rows[:1], pad_index)])

    two = {"num_processes": 2, "gather": lambda rows: torch.cat([rows, rows]), "pad_across_processes": pad}
    start("flow_grpo", "observe", accelerator(**two))
    hooks.begin_epoch(0)
    toy_step(None)
    hooks.log_step(0, 0, 0)
    (step,) = records(tmp_path, "step")
    assert step["samples"] == 4 and len(padded) == 2  # samples, and losses


def test_another_rank_writes_and_says_nothing(start, tmp_path, capsys):
    start("ddpo", "full", accelerator(is_main_process=False, mixed_precision="bf16"))
    hooks.begin_epoch(0)
    hooks.begin_rollout(accelerator(mixed_precision="bf16"), Half())
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------ rollouts


class Half(torch.nn.Module):
    """A network that computes in bfloat16 outside autocast."""

    def forward(self, x):
        return SimpleNamespace(sample=x.bfloat16()), (x.bfloat16(), x.bfloat16())


@pytest.mark.parametrize("mode", ["log", "full"])
def test_precision_match_wraps_the_sampler_for_the_rollout_alone(mode):
    entered = []

    @contextlib.contextmanager
    def autocast():
        entered.append(True)
        yield

    network, half = Half(), accelerator(mixed_precision="bf16", autocast=autocast)
    x = torch.ones(1, 4)
    rollout = Rollout(parse(f"{mode},precision=match"), Tape())
    for epoch in range(2):
        for batch in range(2):  # sampled in batches, collected at the end
            rollout.begin(half, network)
            output, pair = network(x)
            assert output.sample.dtype == pair[0].dtype == pair[1].dtype == torch.float32
            assert len(entered) == 2 * epoch + batch + 1  # once, however many batches there are
            rollout.record(x, x, ddim(), ddim().timesteps[0], 1.0)
        rollout.end({"log_probs": torch.zeros(2, 1)})
        output, pair = network(x)
        assert output.sample.dtype == pair[0].dtype == torch.bfloat16
        assert len(entered) == 2 * epoch + 2


def test_a_forward_of_the_networks_own_is_put_back():
    network = Half()
    network.forward = own = lambda x: x.bfloat16()  # type: ignore[method-assign]
    rollout = Rollout(parse("log,precision=match"), Tape())
    rollout.begin(accelerator(mixed_precision="bf16"), network)
    assert network(torch.ones(1)).dtype == torch.float32
    rollout.end({})
    assert network.forward is own


PREPARED = Half()
PREPARED._original_forward = PREPARED.forward  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("mode", "precision", "network", "says"),
    [
        ("match", "bf16", Half(), "on-policy ratios are not exactly 1; precision=match makes them so"),
        ("match", "no", Half(), ""),
        ("match", "bf16", PREPARED, ""),
        ("match", "bf16", None, ""),
        ("log", "bf16", Half(), ""),
        ("match,precision=match", "no", Half(), "this run is not in half precision"),
        ("match,precision=match", "bf16", PREPARED, "the network that accelerate prepared for training"),
        ("match,precision=match", "bf16", None, "samples under the autocast that it trains under"),
    ],
)
def test_what_rounding_does_is_told_once(capsys, mode, precision, network, says):
    for speaks in (True, False):
        rollout = Rollout(parse(mode), Tape(), speaks=speaks)
        for _ in range(2):
            rollout.begin(accelerator(mixed_precision=precision), network)
            rollout.record(torch.ones(1), torch.ones(1), ddim(), ddim().timesteps[0], 1.0)
        told = capsys.readouterr().err
        assert told.count("\n") == (1 if says and speaks else 0)
        assert not speaks or says in told


@pytest.mark.parametrize("trainer", ["flow_grpo", "ddpo"])
@pytest.mark.parametrize("mode", ["match", "full", "observe"])
def test_the_tape_keeps_what_was_sampled(start, trainer, mode):
    """Prediction and noise bit for bit, of the steps that are trained; of the trainer's own samples nothing changes."""
    session = start(trainer, mode, train={"clip_range": XI, "timestep_fraction": 0.75})
    assert session.rollout._trained_steps == (range(3) if trainer == "flow_grpo" else None)
    scheduler = flow(STEPS) if trainer == "flow_grpo" else ddim()
    pred, z = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.begin_epoch(0)
    hooks.begin_rollout(accelerator(), None)
    for timestep in scheduler.timesteps:
        hooks.record_step(pred, z, scheduler, timestep.reshape(1), 0.7)
    sample = {"log_probs": torch.ones(2, STEPS, dtype=torch.bfloat16), "latents": pred}
    hooks.end_rollout(sample)
    assert sample["latents"] is pred
    assert sample["pcpo_index"].shape[1] == (3 if trainer == "flow_grpo" else STEPS)
    for step in range(sample["pcpo_index"].shape[1]):
        found = session.tape.lookup(sample["pcpo_index"], step)
        assert torch.equal(found.pred_old, pred)
        assert found.z is None if mode == "observe" else torch.equal(found.z, z)
    if mode != "observe":
        assert sample["log_probs"].dtype == torch.float32 and not sample["log_probs"].any()
    else:
        assert sample["log_probs"].all()


def window_rollout(session, mode, scales, sde_type="cps"):
    """One rollout of a windowed sampler whose noise level at each step is ``scales``; its scheduler and samples."""
    scheduler = flow(len(scales))
    pred, z = torch.randn(2, len(scales), 2, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.begin_epoch(0)
    hooks.begin_rollout(accelerator(), None)
    for i, scale in enumerate(scales):
        hooks.record_step(pred[i], z[i], scheduler, scheduler.timesteps[i : i + 1], scale, sde_type)
    sample = {"log_probs": torch.zeros(2, sum(scale > 0 for scale in scales))}
    hooks.end_rollout(sample)
    return scheduler, pred, z, sample


WINDOW = {"num_steps": 6, "guidance_scale": 1.0, "sde_window_size": 2, "sde_window_range": (0, 4)}


def test_steps_outside_a_window_are_not_recorded(start, tmp_path):
    session = start("flow_grpo_sd3_fast", "full", sample=WINDOW)
    _, pred, z, sample = window_rollout(session, "full", [0, 0.8, 0.8, 0, 0, 0])
    assert sample["pcpo_index"].shape == (2, 2)
    resolved = run_json(tmp_path)["resolved"]
    assert resolved["trained"] == 4 and "trained_from" not in resolved
    for step in range(2):
        found = session.tape.lookup(sample["pcpo_index"], step)
        assert torch.equal(found.pred_old, pred[1 + step]) and torch.equal(found.z, z[1 + step])
        for name in ("weight", "weight_policy", "clip_scale"):
            kept = getattr(found, "policy_weight" if name == "weight_policy" else name)
            assert kept.tolist() == pytest.approx([resolved[name][1 + step]] * 2, rel=1e-6)


def test_a_window_that_does_not_begin_at_the_first_step(start, tmp_path, capsys):
    session = start("flow_grpo_sd3_fast", "full", sample={**WINDOW, "sde_window_range": (2, 5)})
    window_rollout(session, "full", [0, 0, 0.8, 0.8, 0, 0])
    resolved = run_json(tmp_path)["resolved"]
    assert (resolved["trained_from"], resolved["trained"]) == (2, 5)
    over = slice(2, 5)
    assert resolved["zeta"] == pytest.approx(sum(resolved["weight_native"][over]) / sum(resolved["dt"][over]))
    assert "6 steps of which 3 to 5 can be trained" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["observe", "log", "match", "full"])
def test_the_ratio_is_the_policys_and_what_is_clipped_is_upstreams(start, tmp_path, mode):
    """By coefficients-preserving steps, whose log probability lacks ``1/(2*std**2)``."""
    session = start("flow_grpo_sd3_fast", mode, sample=WINDOW)
    scheduler, pred, z, sample = window_rollout(session, mode, [0.8, 0.8, 0, 0, 0, 0])
    resolved = run_json(tmp_path)["resolved"]
    advantage = torch.tensor([1.0, -1.0])
    hooks.begin_step(sample, 1, scheduler.timesteps[1].repeat(2))
    live = (pred[1] + 1e-3 * z[1]).requires_grad_()
    w, scale = resolved["weight_policy"][1], resolved["clip_scale"][1]
    m1, m2 = (1e-3 * z[1] ** 2).mean(1), (1e-6 * z[1] ** 2).mean(1)
    log_rho = -(w * m1 + 0.5 * w**2 * m2)
    mean = torch.ones(())
    matched = hooks.match_step(live, z[1], mean)
    assert (matched is None) == (mode in ("observe", "log"))
    if matched is not None:
        assert matched[2] is mean
        torch.testing.assert_close(matched[1], scale * log_rho, rtol=1e-4, atol=1e-10)
    exponent = (scale * log_rho).requires_grad_() if matched is None else matched[1]
    ours = hooks.loss(torch.tensor(5.0), exponent, sample["log_probs"][:, 1], advantage)
    if mode == "observe":
        assert ours == 5
    else:
        weight = resolved["weight"][1]
        credit = scale * log_rho if mode != "full" else -(weight * m1 + 0.5 * weight**2 * m2)
        expected = torch.relu(XI * advantage.abs() - advantage * credit).mean()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-9)
        assert ours.requires_grad
    hooks.log_step(0)
    (step,) = records(tmp_path, "step")
    ratio = torch.exp(log_rho.double())
    assert step["ratio_min"] == pytest.approx(float(ratio.min()), abs=1e-6) != 1
    assert step["fraction_outside"] == float(((scale * log_rho).exp() - 1).abs().gt(XI).double().mean())
    assert step["kl"] == pytest.approx(float(0.5 * w**2 * m2.mean()), rel=1e-4)


def test_what_another_ratio_than_the_policys_is_clipped_by(start, tmp_path):
    """GRPO-Guard's: its clip counts are of what upstream clips, the ratio is the policy's."""
    start("flow_grpo_sd3_guard", "observe", rationorm=True)
    assert run_json(tmp_path)["arm"] == "GRPO-Guard"
    hooks.begin_epoch(0)
    hooks.begin_step({}, 0, torch.tensor([3.0, 3.0]))
    new, old = torch.tensor([0.5, 0.4]), torch.zeros(2)  # both outside, of which upstream's ratio is once
    hooks.loss(torch.tensor(0.0), new, old, torch.ones(2), ratio=torch.tensor([1.0, 1.0 + 2 * XI]))
    hooks.log_step(0)
    (step,) = records(tmp_path, "step")
    assert step["ratio_max"] == pytest.approx(math.exp(0.5))
    assert step["fraction_outside"] == 0.5


@pytest.mark.parametrize("mode", ["log", "match", "full"])
def test_two_remedies_at_once_are_refused(start, mode):
    with pytest.raises(PCPOError, match="two remedies for unequal steps at once"):
        start("flow_grpo_sd3_guard", mode, rationorm=True)
    start("flow_grpo_sd3_guard", mode, rationorm=False)


@pytest.mark.parametrize("mode", ["observe", "full"])
def test_a_schedule_that_the_trainer_makes_itself(start, tmp_path, mode):
    """BAGEL has no scheduler: of ``num_steps`` values under a shift, as its sampler computes them."""
    train = {"clip_range_lt": XI, "clip_range_gt": XI, "timestep_shift": 3.0}
    session = start("flow_grpo_bagel", mode, sample={**WINDOW, "sde_window_range": (0, 2)}, train=train)
    t = torch.linspace(1, 0, 6)
    t = 3.0 * t / (1 + (3.0 - 1) * t)
    pred, z = torch.randn(2, 3, 2, 1, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    hooks.begin_epoch(0)
    for picture in range(3):  # one a rollout
        hooks.begin_rollout()
        for i, scale in enumerate([1.3, 1.3, 0, 0, 0]):
            noise = z[picture, min(i, 1)]
            hooks.record_step(pred[picture, min(i, 1)], noise, None, t[i], scale)
    sample = {"log_probs": torch.zeros(3, 2)}
    hooks.end_rollout(sample)
    assert sample["pcpo_index"].shape == (3, 2)
    resolved = run_json(tmp_path)["resolved"]
    assert resolved["timestep"] == t[:-1].tolist() and resolved["trained"] == 2
    std = 1.3 * (t[:-1] / (1 - torch.where(t[:-1] == 1, t[1], t[:-1]))).sqrt() * (t[:-1] - t[1:]).sqrt()
    assert resolved["std"] == pytest.approx(std.tolist(), rel=1e-5)
    for picture in range(3):
        found = session.tape.lookup(sample["pcpo_index"][picture][None], 1)
        assert torch.equal(found.pred_old, pred[picture, 1])
        assert found.weight.tolist() == pytest.approx([resolved["weight"][1]])


def test_a_new_schedule_of_wans_is_read_anew():
    """Its scheduler has the alphas of DDIM's, too, which tell nothing of a flow."""
    table = Rollout(parse("full").on("flow_grpo_wan2_1"), Tape()).table
    made = SimpleNamespace(alphas_cumprod=torch.ones(1), num_inference_steps=3, timesteps=torch.arange(3))
    weights = []
    for third in (0.5, 0.25):
        made.sigmas = torch.tensor([0.99, 0.8, third, 0.0])
        weights.append(table(made, 0.8, torch.device("cpu"), "linear").steps.weight_native)
        assert weights[-1] is table(made, 0.8, torch.device("cpu"), "linear").steps.weight_native
    assert not torch.equal(*weights)


def test_two_clip_ranges_have_to_be_alike(start):
    train = {"clip_range_lt": 2 * XI, "clip_range_gt": XI, "timestep_shift": 3.0}
    with pytest.raises(
        PCPOError, match=r"train.clip_range_lt is 0.02 and train.clip_range_gt 0.01: .* set both"
    ):
        start("flow_grpo_bagel", "observe", sample=WINDOW, train=train)


def test_a_window_without_noise_is_said(start, capsys):
    session = start("flow_grpo_sd3_fast", "full", sample=WINDOW)
    with pytest.raises(SystemExit) as stop:
        window_rollout(session, "full", [0] * 6)
    assert stop.value.code == 2
    assert "sample.noise_level is 0" in capsys.readouterr().err


def test_without_a_tape_the_policys_ratio_is_not_to_be_had(start, capsys):
    session = start("flow_grpo_sd3_fast", "observe,tape=off", sample=WINDOW)
    with pytest.raises(SystemExit) as stop:
        window_rollout(session, "observe", [0.8, 0.8, 0, 0, 0, 0])
    assert stop.value.code == 2
    assert "tape=off leaves nothing to tell" in capsys.readouterr().err


class Given(torch.nn.Module):
    """Keeps what it was given."""

    def forward(self, hidden_states, timestep):
        self.given = hidden_states, timestep
        return hidden_states


@pytest.mark.parametrize(
    ("trainer", "mode"),
    [
        ("flow_grpo_flux", "match"),
        ("flow_grpo_flux", "full"),
        ("flow_grpo_flux", "observe"),
        ("flow_grpo", "full"),
    ],
)
def test_a_network_is_given_in_training_what_it_was_given_in_sampling(start, trainer, mode):
    """Contiguous samples, and the very timestep, which the sampler rounded: on FLUX, where anything is matched."""
    start(trainer, mode)
    network, scheduler = Given(), flow(STEPS)
    hooks.begin_epoch(0)
    hooks.begin_rollout(accelerator(), network)
    for t in scheduler.timesteps:
        x = torch.randn(2, 4)
        network(hidden_states=x, timestep=(t.expand(2).bfloat16() / 1000))
        assert network.given[1].dtype == torch.bfloat16
        hooks.record_step(x, x, scheduler, t[None], 0.7)
    sample = {"log_probs": torch.zeros(2, STEPS)}
    hooks.end_rollout(sample)
    as_sampled = trainer == "flow_grpo_flux" and mode != "observe"
    view, timestep = torch.randn(2, 3, 4)[:, 1], scheduler.timesteps[[2, 0]]
    hooks.begin_step(sample, 0, timestep)
    network(hidden_states=view, timestep=timestep / 1000)
    hidden, given = network.given
    assert torch.equal(hidden, view) and hidden.is_contiguous() == as_sampled
    assert torch.equal(given, timestep.bfloat16() / 1000 if as_sampled else timestep / 1000)
    assert given.dtype == (torch.bfloat16 if as_sampled else torch.float32)
    hooks.begin_rollout(accelerator(), network)  # sampling goes on as it was
    network(hidden_states=view, timestep=timestep)
    assert network.given[0] is view and network.given[1] is timestep


def flow(steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(steps)
    made.num_inference_steps = steps
    return made


@pytest.mark.parametrize("mode", ["full", "observe", "observe,tape=off"])
def test_samples_that_are_collected_late_keep_their_order(mode):
    """DanceGRPO's trainers sample in batches, or one by one, and collect at the end: in every epoch anew."""
    session = Session(parse(mode).on("dancegrpo_flux"))
    session.rollout = Rollout(session.config, session.tape, trained_steps=range(2))
    sigmas = dancegrpo_sigmas(3)
    with hooks.using(session):
        for epoch in range(2):
            session.tape.clear()
            for batch in range(2):
                hooks.begin_rollout()
                for one in range(2):
                    for index in range(3):
                        value = torch.full((1, 2), 100.0 * epoch + 10 * (2 * batch + one) + index)
                        hooks.record_drawn_step(value, value, value, 0.5, sigmas, index, 0.3)
            samples = {"log_probs": torch.zeros(4, 2)}
            hooks.end_rollout(samples)
            hooks.record_drawn_step(value, value, value, 0.5, sigmas, 0, 0.3)  # an evaluation
            hooks.record_step(value, value, ddim(), ddim().timesteps[0], 1.0)
            assert session.tape.open_steps == 0
            if mode == "observe,tape=off":
                assert "pcpo_index" not in samples and session.tape.nbytes == 0
                continue
            assert samples["pcpo_index"].shape == (4, 2)
            for index in range(2):
                kept = session.tape.lookup(samples["pcpo_index"], index)
                assert kept.pred_old[:, 0].tolist() == [100 * epoch + 10 * n + index for n in range(4)]
                assert (kept.z is None) == (mode == "observe")


def test_batches_that_are_collected_late_keep_their_order():
    """As DanceGRPO's SD trainer samples."""
    session, scheduler = Session(parse("full")), ddim()
    with hooks.using(session):
        for batch in range(2):
            hooks.begin_rollout()
            for index, timestep in enumerate(scheduler.timesteps):
                values = torch.tensor([[0.0], [100.0]]) + 10 * batch + index
                hooks.record_step(values, values, scheduler, timestep, 1.0)
        samples = {"log_probs": torch.zeros(4, STEPS)}
        hooks.end_rollout(samples)
    for index in range(STEPS):
        kept = session.tape.lookup(samples["pcpo_index"], index).pred_old
        assert kept.flatten().tolist() == [index, 100 + index, 10 + index, 110 + index]


def test_a_second_eta_gets_its_own_weights():
    rollout, sigmas = Rollout(parse("match"), Tape()), dancegrpo_sigmas(3)
    one = torch.ones(1, 2)
    rollout.begin(accelerator(), None)
    for eta in (0.3, 0.6):
        rollout.record_drawn(one, one, one, 0.5, sigmas, 1, eta)
        assert rollout.steps is not None
        assert float(rollout.steps.std[0]) == pytest.approx(eta * float(rollout.steps.dt[0]) ** 0.5)


def test_native_std_is_left_alone():
    """Bit for bit: also where auto asked the schedule and took upstream's."""
    for mode in ("observe", "match", "full", "full,variance=native"):
        rollout, std = Rollout(parse(mode), Tape()), torch.full((1, 1), 0.123456789, dtype=torch.float64)
        assert rollout.std(std, ddim(10), torch.tensor(901), 1.0) is std


# ------------------------------------------------------------ hooks out of order


def test_what_was_not_done_is_said():
    tape, one = Tape(), torch.ones(2)
    objective = Objective(parse("match"), tape)
    with pytest.raises(HookError, match="neither at the start nor with the loss"):
        objective.loss(one.mean(), one, one, one, None, 1)
    with pytest.raises(HookError, match="no begin_step hook named"):
        objective.loss(one.mean(), one, one, one, XI, 1)
    with pytest.raises(HookError, match="lost their place on the tape"):
        objective.begin_step({}, 0, one)
    tape.record(one[:, None], one[:, None], one, one)
    sample = {"pcpo_index": tape.close_rollout()}
    objective.begin_step(sample, 0, one)
    with pytest.raises(HookError, match="patched step function was not run"):
        objective.loss(one.mean(), one, one, one, XI, 1)
    assert objective.match_step(one[:, None], None) is None  # a rollout
    assert objective.match_step(one[:, None], one) is not None
    with pytest.raises(HookError, match="no begin_step hook named"):
        objective.match_step(one[:, None], one)  # once for each
    objective.loss(one.mean(), one, one, one, XI, 1)
    objective.begin_step(sample, 0, one)
    with pytest.raises(HookError, match="patched step function was not run"):
        objective.loss(one.mean(), one, one, one, XI, 1)


def test_a_run_without_its_start_is_said():
    with (
        pytest.raises(HookError, match="the start hook did not begin"),
        hooks.using(Session(parse("observe"))),
    ):
        hooks.begin_epoch(0)


def test_a_step_that_is_begun_anew_forgets_the_losses_before():
    """A step function that failed between two losses, say."""
    objective = Objective(parse("observe"), Tape(), XI, (1.0, 1.0))
    one = torch.ones(2)
    for _ in range(2):
        objective.begin_step({}, 0, one)
        assert objective.loss(one.mean(), one, one, one, None, 1)[1] is None
    trained = objective.loss(one.mean(), one, one, one, None, 1)[1]
    assert trained is not None and len(trained.advantages) == 2


def test_nothing_that_is_recorded_holds_a_graph():
    objective = Objective(parse("log"), Tape(), XI, (1.0, 1.0))
    one = torch.ones(2)
    objective.begin_step({}, 0, one)
    objective.loss(one.mean(), one.clone().requires_grad_(), one, one, None, 1)
    assert not objective._losses[0][0].requires_grad
    trained = objective.loss(one.mean(), one.clone().requires_grad_(), one, one, None, 1)[1]
    assert trained is not None
    assert not trained.loss.requires_grad and not trained.log_rho.requires_grad


def test_alone_on_plain_ranks(start, tmp_path):
    start("dancegrpo_flux", "observe", TorchRanks("cpu"))
    hooks.begin_epoch(0)
    toy_step(None)
    hooks.log_step()
    assert records(tmp_path, "step")[0]["samples"] == 2


def test_prompts_are_drawn_without_repetition_where_it_was_asked_for(start, monkeypatch):
    dataset, dataloader = SimpleNamespace(prompts=list("abcd")), object()
    sample = {
        "num_image_per_prompt": 2,
        "num_batches_per_epoch": 2,
        "train_batch_size": 4,
        "num_steps": STEPS,
    }
    for mode, is_ours in (("observe", False), ("observe,unique_prompts=true", True)):
        session = start("flow_grpo", mode, sample={**sample, "guidance_scale": 4.5})
        drawn = hooks.prompts(dataloader, dataset)
        assert isinstance(drawn, UniquePrompts) == is_ours == (drawn is not dataloader)
        monkeypatch.setenv("PCPO_RUN_DIR", str(session.recorder.folder.path) + "-next")

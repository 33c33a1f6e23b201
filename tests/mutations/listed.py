"""The faults: by file of the package, what is replaced (found there exactly once), what by, and what is then wrong.

Adding one is a line here; ``tests/test_mutations.py`` holds that each still applies. One that cannot be told from the
code as it is belongs to :data:`EQUIVALENT`, with the reason.
"""

from __future__ import annotations

from typing import NamedTuple

#: (replaced, by, what is then wrong)
Fault = tuple[str, str, str]

#: Tests that start processes of their own: slow, so run only for the files named below.
PROCESSES = (
    "test_ranks.py::test_two_processes",
    "test_ranks.py::test_gradients_under_fsdp",
    "test_ranks.py::test_ranks_tell_each_other_their_modes",
    "test_run_folder.py::test_how_a_run_ended",
)
_RANKS = (
    "test_ranks.py::test_samples_drawn_one_by_one_keep_their_places",
    "test_ranks.py::test_native_weights_of_dancegrpo",
    "test_ranks.py::test_gradients_in_shards_add_up",
    "test_ranks.py::test_a_parameter_in_no_module_is_a_layer_of_its_own",
    "test_ranks.py::test_options_that_change_nothing_on_flux",
    "test_ranks.py::test_alone",
)
#: The tests that concern a file, first to fail first; those of every file are run for what they leave alive.
TESTS: dict[str, tuple[str, ...]] = {
    "config.py": ("test_config.py", "test_flow.py", "test_ddim.py", _RANKS[4]),
    "flow_grpo.py": ("test_prompts.py",),
    "losses.py": ("test_metrics.py", "test_losses.py"),
    "objective.py": ("test_training.py", "test_hooks.py"),
    "ranks.py": (_RANKS[5], *PROCESSES[:3]),
    "record/alarms.py": ("test_alarms.py",),
    "record/gradients.py": ("test_metrics.py", *_RANKS[2:4], PROCESSES[1]),
    "record/metrics.py": ("test_metrics.py", "test_training.py"),
    "record/recorder.py": ("test_training.py", "test_trackers.py", "test_alarms.py"),
    "record/rewards.py": ("test_trackers.py",),
    "record/run_folder.py": ("test_run_folder.py", PROCESSES[3]),
    "record/tracker.py": ("test_trackers.py",),
    "rollout.py": ("test_training.py", "test_hooks.py", _RANKS[0], "test_trackers.py"),
    "schedules.py": ("test_schedules.py",),
    "session.py": ("test_training.py", "test_hooks.py"),
    "steps.py": (
        "test_flow.py",
        "test_ddim.py",
        "test_weights.py",
        _RANKS[1],
        "test_hooks.py",
        "test_training.py",
    ),
    "tape.py": ("test_tape.py", "test_training.py"),
    "trainers.py": ("test_trainers.py", "test_training.py", "test_ddim.py", "test_config.py"),
    "variance.py": ("test_weights.py", "test_ddim.py"),
    "weights.py": ("test_weights.py", "test_losses.py", "test_ddim.py"),
}

#: Where nothing may survive: the formulas, and what a step is sampled with and trained on.
NO_SURVIVOR = (
    "losses.py",
    "objective.py",
    "rollout.py",
    "schedules.py",
    "steps.py",
    "tape.py",
    "variance.py",
    "weights.py",
)


class Mutation(NamedTuple):
    """A fault in a file of the package."""

    file: str
    old: str
    new: str
    why: str

    def applied(self, source: str) -> str:
        """The file's source with the fault in it."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {source.count(self.old)} times, not once")
        return source.replace(self.old, self.new)


FAULTS: dict[str, tuple[Fault, ...]] = {
    "losses.py": (
        ("return x.float() if x.dtype in _HALF else x", "return x", "half precision stays half precision"),
        ("_HALF = (torch.float16, torch.bfloat16)", "_HALF = (torch.float16,)", "bfloat16 is not upcast"),
        (
            'return (x.cpu() if x.device.type == "mps" else x).double()',
            'return x.cpu() if x.device.type == "mps" else x',
            "sums are not in float64",
        ),
        (
            "per_sample.ndim != 1 or per_sample.shape[0] != like.shape[0]",
            "per_sample.ndim != 1",
            "batches of other sizes are not refused",
        ),
        (
            "scale = torch.where(w == 0, torch.zeros_like(w), w_policy / w)",
            "scale = w_policy / w",
            "a step without noise gives NaN",
        ),
        ("torch.zeros_like(w), w_policy / w)", "torch.zeros_like(w), w / w_policy)", "the scale upside down"),
        (
            "torch.zeros_like(w), w_policy / w)",
            "torch.zeros_like(w), torch.ones_like(w))",
            "the credit passes for the ratio",
        ),
        ("kl = 0.5 * scale**2 * square", "kl = scale**2 * square", "KL twice too large"),
        (
            "kl = 0.5 * scale**2 * square",
            "kl = 0.5 * scale * square",
            "KL under the weight and not its square",
        ),
        (
            "-(scale * linear + kl), kl)",
            "-(scale * linear - kl), kl)",
            "the quadratic term with the other sign",
        ),
        ("-(scale * linear + kl), kl)", "-(scale * linear), kl)", "the quadratic term of the ratio dropped"),
        ("-(scale * linear + kl), kl)", "(scale * linear + kl), kl)", "the ratio upside down"),
        (
            "-(scale * linear + kl), kl)",
            "-(linear + kl), kl)",
            "the ratio's linear term under the objective's weight",
        ),
        (
            "return (0.5 / pred[0].numel()) * (w_policy * norm) ** 2",
            "return (1 / pred[0].numel()) * (w_policy * norm) ** 2",
            "KL of observe and log twice too large",
        ),
        (
            "return (0.5 / pred[0].numel()) * (w_policy * norm) ** 2",
            "return (0.5 / pred[0].numel()) * w_policy * norm**2",
            "KL under the weight, not its square",
        ),
        (
            "if not pred.shape == pred_old.shape == z.shape:",
            "if False:",
            "shapes that do not agree are broadcast",
        ),
        (
            "    if pred.dtype in _HALF:\n",
            "    if False:\n",
            "the difference is rounded before the upcast",
        ),
        (
            "    return torch.sub(pred, pred_old)",
            "    return torch.sub(pred_old, pred)",
            "old less new",
        ),
        (
            "wd = d.to(torch.promote_types(d.dtype, w.dtype)).mul_(w)",
            "wd = d.to(torch.promote_types(d.dtype, w.dtype))",
            "no weight",
        ),
        (
            "wd = d.to(torch.promote_types(d.dtype, w.dtype)).mul_(w)",
            "wd = d.mul_(w.to(d.dtype))",
            "float64 weights rounded to float32",
        ),
        ("product = torch.mul(z, wd)", "product = torch.mul(z, d)", "the linear term without weight"),
        ("linear = product.flatten(1).mean(dim=1)", "linear = product.flatten(1).sum(dim=1)", "sum for mean"),
        (
            "torch.mul(wd, wd, out=product).flatten(1).mean(dim=1)",
            "torch.mul(wd, z, out=product).flatten(1).mean(dim=1)",
            "the linear moment in the square's place",
        ),
        (
            "return -(linear + 0.5 * square), linear, square",
            "return -(linear + square), linear, square",
            "the quadratic term without its half",
        ),
        (
            "return -(linear + 0.5 * square), linear, square",
            "return -(linear - 0.5 * square), linear, square",
            "the quadratic term with the other sign",
        ),
        (
            "return -(linear + 0.5 * square), linear, square",
            "return -linear, linear, square",
            "no quadratic term",
        ),
        (
            "return -(linear + 0.5 * square), linear, square",
            "return linear + 0.5 * square, linear, square",
            "the sign of the credit",
        ),
        (
            "return -(linear + 0.5 * square), linear, square",
            "return -(linear + 0.5 * square), square, linear",
            "moments swapped",
        ),
        (
            "each = expand_to(grad, wd) * w * (-wd.shape[0] / wd.numel())",
            "each = expand_to(grad, wd) * w * (wd.shape[0] / wd.numel())",
            "gradient ascent for descent",
        ),
        (
            "each = expand_to(grad, wd) * w * (-wd.shape[0] / wd.numel())",
            "each = expand_to(grad, wd) * w * (-1 / wd.numel())",
            "gradient over the batch's values",
        ),
        (
            "each = expand_to(grad, wd) * w * (-wd.shape[0] / wd.numel())",
            "each = expand_to(grad, wd) * (-wd.shape[0] / wd.numel())",
            "gradient without weight",
        ),
        (
            "return torch.add(z, wd).mul_(each)",
            "return torch.sub(z, wd).mul_(each)",
            "gradient of the quadratic term with the other sign",
        ),
        (
            "return torch.add(z, wd).mul_(each)",
            "return z.mul(each)",
            "gradient of the quadratic term dropped",
        ),
        (
            "-advantage * torch.clamp(rho, 1 - clip_range, 1 + clip_range))",
            "-advantage * torch.clamp(rho, 1 - clip_range))",
            "clipped on one side",
        ),
        (
            "return torch.maximum(-advantage * rho",
            "return torch.minimum(-advantage * rho",
            "the optimistic bound",
        ),
        ("advantage * torch.expm1(log_rho)", "advantage * torch.exp(log_rho)", "rho for rho - 1"),
        (
            "return torch.relu(clip_range * advantage.abs() - advantage * log_rho)",
            "return clip_range * advantage.abs() - advantage * log_rho",
            "no hinge",
        ),
        (
            "return torch.relu(clip_range * advantage.abs() - advantage * log_rho)",
            "return torch.relu(clip_range * advantage - advantage * log_rho)",
            "a margin without absolute value",
        ),
        (
            "return torch.relu(clip_range * advantage.abs() - advantage * log_rho)",
            "return torch.relu(clip_range * advantage.abs() + advantage * log_rho)",
            "the policy is pushed away",
        ),
        (
            "return torch.relu(clip_range * advantage.abs() - advantage * log_rho)",
            "return torch.relu(clip_range - advantage * log_rho)",
            "one margin for all",
        ),
        (
            "hinge = clip_range * advantages.abs() - advantages * credit",
            "hinge = clip_range * advantages.abs() - advantages * log_rho",
            "masked by the policy's ratio",
        ),
        (
            "outside=(torch.exp(clipped) - 1).abs() > clip_range",
            "outside=(torch.exp(clipped) - 1) > clip_range",
            "outside on one side",
        ),
        (
            "outside=(torch.exp(clipped) - 1).abs() > clip_range",
            "outside=clipped.abs() > clip_range",
            "outside by the logarithm",
        ),
        ("masked=(hinge < 0).all(0)", "masked=(hinge < 0).any(0)", "masked where one loss masks"),
        ("masked=(hinge < 0).all(0)", "masked=(hinge > 0).all(0)", "the kept ones are counted"),
        ("approx_kl=0.5 * log_rho**2", "approx_kl=log_rho**2", "upstream's estimate doubled"),
        (
            "error = torch.where(change == 0, torch.zeros_like(change), (log_rho - change).abs() / change.abs())",
            "error = (log_rho - change).abs() / change.abs()",
            "NaN where nothing changed",
        ),
    ),
    "weights.py": (
        ("return torch.ones_like(abar_t)", "return torch.zeros_like(abar_t)", "no credit for noise"),
        (
            "        return torch.sqrt(abar_t)\n",
            "        return torch.ones_like(abar_t)\n",
            "the scale of v-prediction replaced by 1",
        ),
        ("        return torch.sqrt(abar_t)\n", "        return abar_t\n", "its root lost"),
        (
            "return -torch.sqrt(abar_t / (1 - abar_t))",
            "return torch.sqrt(abar_t / (1 - abar_t))",
            "sign of x0-prediction",
        ),
        (
            "return -torch.sqrt(abar_t / (1 - abar_t))",
            "return -torch.ones_like(abar_t)",
            "the scale of x0-prediction replaced by 1",
        ),
        (
            "direction = torch.sqrt((1 - abar_prev - sigma**2).clamp(min=0))",
            "direction = torch.sqrt((1 - abar_prev).clamp(min=0))",
            "the direction keeps the noise",
        ),
        (
            "direction = torch.sqrt((1 - abar_prev - sigma**2).clamp(min=0))",
            "direction = torch.sqrt(1 - abar_prev - sigma**2)",
            "NaN where rounding makes it negative",
        ),
        (
            "c = ddim_noise_coefficient(abar_t, abar_prev) - direction",
            "c = ddim_noise_coefficient(abar_t, abar_prev) + direction",
            "sign of the direction",
        ),
        (
            "c = ddim_noise_coefficient(abar_t, abar_prev) - direction",
            "c = ddim_noise_coefficient(abar_t, abar_prev)",
            "no direction",
        ),
        (
            "c = torch.sqrt(abar_prev * (1 - abar_t)) - direction * torch.sqrt(abar_t)",
            "c = torch.sqrt(abar_prev * (1 - abar_t)) + direction * torch.sqrt(abar_t)",
            "v-prediction: sign",
        ),
        (
            "c = torch.sqrt(abar_prev * (1 - abar_t)) - direction * torch.sqrt(abar_t)",
            "c = torch.sqrt(abar_prev * (1 - abar_t)) - direction",
            "v-prediction: a factor dropped",
        ),
        (
            "c = direction * torch.sqrt(abar_t / (1 - abar_t)) - torch.sqrt(abar_prev)",
            "c = torch.sqrt(abar_prev) - direction * torch.sqrt(abar_t / (1 - abar_t))",
            "x0-prediction: sign",
        ),
        (
            "return torch.where(sigma > 0, c / sigma, torch.zeros_like(sigma))",
            "return c / sigma",
            "a step without noise is infinite or NaN",
        ),
        (
            "return torch.where(sigma > 0, c / sigma, torch.zeros_like(sigma))",
            "return torch.where(sigma > 0, c * sigma, torch.zeros_like(sigma))",
            "times sigma",
        ),
        (
            "return torch.sqrt(dt) / scale * (1 + (1 - t) * scale**2 / (2 * t))",
            "return torch.sqrt(dt) / scale",
            "the SDE's correction dropped",
        ),
        (
            "return torch.sqrt(dt) / scale * (1 + (1 - t) * scale**2 / (2 * t))",
            "return torch.sqrt(dt) / scale * (1 - (1 - t) * scale**2 / (2 * t))",
            "its sign",
        ),
        (
            "return torch.sqrt(dt) / scale * (1 + (1 - t) * scale**2 / (2 * t))",
            "return dt / scale * (1 + (1 - t) * scale**2 / (2 * t))",
            "dt for its root",
        ),
        (
            "return torch.sqrt(dt) / scale * (1 + (1 - t) * scale**2 / (2 * t))",
            "return torch.sqrt(dt) / scale * (1 + (1 - t) * scale / (2 * t))",
            "the scale not squared",
        ),
        (
            "zeta = float(native.sum() / dt.sum())",
            "zeta = float(native.mean())",
            "the mean of the native ones for zeta",
        ),
        (
            "zeta = float(native.sum() / dt.sum())",
            "zeta = float((native / dt).mean())",
            "the mean of quotients",
        ),
        ("return zeta * dt, zeta", "return native, zeta", "proportional weights replaced by native ones"),
        ("mean = native[over].mean()", "mean = native[over].sum()", "sum for mean"),
        (
            "return mean / shaped[over].mean() * shaped",
            "return mean / shaped[over].median() * shaped",
            "median for mean",
        ),
        (
            "return t * (1 - t_next) - (1 - t) * torch.sqrt(t_next**2 - std**2)",
            "return t * (1 - t_next) + (1 - t) * torch.sqrt(t_next**2 - std**2)",
            "sign in the coefficient of CPS",
        ),
        (
            "torch.sqrt(t_next**2 - std**2)",
            "torch.sqrt(t_next**2 + 0 * std**2)",
            "CPS without its noise in the mean",
        ),
        ("shaped = (native / mean) ** power", "shaped = (native / mean) ** -power", "sign of the power"),
    ),
    "variance.py": (
        (
            "return sigmas[-1] + (largest - sigmas[-1]) * sigmas[:-1]",
            "return sigmas[-1] + (largest - sigmas[-1]) * sigmas[1:]",
            "Wan's noise scale of the next step",
        ),
        (
            "return sigmas[-1] + (largest - sigmas[-1]) * sigmas[:-1]",
            "return largest * sigmas[:-1]",
            "a schedule that does not end in 0 taken for one that does",
        ),
        ("PAPER_W_STAR = 4.5", "PAPER_W_STAR = 4.4", "another target weight than the paper's"),
        ("NOISE_KEPT = 0.9", "NOISE_KEPT = 0.8", "auto takes the paper's variance at 25 steps"),
        (
            "return torch.sqrt((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev))",
            "return torch.sqrt((1 - abar_t) / (1 - abar_prev) * (1 - abar_t / abar_prev))",
            "a quotient upside down",
        ),
        (
            "return torch.sqrt((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev))",
            "return (1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev)",
            "the variance for the std",
        ),
        (
            "return torch.sqrt((1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev))",
            "return torch.sqrt(1 - abar_t / abar_prev)",
            "DDPM's larger variance",
        ),
        (
            "return torch.sqrt(abar_prev * (1 - abar_t) / abar_t)",
            "return torch.sqrt(abar_t * (1 - abar_t) / abar_prev)",
            "alphas swapped",
        ),
        (
            "return torch.sqrt(abar_prev * (1 - abar_t) / abar_t)",
            "return torch.sqrt((1 - abar_t) / abar_t)",
            "a factor dropped",
        ),
        (
            "(a**2 / (1 - abar_prev) - 1).clamp(min=0)).max())",
            "(a**2 / (1 - abar_prev) - 1).clamp(min=0)).min())",
            "a real root at one step only",
        ),
        (
            "(a**2 / (1 - abar_prev) - 1).clamp(min=0)).max())",
            "(a**2 / (1 - abar_prev) - 1)).max())",
            "NaN where rounding makes it negative",
        ),
        ("return max(PAPER_W_STAR, smallest)", "return PAPER_W_STAR", "no real root at few steps"),
        ("return max(PAPER_W_STAR, smallest)", "return smallest", "the smallest one for the paper's"),
        ("if w_star < smallest:", "if False:", "a target without a real root is taken"),
        (
            "named = -(-smallest * 1e6 // 1) / 1e6",
            "named = (smallest * 1e6 // 1) / 1e6",
            "the value named is refused",
        ),
        ("norm = math.hypot(1, w_star)", "norm = w_star", "1 + w_star**2 without the 1"),
        (
            "discriminant = (1 - abar_prev) - (a / norm) ** 2",
            "discriminant = (1 - abar_prev) + (a / norm) ** 2",
            "sign in the root",
        ),
        (
            "+ torch.sqrt(discriminant.clamp(min=0))) / norm",
            "- torch.sqrt(discriminant.clamp(min=0))) / norm",
            "the smaller root",
        ),
        (
            "+ torch.sqrt(discriminant.clamp(min=0))) / norm",
            "+ torch.sqrt(discriminant)) / norm",
            "NaN where rounding makes it negative",
        ),
        ("return (a * (w_star / norm)", "return (a / norm", "w_star dropped"),
        ("    t = sigmas[:-1]\n", "    t = sigmas[1:]\n", "a step's end for its start"),
        (
            "return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, sigmas[1], t)))",
            "return noise_level * torch.sqrt(t / (1 - t))",
            "infinite at t = 1",
        ),
        (
            "return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, sigmas[1], t)))",
            "return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, sigmas[2], t)))",
            "the third sigma at t = 1",
        ),
        (
            "return noise_level * torch.sqrt(t / (1 - torch.where(t == 1, sigmas[1], t)))",
            "u = torch.where(t == 1, sigmas[1], t)\n    return noise_level * torch.sqrt(u / (1 - u))",
            "the second sigma in the numerator too",
        ),
        ("return noise_level * torch.sqrt", "return torch.sqrt", "no noise level"),
        (
            "return sigmas[1:] * math.sin(noise_level * math.pi / 2)",
            "return sigmas[:-1] * math.sin(noise_level * math.pi / 2)",
            "a step's start for its end in CPS",
        ),
        ("math.sin(noise_level * math.pi / 2)", "math.sin(noise_level * math.pi)", "twice the angle of CPS"),
    ),
    "schedules.py": (
        (
            "grid = torch.linspace(1 - 1 / train_timesteps, 0, steps + 1, dtype=torch.float64)",
            "grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)",
            "Wan's schedule beginning at 1",
        ),
        ("beta_start**0.5, beta_end**0.5", "beta_start, beta_end", "betas that are not scaled linear"),
        ("dtype=torch.float64) ** 2", "dtype=torch.float64)", "the betas' roots"),
        ("torch.cumprod(1 - betas, dim=0)", "torch.cumprod(betas, dim=0)", "betas for alphas"),
        (
            "if not 1 <= steps <= train_timesteps:",
            "if not 0 <= steps <= train_timesteps:",
            "no steps at all pass",
        ),
        (
            "torch.arange(steps - 1, -1, -1) * stride",
            "torch.arange(steps, 0, -1) * stride",
            "one stride too late",
        ),
        ("torch.arange(steps - 1, -1, -1) * stride", "torch.arange(steps) * stride", "the least noise first"),
        (" + offset).clamp(max=train_timesteps - 1)", ").clamp(max=train_timesteps - 1)", "no offset"),
        (" + offset).clamp(max=train_timesteps - 1)", " + offset)", "beyond the trained range"),
        (".clamp(0, train_timesteps - 1)", ".clamp(-1, train_timesteps - 1)", "before the first timestep"),
        (
            "(timestep - train_timesteps // steps)",
            "(timestep + train_timesteps // steps)",
            "the next-higher timestep",
        ),
        ("(timestep - train_timesteps // steps)", "(timestep - 1)", "the neighbouring timestep"),
        ("if not shift > 0:", "if shift == 0:", "negative shifts pass"),
        (
            "return shift * sigma / ((1 - sigma) + shift * sigma)",
            "return sigma / ((1 - sigma) * shift + sigma) * 1.000001",
            "off by a millionth",
        ),
        (
            "return shift * sigma / ((1 - sigma) + shift * sigma)",
            "return shift * sigma / (1 + shift * sigma)",
            "a term dropped",
        ),
        (
            "return shift * sigma / ((1 - sigma) + shift * sigma)",
            "return sigma / ((1 - sigma) * shift + sigma * shift)",
            "no shift",
        ),
        (
            "torch.linspace(1, 0, steps + 1, dtype=torch.float64)",
            "torch.linspace(1, 0, steps, dtype=torch.float64)",
            "one step too few",
        ),
        (
            "return shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)",
            "return torch.linspace(1, 0, steps + 1, dtype=torch.float64)",
            "no shift",
        ),
        (
            "sigma_min = shift_sigmas(torch.tensor(1 / train_timesteps, dtype=torch.float64), shift)",
            "sigma_min = torch.tensor(1 / train_timesteps, dtype=torch.float64)",
            "the shift acts once at the end",
        ),
        (
            "torch.cat([shift_sigmas(grid, shift), torch.zeros(1, dtype=torch.float64)])",
            "torch.cat([grid, torch.zeros(1, dtype=torch.float64)])",
            "the shift does not act on the grid",
        ),
        ("if not 1 <= steps <= 1000:", "if not 1 <= steps:", "more steps than timesteps"),
    ),
    "steps.py": (
        (
            'for name in ("std_native", "std", "weight_native", "weight_policy", "weight"):',
            "for name in ():",
            "nothing finite is asked for",
        ),
        (
            "at = self.timestep[~finite][0].item()",
            "at = self.timestep[finite][0].item()",
            "the wrong timestep is named",
        ),
        (
            "if not bool((self.std > 0).logical_or(self.std_native == 0).all()):",
            "if False:",
            "a std of 0 passes",
        ),
        (
            "return float(self.std.norm() / self.std_native.norm())",
            "return float(self.std_native.norm() / self.std.norm())",
            "the share upside down",
        ),
        ("if not 0 < eta <= 1:", "if not 0 <= eta <= 1:", "a deterministic sampler passes"),
        ("if not 0 < eta <= 1:", "if not 0 < eta:", "eta above 1 passes"),
        (
            "abar[ddim_previous(timestep, steps, abar.numel())]",
            "abar[ddim_previous(timestep, steps + 1, abar.numel())]",
            "another previous timestep",
        ),
        (
            "abar[ddim_previous(timestep, steps, abar.numel())]",
            "abar[timestep.roll(-1)]",
            "the rollout's next timestep, which the last has none of",
        ),
        (
            "std_native = eta * ddim_sigma(abar_t, abar_prev)",
            "std_native = ddim_sigma(abar_t, abar_prev)",
            "native std without eta",
        ),
        (
            "eta * paper_sigma(abar_t, abar_prev, target)",
            "paper_sigma(abar_t, abar_prev, target)",
            "the paper's std without eta",
        ),
        (
            "resolve_w_star(abar_t, abar_prev, config.w_star)",
            "resolve_w_star(abar_t, abar_prev)",
            "the user's w_star is not used",
        ),
        (
            "            std_native > 0,\n",
            "            std_native >= 0,\n",
            "noise where upstream draws none",
        ),
        (
            "share = float(reshaped.norm() / std_native.norm())",
            "share = float(std_native.norm() / reshaped.norm())",
            "the share upside down",
        ),
        (
            'if config.variance == "auto":',
            'if config.variance != "auto":',
            "why is told where it was not asked",
        ),
        (
            'if config.variance == "paper" or share >= NOISE_KEPT:',
            "if share >= NOISE_KEPT:",
            "variance=paper is not obeyed",
        ),
        (
            'if config.variance == "paper" or share >= NOISE_KEPT:',
            "if True:",
            "auto always takes the paper's",
        ),
        (
            'if config.variance == "paper" or share >= NOISE_KEPT:',
            'if config.variance == "paper" or share < NOISE_KEPT:',
            "auto takes it where it hurts",
        ),
        (
            'variance, w_star, std = "paper", target, reshaped',
            'variance, w_star, std = "paper", target, std_native',
            "paper is told, native is sampled",
        ),
        (
            "on_noise = ddim_weight(abar_t, abar_prev, std_native)",
            "on_noise = ddim_weight(abar_t, abar_prev, std)",
            "the mean under the sampled std",
        ),
        (
            "on_noise = ddim_weight(abar_t, abar_prev, std_native)",
            "on_noise = ddim_weight(abar_t, abar_prev, std_native, prediction_type)",
            "the mean on the network's output",
        ),
        ("over = std > 0\n", "over = std >= 0\n", "steps without noise in the mean"),
        (
            "over = _mean_over(trained, std_native, config)",
            "over = std_native > 0",
            "zeta=trained does nothing on DDIM",
        ),
        ("if not bool(over.any()):", "if False:", "a schedule without noise passes"),
        (
            "policy = ddim_weight(abar_t, abar_prev, std, prediction_type)",
            "policy = ddim_weight(abar_t, abar_prev, std_native, prediction_type)",
            "the policy's weights under upstream's std",
        ),
        (
            "policy = ddim_weight(abar_t, abar_prev, std, prediction_type)",
            "policy = ddim_weight(abar_t, abar_prev, std)",
            "the policy's weights of noise prediction",
        ),
        (
            '    if config.weights == "native":\n        weight = policy\n',
            "    if True:\n        weight = policy\n",
            "proportional weights replaced by native ones",
        ),
        (
            '    if config.weights == "native":\n        weight = policy\n',
            '    if config.weights != "proportional":\n        weight = policy\n',
            "uniform weights replaced by native ones",
        ),
        (
            "weight = weight * prediction_scale(abar_t, prediction_type)",
            "pass",
            "prediction_scale replaced by 1",
        ),
        (
            "weight = power_weights(on_noise, config.power or 0.0, over).masked_fill(std == 0, 0)",
            "weight = power_weights(on_noise, config.power or 0.0, over)",
            "credit for a step without noise",
        ),
        (
            "(abar.numel() // steps) / abar.numel()",
            "1 / steps",
            "an interval that does not round as the sampler does",
        ),
        (
            "weight_native=ddim_weight(abar_t, abar_prev, std_native, prediction_type)",
            "weight_native=ddim_weight(abar_t, abar_prev, std_native)",
            "native weights of noise prediction",
        ),
        (
            "weight_native=ddim_weight(abar_t, abar_prev, std_native, prediction_type)",
            "weight_native=policy",
            "native weights under the sampled std",
        ),
        (
            "    silent = timestep[abar_t == 0].tolist()\n",
            "    silent = timestep[abar_t < 0].tolist()\n",
            "zero terminal SNR is not seen",
        ),
        (
            '    if prediction_type == "epsilon":\n        raise',
            "    if False:\n        raise",
            "noise prediction without a signal passes",
        ),
        (
            '    if config.weights != "native":\n        raise',
            "    if False:\n        raise",
            "no mean is not refused",
        ),
        (
            "native = flow_weight(sigmas[:-1], dt, scale)",
            "native = flow_weight(sigmas[1:], dt, scale)",
            "a step's end for its start",
        ),
        (
            'raise PCPOError(f"the sampler\'s sigmas do not fall from step to step: {sigmas.tolist()}")',
            "pass",
            "a schedule that does not fall passes",
        ),
        (
            '    if config.weights == "native":\n        weight = native\n',
            "    if True:\n        weight = native\n",
            "proportional weights replaced by native ones",
        ),
        (
            "weight = power_weights(native, config.power or 0.0, over).masked_fill(std == 0, 0)",
            "weight = power_weights(native, config.power or 0.0, std > 0).masked_fill(std == 0, 0)",
            "uniform over the schedule under zeta=trained",
        ),
        (
            "_, zeta = proportional_weights(native[over], dt[over])",
            "_, zeta = proportional_weights(native, dt)",
            "zeta=trained does nothing",
        ),
        (
            "_, zeta = proportional_weights(native[over], dt[over])",
            "_, zeta = proportional_weights(native[over], dt)",
            "zeta over two ranges",
        ),
        (
            "weight = (zeta * dt).masked_fill(std == 0, 0)",
            "weight = (zeta + 0 * dt).masked_fill(std == 0, 0)",
            "zeta not times the interval",
        ),
        (
            "return _flow(sigmas, timestep, scale * torch.sqrt(dt), native, native, config, trained)",
            "return _flow(sigmas, timestep, scale * dt, native, native, config, trained)",
            "std not with the interval's root",
        ),
        (
            "mean_native=float(native[over].mean())",
            "mean_native=float(native.mean())",
            "another mean is told",
        ),
        (
            'if config.zeta == "trained":\n        index',
            "if False:\n        index",
            "zeta=trained does nothing",
        ),
        (
            "(index < max(trained.stop, 1))",
            "(index <= max(trained.stop, 1))",
            "one step too many in the mean",
        ),
        ("max(trained.stop, 1)", "trained.stop", "no step to take a mean of"),
        (
            "return range(steps if trained is None else min(trained, steps))",
            "return range(steps if trained is None else trained)",
            "more steps trained than there are",
        ),
        (
            "timestep = (sigmas[:-1].detach().cpu() * 1000).int()",
            "timestep = (sigmas[1:].detach().cpu() * 1000).int()",
            "filed under the step's end",
        ),
        (
            "scale = torch.full((sigmas.numel() - 1,), float(eta), dtype=torch.float64)",
            "scale = torch.full((sigmas.numel() - 1,), float(eta) ** 2, dtype=torch.float64)",
            "eta squared",
        ),
        ("if not (math.isfinite(value) and value > 0):", "if not math.isfinite(value):", "no noise passes"),
        ("if not (math.isfinite(value) and value > 0):", "if not value > 0:", "infinite noise passes"),
        (
            'for name in ("clip_sample", "thresholding"):',
            'for name in ("clip_sample",):',
            "thresholding passes",
        ),
        (
            "if config.matching and settings.get(name):",
            "if settings.get(name):",
            "log is refused where it needs no linear step",
        ),
        ('settings.get("prediction_type", "epsilon")', '"epsilon"', "noise prediction taken for granted"),
        (
            "columns = [steps.weight, steps.weight_policy, steps.std]",
            "columns = [steps.weight_native, steps.weight_policy, steps.std]",
            "native weights looked up",
        ),
        (
            "columns = [steps.weight, steps.weight_policy, steps.std]",
            "columns = [steps.weight, steps.weight, steps.std]",
            "the objective's weights for the policy's",
        ),
        (
            "columns = [steps.weight, steps.weight_policy, steps.std]",
            "columns = [steps.weight, steps.weight_policy, steps.std_native]",
            "native std looked up",
        ),
        (
            "torch.where(here.any(1), here.int().argmax(1), self._timestep.numel())",
            "here.int().argmax(1)",
            "a strange timestep gets the first step's values",
        ),
        (
            "return self._policy[self._named(step)].expand(batch)",
            "return self._weight[self._named(step)].expand(batch)",
            "the objective's weights for the policy's",
        ),
        (
            "return _flow(sigmas, timestep, std, 2 * c * std, policy, config, trained, clip_scale=2 * std**2)",
            "return _flow(sigmas, timestep, std, policy, policy, config, trained, clip_scale=2 * std**2)",
            "CPS in units that upstream does not have",
        ),
        ("clip_scale=2 * std**2)", "clip_scale=std**2)", "half of upstream's scale under CPS"),
        ('if sde_type == "cps":', "if False:", "CPS taken for the SDE"),
        ('    if sde_type == "linear":', "    if False:", "Wan's noise scale taken for SD3's"),
        ("if len(values) < 3:", "if False:", "a schedule of one step without noise"),
        (
            "torch.linspace(1, 0, values, device",
            "torch.linspace(1, 0, values + 1, device",
            "a step more than there is",
        ),
        ("    if noise_level > 1:\n", "    if False:\n", "a noise level that CPS does not have"),
        ("over = over & (index >= trained.start)", "over = over", "steps before the window in the mean"),
        (
            "return range(min(trained.start, steps), min(trained.stop, steps))",
            "return range(0, min(trained.stop, steps))",
            "steps before the window said to be trained",
        ),
    ),
    "tape.py": (
        (
            "if self._room is None and not self._pieces and self._last_rows >= end:",
            "if False:",
            "no room is made beforehand",
        ),
        (
            "self._room = self._empty(self._last_rows, rows)",
            "self._room = self._empty(end, rows)",
            "room for the first step only",
        ),
        (
            "if self._room is not None and end > self._room.shape[0]:",
            "if False:",
            "more steps than last epoch fail",
        ),
        (
            "if self._room is not None and end > self._room.shape[0]:",
            "if self._room is not None and end >= self._room.shape[0]:",
            "a room that is just large enough is left",
        ),
        (
            "self._pieces, self._starts, self._room = [self._room[: self.rows]], [0], None",
            "self._pieces, self._starts, self._room = [self._room], [0], None",
            "empty rows among the records",
        ),
        (
            "self._room[self.rows : end].copy_(rows, non_blocking=True)",
            "self._room[: rows.shape[0]].copy_(rows, non_blocking=True)",
            "each step over the first",
        ),
        ("        self.rows = end\n", "        self.rows = rows.shape[0]\n", "rows not counted up"),
        (
            "bisect.bisect(self._starts, i) - 1",
            "bisect.bisect_left(self._starts, i) - 1",
            "the first row of a piece from the one before",
        ),
        (
            "return self._pieces[piece][i - self._starts[piece]]",
            "return self._pieces[piece][0]",
            "the first row of every piece",
        ),
        ("self._pieces.reverse()", "pass", "the pieces joined backwards"),
        ("                    at += piece.shape[0]\n", "", "every piece over the first"),
        (
            "        self._pieces, self._starts, self._room = [], [], None\n",
            "",
            "nothing is forgotten",
        ),
        (
            "self._last_rows, self.rows = self.rows, 0",
            "self._last_rows, self.rows = 0, 0",
            "last epoch's size is lost",
        ),
        (
            "return sum(t.numel() * t.element_size() for t in held)",
            "return sum(t.numel() for t in held)",
            "values for bytes",
        ),
        (
            "        if self._weights.rows:\n            for column",
            "        if False:\n            for column",
            "the tape is never cleared",
        ),
        (
            "        if self._weights.rows:\n            for column",
            "        if True:\n            for column",
            "clearing twice forgets last epoch's size",
        ),
        (
            "for column in (self._pred, self._z, self._weights):",
            "for column in (self._pred, self._weights):",
            "the noise is kept",
        ),
        (
            "        self._open_from = self._open_steps = self.left_out = 0\n",
            "        self.left_out = 0\n",
            "the first row of the last epoch",
        ),
        ("self._pred.append(pred.detach())", "self._pred.append(pred)", "the graph is kept"),
        ("self._z.append(z.detach())", "self._z.append(pred.detach())", "the prediction for the noise"),
        (
            "weight, policy_weight, *clip_scale = self._weights.select(here).unbind(1)",
            "policy_weight, weight, *clip_scale = self._weights.select(here).unbind(1)",
            "weights swapped",
        ),
        ("        self._open_steps += 1\n", "        self._open_steps = 1\n", "steps not counted"),
        (
            "        if not self._open_steps:\n            raise",
            "        if False:\n            raise",
            "an unpatched sampler passes",
        ),
        (
            "torch.arange(self._open_from, self._weights.rows",
            "torch.arange(0, self._weights.rows - self._open_from",
            "every rollout reads the first",
        ),
        (
            "rows.reshape(self._open_steps, -1).T",
            "rows.reshape(-1, self._open_steps)",
            "samples and steps exchanged",
        ),
        (
            "self._open_from, self._open_steps = self._weights.rows, 0",
            "self._open_from, self._open_steps = 0, 0",
            "the next rollout begins at the first row",
        ),
        (
            "self._open_from, self._open_steps = self._weights.rows, 0",
            "self._open_from = self._weights.rows",
            "a rollout is never closed",
        ),
        ("        here = index[:, column]\n", "        here = index[:, 0]\n", "always the first step"),
        (
            "there = self._on_host(index)[:, column] if self.on_cpu else here",
            "there = self._on_host(index)[:, 0] if self.on_cpu else here",
            "tape=cpu: always the first step",
        ),
        (
            "pred_old=self._select(self._pred, there, index.device)",
            "pred_old=self._select(self._z, there, index.device)",
            "the noise for the prediction",
        ),
        ("z=self._select(self._z, there, index.device) if self._z.rows else None", "z=None", "no noise"),
        (
            "            weight=weight,\n",
            "            weight=policy_weight,\n",
            "the policy's weight in the objective",
        ),
        ("policy_weight=policy_weight,", "policy_weight=weight,", "the objective's weight for the policy"),
        (
            "if self._host_index is None or self._host_index[0] is not index:",
            "if self._host_index is None:",
            "tape=cpu: the first batch's index for all",
        ),
        (
            "return self._pred.nbytes + self._z.nbytes + self._weights.nbytes",
            "return self._pred.nbytes",
            "noise and weights not counted",
        ),
        ("clip_scale=clip_scale[0] if clip_scale else None,", "clip_scale=None,", "upstream's scale lost"),
    ),
    "rollout.py": (
        (
            'values = None if sde_type == "linear" else getattr(scheduler, "alphas_cumprod", None)',
            'values = getattr(scheduler, "alphas_cumprod", None)',
            "a table that outlives another schedule of Wan's",
        ),
        (
            '        """The sampler is about to draw what will be trained on."""\n        self.is_open = True\n',
            '        """The sampler is about to draw what will be trained on."""\n',
            "nothing is recorded",
        ),
        (
            "        if self._tape.open_steps:  # the trainer samples in batches and collects them at the end\n",
            "        if False:\n",
            "batches collected late run together",
        ),
        ('if self._config.precision == "match":', "if False:", "precision=match does nothing"),
        (
            "            if self._restore_sampler is None:\n",
            "            if True:\n",
            "the sampler wrapped once more with every batch",
        ),
        (
            "elif self._config.matching and not self.samples_as_trained:",
            "elif False:",
            "rounding is not told of",
        ),
        (
            "        self.is_open = False\n        if self._restore_sampler",
            "        if self._restore_sampler",
            "an evaluation is recorded",
        ),
        (
            "            self._restore_sampler()\n",
            "            pass\n",
            "the sampler stays wrapped while it trains",
        ),
        (
            "            self._restore_sampler()\n            self._restore_sampler = None\n",
            "            self._restore_sampler()\n",
            "the second rollout is not wrapped",
        ),
        (
            "if self._config.matching or self._tape.open_steps:\n",
            "if self._tape.open_steps:\n",
            "an unpatched sampler passes",
        ),
        (
            "if self._config.matching or self._tape.open_steps:\n",
            "if self._config.matching:\n",
            "no KL in observe and log",
        ),
        (
            "torch.cat([*self._indices, self._tape.close_rollout()])",
            "torch.cat([self._tape.close_rollout(), *self._indices])",
            "samples exchanged",
        ),
        ("            self._indices.clear()\n", "", "last epoch's samples once more"),
        (
            'sample["log_probs"] = torch.zeros_like(sample["log_probs"], dtype=torch.float32)',
            "pass",
            "upstream's log probability taken off the log ratio",
        ),
        (
            'torch.zeros_like(sample["log_probs"], dtype=torch.float32)',
            'torch.zeros_like(sample["log_probs"])',
            "the reference in half precision",
        ),
        (
            "        if not self._config.reshapes_variance:\n            return std\n",
            "        return std\n",
            "the paper's variance is never sampled",
        ),
        (
            'return table.std(timestep, std) if table.steps.variance == "paper" else std',
            "return table.std(timestep, std)",
            "native std by way of float64",
        ),
        (
            "        if not self.is_open:\n            return\n        if self._windowed",
            "        if self._windowed",
            "evaluations on the tape",
        ),
        (
            '        if self._config.tape == "off":\n            if table',
            "        if False:\n            if table",
            "tape=off keeps a tape",
        ),
        (
            "if self._trained_steps is not None and self._tape.open_steps == len(self._trained_steps):",
            "if False:",
            "untrained steps on the tape",
        ),
        (
            'did not keep."""\n        if not self.is_open:\n            return\n',
            'did not keep."""\n',
            "drawn steps outside a rollout on the tape",
        ),
        ('if self._config.tape == "off" or untrained:', "if untrained:", "tape=off keeps a tape"),
        (
            'if self._config.tape == "off" or untrained:',
            'if self._config.tape == "off":',
            "untrained steps on the tape",
        ),
        (
            "        if index == 0 and self._tape.open_steps:  # the trainer samples one by one\n",
            "        if False:\n",
            "samples drawn one by one run together",
        ),
        (
            "z = (sample - mean) / std if self._config.matching else None",
            "z = (mean - sample) / std if self._config.matching else None",
            "sign of the noise",
        ),
        (
            "z = (sample - mean) / std if self._config.matching else None",
            "z = (sample - mean) if self._config.matching else None",
            "noise not divided by the std",
        ),
        (
            "            z if self._config.matching else None,\n",
            "            z,\n",
            "noise kept that nothing needs",
        ),
        (
            "            table.weight(step, batch),\n            table.policy_weight(step, batch),\n",
            "            table.policy_weight(step, batch),\n            table.weight(step, batch),\n",
            "weights swapped",
        ),
        (
            "if self._table is None or self._table[0] != key or self._table[1] is not values:",
            "if self._table is None or self._table[0] != key:",
            "an old schedule is used",
        ),
        (
            "if self._table is None or self._table[0] != key or self._table[1] is not values:",
            "if self._table is None or self._table[1] is not values:",
            "another eta gets the first one's weights",
        ),
        (
            "return _to_float32(forward(*args, **kwargs))",
            "return forward(*args, **kwargs)",
            "half-precision outputs in sampling",
        ),
        (
            "            with accelerator.autocast():\n                return _to_float32(forward(*args, **kwargs))\n",
            "            return _to_float32(forward(*args, **kwargs))\n",
            "no autocast",
        ),
        ("        network.forward = in_training_precision\n", "", "precision=match wraps nothing"),
        ("        if self._speaks:\n", "        if True:\n", "every rank speaks"),
        ("        self._speaks = False\n", "", "told at every rollout"),
        (
            '    if accelerator.mixed_precision == "no":\n',
            '    if accelerator.mixed_precision != "no":\n',
            "float32 runs are told of rounding",
        ),
        (
            '    if hasattr(network, "_original_forward"):',
            "    if False:",
            "a prepared network is told of rounding",
        ),
        (
            "    if isinstance(output, tuple):\n        return tuple(_to_float32(o) for o in output)\n",
            "    if isinstance(output, tuple):\n        return output\n",
            "tuples stay in half precision",
        ),
        (
            "if self._windowed and scale == 0:",
            "if False:",
            "steps outside the window end the run",
        ),
        (
            "            if table.steps.clip_scale is not None:\n",
            "            if False:\n",
            "tape=off under CPS records other ratios",
        ),
        (
            "self._wants_inputs = as_sampled and config.matching",
            "self._wants_inputs = as_sampled",
            "a baseline's network given other inputs",
        ),
        (
            "self._wants_inputs = as_sampled and config.matching",
            "self._wants_inputs = False",
            "ratios off 1 on FLUX in half precision",
        ),
    ),
    "objective.py": (
        (
            "self._timestep, self._match, self._kl, self._recorded = timestep, None, None, None\n",
            "self._timestep = timestep\n",
            "the last step's match is trained on",
        ),
        ("        self._losses.clear()\n", "", "the last step's loss is logged with this one's"),
        ("if self._config.matching and INDEX not in sample:", "if False:", "lost places pass"),
        (
            "self._recorded = self._tape.lookup(sample[INDEX], step)",
            "self._recorded = self._tape.lookup(sample[INDEX], 0)",
            "every step is matched with the first",
        ),
        (
            "if prev_sample is None or not torch.is_grad_enabled():",
            "if prev_sample is None:",
            "a reference pass is matched",
        ),
        (
            "if prev_sample is None or not torch.is_grad_enabled():",
            "if not torch.is_grad_enabled():",
            "a rollout with gradients is matched",
        ),
        (
            "recorded, self._recorded = self._recorded, None\n",
            "recorded = self._recorded\n",
            "a step matched twice passes",
        ),
        (
            "if recorded is not None:\n                self._kl",
            "if False:\n                self._kl",
            "no KL in observe and log",
        ),
        (
            "match = losses.match(pred, recorded.pred_old, recorded.z, weight, recorded.policy_weight)",
            "match = losses.match(pred, recorded.pred_old, recorded.z, recorded.policy_weight, weight)",
            "weights swapped",
        ),
        ("self._match, self._kl = match, match.kl", "self._match = match", "no KL in match and full"),
        (
            "return prev_sample, self._scaled(match.log_rho), *rest",
            "return prev_sample, match.credit, *rest",
            "upstream logs the credit",
        ),
        (
            "xi = self._clip_range if clip_range is None else clip_range",
            "xi = clip_range or self._clip_range or 0.0",
            "no clip range passes",
        ),
        ("if self._timestep is None:", "if False:", "a step nobody named passes"),
        (
            "if self._config.matching and self._match is None:",
            "if False:",
            "an unpatched step function passes",
        ),
        (
            "        if self._config.active:\n            on =",
            "        if True:\n            on =",
            "observe trains PCPO",
        ),
        (
            "on = exponent if self._match is None else self._match.credit",
            "on = exponent if self._match is None else self._match.credit.detach()",
            "the objective without a graph",
        ),
        ("exponent = log_prob - log_prob_old", "exponent = log_prob_old - log_prob", "sign of the log ratio"),
        (
            "on = exponent if self._match is None else self._match.credit",
            "on = exponent.expm1() if self._match is None else self._match.credit",
            "the hinge on rho - 1",
        ),
        (
            "loss = losses.log_hinge_loss(on, advantage, xi).mean()",
            "loss = losses.log_hinge_loss(on, advantage, xi).sum()",
            "sum for mean",
        ),
        (
            "loss = losses.log_hinge_loss(on, advantage, xi).mean()",
            "loss = losses.ppo_clip_loss(on, advantage, xi).mean()",
            "upstream's objective",
        ),
        (
            "loss = losses.log_hinge_loss(on, advantage, xi).mean()",
            "loss = losses.log_hinge_loss(on, advantage, 0.0).mean()",
            "no clip range",
        ),
        ("loss = loss if divisor == 1 else loss / divisor", "pass", "the loss divisor dropped"),
        ("loss = loss if divisor == 1 else loss / divisor", "loss = loss * divisor", "times the divisor"),
        ("            self.was_computed = True\n", "", "every run is called a baseline"),
        (
            "self._losses.append((loss.detach(), advantage))",
            "self._losses.append((loss, advantage))",
            "the graph is kept",
        ),
        ("if len(self._losses) < len(self._loss_weights):", "if False:", "a step counted once a loss"),
        (
            "zip(self._losses, self._loss_weights, strict=True) if weight\n",
            "zip(self._losses, self._loss_weights, strict=True)\n",
            "a loss of weight 0 masks",
        ),
        (
            "log_rho = self._match.log_rho\n",
            "log_rho = self._match.credit.detach()\n",
            "the credit recorded as the ratio",
        ),
        (
            "clipped = log_rho = exponent.detach()",
            "clipped = log_rho = -exponent.detach()",
            "sign of the recorded log ratio",
        ),
        ("            loss=self._sum(),\n", "            loss=loss.detach(),\n", "the last loss alone"),
        ("            divisor=divisor,\n", "", "the recorded loss is the divided one"),
        (
            "credit=None if self._match is None else self._match.credit.detach()",
            "credit=None",
            "the ratio recorded as the credit",
        ),
        ("            kl=self._kl,\n", "", "no KL recorded"),
        (
            "weighted = [w * loss for w, (loss, _)",
            "weighted = [loss for w, (loss, _)",
            "two losses without weights",
        ),
        (
            "return torch.stack(weighted).sum()",
            "return torch.stack(weighted).mean()",
            "the mean of two losses",
        ),
        (
            "if native and recorded.clip_scale is not None:",
            "if False:",
            "match under CPS in units of its own",
        ),
        (
            "return log_rho if self._clip_scale is None else log_rho * self._clip_scale",
            "return log_rho",
            "upstream logs another ratio than its own under CPS",
        ),
        (
            "log_rho = clipped / self._clip_scale",
            "log_rho = clipped",
            "the baseline's ratio on upstream's scale",
        ),
        ("clipped = ratio.detach().log()", "pass", "GRPO-Guard's clip counts of another ratio"),
        (
            "losses.kl_divergence(pred, recorded.pred_old, recorded.policy_weight)",
            "losses.kl_divergence(pred, recorded.pred_old, recorded.weight)",
            "on a scale of upstream's own the objective's weight for the policy's",
        ),
    ),
    "session.py": (
        (
            "    def loss(self, loss: Tensor, *_: Any) -> Tensor:\n        return loss\n",
            "    def loss(self, loss: Tensor, *_: Any) -> Tensor:\n        return loss * 1.0\n",
            "off touches the loss",
        ),
        ('self.tape = Tape(on_cpu=config.tape == "cpu")', "self.tape = Tape()", "tape=cpu does nothing"),
        (
            "self.config = config = self.config.on(trainer)",
            "config = self.config",
            "options that change nothing pass",
        ),
        (
            "clip_range = setting(settings, entry.clip_range) if entry.clip_range else None",
            "clip_range = None",
            "no clip range of the settings",
        ),
        (
            "trained_steps=entry.trained_steps(settings, int(ranks.num_processes))",
            "trained_steps=None",
            "untrained steps on the tape",
        ),
        ("if below != clip_range:", "if False:", "two clip ranges taken for one"),
        ("speaks=bool(ranks.is_main_process)", "speaks=True", "every rank speaks"),
        (
            "tuple(float(setting(settings, name)) for name in entry.loss_weights) or (1.0,)",
            "(1.0,)",
            "two losses counted as one",
        ),
        (
            "        if ranks.is_main_process:\n            clone",
            "        if True:\n            clone",
            "every rank opens a folder",
        ),
        ("resume=bool(entry.resume and setting(settings, entry.resume))", "resume=False", "no run resumes"),
        (
            "resume=bool(entry.resume and setting(settings, entry.resume))",
            "resume=True",
            "another run's folder is written into",
        ),
        ("            folder.end_with_process()\n", "", "a failed run stays running"),
        (
            "            entry.carries_over,\n",
            "",
            "samples of zeroed gradients recorded",
        ),
        (
            "            config.active,\n            folder,\n",
            "            True,\n            folder,\n",
            "the baseline masked by the log ratio",
        ),
        (
            "        if self.recorder is None:\n            raise HookError",
            "        if False:\n            raise HookError",
            "an unpatched start passes",
        ),
        (
            "        if not self.config.unique_prompts:\n            return dataloader\n",
            "        return dataloader\n",
            "unique_prompts does nothing",
        ),
        (
            '        """A new round of rollouts: the tape of the last one is dropped."""\n        self.tape.clear()\n',
            '        """A new round of rollouts: the tape of the last one is dropped."""\n',
            "the tape grows after an epoch without an end",
        ),
        (
            "if self.config.active and not self.objective.was_computed:",
            "if False:",
            "a baseline passes for PCPO",
        ),
        (
            "self._noted.end_epoch(epoch, self.tape.nbytes, ",
            "self._noted.end_epoch(epoch, 0, ",
            "the tape's size is not told",
        ),
        (
            "        self.tape.clear()  # before the trainer evaluates and saves\n",
            "",
            "the tape is held while the trainer saves",
        ),
        (
            "if steps is not None and self.recorder and not self._resolved:",
            "if False:",
            "run.json without its weights",
        ),
        ("            self._noted.add(trained)\n", "            pass\n", "nothing is recorded of a step"),
        (
            "if self.recorder is None and not self.rollout.is_open:",
            "if False:",
            "a script that is not covered is a silent baseline",
        ),
        (
            "if config.active and entry.remedy and setting(settings, entry.remedy):",
            "if False:",
            "two remedies at once",
        ),
        ('windowed=entry.trains == "window",', "windowed=False,", "a window's still steps end the run"),
    ),
    "flow_grpo.py": (
        ("    if total % images_per_prompt:\n", "    if False:\n", "broken groups pass"),
        ("reversed(list(enumerate(texts)))", "list(enumerate(texts))", "the last of equal texts is drawn"),
        ("if count > first.numel():", "if count >= first.numel():", "exactly enough prompts are refused"),
        (
            "manual_seed(seed * 1_000_003 + epoch)",
            "manual_seed(seed + epoch)",
            "epoch 1 of a seed is epoch 0 of the next",
        ),
        (
            "manual_seed(seed * 1_000_003 + epoch)",
            "manual_seed(seed * 1_000_003)",
            "every epoch the same prompts",
        ),
        (
            "return repeated[torch.randperm(total, generator=generator)].view",
            "return repeated.view",
            "groups lie together",
        ),
        ("batch[self._rank].tolist()", "batch[0].tolist()", "every rank draws the same"),
        ("            epoch += 1\n", "", "every epoch the same prompts"),
        (
            'hidden = kwargs["hidden_states"].contiguous()',
            'hidden = kwargs["hidden_states"]',
            "a view of the samples given to the network",
        ),
        ('"timestep": self._training}', '"timestep": kwargs["timestep"]}', "the timestep not as sampled"),
        (
            "self._sampled.index_copy_(0, row[:1], self._seen)",
            "self._sampled.index_copy_(0, row[:1] * 0, self._seen)",
            "every step with the timestep of one",
        ),
        (
            "self._training = None if row is None or self._sampled is None else self._sampled[row]",
            "self._training = self._sampled[row] if row is not None and self._sampled is not None else self._training",
            "evaluations with training's timestep",
        ),
    ),
    "config.py": (
        (
            'return self.mode in ("log", "match", "full")',
            'return self.mode in ("match", "full")',
            "log trains the baseline",
        ),
        ('return self.mode in ("match", "full")', 'return self.mode in ("full",)', "match does not match"),
        (
            'return self.mode != "off"',
            'return self.mode not in ("off", "observe")',
            "observe records nothing",
        ),
        ('return self.variance != "native"', 'return self.variance == "paper"', "auto never reshapes"),
        (
            "if self.unique_prompts and not entry.draws_prompts:",
            "if False:",
            "unique_prompts silently does nothing",
        ),
        (
            'if self.zeta == "trained" and entry.trains == "all":',
            "if False:",
            "zeta=trained silently does nothing",
        ),
        (
            '        if entry.sampler == "ddim":\n            return config\n',
            '        if entry.sampler != "ddim":\n            return config\n',
            "flow and DDIM exchanged",
        ),
        (
            'self.variance != "native" and "variance" in self.given',
            'self.variance != "native"',
            "plain full is refused on a flow",
        ),
        (
            'return replace(config, variance="native")',
            "return config",
            "a flow said to have the paper's variance",
        ),
        ("    mode = mode.lower()\n", "", "FULL is unknown"),
        ("    if mode not in MODES:\n", "    if False:\n", "an unknown mode passes"),
        (
            "if name not in _ACTS_IN or not equals:",
            "if name not in _ACTS_IN:",
            "an option without a value passes",
        ),
        ("        if name in options:\n", "        if False:\n", "the last of two wins"),
        ("if name in _CHOICES and value not in _CHOICES[name]:", "if False:", "an unknown value passes"),
        (
            "        if mode not in _ACTS_IN[name]:\n",
            "        if False:\n",
            "an option without effect passes",
        ),
        (
            'if options.get("tape") == "off" and mode in ("match", "full"):',
            "if False:",
            "matching without a tape passes",
        ),
        ("if not (math.isfinite(w_star) and w_star > 0):", "if not w_star > 0:", "an infinite w_star passes"),
        (
            "if not (math.isfinite(w_star) and w_star > 0):",
            "if not math.isfinite(w_star):",
            "a negative w_star passes",
        ),
        (
            'if options.setdefault("variance", "paper") != "paper":',
            'if options.get("variance", "paper") != "paper":',
            "w_star under auto",
        ),
        (
            'if options.get("weights") == "native" and "zeta" in options:',
            "if False:",
            "zeta of native weights passes",
        ),
        (
            '"proportional" if full else "native"),\n        variance',
            '"proportional"),\n        variance',
            "match has proportional weights",
        ),
        (
            '"auto" if full else "native"',
            '"paper" if full else "native"',
            "full takes the paper's variance everywhere",
        ),
        ('"auto" if full else "native"', '"auto"', "match reshapes the variance"),
        ("    if flag is not None:\n", "    if False:\n", "the flag is not read"),
        (
            'if entry.trains == "window" and "zeta" not in self.given:',
            "if False:",
            "a window sums over steps that draw nothing",
        ),
        (
            'if ("power" in options) != (options.get("weights") == "power"):',
            "if False:",
            "power without weights=power",
        ),
        ("if power is not None and not math.isfinite(power):", "if False:", "an infinite power"),
        (
            '        if self.power is None:\n            del fields["power"]',
            '        if False:\n            del fields["power"]',
            "runs of before cannot be resumed",
        ),
    ),
    "trainers.py": (
        (
            'if self.window == "batch":',
            "if True:",
            "a window that is drawn once taken for one of every batch",
        ),
        (
            "return range(min(starts), max(starts) + size)",
            "return range(starts[0], starts[0] + size)",
            "the first rank's window taken for every rank's",
        ),
        ("            more_epochs=-2,\n", "", "Wan's epochs without training counted"),
        ('        if self.trains == "all":\n            return None\n', "", "DDPO's last step is left out"),
        ("else int(steps) - 1", "else int(steps)", "the untrained last step counts as trained"),
        (
            'range(1 if self.window == "run" else ranks)',
            "range(1)",
            "every rank's window is taken for the first's",
        ),
        ("max(starts) + size)", "max(starts) + size - 1)", "the last step of the last window is left out"),
        ("int(steps * setting(settings, self.fraction))", "int(steps)", "the fraction is not used"),
        (
            "planned = self.passes * (asked + self.more_epochs)",
            "planned = self.passes * asked",
            "epochs a trainer adds",
        ),
        (
            "planned = self.passes * (asked + self.more_epochs)",
            "planned = asked + self.more_epochs",
            "passes not counted",
        ),
        ("return planned if planned > 0 else None", "return planned", "no epochs for no end"),
        (
            "return math.prod(counts) * ranks",
            "return math.prod(counts)",
            "one rank's batch for all",
        ),
        (
            "value = value.get(name) if isinstance(value, Mapping) else None",
            "value = value.get(name)",
            "a missing setting fails",
        ),
        ('    trains="first",\n', "", "Flow-GRPO trains every step"),
        ('    fraction="train.timestep_fraction",\n', "", "its fraction is not read"),
        ("    draws_prompts=True,\n", "", "unique_prompts refused where it works"),
        (
            '    script="fastvideo/train_grpo_sd.py",\n    trains="all but last",\n',
            '    script="fastvideo/train_grpo_sd.py",\n',
            "DanceGRPO's SD trains every step",
        ),
        ('    clip_range="clip_range",\n', "", "FLUX's clip range is not found"),
        ("    carries_over=False,\n", "", "FLUX's zeroed gradients are recorded"),
        ('resume="resume_from_lora_checkpoint"', "resume=None", "FLUX-LoRA does not resume"),
        (
            'clip_range=None, loss_weights=("vq_coef", "mq_coef")',
            "clip_range=None",
            "Hunyuan's two losses counted twice",
        ),
        (
            'clip_range=None, loss_weights=("vq_coef", "mq_coef")',
            'clip_range=None, loss_weights=("mq_coef", "vq_coef")',
            "Hunyuan's weights swapped",
        ),
        (
            "if parts[-len(script) :] == script:",
            "if parts[-1:] == script[-1:]:",
            "a script of the same name is taken for it",
        ),
        (
            '        if self.trains == "window" and (size := setting(settings, "sample.sde_window_size")):',
            "        if False:",
            "a window said to be all steps but the last",
        ),
    ),
    "ranks.py": (
        (
            'torch.device("cuda", device) if isinstance(device, int) else',
            'torch.device("cuda") if isinstance(device, int) else',
            "every rank on one GPU",
        ),
        (
            "self.num_processes = dist.get_world_size() if distributed else 1",
            "self.num_processes = 1",
            "ranks do not see each other",
        ),
        (
            "self.process_index = dist.get_rank() if distributed else 0",
            "self.process_index = 0",
            "every rank writes",
        ),
        ("return torch.cat(parts)", "return torch.stack(parts)", "a dimension too many"),
        ("dist.all_gather(parts, tensor.contiguous())", "pass", "nothing is gathered"),
        ("dist.all_reduce(values, group=self.group)", "dist.all_reduce(values)", "replicas added up"),
        ("        dist.all_reduce(values, group=self.group)\n", "", "one shard's norm"),
        ('store.set(f"{call}/mode/{me}", mode)', 'store.set(f"{call}/mode/{me}", "off")', "no mode differs"),
        (
            "if silent and required:\n        raise",
            "if silent:\n        raise",
            "a baseline stops for a silent rank",
        ),
        ("    if len(modes) > 1:\n        told", "    if False:\n        told", "ranks train two objectives"),
        ("f\"rank{'s' * (len(ranks) > 1)}", "f\"rank{'s' * (len(ranks) > 2)}", "ranks named in the singular"),
    ),
    "record/gradients.py": (
        ("if not trained or (not named and add_up is None):", "if not trained:", "no gradient fails"),
        (
            "first = named[0][0] if add_up is None else trained[0][0]",
            "first = named[0][0]",
            "each rank names its own layer",
        ),
        (
            'n.startswith(layer + ".") if layer else n == first',
            "n.startswith(layer)",
            "all of the model is its first layer",
        ),
        (
            "norm, abs_mean = math.sqrt(squares), total / max(n, 1)",
            "norm, abs_mean = squares, total / max(n, 1)",
            "the squared norm",
        ),
        (
            "total_squares / max(n, 1) - abs_mean**2",
            "total_squares / max(n, 1)",
            "the second moment for the variance",
        ),
        (
            "GradientMetrics(norm / scale, abs_mean / scale",
            "GradientMetrics(norm, abs_mean / scale",
            "the norm under the loss scale",
        ),
        (
            "GradientMetrics(norm / scale, abs_mean / scale",
            "GradientMetrics(norm / scale, abs_mean",
            "the mean under the loss scale",
        ),
        ("abs_var / scale**2", "abs_var / scale", "the variance under the loss scale"),
        ("if all(g.dtype == torch.float32 for g in gradients):", "if True:", "norms in half precision"),
        (
            "as_float64(torch.stack(norms)).square().sum()",
            "as_float64(torch.stack(norms)).sum()",
            "norms added up",
        ),
        ("values = gradient.float().abs()", "values = gradient.float()", "signs cancel"),
        (
            "squares = squares + as_float64(values.square_().sum())",
            "squares = squares + as_float64(values.sum())",
            "no squares",
        ),
        (
            'return head.rpartition(".")[0] if lora and "." in head else module',
            "return module",
            "a LoRA pair is two layers",
        ),
        ("if part not in WRAPPERS)", "if part)", "wrappers in the layer's name"),
    ),
    "record/metrics.py": (
        ("PADDING = -1.0", "PADDING = 1.0", "timestep 1 is dropped"),
        ('            "kl": trained.kl,\n', "", "no KL"),
        ('            "credit": trained.credit,\n', "", "the ratio for the credit"),
        ("self._divisor.append(trained.divisor)", "self._divisor.append(1)", "the divided loss"),
        ("return x.tolist() if self.on_cpu else x.detach()", "return x.detach()", "tensors kept on a CPU"),
        (
            "for kept in (self._columns, self._loss, self._divisor, self._kl_loss):",
            "for kept in (self._columns, self._loss, self._divisor):",
            "KL terms of the last step",
        ),
        (
            "for kept in (self._columns, self._loss, self._divisor, self._kl_loss):",
            "for kept in (self._columns, self._loss, self._kl_loss):",
            "divisors of the last step",
        ),
        (
            "losses[:, 0] *= losses.new_tensor(self._divisor)",
            "losses[:, 0] /= losses.new_tensor(self._divisor)",
            "divided twice",
        ),
        ("columns = columns[columns[:, 0] != PADDING]", "pass", "padding counted"),
        ("        self.clear()\n        advantages", "        advantages", "steps run together"),
        (
            "credit = clipped if self.log_objective else torch.expm1(clipped)",
            "credit = clipped",
            "the baseline masked by the log ratio",
        ),
        ("loss=losses[:, 0],", "loss=losses[:, -1],", "the KL term for the loss"),
        ("dim=-1)\n            for column", "dim=0)\n            for column", "steps one below the other"),
        (
            "return ~(torch.isfinite(self.log_rho) & torch.isfinite(self.credit))",
            "return ~torch.isfinite(self.log_rho)",
            "a credit that is not finite passes",
        ),
        (
            "return ~(torch.isfinite(self.log_rho) & torch.isfinite(self.credit))",
            "return ~torch.isfinite(self.credit)",
            "a ratio that is not finite passes",
        ),
        (
            "finite_loss = self.loss[torch.isfinite(self.loss)]",
            "finite_loss = self.loss",
            "one NaN for the loss",
        ),
        (
            "error = stats.log_ratio_error[stats.ratio != 1]",
            "error = stats.log_ratio_error",
            "zeros in the mean error",
        ),
        (
            "return (sums / count).flip(0).tolist()",
            "return (sums / count).tolist()",
            "timesteps in another order",
        ),
        ('"count": count.flip(0).tolist()', '"count": count.tolist()', "counts in another order"),
        (
            '"ratio_mean": by_timestep(stats.ratio)',
            '"ratio_mean": by_timestep(stats.masked.double())',
            "another column for the ratio",
        ),
        (
            '"samples": self.log_rho.numel()',
            '"samples": timestep.numel()',
            "samples that are not finite not counted",
        ),
        ('"fraction_outside": mean(outside),', '"fraction_outside": mean(masked),', "masked for outside"),
        ('"fraction_masked": mean(masked),', '"fraction_masked": mean(outside),', "outside for masked"),
        ('**_spread("ratio", stats.ratio)', '**_spread("ratio", credit)', "the credit for the ratio"),
        ('**_spread("credit", credit)', '**_spread("credit", stats.ratio)', "the ratio for the credit"),
        ("+ int((~torch.isfinite(self.loss)).sum())", "", "losses that are not finite not counted"),
        ("mean((x - x.mean()) ** 2) ** 0.5", "mean((x - x.mean()) ** 2)", "the variance for the std"),
        ('f"{name}_max": float(x.max())', 'f"{name}_max": float(x.min())', "min for max"),
        ('clipped = named.get("clipped", log_rho)', "clipped = log_rho", "outside on the policy's scale"),
    ),
    "record/alarms.py": (
        ("if norm > EXPLODES * usual > 0:", "if norm > usual > 0:", "any larger norm is an explosion"),
        ("if norm > EXPLODES * usual > 0:", "if False:", "no explosion"),
        (
            "if norm > EXPLODES * usual > 0:",
            "if norm > EXPLODES * usual:",
            "an explosion after steps of nothing",
        ),
        ("norm is not None and math.isfinite(norm)", "norm is not None", "a norm that is not finite"),
        (
            "if known >= LEAST_NORMS else",
            "if known else",
            "the first norms measure the next",
        ),
        ("            self._norms.append(norm)\n", "            pass\n", "no norm is remembered"),
        (
            'record.get("groups_without_spread") == 1',
            'record.get("groups_without_spread")',
            "some groups are all",
        ),
        ("self._best = max(self._best, (now, spread))", "pass", "the first epoch is the best"),
        ("self._best = self._best or (mean, spread)", "self._best = (mean, spread)", "the last is"),
        (
            "self._best or (mean, spread)",
            "self._best or (-math.inf, spread)",
            "a collapse at once is not seen",
        ),
        (
            "NORMS, LEAST_NORMS = 10.0, 100, 5",
            "NORMS, LEAST_NORMS = 10.0, 100, 20",
            "no explosion of the first epochs",
        ),
        ("max(spread, self._best[1])", "spread", "a collapse measured by its own spread"),
        ("max(spread, self._best[1])", "self._best[1]", "jitter after convergence is a fall"),
        ("if best - now > FALLS * usual:", "if best > now:", "any fall"),
        ("if len(self._rewards) == WINDOW and", "if", "an epoch for a window"),
        ("if name not in self._raised", "", "said again and again"),
        ("        self._raised |= new.keys()\n", "", "not counted"),
    ),
    "record/rewards.py": (
        ("return torch.zeros(n, dtype=torch.long)", "return torch.arange(n)", "an epoch of groups of one"),
        ("torch.arange(n) // self._size", "torch.arange(n) % self._size", "groups that lie apart"),
        (
            "        self.clear()\n        return found\n",
            "        return found\n",
            "the next epoch has this one's",
        ),
        ("several = count > 1", "several = count > 0", "one alone is a group without spread"),
        ("(high == low)[several]", "(high != low)[several]", "the share with spread"),
        ("values = values[values != NO_REWARD]", "pass", "no reward counts as -10"),
        ("if len(by_name) > 1:", "if False:", "no rewards by name"),
        ("value.result()[0] if", "value.result() if", "the metadata of the rewards"),
    ),
    "record/tracker.py": (
        (
            "isinstance(value, int | float) and math.isfinite(value)",
            "isinstance(value, int | float)",
            "NaN is sent",
        ),
        ("            self._failed.add(name)\n", "            pass\n", "what fails is said at every step"),
        (
            'run.config.update({"pcpo": self._mode}, allow_val_change=True)',
            "pass",
            "no mode in the table of runs",
        ),
        ("if name in self._failed:", "if self._failed:", "one that fails silences all"),
        ('list(table["timestep"])[::-1]', 'list(table["timestep"])', "edges that fall"),
        ("bars = list(table.get(name, ()))[::-1]", "bars = list(table.get(name, ()))", "the bars reversed"),
        ('"bucket_limits": edges[1:]', '"bucket_limits": edges[:-1]', "every bar one too low"),
        ('sys.modules.get("wandb")', '__import__("wandb")', "wandb is imported"),
    ),
    "record/recorder.py": (
        ('on_cpu=ranks.device.type == "cpu"', 'on_cpu=ranks.device.type != "cpu"', "tensors kept on a CPU"),
        (
            "self._epoch = self._epochs_begun if epoch is None else epoch",
            "self._epoch = epoch or 0",
            "epochs are not counted",
        ),
        ("self._epochs_begun = self._epoch + 1", "self._epochs_begun = 1", "epochs counted to 1"),
        ("        self.epoch_steps.clear()\n", "", "an epoch's record of all so far"),
        (
            "        if not self._carries_over:\n",
            "        if False:\n",
            "samples of zeroed gradients recorded",
        ),
        ("        if not self._carries_over:\n", "        if True:\n", "samples carried over not recorded"),
        ("        self._rewards = {}\n        self._row", "        self._row", "last epoch's rewards"),
        (
            "            self.folder.rewind(self._epoch)\n",
            "            pass\n",
            "repeated epochs are twice in the metrics",
        ),
        (
            '"epoch": self._epoch if epoch is None else epoch,\n            **self._rewards',
            '"epoch": self._epoch,\n            **self._rewards',
            "another epoch than the trainer's",
        ),
        (
            '"seconds_sampling": self._sampled - self._epoch_started',
            '"seconds_sampling": now - self._epoch_started',
            "the whole epoch for its sampling",
        ),
        ('"tape_bytes": tape_bytes', '"tape_bytes": 0', "the tape's size"),
        (
            "            record.update(self._epoch_summary())\n",
            "            pass\n",
            "an epoch's record without its statistics",
        ),
        (
            "self._kl_count += samples.kl_loss.numel()",
            "self._kl_count = samples.kl_loss.numel()",
            "a running mean of sums",
        ),
        (
            "self._kl_sum += float(samples.kl_loss.sum())",
            "self._kl_sum = float(samples.kl_loss.sum())",
            "a running mean that runs nowhere",
        ),
        ("/ len(with_gradients)", "/ len(self.epoch_steps)", "steps without gradients in the mean"),
        ("self.folder.write_run(clip_range=trained.clip_range)", "pass", "no clip range in run.json"),
        ("        self.metrics.add(trained)\n", "        pass\n", "nothing is noted"),
        (
            "        self._gradients = None\n        accelerator",
            "        accelerator",
            "the last step's gradients",
        ),
        (
            "(self.folder or shards) and accelerator.sync_gradients",
            "self.folder or shards",
            "gradients in the middle of an accumulation",
        ),
        (
            "scale = scaler.get_scale() if scaler is not None else 1.0",
            "scale = 1.0",
            "the loss scale in the norm",
        ),
        (
            "if self._gradients is None and self.folder and not self._told_of_gradients:",
            "if self._gradients is None and self.folder:",
            "told at every step",
        ),
        ("step = self._steps_taken if step is None else step", "step = step or 0", "steps are not counted"),
        ("        self._steps_taken += 1\n", "", "steps are not counted up"),
        (
            "gradients, self._gradients = self._gradients, None",
            "gradients = self._gradients",
            "a step without gradients has the last one's",
        ),
        (
            '"epoch": self._epoch if epoch is None else epoch,\n            "inner_epoch"',
            '"epoch": epoch,\n            "inner_epoch"',
            "no epoch where the trainer counts none",
        ),
        ("            **(vars(gradients) if gradients else {}),\n", "", "no gradient statistics"),
        ("        self.epoch_steps.append((record, samples))\n", "", "an epoch without steps"),
        (
            "        self.folder.append(record)\n        if self._alarms:\n            where",
            "        if self._alarms:\n            where",
            "no step is written",
        ),
        ("            self._raise(self._alarms.of_step(record, at), record)\n", "", "never warned"),
        ("self._raise(self._alarms.of_epoch(record), record)", "pass", "no alarm of an epoch"),
        (
            '                self.folder.append({"kind": "alarm"',
            '                ({"kind": "alarm"',
            "no alarm is written",
        ),
        (
            "            self._row, self._next_row = step, step + 1\n",
            "            pass\n",
            "the tracker's row stands",
        ),
        (
            "if self._first_iteration is None else self._epoch + self._first_iteration",
            "",
            "iterations in steps' rows",
        ),
        ("            self._tracker.log(record, step)\n", "            pass\n", "the tracker gets no step"),
        ("if name not in sent} | told", "} | told", "an epoch's mean over its last step"),
        (
            "padded = self._ranks.pad_across_processes(rows, dim=0, pad_index=PADDING)",
            "padded = rows",
            "ranks of other lengths hang",
        ),
        ("        self.metrics.add_kl(kl_loss)\n", "        pass\n", "no KL term"),
        ("values.std(unbiased=False)", "values.std()", "the sample's std of rewards"),
        ("mean(value[value != NO_REWARD])", "mean(value)", "no reward counts as -10"),
        ('int((values["avg"] != NO_REWARD).sum())', 'values["avg"].numel()', "what has no reward is counted"),
        ("        self._epoch_started = now\n", "", "an evaluation in the epoch's time"),
        (
            "            self.folder.write_run(resolved=steps, precision=precision)\n",
            "            pass\n",
            "run.json without its weights",
        ),
        ('self.folder.end("finished")', "pass", "a finished run that runs"),
    ),
    "record/run_folder.py": (
        (
            "            if path is None and not given:\n",
            "            if path is None:\n",
            "PCPO_RUN_DIR is not obeyed",
        ),
        (
            '"started": earlier.get("started", start["time"])',
            '"started": start["time"]',
            "a resumed run begins anew",
        ),
        ('"starts": [*earlier.get("starts", []), start]', '"starts": [start]', "earlier starts are lost"),
        ('"status": "running",', '"status": "finished",', "finished before it began"),
        (
            '(self.path / METRICS).open("a", encoding="utf-8")\n            self._write_run()',
            '(self.path / METRICS).open("w", encoding="utf-8")\n            self._write_run()',
            "earlier metrics are lost",
        ),
        (
            "        except OSError as error:\n            raise PCPOError(",
            "        except FileNotFoundError as error:\n            raise PCPOError(",
            "a traceback for a folder that cannot be made",
        ),
        (
            "        if not resume:\n            raise",
            "        if False:\n            raise",
            "another run's folder is written into",
        ),
        ("if not isinstance(earlier, dict):", "if False:", "run.json that holds a list"),
        (
            '_SAME = ("upstream", "mode", "pcpo", "clip_range")',
            '_SAME = ("upstream", "mode", "pcpo")',
            "another clip range resumes",
        ),
        (
            '_SAME = ("upstream", "mode", "pcpo", "clip_range")',
            '_SAME = ("upstream", "pcpo", "clip_range")',
            "another mode resumes",
        ),
        (
            'if before != now and not (name == "clip_range" and None in (before, now)):',
            "if before != now:",
            "a clip range not known yet is another",
        ),
        ("self.run.update(updates)", "pass", "updates are lost"),
        ("            self._metrics.flush()\n", "", "a killed run loses its last records"),
        (
            'is_kept = json.loads(line)["epoch"] < epoch',
            'is_kept = json.loads(line)["epoch"] <= epoch',
            "the first repeated epoch is kept",
        ),
        ("                is_kept = False\n", "                is_kept = True\n", "a line cut short is kept"),
        ("        if not repeated:\n            return\n", "", "a file of nothing set aside"),
        (
            'aside.writelines(line if line.endswith("\\n") else line + "\\n" for line in repeated)',
            "pass",
            "repeated records are deleted",
        ),
        (
            'self._metrics = path.open("a", encoding="utf-8")',
            'self._metrics = path.open("w", encoding="utf-8")',
            "what was kept is lost",
        ),
        (
            '        if self.run["status"] != "running":\n            return\n',
            "",
            "the end of the process overwrites finished",
        ),
        ('"stopped" if issubclass(kind, KeyboardInterrupt) else "failed"', '"failed"', "Ctrl-C is a failure"),
        ("            hook(kind, error, trace)\n", "", "the traceback is swallowed"),
        ("        sys.excepthook = failed\n", "", "a failed run was stopped"),
        ("        atexit.register(self._stopped)\n", "", "a run that exits stays running"),
        (
            "except (OSError, ValueError) as error:  #",
            "except ValueError as error:  #",
            "a full disk ends the training",
        ),
        ("            self.is_recording = False\n", "", "told at every write"),
        ("            path.mkdir()\n", "            path.mkdir(exist_ok=True)\n", "two runs in one folder"),
        ("return value if math.isfinite(value) else None", "return value", "JSON with NaN"),
        ('unit = 1 if sys.platform == "darwin" else 1024', "unit = 1", "kilobytes for bytes"),
    ),
}

#: Changes that no test can tell from the code as it is, with the reason.
EQUIVALENT: dict[str, tuple[Fault, ...]] = {
    "config.py": (
        (
            "if self.w_star is not None or (",
            "if (",
            "w_star spells out variance=paper with it, which is refused all the same",
        ),
    ),
    "steps.py": (
        (
            'for name in ("std_native", "std", "weight_native", "weight_policy", "weight"):',
            'for name in ("std_native", "std", "weight_native", "weight_policy"):',
            "they follow from the weights above them, which are asked before",
        ),
        (
            "if not bool((self.dt > 0).all()):",
            "if False:",
            "without an interval there is no noise or no fall, which is refused before",
        ),
    ),
}

MUTATIONS = [Mutation(file, *fault) for file, faults in FAULTS.items() for fault in faults]
EQUIVALENTS = [Mutation(file, *fault) for file, faults in EQUIVALENT.items() for fault in faults]

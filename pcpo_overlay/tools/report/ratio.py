"""Chapter: the policy ratio, the divergence it stands for, and the number inside the objective."""

from __future__ import annotations

from pcpo_overlay.tools.report.chapter import Chapter, Column, on_policy, over_all
from pcpo_overlay.tools.report.text import spelled

DEFINITIONS = {
    "policy ratio": "rho, the probability of a drawn step under the trained policy over that under the policy that "
    "drew it, with the weights of the sampler in use, in every mode.",
    "kl per step": "Divergence of the policy that drew a step from the trained one, exact, mean over sample-timesteps; "
    "where the runs' version recorded it. credit: the number inside PCPO's objective, the policy ratio's logarithm but "
    "for the weights of the timesteps.",
    "error of log rho": "|log rho - (rho - 1)| / |rho - 1| where rho is not 1: what replacing rho - 1 by log rho in "
    "the objective changes.",
}
CHAPTER = Chapter(
    "Policy ratio",
    "",
    {
        "ratio_mean": Column("mean of rho", over_all("ratio_mean"), spelled("{:.6f}")),
        "ratio_std": Column("std of rho", over_all("ratio_std")),
        "on_policy_ratio_mean_minus_1": Column(
            "mean of rho - 1, on-policy", on_policy("ratio_mean", minus=1)
        ),
        "on_policy_ratio_std": Column("std, on-policy", on_policy("ratio_std")),
        "log_ratio_error_mean": Column("error of log rho, mean", over_all("log_ratio_error_mean")),
        "log_ratio_error_max": Column("max", over_all("log_ratio_error_max", max)),
        "kl": Column("kl per step", over_all("kl"), optional=True),
        "credit_std": Column("std of the credit", over_all("credit_std"), optional=True),
    },
    "The policy ratio",
    {
        "ratio_std": r"standard deviation of the policy ratio $\rho$",
        "kl": "divergence of the new policy from the old, per step",
        "credit_std": "standard deviation of the objective's credit",
        "log_ratio_error_mean": r"mean of $|\log\rho-(\rho-1)|\,/\,|\rho-1|$ where $\rho\neq 1$",
    },
    log=True,
)

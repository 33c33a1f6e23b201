"""Stand-in for liger_kernel.ops.swiglu: imported with Mochi's model, which no GRPO trainer runs."""


class LigerSiLUMulFunction:
    """A name to import."""

"""What flow_grpo needs where accelerate wraps nothing."""

from __future__ import annotations

import importlib.util


def install() -> None:
    """accelerate wraps the network of a single process in nothing; flow_grpo's KL term asks the wrapper for it."""
    if importlib.util.find_spec("peft") is None:
        return
    from peft import PeftModel

    if not hasattr(PeftModel, "module"):
        PeftModel.module = property(lambda self: self)

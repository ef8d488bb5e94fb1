"""What a look inside a generative retriever shows, beside its lists.

Legend: B examples, L levels, G layers with a gate.
"""

from typing import NamedTuple

from torch import Tensor


class Inside(NamedTuple):
    """What a look inside a model shows, of every example but for the loss."""

    loss: Tensor
    """Mean cross-entropy (natural log) of the targets' tokens, as `loss` gives it."""
    right_BL: Tensor
    """Whether each code is the most likely one of its level, given those before."""
    found_B: Tensor | None
    """How many items the search brought back; None for a model without one."""
    own_B: Tensor | None
    """How many of them have the target's first code; the others come from codes like it."""
    gate_GB: Tensor | None
    """Mean opening of the gate of every layer, 0 to 1 (1 where what was found is simply added)."""

"""How histories become batches. Light, like `models.configs`."""

from dataclasses import dataclass, field

from sid.configs import IF_SET
from sid.errors import require


@dataclass
class SequenceConfig:
    """What the retriever sees of a history, and how many examples at a time."""

    max_items: int = 20
    """Most recent history items that the model sees."""
    long_items: int = 1000
    """Items before those that a model with a long history gets."""
    stride: int = 0
    """Windows only: how far each further window of a user with more than `max_items` moves on; 0: half of them."""
    batches: str = field(default="like", metadata=IF_SET)
    """Of prefixes: like (of like length, so that next to nothing is padded) or random, as windows always are; then a
    small TIGER takes 1.1 to 1.3 times as long on a CPU (experiments/LOG.md, 2026-11-30)."""
    item_dropout: float = field(default=0.0, metadata=IF_SET)
    """Of prefixes: the share of a history's items that training goes without, others in every epoch; the newest
    stays."""
    batch_size: int = 256
    """A batch and process: training prefixes, or items of windows. Two take the steps of one with twice as many."""
    eval_batch_size: int = 64
    """Users decoded at a time."""
    steps_per_epoch: int = 0
    """Training steps of an epoch; 0: one pass over all training examples."""
    eval_users: int = 0
    """Validate on this many users, the same random ones whatever the seed; 0: on all. The test is always on all."""

    def check(self) -> None:
        """Raise UserError for a value that gives no batches."""
        smallest = {
            "max_items": 1,
            "long_items": 1,
            "stride": 0,
            "batch_size": 1,
            "eval_batch_size": 1,
            "steps_per_epoch": 0,
            "eval_users": 0,
        }
        for name, least in smallest.items():
            require(getattr(self, name) >= least, f"sequences.{name}", getattr(self, name), f"at least {least}")
        require(0 <= self.item_dropout < 1, "sequences.item_dropout", self.item_dropout, "at least 0 and below 1")
        require(self.batches in ("like", "random"), "sequences.batches", self.batches, "like or random")
        require(self.stride <= self.max_items, "sequences.stride", self.stride, f"at most {self.max_items}, max_items")

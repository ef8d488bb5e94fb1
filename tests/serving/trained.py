"""The small trained runs that the tests of serving share."""

from serving.recommender import Recommender

MODELS = [
    "tiger_tiny",
    "glass_tiny",
    "causal_tiny",
    "sidlight_tiny",
    "sasrec_tiny",
    "gru4rec_tiny",
    "caser_tiny",
    "hgn_tiny",
    "fdsa_tiny",
    "itemknn_tiny",
    "rpg_tiny",
]
SMALL = ["data.num_users=80", "train.precision=32-true"]
SHORT = ["sequences.steps_per_epoch=3", "train.max_epochs=1", "train.validate_every=1"]


def asked(ready: Recommender) -> tuple[list[list[int]], list[int], list[str]]:
    """The histories of the examples, their users' numbers and ids."""
    rows = ready.bundle.examples
    raw = rows["user"].to_pylist()
    return rows["history"].to_pylist(), ready.user_numbers(raw), raw

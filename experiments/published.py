"""What papers print of these experiments. Plain data."""

from collections.abc import Mapping

Rows = dict[str, dict[str, float]]


def row(*values: float) -> dict[str, float]:
    """In the order of the paper's tables, as far as they go."""
    return dict(zip(("recall@5", "ndcg@5", "recall@10", "ndcg@10"), values, strict=False))


TIGER: dict[str, Rows] = {
    "beauty": {
        "RQ-VAE": row(0.0454, 0.0321, 0.0648, 0.0384),
        "LSH": row(0.0379, 0.0259, 0.0533, 0.0309),
        "random": row(0.0296, 0.0205, 0.0434, 0.0250),
    },
    "sports": {
        "RQ-VAE": row(0.0264, 0.0181, 0.0400, 0.0225),
        "LSH": row(0.0215, 0.0146, 0.0321, 0.0180),
        "random": row(0.0070, 0.0050, 0.0116, 0.0063),
    },
    "toys": {
        "RQ-VAE": row(0.0521, 0.0371, 0.0712, 0.0432),
        "LSH": row(0.0412, 0.0299, 0.0566, 0.0349),
        "random": row(0.0362, 0.0270, 0.0448, 0.0298),
    },
}
"""Table 2; its first rows are TIGER's in Table 1."""
TIGER_SEEDS: Rows = {
    "beauty": row(0.0441, 0.0309, 0.0642, 0.0374),
    "sports": row(0.0278, 0.0189, 0.0419, 0.0234),
    "toys": row(0.0518, 0.0375, 0.0698, 0.0433),
}
"""Table 9: means of three seeds, with standard errors of about .001."""
RIVALS: dict[str, tuple[tuple[float, float], ...]] = {
    "p5": ((0.0254, 0.0136), (0.0095, 0.0052), (0.0121, 0.0066)),
    "caser": ((0.0347, 0.0176), (0.0194, 0.0097), (0.0270, 0.0141)),
    "hgn": ((0.0512, 0.0266), (0.0313, 0.0159), (0.0497, 0.0277)),
    "gru4rec": ((0.0283, 0.0137), (0.0204, 0.0110), (0.0176, 0.0084)),
    "bert4rec": ((0.0347, 0.0170), (0.0191, 0.0099), (0.0203, 0.0099)),
    "fdsa": ((0.0407, 0.0208), (0.0288, 0.0156), (0.0381, 0.0189)),
    "sasrec_bce": ((0.0605, 0.0318), (0.0350, 0.0192), (0.0675, 0.0374)),
    "s3rec": ((0.0647, 0.0327), (0.0385, 0.0204), (0.0700, 0.0376)),
    "sasrec_sampled": ((0.0921, 0.0531), (0.0569, 0.0314), (0.0970, 0.0580)),
    "hstu": ((0.0788, 0.0439), (0.0437, 0.0243), (0.0778, 0.0450)),
    "rpg": ((0.0809, 0.0464), (0.0463, 0.0263), (0.0869, 0.0490)),
}
"""Recall@10 and NDCG@10 on Beauty, Sports and Toys: TIGER's Table 1, whose rows are S3-Rec's (BCE with one negative);
SASRec's 256 negatives and HSTU from a later comparison with sampled softmax; RPG's own Table 2 (another comparison, on
texts by Sentence-T5, has .0753 / .0437 on Beauty), its Recall from memory and its NDCG at second hand."""
TIGER_LAYERS: Rows = {"3 layers": row(0.0450, 0.0306, 0.0670, 0.0377), "5 layers": row(0.0463, 0.0321, 0.0660, 0.0383)}
"""Table 5, on Beauty."""
TIGER_NO_USERS = row(0.0446, 0.0302, 0.0648)
"""Table 8, on Beauty."""
ENTROPY = {1.0: 0.76, 1.5: 1.14, 2.0: 1.38}
"""Table 3, on Beauty: temperature -> Entropy@10."""


def beside(data: str) -> Rows:
    """What a test on Amazon's data is shown beside."""
    return {
        "TIGER, Table 1": TIGER[data]["RQ-VAE"],
        "TIGER, mean of 3 seeds": TIGER_SEEDS[data],
        "SASRec, Table 1": rival_row("sasrec_bce", data),
    }


def comparable(rows: Mapping[str, dict[str, float]]) -> Rows:
    """Those of our protocol: a name in whose brackets another one stands, as in "TIGER (ratio > 1)", is only shown."""
    return {name: figures for name, figures in rows.items() if "(" not in name}


def rival_row(model: str, data: str) -> dict[str, float]:
    """Of a classic model; nothing where there is none."""
    if model not in RIVALS or data not in TIGER:
        return {}
    return dict(zip(("recall@10", "ndcg@10"), RIVALS[model][list(TIGER).index(data)], strict=True))

"""Studies: what is changed in some experiments, one row at a time. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments import published

Overrides = list[str] | dict[str, list[str]]
"""For every experiment alike, or experiment -> overrides: the others do not have the row."""


@dataclass(frozen=True)
class Study:
    title: str
    experiments: list[str]
    rows: dict[str, Overrides]
    base: str
    """The row that every other is compared with."""
    by_length: str = ""
    """The row that the base is compared with by length of the history; "": none."""
    tokenizer_seeds: bool = False
    """A seed is that of the tokenizer as well, so every seed has a table of its own."""
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Experiment -> row -> metric -> value."""

    def overrides(self, row: str, experiment: str) -> list[str] | None:
        """None where the experiment does not have the row."""
        overrides = self.rows[row]
        return overrides.get(experiment) if isinstance(overrides, dict) else overrides


def sizes(depth: int, size: int) -> str:
    return f"tokenizer.codebook_sizes=[{','.join([str(size)] * depth)}]"


PLAIN = "neither: TIGER"
GLASS: dict[str, Overrides] = {
    "whole model": [],
    "no tier token": ["model.tier=false"],
    "no search": ["model.search=false"],
    PLAIN: ["model.tier=false", "model.search=false"],
    "no neighbours": ["model.neighbours=0"],
    "neighbours below 10 items": ["model.few=10"],
    "tier norm the other way": {
        "glass_tiny": ["model.tier_norm=true"],
        "glass_kuairec": ["model.tier_norm=false"],
        "glass_small_kuairec": ["model.tier_norm=false"],
        "glass_taobao_mm": ["model.tier_norm=false"],
    },
    "20 tiers": ["model.num_tiers=20"],
    "256 first codes": ["tokenizer.codebook_sizes=[256,128,128]"],
    "scalar gate": ["model.gate=scalar"],
    "gate fixed at 0.5": ["model.gate=fixed"],
    "sum without a gate": ["model.gate=sum"],
    "10 found": ["model.retrieved=10"],
    "100 found": ["model.retrieved=100"],
    "first code given (oracle)": ["evaluation.oracle_first_code=true"],
}

ALONE = "embed.collaborative=0"
"""Vectors of the content alone."""
RQVAE = [ALONE, "tokenizer=rqvae"]
TOKENIZERS: dict[str, Overrides] = {
    "RQ-VAE": RQVAE,
    "EMA codebooks": [*RQVAE, "tokenizer.codebook_ema=0.99"],
    "rotation trick": [*RQVAE, "tokenizer.gradient=rotation"],
    "last level reassigned": [*RQVAE, "tokenizer.reassign=true"],
    "dead codes left": [*RQVAE, "tokenizer.revive=false"],
    "RQ-k-means": [ALONE, "tokenizer=rqkmeans"],
    "RQ-k-means balanced": [ALONE, "tokenizer=rqkmeans", "tokenizer.balanced=true"],
    "tree": [ALONE, "tokenizer=tree"],
    "VQ-VAE": [ALONE, "tokenizer=vqvae", sizes(1, 1024)],
    "OPQ 4x256": [ALONE, "tokenizer=opq", sizes(4, 256)],
    "OPQ 8x256": [ALONE, "tokenizer=opq", sizes(8, 256)],
    "LETTER": [ALONE, "tokenizer=letter"],
    "LETTER with alpha 1": [ALONE, "tokenizer=letter", "tokenizer.alpha=1"],
    "LSH": [ALONE, "tokenizer=lsh"],
    "random": [ALONE, "tokenizer=random"],
    "whitened to 128": [*RQVAE, "embed.whiten=128"],
    "TF-IDF vectors": [*RQVAE, "embed.encoder=tfidf"],
    "RQ-VAE and who chose what": ["embed.collaborative=1", "tokenizer=rqvae"],
    "OPQ 4x256 and who chose what": ["embed.collaborative=1", "tokenizer=opq", sizes(4, 256)],
    "combined catalogue": {
        "causal_beauty": [*RQVAE, "combined_with=[causal_sports]"],
        "causal_sports": [*RQVAE, "combined_with=[causal_beauty]"],
    },
    "combined catalogue of three": {
        "causal_beauty": [*RQVAE, "combined_with=[causal_sports,causal_toys]"],
        "causal_sports": [*RQVAE, "combined_with=[causal_beauty,causal_toys]"],
    },
}

AMAZON = ["tiger_beauty", "tiger_sports", "tiger_toys"]
COLD = "5% of test targets new"
GRID = [(3, 256), (4, 256), (6, 64), (2, 1024), (8, 16), (3, 64), (3, 1024), (2, 256)]

STUDIES = {
    "tokenizers": Study(
        "Ways to make a semantic ID",
        ["causal_beauty", "causal_sports"],
        TOKENIZERS,
        base="RQ-VAE",
        tokenizer_seeds=True,
    ),
    "codebooks": Study(
        "Depth and size of the codebooks",
        ["causal_beauty"],
        {f"{depth}x{size}": [*RQVAE, sizes(depth, size)] for depth, size in GRID},
        base="3x256",
        tokenizer_seeds=True,
    ),
    "tiger": Study(
        "TIGER's Table 9: three seeds",
        AMAZON,
        {"TIGER": []},
        base="TIGER",
        published={f"tiger_{data}": {"TIGER": row} for data, row in published.TIGER_SEEDS.items()},
    ),
    "tokenizers_tiger": Study(
        "TIGER's Table 2: what semantic IDs are worth",
        AMAZON,
        {
            "RQ-VAE": ["tokenizer=rqvae"],
            **{row: [f"tokenizer={row.lower()}", "tokenizer.depth=4"] for row in ("LSH", "random")},
        },
        base="RQ-VAE",
        tokenizer_seeds=True,
        published={f"tiger_{data}": rows for data, rows in published.TIGER.items()},
    ),
    "tiger_sizes": Study(
        "TIGER's Tables 5 and 8: layers, user tokens",
        ["tiger_beauty"],
        {
            "4 layers": ["model.num_layers=4"],
            "3 layers": ["model.num_layers=3"],
            "5 layers": ["model.num_layers=5"],
            "no user tokens": ["model.num_layers=4", "model.num_user_tokens=0"],
        },
        base="4 layers",
        published={
            "tiger_beauty": {
                "4 layers": published.TIGER["beauty"]["RQ-VAE"],
                **published.TIGER_LAYERS,
                "no user tokens": published.TIGER_NO_USERS,
            }
        },
    ),
    "tiger_combined": Study(
        "TIGER's Table 10: semantic IDs for several catalogues",
        ["tiger_beauty", "tiger_sports"],
        {
            "own IDs": ["combined_with=[]"],
            "IDs of three catalogues": {
                "tiger_beauty": ["combined_with=[tiger_sports,tiger_toys]"],
                "tiger_sports": ["combined_with=[tiger_beauty,tiger_toys]"],
            },
        },
        base="own IDs",
    ),
    "tiger_cold": Study(
        "TIGER's Figure 5: items that training never saw",
        ["tiger_beauty", "itemknn_beauty"],
        {COLD: ["split.cold_share=0.05", "embed.whiten=0"]},  # neighbours on the vectors that the IDs are made of
        base=COLD,
    ),
    **{
        name: Study("Parts of GLASS switched off", [name], GLASS, base="whole model", by_length=PLAIN)
        for name in ("glass_kuairec", "glass_small_kuairec", "glass_taobao_mm", "glass_tiny")
    },
}

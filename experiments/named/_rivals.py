"""Classic retrievers on every data set: names `<model>_<data set>`, made here, not in a file each.

Sizes are in `models.classic_configs`; what is different from one data set to the next is that of its TIGER experiment.
"""

import importlib
from dataclasses import fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from models.classic_configs import ClassicConfig

RIVALS = {
    "popularity": "Popularity",
    "itemknn": "Content neighbours",
    "gru4rec": "GRU4Rec",
    "caser": "Caser",
    "hgn": "HGN",
    "sasrec": "SASRec, softmax",
    "sasrec_bce": "SASRec, one negative",
    "sasrec_sampled": "SASRec, 256 negatives",
    "bert4rec": "BERT4Rec",
    "fdsa": "FDSA",
    "s3rec": "S3-Rec",
    "hstu": "HSTU",
    "p5": "P5",
}
DATASETS = {
    "beauty": "Amazon Beauty",
    "sports": "Amazon Sports and Outdoors",
    "toys": "Amazon Toys and Games",
    "kuairec": "KuaiRec",
    "tiny": "a synthetic catalogue",
}
PUBLISHED = {
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
}
"""Recall@10 and NDCG@10 on Beauty, Sports and Toys: TIGER's Table 1, whose rows are S3-Rec's (BCE with one negative);
the last two from a later comparison with sampled softmax."""
AMAZON = ("beauty", "sports", "toys")


def classic(name: str) -> "ClassicConfig":
    """The model of a classic rival."""
    from models import classic_configs as sizes

    made: dict[str, ClassicConfig] = {
        "popularity": sizes.PopularityConfig(),
        "itemknn": sizes.ItemKNNConfig(),
        "gru4rec": sizes.GRU4RecConfig(),
        "caser": sizes.CaserConfig(),
        "hgn": sizes.HGNConfig(),
        "sasrec": sizes.SASRecConfig(),
        "sasrec_bce": sizes.SASRecConfig(loss="binary"),
        "sasrec_sampled": sizes.SASRecConfig(loss="sampled_softmax"),
        "bert4rec": sizes.BERT4RecConfig(),
        "fdsa": sizes.FDSAConfig(),
        "s3rec": sizes.S3RecConfig(),
        "hstu": sizes.HSTUConfig(),
    }
    return made[name]


def rival(name: str, data: str) -> "RunConfig":
    """The experiment `<name>_<data>`.

    P5 is the data set's TIGER with another model and item numbers drawn at random, as in TIGER's comparison: numbers in
    the order of the log tell which items come together.
    """
    from experiments.config import TrainConfig
    from lightning_modules.configs import OptimizerConfig
    from models.configs import EncoderDecoderConfig, P5Config
    from sid.configs import ChanceConfig

    base: RunConfig = importlib.import_module(f"experiments.named.tiger_{data}").config()
    rows = PUBLISHED.get(name)
    published = {}
    if rows and data in AMAZON:
        recall, ndcg = rows[AMAZON.index(data)]
        published = {f"{RIVALS[name]}, published": {"recall@10": recall, "ndcg@10": ndcg}}
    base = replace(base, name=f"{name}_{data}", published=published)
    if name == "p5":
        sizes = {field.name: getattr(base.model, field.name) for field in fields(EncoderDecoderConfig)}
        return replace(base, model=P5Config(**sizes), tokenizer=ChanceConfig([100, 100, 100]))
    return replace(
        base,
        model=classic(name),
        sequences=replace(
            base.sequences,
            max_items=50,
            batch_size=200 if data == "tiny" else 1000,
            eval_batch_size=128,
            eval_users=5000,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, warmup_steps=100, schedule="cosine"),
        train=TrainConfig(max_epochs=20, validate_every=4, precision="bf16-mixed"),
    )

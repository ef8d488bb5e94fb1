"""The rivals on every data set: names `<model>_<data set>`, made here, not in a file each.

Sizes are in `models.classic_configs`; what is different from one data set to the next is that of its TIGER experiment.
"""

import importlib
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from experiments.published import rival_row

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from models.classic_configs import ClassicConfig

RIVALS = {
    "popularity": "Popularity",
    "itemknn": "Content neighbours",
    "hybridknn": "Neighbours by content and by who chose what",
    "gru4rec": "GRU4Rec",
    "caser": "Caser",
    "hgn": "HGN",
    "sasrec": "SASRec, softmax",
    "sasrec_bce": "SASRec, one negative",
    "sasrec_sampled": "SASRec, 256 negatives",
    "bert4rec": "BERT4Rec",
    "fdsa": "FDSA",
    "s3rec": "S3-Rec",
    "hstu": "HSTU, without times",
    "rpg": "RPG",
    "p5": "P5",
}
WHITENED = 380
"""Components for neighbours on Amazon: nearly all, as MiniLM's vectors vary in 382 directions."""
DATASETS = {
    "beauty": "Amazon Beauty",
    "sports": "Amazon Sports and Outdoors",
    "toys": "Amazon Toys and Games",
    "kuairec": "KuaiRec",
    "tiny": "a synthetic catalogue",
}


def classic(name: str) -> "ClassicConfig":
    """The model of a classic rival."""
    from models import classic_configs as sizes

    made: dict[str, ClassicConfig] = {
        "popularity": sizes.PopularityConfig(),
        "itemknn": sizes.ItemKNNConfig(),
        "hybridknn": sizes.ItemKNNConfig(),
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
        "rpg": sizes.RPGConfig(),
    }
    return made[name]


def rival(name: str, data: str) -> "RunConfig":
    """The experiment `<name>_<data>`."""
    from experiments.config import TrainConfig
    from lightning_modules.configs import OptimizerConfig
    from sid.configs import ProductConfig

    base: RunConfig = importlib.import_module(f"experiments.named.tiger_{data}").config()
    found = rival_row(name, data)
    published = {f"{RIVALS[name]}, published": found} if found else {}
    base = replace(base, name=f"{name}_{data}", published=published)
    if name == "p5":
        return p5(base, data)
    if name == "hybridknn":  # by validation users
        base = replace(base, embed=replace(base.embed, collaborative=0.7))
    if name in ("itemknn", "hybridknn") and data in ("beauty", "sports", "toys"):
        base = replace(base, embed=replace(base.embed, whiten=WHITENED))
    if data == "kuairec" and name in ("hybridknn", "rpg"):  # captions say little of what is watched next
        base = replace(base, embed=replace(base.embed, collaborative=4.0))
    optimizer = OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, warmup_steps=100, schedule="cosine")
    train = TrainConfig(max_epochs=20, validate_every=4, precision="bf16-mixed")
    if name == "sasrec_bce":  # one negative teaches little at a time, and its NDCG rests for 100 epochs and more
        optimizer = replace(optimizer, learning_rate=1e-3, weight_decay=0.0)
        train = replace(train, max_epochs=160, patience=40)
    if name == "bert4rec":  # the question of the test is one of many that it learns to answer
        train = replace(train, max_epochs=48)
    if name == "rpg":  # codes as many as the paper has for Sports and Toys; for Beauty it has 32
        base = replace(base, tokenizer=ProductConfig([16] * 8 if data == "tiny" else [256] * 16))
        if data == "kuairec":
            train = replace(train, max_epochs=8, validate_every=2)
    if name in ("hgn", "caser"):  # with embeddings of users, which are soon learnt by heart
        train = replace(train, max_epochs=8, validate_every=2)
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
        optimizer=optimizer,
        train=train,
    )


def p5(base: "RunConfig", data: str) -> "RunConfig":
    """The data set's TIGER with another model and random item numbers, as in TIGER's comparison.

    Numbers in the order of the log would tell which items come together. T5 cuts 7391 into 73 and 91; a digit tells
    items of one pair. Of a quarter of the size, but for the small catalogue: it starts at random.
    """
    from experiments.named._tiger import SMALL
    from models.configs import EncoderDecoderConfig, P5Config
    from sid.configs import ChanceConfig

    sizes = {field.name: getattr(base.model, field.name) for field in fields(EncoderDecoderConfig)}
    if data != "tiny":
        sizes |= SMALL | {"dropout": 0.05}
    if data in ("beauty", "sports", "toys"):  # more epochs learn by heart
        base = replace(
            base,
            sequences=replace(base.sequences, batch_size=128, eval_batch_size=64, eval_users=5000),
            optimizer=replace(base.optimizer, schedule="cosine"),
            train=replace(base.train, max_epochs=12, validate_every=3, precision="bf16-mixed"),
        )
    return replace(base, model=P5Config(**sizes), tokenizer=ChanceConfig([100, 100]))

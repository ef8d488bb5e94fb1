"""TAOBAO-MM through all five stages: the official previews of ten rows, and a made-up set that joins."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from datamodules.taobao_mm import TaobaoMMConfig
from datamodules.taobao_synthetic import write_taobao
from experiments.config import RunConfig, TrainConfig
from experiments.named import tiger_tiny
from experiments.pipeline import Pipeline
from experiments.summary import show
from lightning_modules.configs import RQVAEConfig
from models.configs import GlassConfig, TigerConfig
from sid.errors import UserError

TIGER = TigerConfig(width=32, num_layers=1, num_heads=2, head_width=16, ff_width=32, num_user_tokens=0)


def run(data: TaobaoMMConfig, embed: EmbedConfig, output: Path, model: TigerConfig = TIGER) -> Pipeline:
    config: RunConfig = replace(
        tiger_tiny.config(),
        name="taobao",
        data=data,
        split=SplitConfig("given"),
        embed=embed,
        tokenizer=RQVAEConfig(codebook_sizes=[16, 16], hidden=[32], latent=16, batch_size=1024, epochs=2),
        sequences=SequenceConfig(max_items=20, batch_size=64),
        model=model,
        train=TrainConfig(max_epochs=1),
        output_dir=str(output),
    )
    pipeline = Pipeline(config)
    pipeline.run("evaluate", show)
    return pipeline


def test_the_official_previews_go_through_the_whole_pipeline(data_dir: Path, tmp_path: Path) -> None:
    embed = EmbedConfig(encoder="tfidf", dim=16)
    pipeline = run(TaobaoMMConfig("newest", data_dir=str(data_dir)), embed, tmp_path)
    test = json.loads((pipeline.train.folder / "test.json").read_text())
    assert test["users"] == 10 and 0 <= test["metrics"]["recall@10"] <= 1
    assert pipeline.figures["prepare"]["users"] == 20 and pipeline.figures["embed"]["items"] == 11_180
    assert (pipeline.train.folder / "report.html").exists()


def test_a_made_up_set_goes_through_with_its_own_vectors_and_only_candidates_are_recommended(tmp_path: Path) -> None:
    write_taobao(tmp_path / "taobao_mm", users=500, history=60, items=200, samples_per_user=2, shards=2)
    data = TaobaoMMConfig(data_dir=str(tmp_path), num_targets=15)
    glass = GlassConfig(width=32, num_layers=1, num_heads=2, head_width=16, ff_width=32)
    pipeline = run(data, EmbedConfig(encoder="given"), tmp_path, glass)
    vectors_ND = np.load(pipeline.embed.folder / "vectors.npy")
    assert vectors_ND.shape == (pipeline.catalog.num_items, 128) and vectors_ND.dtype == np.float32
    lists = pq.read_table(pipeline.train.folder / "recommendations.parquet")
    assert set(lists["item"].to_pylist()) == set(pipeline.catalog.candidates.tolist()) == set(range(15))
    ranks = lists["rank"].to_numpy().reshape(-1, 15)
    assert (ranks == np.arange(1, 16)).all()  # one list a user, however many targets
    assert len(ranks) == len(np.unique(pipeline.split.test.user_E)) < len(pipeline.split.test.user_E)


def test_without_samples_there_are_no_given_vectors(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="without vectors .*vectors.npy.*only TAOBAO-MM with data.targets=clicks has them"
    ):
        run(TaobaoMMConfig("newest", data_dir=str(data_dir)), EmbedConfig(encoder="given"), tmp_path)

"""What the experiments on TAOBAO-MM have in common: the protocol of GLASS (arXiv 2602.05663)."""

from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from datamodules.taobao_mm import TaobaoMMConfig
from experiments.config import EvaluationConfig, RunConfig, TrainConfig
from lightning_modules.configs import OptimizerConfig, RQVAEConfig
from models.configs import TigerConfig

PUBLISHED = {
    "GLASS, Table 2": {"recall@1": 0.0372, "recall@5": 0.0934, "ndcg@3": 0.0669, "ndcg@20": 0.0893},
    "TIGER, there": {"recall@1": 0.0280, "recall@5": 0.0756, "ndcg@3": 0.0448, "ndcg@20": 0.0733},
    "HSTU, there": {"recall@1": 0.0274, "recall@5": 0.0512, "ndcg@3": 0.0384, "ndcg@20": 0.0592},
}


def taobao_mm(name: str, model: TigerConfig) -> RunConfig:
    """Last 50 items as the short history, up to 1,000 before it, 10,000 target items, given vectors, beams 20.

    Validation users are a tenth of the training users; the authors' code draws validation and test at random from one
    file.
    """
    return RunConfig(
        name,
        data=TaobaoMMConfig(),
        split=SplitConfig("given"),
        embed=EmbedConfig(encoder="given"),
        tokenizer=RQVAEConfig(codebook_sizes=[64, 128, 128], hidden=[512, 256, 128], sample=1_000_000),
        sequences=SequenceConfig(max_items=50, batch_size=2048, eval_users=5000),
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.01, warmup_steps=100, schedule="cosine"),
        train=TrainConfig(max_epochs=20, precision="bf16-mixed"),
        evaluation=EvaluationConfig(num_beams=20, ndcg_at=[3, 5, 10, 20], entropy_at=[10, 20]),
        published=PUBLISHED,
    )

"""One beam search a batch at every validation and test step, feeding every metric.

Legend: B users, K beams, C items that may be recommended.
"""

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torchmetrics import Metric

from callbacks.inside import BeamRanks, Insight
from sid.decode import Recommendations
from sid.trie import FreeTree, PrefixTree

Observer = Callable[[Recommendations, Any], None]


class Retrieval(lightning.Callback):
    """Decodes every validation and test batch and logs `<stage>/<metric>`.

    The module offers `begin(batch)`, which reads the histories once for both searches, and `recommend(batch, tree,
    num_beams, constrained, oracle_first_code, trace, state) -> Recommendations`;
    `constrained` chooses how the tree limits a model (see `sid.decode.beam_search`). `beams` is fed with the trace, and
    `insight` with what the step returns, `models.inside.Inside`. For a classic module `tree` is the items (C,) that may
    be recommended.

    Lists under the tree feed `metrics` (and `observers`, during the test); a beam search over `free_tree` feeds
    `free_metrics`: under the trie the invalid-ID rate is zero by construction.
    """

    def __init__(
        self,
        tree: PrefixTree | torch.Tensor,
        num_beams: int,
        metrics: Sequence[Metric],
        free_tree: FreeTree | None = None,
        free_beams: int = 0,
        free_metrics: Sequence[Metric] = (),
        observers: Sequence[Observer] = (),
        constrained: bool = False,
        oracle_first_code: bool = False,
        beams: BeamRanks | None = None,
        insight: Insight | None = None,
    ) -> None:
        self.tree, self.num_beams, self.metrics = tree, num_beams, metrics
        self.constrained, self.oracle_first_code = constrained, oracle_first_code
        self.beams, self.insight = beams, insight
        inner = [metric for metric in (beams, insight) if metric is not None]
        self.all_metrics = [*metrics, *free_metrics, *inner]
        self.free_tree, self.free_beams, self.free_metrics = free_tree, free_beams, free_metrics
        self.observers = observers

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        device = trainer.strategy.root_device
        self.tree = self.tree.to(device)
        if self.free_tree is not None:
            self.free_tree = self.free_tree.to(device)
        for metric in self.all_metrics:
            metric.to(device)

    @torch.no_grad()
    def _observe(self, trainer: Any, module: Any, batch: Any, observers: Sequence[Observer] = ()) -> None:
        with trainer.precision_plugin.forward_context():
            trace: list[torch.Tensor] = []
            how = (self.constrained, self.oracle_first_code, trace)
            state = module.begin(batch)
            lists = module.recommend(batch, self.tree, self.num_beams, *how, state=state)
            if self.beams is not None:
                self.beams.update(trace, batch)
            if self.free_tree is not None:
                free = module.recommend(batch, self.free_tree, self.free_beams, state=state)
                for metric in self.free_metrics:
                    metric.update(free, batch)
        for metric in self.metrics:
            metric.update(lists, batch)
        for observe in observers:
            observe(lists, batch)

    def _look(self, inside: Any) -> None:
        if self.insight is not None:
            self.insight.update(inside)

    def _log(self, module: Any, stage: str) -> None:
        """The metrics are synchronised over the ranks when they are computed; logging adds nothing to that."""
        for metric in self.all_metrics:
            for name, value in metric.compute().items():
                module.log(f"{stage}/{name}", value.float(), prog_bar=name == "ndcg@10")
            metric.reset()

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._observe(trainer, pl_module, batch)
        self._look(outputs)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._log(pl_module, "val")

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._observe(trainer, pl_module, batch, self.observers)
        self._look(outputs)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._log(pl_module, "test")

"""Lightning trainers of the stages: checkpoints that a kill cannot damage, the metrics file, loggers."""

import atexit
import io
import logging
import os
import platform
import resource
import warnings
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy
from omegaconf import OmegaConf

from experiments.config import RunConfig, TrainConfig
from experiments.progress import progress_bar
from experiments.stages import LAST, finish_wandb, process_rank
from sid.errors import UserError, first_line

CLEAR_REFS = Path("/proc/self/clear_refs")
"""Linux: writing 5 starts the count of the process's largest memory anew."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames: a file under its name is whole, also across file systems."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}")
        whole = io.BytesIO()
        torch.save(checkpoint, whole)  # in memory first: torch hides a full disk behind an error of its own
        try:
            with aside.open("wb") as file:
                file.write(whole.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


class Checkpoint(ModelCheckpoint):
    """Knows its files again in a run whose folder has been moved; Lightning forgets the best validation there.

    Raises UserError where the file that it kept is gone.
    """

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        old, new = state_dict["dirpath"], str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): one for key, one in value.items()}
            return new + value.removeprefix(old) if isinstance(value, str) and value.startswith(old) else value

        state = {name: moved(value) for name, value in state_dict.items()}
        if state["best_model_path"] and not Path(state["best_model_path"]).exists():
            raise UserError(f"{state['best_model_path']} is missing. Start again with force=train.")
        super().load_state_dict(state)


def last_checkpoint(folder: Path, every: int = 1) -> ModelCheckpoint:
    """Saves `last.ckpt` after every `every` epochs."""
    return Checkpoint(folder, "last", every_n_epochs=every, save_on_train_epoch_end=True, enable_version_counter=False)


def best_checkpoint(folder: Path, monitor: str | None, every: int) -> ModelCheckpoint:
    """Keeps the weights of the best validation in `best.ckpt`, or of the last without a monitor; there is one every
    `every` epochs."""
    return Checkpoint(
        folder,
        "best",
        monitor=monitor,
        mode="max",
        every_n_epochs=every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


class WeightAverage(EMAWeightAveraging):
    """Lightning's running mean of the weights, kept where the module trains; Lightning itself leaves it on the CPU."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


def reset_peak_memory(device: torch.device) -> None:
    """Starts the count of `peak_memory` anew; outside Linux that of the machine's memory goes on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held since `reset_peak_memory`, in GiB: of the GPU, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resume_from(folder: Path, stage: str) -> str | None:
    """The last checkpoint of an interrupted training, if there is one. Raises UserError when it cannot be read."""
    path = folder / LAST
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}). Start again with force={stage}.") from error
    return str(path)


def finished_epochs(checkpoint: str | None) -> int | None:
    """Epochs that a training which stopped early has done; None if there is none, or it has not stopped."""
    if checkpoint is None:
        return None
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    stopped = any(s.get("stopped_epoch") for key, s in state["callbacks"].items() if key.startswith("EarlyStopping"))
    return state["epoch"] + 1 if stopped else None


def trainer(callbacks: list[Callback], logger: Logger | None = None, **options: Any) -> lightning.Trainer:
    """A deterministic trainer without sanity run; `options` go to `lightning.Trainer`. Raises UserError where there are
    no such devices."""
    # Deterministic algorithms also fill new memory with NaN, a pass more over it; nothing of ours reads it unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*There is a wandb run already in progress.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*recommended to use `self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", ".*is not currently set to True, but.*train_dataloader.*")
    accelerator = options.pop("accelerator", "auto")
    try:
        return lightning.Trainer(
            accelerator=processor(accelerator),
            callbacks=[*callbacks, progress_bar()],
            logger=logger or False,
            plugins=[AtomicCheckpoints()],
            num_sanity_val_steps=0,
            enable_model_summary=False,
            deterministic="warn",
            **options,
        )
    except MisconfigurationException as error:
        asked = f"train.accelerator={accelerator}, train.devices={options.get('devices', 'auto')}"
        raise UserError(f"{asked}: {' '.join(str(error).split())}") from error


def processor(accelerator: str) -> str:
    """What Lightning calls it. By itself it would take Apple's GPUs, which cannot do metrics' float64."""
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if accelerator == "gpu" else accelerator


@atexit.register
def leave_group() -> None:
    """Ends the group of processes while Python is whole: torch asks for it, and Lightning does it for NCCL alone. What
    is left over, such as gloo's threads, can abort a process at its very end (see also `experiments.run.leave`)."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def hardware(config: TrainConfig) -> dict[str, Any]:
    """What the configuration asks of a trainer's machines; without bfloat16 arithmetic they compute in float32, and
    say so."""
    precision = config.precision
    if precision == "bf16-mixed" and not has_bfloat16(config.accelerator):
        precision = "32-true"
        tell_float32()
    return {
        "accelerator": config.accelerator,
        "devices": config.devices if config.devices == "auto" else int(config.devices),
        "num_nodes": config.num_nodes,
        # Lightning's own "fsdp" is the older one, for GPUs alone; this shards what `configure_model` names.
        "strategy": ModelParallelStrategy(save_distributed_checkpoint=False)
        if config.strategy == "fsdp"
        else config.strategy,
        "precision": precision,
    }


@cache
def tell_float32() -> None:
    """Once a process."""
    if process_rank() == 0:
        print("train.precision=bf16-mixed: this machine has no bfloat16 arithmetic, so it computes in float32")


def has_bfloat16(accelerator: str) -> bool:
    """Whether a device of this kind has instructions for bfloat16, as GPUs have since Ampere and x86 with AVX512-BF16.

    Another CPU emulates them or takes plain loops: 1 to 3 GFLOP/s on a Zen 3, in float32 38 to 80.
    """
    if processor(accelerator) == "cuda" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def device_of(accelerator: str) -> torch.device:
    """Where a trainer on one device of the accelerator works."""
    return trainer([], accelerator=accelerator, devices=1).strategy.root_device


def wandb_logger(config: RunConfig, run: str) -> Logger | None:
    """The extra logger that `logger=wandb` asks for. Its id is the run's hash, so that a resumed run goes on in its
    place; under `wandb agent` it is the one that the agent has chosen.

    Raises UserError when wandb is missing or has neither a key nor WANDB_MODE=offline.
    """
    if config.logger != "wandb":
        return None
    try:
        import wandb
    except ImportError as error:
        raise UserError("logger=wandb needs the package wandb: pip install -e '.[wandb]'") from error
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(
        project="sidlight",
        name=f"{config.name}-{run}",
        id=None if "WANDB_SWEEP_ID" in os.environ else run,
        resume="allow",
        save_dir=config.output_dir,
        config=OmegaConf.to_container(OmegaConf.structured(config)),
    )
    try:
        _ = logger.experiment
    except wandb.errors.Error as error:
        raise UserError(f"wandb did not start ({error}). Set WANDB_MODE=offline, or run wandb login.") from error
    return logger


def log_report(config: RunConfig, report: Path) -> None:
    """Adds the report page to the wandb run, if there is one."""
    logger: Any = wandb_logger(config, report.parent.name)
    if logger is not None:
        import wandb

        logger.experiment.log({"report": wandb.Html(report.read_text())})
        finish_wandb()

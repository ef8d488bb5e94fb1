"""The command line: `python -m experiments.run NAME [stage=STAGE] [force=STAGE] [key=value ...]`.

Heavy packages are imported by the stages that need them, so that help and mistakes answer at once.
"""

import atexit
import difflib
import io
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from experiments.named import listing, named, require_named
from experiments.stages import VERSIONS, process_rank, stand_alone, started_with_others
from sid.errors import Terminated, UserError

STAGES = tuple(VERSIONS)
USAGE = f"""usage: make exp NAME=<experiment> [STAGE=<stage>] [ARGS="key=value ..."]
       python -m experiments.run <experiment> [stage=<stage>] [force=<stage>] [key=value ...]

stages: {", ".join(STAGES)}. Finished ones are reused; stage= stops after one, force= rebuilds from one on.
Any field of the configuration is a key, for instance seed=2 model.num_layers=3 logger=wandb output_dir=/tmp/out.
"""


def parse(arguments: list[str]) -> tuple[str, str, str, list[str]]:
    """Experiment, last stage, stage to rebuild from ('' for none) and overrides. Raises UserError."""
    name, *rest = arguments
    require_named(name)
    chosen = {"stage": STAGES[-1], "force": ""}
    overrides = []
    for argument in rest:
        key, _, value = argument.partition("=")
        if key not in chosen:
            overrides.append(argument)
        elif value not in STAGES:
            raise UserError(f"{argument}: there is no such stage; expected one of {', '.join(STAGES)}")
        else:
            chosen[key] = value
    return name, chosen["stage"], chosen["force"], overrides


def take(arguments: Sequence[str], own: dict[str, Any]) -> list[str]:
    """Puts what is given for a key of `own` there; returns the other arguments."""
    rest = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        else:
            rest.append(argument)
    return rest


def choose(rest: Sequence[str], what: str, command: str, known: Collection[str], listing: str) -> tuple[str, list[str]]:
    """The name that comes first, one of the known, and the overrides behind it. Raises UserError."""
    if not rest or "=" in rest[0]:
        raise UserError(f"which {what}? Write {command}\n{listing}")
    name, *overrides = rest
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(f"there is no {what} {name!r}{f'; did you mean {near[0]}?' if near else ''}\n{listing}")
    return name, overrides


def run(arguments: list[str]) -> Any:
    """Runs an experiment up to a stage; returns the pipeline with its figures."""
    name, stage, force, overrides = parse(arguments)
    wait_passively()
    from experiments.overrides import override

    config = override(named(name), overrides)
    if "SLURM_PROCID" in os.environ and config.train.one_device():
        stand_alone()
    if force and started_with_others():
        raise UserError(
            f"force={force}: of several processes that torchrun or srun starts, some would take the old results before "
            "they are gone; remove the stage's folder instead, or force it in a process that starts alone"
        )
    from experiments.pipeline import Pipeline
    from experiments.summary import show

    first = process_rank() == 0
    pipeline = Pipeline(config, force if first else "", print if first else lambda line: None)
    pipeline.run(stage, show if first else lambda *figures: None)
    return pipeline


def wait_passively() -> None:
    """Threads that spin while they wait make small models 18 times slower where another process has a core.

    To be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, run)


def answer(arguments: list[str], usage: str, work: Callable[[list[str]], object]) -> int:
    """Does a command's work, and says mistakes of the user in one line. Returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        try:
            print(f"{usage}\n{listing()}", flush=True)
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # who reads a log file sees at once what is being worked on
    try:
        work(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Terminated:
        print("\nended by SIGTERM; the same command goes on from the last checkpoint", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def leave(status: int) -> NoReturn:
    """Ends the process. One that has done its work in a group of processes does what `atexit` asks for, but leaves
    Python's teardown out: a thread of gloo that lets go of a tensor there aborts its process (pytorch/pytorch issues
    179291 and 190489), and then Lightning kills the first, which may be at its report. Lightning kills it for any other
    status but 0 as well, so a process that has not done its work takes its time as ever.
    """
    torch = sys.modules.get("torch")
    if status or torch is None or not torch.distributed.is_initialized():
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))

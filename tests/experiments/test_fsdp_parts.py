"""Random batches of prefixes under FSDP: parts that are not equally many in both processes."""

from pathlib import Path

from tests.experiments.two_processes import check_curve


def test_processes_with_unequally_many_parts_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    check_curve("fsdp", tmp_path, "sequences.batches=random")

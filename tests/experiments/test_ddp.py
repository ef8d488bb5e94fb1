"""Two processes with a copy of the weights each."""

from pathlib import Path

from tests.experiments.two_processes import check_curve_and_sigterm, check_sigterm_in_the_last_validation


def test_the_loss_curve_is_that_of_one_process_and_sigterm_changes_nothing(tmp_path: Path) -> None:
    check_curve_and_sigterm("ddp", tmp_path)
    check_sigterm_in_the_last_validation("ddp", tmp_path / "two", tmp_path)

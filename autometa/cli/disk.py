"""Which files belong to a study, and how much space they take."""

from __future__ import annotations

from pathlib import Path

from autometa.home import Home


def study_paths(home: Home, study: str) -> list[Path]:
    """Files and folders in the home folder that belong to one study."""
    return [
        home.journal(study),
        home.journal(study).with_suffix(".lock"),
        home.initial(study),
        home.checkpoints(study),
        home.models / study,
        home.outbox / f"{study}.jsonl",
        *(home.priors / "records").glob(f"{study}-{'[0-9a-f]' * 8}.prior"),
        # MLflow keeps a folder a run, deleted or not; the run that has this study's model is it.
        *(model.parents[1] for model in home.artifacts.glob(f"*/artifacts/{study}")),
    ]


def folder_size(path: Path) -> int:
    """Bytes of a file or of all files below a folder; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for item in path.rglob("*"):
        try:
            total += item.lstat().st_size if not item.is_dir() else 0
        except FileNotFoundError:  # a running search removes checkpoints while we count
            continue
    return total

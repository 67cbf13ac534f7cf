#!/usr/bin/env python
"""A search with Ray Tune and Optuna around a plain PyTorch loop: what a user would write instead.

A training loop, `OptunaSearch`, `ASHAScheduler` and `MLflowLoggerCallback`, in the style of their
documentation: as a function that Tune starts a new actor for, or with `--reuse-actors` as a class
whose actors are reset. There are no checkpoints. `bench_throughput.py` runs it and says more.

    python scripts/ray_tune_peer.py --n-trials 8 --epochs 3

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

DEPTH = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-trials", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of a trial (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--widths", default="32,48,64", help="of the layers (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--reuse-actors", action="store_true")
    print(json.dumps(search(parser.parse_args(argv))))


def space(widths: Sequence[int]) -> dict[str, Any]:
    """What is searched."""
    return {
        "width": tune.choice(list(widths)),
        "split_at": tune.randint(1, DEPTH + 1),
        "dropout": tune.uniform(0.0, 0.5),
        "lr": tune.loguniform(3e-4, 2e-2),
        "weight_decay": tune.loguniform(1e-6, 1e-1),
        "schedule": tune.choice(["cosine", "constant"]),
    }


class DigitsNet(nn.Module):
    """A trunk of `split_at` blocks, then for each task its own blocks and head."""

    def __init__(self, n_inputs: int, n_tasks: int, width: int, split_at: int, dropout: float):
        super().__init__()

        def blocks(first: int, last: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for number in range(first, last):
                layers += [nn.Linear(width if number else n_inputs, width), nn.LayerNorm(width)]
                layers += [nn.ReLU(), nn.Dropout(dropout)]
            return layers

        self.trunk = nn.Sequential(*blocks(0, split_at))
        self.towers = nn.ModuleList(
            nn.Sequential(*blocks(split_at, DEPTH), nn.Linear(width, 10)) for _ in range(n_tasks)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.trunk(x)
        return [tower(h) for tower in self.towers]


class Training:
    """Model, data, optimizer and schedule of one trial."""

    def __init__(self, config: dict[str, Any], data: dict[str, Tensor]) -> None:
        torch.manual_seed(config["seed"])
        self.device = torch.device(config["device"])
        x, y = data["x"], data["y"]
        self.loader = DataLoader(TensorDataset(x, y), batch_size=config["batch_size"], shuffle=True)
        self.val_x, self.val_y = data["val_x"].to(self.device), data["val_y"].to(self.device)
        self.model = DigitsNet(
            x.shape[1], y.shape[1], config["width"], config["split_at"], config["dropout"]
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"]
        )
        self.schedule = None
        if config["schedule"] == "cosine":
            steps = config["epochs"] * len(self.loader)
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        constant = [int(torch.bincount(column).argmax()) for column in y.T]
        self.constant_errors = (self.val_y != torch.tensor(constant, device=self.device)).sum()

    def epoch(self) -> float:
        """Train for one epoch; returns the score on the validation rows."""
        self.model.train()
        for x, y in self.loader:
            x, y = x.to(self.device), y.to(self.device)
            outputs = self.model(x)
            losses = [nn.functional.cross_entropy(out, y[:, t]) for t, out in enumerate(outputs)]
            self.optimizer.zero_grad()
            (sum(losses) / len(losses)).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
        self.model.eval()
        with torch.no_grad():
            predicted = torch.stack([out.argmax(1) for out in self.model(self.val_x)], dim=1)
        return float(1.0 - (predicted != self.val_y).sum() / self.constant_errors)


def train_digits(config: dict[str, Any], data: dict[str, Tensor]) -> None:
    """The training function."""
    training = Training(config, data)
    for _ in range(config["epochs"]):
        tune.report({"score": training.epoch()})


class TrainDigits(tune.Trainable):
    """The same as a class, for actors that are used again."""

    def setup(self, config: dict[str, Any], data: dict[str, Tensor]) -> None:
        self.data = data
        self.training = Training(config, data)

    def step(self) -> dict[str, float]:
        return {"score": self.training.epoch()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.training = Training(new_config, self.data)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        torch.save(self.training.model.state_dict(), Path(checkpoint_dir) / "model.pt")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.training.model.load_state_dict(torch.load(Path(checkpoint_dir) / "model.pt"))


class Watch(tune.Callback):
    """Notes when which score was the best, from the last scores of the trials that ended."""

    def __init__(self) -> None:
        self.started = time.time()
        self.curve: list[tuple[float, float]] = []
        self.last: dict[str, float] = {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any):
        self.last[trial.trial_id] = result["score"]

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any):
        score = self.last[trial.trial_id]
        if not self.curve or score > self.curve[-1][1]:
            self.curve.append((time.time() - self.started, score))


def search(args: argparse.Namespace) -> dict[str, Any]:
    """The search, and when it did what."""
    began = time.time()
    ray.init("local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
    watch = Watch()
    trainable = TrainDigits if args.reuse_actors else train_digits
    gpus = 1 / args.workers if args.device == "cuda" else 0
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, data=digits()), {"cpu": 1, "gpu": gpus}
            ),
            param_space={
                **space([int(width) for width in args.widths.split(",")]),
                "batch_size": args.batch_size,
                "epochs": args.epochs,
                "device": args.device,
                "seed": args.seed,
            },
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=args.n_trials,
                search_alg=OptunaSearch(seed=args.seed),
                scheduler=ASHAScheduler(
                    max_t=args.epochs,
                    grace_period=max(1, args.epochs // 9),
                    reduction_factor=3,
                ),
                reuse_actors=args.reuse_actors,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                stop={"training_iteration": args.epochs},
                callbacks=[
                    MLflowLoggerCallback(
                        tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="digits"
                    ),
                    watch,
                ],
            ),
        )
        results = tuner.fit()
        ended = time.time()
    if results.errors:
        raise SystemExit(f"Trials failed: {results.errors}")
    ray.shutdown()
    return {
        "startup": watch.started - began,
        "started": watch.started,
        "ended": ended,
        "trials": len(results),
        "trial_epochs": sum(result.metrics["training_iteration"] for result in results),
        "curve": watch.curve,
    }


def digits() -> dict[str, Tensor]:
    """Rows of MultiDigits as plain tensors."""
    from autometa.tasks import load_suite

    suite = load_suite("multidigits")
    train, val = suite.rows("train"), suite.rows("val")
    return {
        "x": train.x.flatten(1),
        "y": train.y.long(),
        "val_x": val.x.flatten(1),
        "val_y": val.y.long(),
    }


if __name__ == "__main__":
    main()

"""Contract of training: K runs as one are K runs one by one, and leave each other alone.

The reference is written here with plain loops, `torch.optim` and `torch.autograd`; it shares the
network, the batches' row numbers and the random keys with the trainer, and no other code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from autometa.balancing import GradientBalancer, View
from autometa.learners import Batch
from autometa.networks import Problem, Step
from autometa.networks.keys import fold, new_key
from autometa.sharing import SHARING, Params
from autometa.sharing.base import subset
from autometa.tasks import TaskSuite
from autometa.training.batches import GroupedRows, plan_aligned
from autometa.training.population import Run, Trainer
from autometa.training.state import Layout, PopulationState, load_run, save_run
from autometa.trial import TrialConfig, build
from tests.contracts.variants import skip_without_extra, suite_kinds, training_settings
from tests.small import double_precision, in_double, in_steps, make_config, make_suite

CPU = torch.device("cpu")
EPOCHS = 3
CASES = [(values, kind) for values in training_settings() for kind in suite_kinds(values)]
NAMES = ["-".join([kind, *map(str, values.values())]) for values, kind in CASES]
every_case = pytest.mark.parametrize(("values", "kind"), CASES, ids=NAMES)

#: what differs between the runs of one population, at learning rates low enough for comparison
PER_RUN = (
    {"lr": 1e-3, "weight_decay": 0.3, "schedule": "cosine", "clip": 0.05, "momentum": 0.5},
    {"lr": 3e-4, "weight_decay": 0.0, "schedule": "constant", "clip": 1e9, "momentum": 0.9},
    {"lr": 2e-3, "weight_decay": 0.1, "schedule": "cosine", "clip": 0.5, "momentum": 0.0},
)
DROPOUT = (0.0, 0.4, 0.1)


def make_runs(values: dict[str, object], n: int = 3) -> list[Run]:
    skip_without_extra(values)
    runs = []
    for k in range(n):
        own = {f"optimizer.{name}": value for name, value in PER_RUN[k % 3].items()}
        config = make_config({"backbone.dropout": DROPOUT[k % 3], **own, **values})
        config = make_config({**config.flat(), **own_numbers(config, k), **values})
        runs.append(Run(config, seed=11 + 7 * k))
    assert len({run.config.shape_key() for run in runs}) == 1
    return runs


def own_numbers(config: TrialConfig, k: int) -> dict[str, float]:
    """The numbers of sharing and balancing that may differ between runs, different in run `k`."""
    out = {}
    for axis in ("sharing", "balancing"):
        section = getattr(config, axis)
        for name, field in type(section).model_fields.items():
            if (field.json_schema_extra or {}).get("per_run"):
                out[f"{axis}.{name}"] = getattr(section, name) * (0.5, 1.0, 0.8)[k % 3]
    return out


class Reference:
    """One run, trained with torch's own optimizer, scheduler and clipping."""

    def __init__(self, suite: TaskSuite, run: Run, epochs: int = EPOCHS) -> None:
        self.suite, self.run = suite, run
        self.problem = Problem.of(suite)
        self.rows = suite.rows("train")
        self.learner = build(run.config, self.problem)
        params, buffers = self.learner.init(torch.Generator().manual_seed(run.seed))
        self.buffers = buffers | self.learner.fit(self.rows.x)
        self.params = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        o = run.config.optimizer
        decays = [n for n in params if n.endswith(".weight") and not n.startswith("embedding.")]
        mixes = [n for n, role in self.learner.roles().items() if role == "mixing"]
        others = [n for n in params if n not in {*decays, *mixes}]
        mixing_lr = o.lr * getattr(run.config.sharing, "mixing_lr", 1.0)
        groups = [
            {"params": [self.params[n] for n in decays], "weight_decay": o.weight_decay},
            {"params": [self.params[n] for n in others], "weight_decay": 0.0},
            {"params": [self.params[n] for n in mixes], "weight_decay": 0.0, "lr": mixing_lr},
        ]
        self.optimizer: torch.optim.Optimizer
        if o.kind == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=o.lr, foreach=False)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, foreach=False)
        self.batch_tasks = min(o.batch_tasks, self.problem.n_tasks)
        per_step = self.batch_tasks if self.rows.task is not None else 1
        self.steps = math.ceil(len(self.rows.x) / (o.batch_size * per_step))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda s: (
                0.5 * (1 + math.cos(math.pi * s / (self.steps * epochs)))
                if o.schedule == "cosine"
                else 1.0
            ),
        )
        self.norms: list[float] = []

    def batches(self, epoch: int) -> list[Batch]:
        rows, o = self.rows, self.run.config.optimizer
        out = []
        if rows.task is None:
            plan = plan_aligned(len(rows.x), o.batch_size, self.run.seed, epoch)
            for at, valid in zip(plan.rows, plan.valid, strict=True):
                tasks = torch.arange(self.problem.n_tasks)
                mask = (rows.mask[at] & valid[:, None]).T  # padding has dropout masks, too
                out.append(Batch(rows.x[at], rows.y[at].T, mask, tasks))
        else:
            grouped = GroupedRows(rows.task, self.problem.n_tasks)
            plan = grouped.plan(o.batch_size, o.batch_tasks, self.run.seed, epoch)
            assert plan.tasks is not None
            for at, valid, tasks in zip(plan.rows, plan.valid, plan.tasks, strict=True):
                out.append(Batch(rows.x[at], rows.y[at], valid, tasks))
        return out

    def train(self, to_epoch: int) -> float:
        """The mean loss of the last epoch."""
        key = new_key(self.run.seed)
        rates = {name: torch.tensor(rate) for name, rate in self.run.config.rates().items()}
        step = 0
        for epoch in range(to_epoch):
            losses = []
            for batch in self.batches(epoch):
                step += 1
                self.optimizer.zero_grad()
                how = Step(True, fold(key, step), rates)
                loss, each, self.buffers = self.learner.loss(self.params, self.buffers, batch, how)
                loss.backward(retain_graph=True)
                if isinstance(self.learner.balancer, GradientBalancer):
                    self.balance(each, batch, how)
                norm = torch.cat([p.grad.flatten() for p in self.params.values()]).norm()
                self.norms.append(norm.item())
                factor = min(1.0, self.run.config.optimizer.clip / (norm.item() + 1e-6))
                for leaf in self.params.values():
                    leaf.grad *= factor
                self.optimizer.step()
                every = self.learner.update_every
                if every and step % every == 0:
                    leaves = {name: leaf.detach() for name, leaf in self.params.items()}
                    self.buffers = self.learner.after_step(leaves, self.buffers)
                self.state(
                    self.learner.balancer.after_step,
                    each.detach(),
                    self.learner.loss(self.params, self.buffers, batch, how)[1].detach(),
                    batch.mask.any(1),
                    batch.tasks,
                    how,
                )
                self.scheduler.step()
                losses.append(loss.item())
            self.state(self.learner.balancer.after_epoch)
        return sum(losses) / len(losses)

    def state(self, renew: Callable[..., Params], *args: object) -> None:
        """Renew the balancer's state."""
        state = renew(subset(self.buffers, "balancing"), *args)
        self.buffers = self.buffers | {f"balancing.{name}": s for name, s in state.items()}

    def balance(self, losses: Tensor, batch: Batch, step: Step) -> None:
        """Add to the gradients of shared leaves what the balancer makes of those of the tasks."""
        balancer, roles = self.learner.balancer, self.learner.roles()
        assert isinstance(balancer, GradientBalancer)
        # random numbers are drawn entry by entry: in the order of the row
        leaves = [self.params[n] for n in Layout(self.params).shapes if roles[n] == "shared"]
        slots: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for place, task in enumerate(batch.tasks.tolist()):
            if batch.mask[place].any():
                found = torch.autograd.grad(
                    losses[place], leaves, retain_graph=True, materialize_grads=True
                )
                row = torch.cat([g.flatten() for g in found])
                slots.setdefault(task, []).append((losses[place].detach(), row))
        tasks = sorted(slots)
        mean = torch.stack([row for found in slots.values() for _, row in found]).mean(0)
        rows = torch.stack([torch.stack([row for _, row in slots[t]]).mean(0) for t in tasks])
        task_losses = torch.stack(
            [torch.stack([loss for loss, _ in slots[t]]).mean() for t in tasks]
        )
        seen = rows @ rows.T if balancer.needs == "gramian" else rows
        assert step.key is not None
        view = View(task_losses, torch.tensor(tasks), seen, self.run.config.rates(), int(step.key))
        found, state = balancer.balance(view, subset(self.buffers, "balancing"))
        self.buffers = self.buffers | {f"balancing.{name}": s for name, s in state.items()}
        if found is None:
            return
        change = (found @ rows if balancer.needs == "gramian" else found) - mean
        for leaf, piece in zip(leaves, change.split([x.numel() for x in leaves]), strict=True):
            leaf.grad = leaf.grad + piece.view_as(leaf)

    def slot(self, name: str) -> Params:
        state = self.optimizer.state  # torch keeps no buffer without momentum
        return {n: state[leaf][name] for n, leaf in self.params.items() if name in state[leaf]}


def leaves_of(state: PopulationState, like: Params) -> tuple[Params, dict[str, Params]]:
    layout = Layout(like)
    return layout.unpack(state.values), {n: layout.unpack(s) for n, s in state.slots.items()}


@every_case
def test_fused_is_one_by_one(values, kind):
    """Losses, gradients (through the optimizer's averages of them) and weights."""
    names = {"mean": "exp_avg", "square": "exp_avg_sq", "momentum": "momentum_buffer"}
    # where Nash-MTL's solver stops depends on the last digits
    loose = 1e4 if values.get("balancing.kind") == "nash_mtl" else 1.0
    with double_precision():
        suite = in_double(make_suite(kind))
        # a first run with dropout 0 must not decide for the others
        runs = make_runs({**values, "optimizer.batch_size": 10})
        length = in_steps(suite, runs[0].config, EPOCHS)
        trainer = Trainer(suite, length, CPU)
        results, state = trainer.train(runs, trainer.start(runs), length)
        clipped = []
        for k, run in enumerate(runs):
            reference = Reference(suite, run)
            loss = reference.train(EPOCHS)
            assert results[k].train_loss == pytest.approx(loss, rel=1e-9 * loose)
            weights, slots = leaves_of(state, reference.params)
            for name, leaf in reference.params.items():
                assert_close(weights[name][k], leaf.detach(), rtol=1e-7 * loose, atol=1e-9 * loose)
            for name, buffer in reference.buffers.items():
                assert_close(state.buffers[name][k], buffer, rtol=1e-7 * loose, atol=1e-9 * loose)
            for slot, stacked in slots.items():
                for name, expected in reference.slot(names[slot]).items():
                    assert_close(stacked[name][k], expected, rtol=1e-6 * loose, atol=1e-9 * loose)
            clipped.append(any(n > run.config.optimizer.clip for n in reference.norms))
        assert clipped[0]
        assert not clipped[1]
        assert state.step == length == EPOCHS * reference.steps


@every_case
def test_a_run_is_the_same_in_every_bundle(values, kind):
    """To the bit, except where torch sums in another order: convolutions (K runs are a grouped
    convolution), and towers on rows that they share when K = 1 (those of an aligned suite; all rows
    where towers mix)."""
    suite = make_suite(kind)
    runs = make_runs(values, 8)
    kind_of_sharing = values.get("sharing.kind", "hard")
    towers = kind_of_sharing != "hard" or values.get("sharing.split_at", 2) < 2
    length = in_steps(suite, runs[0].config, 2)
    trainer = Trainer(suite, length, CPU)

    def train(picked: list[int]) -> tuple[list[float | None], Tensor]:
        some = [runs[k] for k in picked]
        results, state = trainer.train(some, trainer.start(some), length)
        return [r.value for r in results], state.values

    scores, all_values = train(list(range(8)))
    for picked in ([4], [7, 4, 0]):
        found, weights = train(picked)
        shared_rows = kind == "aligned" or SHARING[kind_of_sharing].mixes_tasks
        alone = len(picked) == 1 and shared_rows and towers
        if kind != "image" and not alone:
            assert found == [scores[k] for k in picked]
            assert torch.equal(weights, all_values[picked])
        else:
            assert found == pytest.approx([scores[k] for k in picked], abs=1e-3)
            assert_close(weights, all_values[picked], rtol=1e-3, atol=1e-4)


@every_case
def test_a_diverging_run_leaves_the_others_alone(values, kind):
    suite = make_suite(kind)
    runs = make_runs(values)
    wild = Run(make_config({**runs[1].config.flat(), "optimizer.lr": 1e30}), runs[1].seed)
    length = in_steps(suite, runs[0].config, 2)
    trainer = Trainer(suite, length, CPU)
    expected, calm = trainer.train(runs, trainer.start(runs), length)
    mixed = [runs[0], wild, runs[2]]
    results, state = trainer.train(mixed, trainer.start(mixed), length)
    assert results[1].value is None
    assert "infinite or undefined" in (results[1].reason or "")
    for k in (0, 2):
        assert torch.equal(state.values[k], calm.values[k])
        assert results[k].value == expected[k].value
        assert results[k].reason is None
    # and it goes on failing, with the others unharmed, when it is trained further
    again, _ = trainer.train(mixed, state, length + 1)
    assert [r.reason is None for r in again] == [True, False, True]


@every_case
def test_saved_runs_go_on_as_if_never_stopped(values, kind, tmp_path: Path):
    """Stopped in the middle of the second epoch."""
    suite = make_suite(kind)
    runs = make_runs({**values, "optimizer.batch_size": 8})
    an_epoch = in_steps(suite, runs[0].config, 1)
    assert an_epoch > 1
    length = EPOCHS * an_epoch
    trainer = Trainer(suite, length, CPU)
    results, whole = trainer.train(runs, trainer.start(runs), length)
    _, half = trainer.train(runs, trainer.start(runs), an_epoch + 1)
    for k, run in enumerate(runs):
        save_run(half, k, run, tmp_path / f"{k}.safetensors")
    loaded = PopulationState.join([load_run(tmp_path / f"{k}.safetensors") for k in range(3)])
    assert loaded.step == half.step == an_epoch + 1
    assert torch.equal(loaded.values, half.values)
    assert loaded.slots.keys() == half.slots.keys()
    assert all(torch.equal(loaded.slots[n], half.slots[n]) for n in half.slots)
    assert loaded.buffers.keys() == half.buffers.keys()
    assert all(torch.equal(loaded.buffers[n], half.buffers[n]) for n in half.buffers)
    resumed, end = trainer.train(runs, loaded, length)
    assert torch.equal(end.values, whole.values)
    assert [r.value for r in resumed] == [r.value for r in results]
    assert b"pickle" not in (tmp_path / "0.safetensors").read_bytes()

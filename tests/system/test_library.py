"""The loops of docs/library.md run as they stand, and measure what autograd measures."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.support.command import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text("utf-8")
LOOPS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def after(loop: int, **names: Any) -> dict[str, Any]:
    """The names that a loop of the page leaves behind; names: those that it begins with."""
    names["__name__"] = "loop"
    with torch.random.fork_rng():
        exec(LOOPS[loop], names)
    return names


@pytest.mark.slow
def test_the_loop_with_the_ledger_learns_and_measures(capsys: pytest.CaptureFixture[str]) -> None:
    """Both losses end below half of what ignoring the inputs has. A further step's Gram matrix, and
    the trunk's gradient, are those of autograd for torch's own losses and of their weighted sum."""
    left = after(0)
    assert len(capsys.readouterr().out.splitlines()) == 2
    classes, numbers = left["measured"].losses.tolist()
    assert classes < 0.5 * 0.693
    assert numbers < 0.5 * 8  # the variance of a sum of 8 normal numbers
    net, stepper = copy.deepcopy(left["net"]), left["stepper"]
    torch.manual_seed(1)
    x = torch.randn(64, 8)
    targets = [(x[:, 0] > 0).long(), x.sum(1, keepdim=True)]
    measured = stepper({"x": x}, targets, left["optimizer"], step=201)
    z = net.trunk(x)
    losses = [
        functional.cross_entropy(net.heads["sign"](z), targets[0]),
        functional.mse_loss(net.heads["total"](z), targets[1]),
    ]
    torch.testing.assert_close(measured.losses, torch.stack(losses).detach())
    at_z = torch.stack(
        [torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses]
    )
    torch.testing.assert_close(measured.gram, at_z @ at_z.T, rtol=1e-4, atol=1e-9)
    weighted = (measured.weights * torch.stack(losses)).sum()
    trunk = list(net.trunk.parameters())
    for expected, p in zip(
        torch.autograd.grad(weighted, trunk), left["net"].trunk.parameters(), strict=True
    ):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_the_loop_skips_an_update_that_is_not_finite() -> None:
    """After a batch with a NaN no parameter moves any more, and `halted` says so."""
    left = after(0)
    net, stepper = left["net"], left["stepper"]
    before = copy.deepcopy(net.state_dict())
    for fill in (torch.nan, 1.0):
        x = torch.full((64, 8), fill)
        targets = [torch.ones(64, dtype=torch.long), x.sum(1, keepdim=True)]
        measured = stepper({"x": x}, targets, left["optimizer"], step=201)
        assert measured.skipped == measured.halted == 1
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.slow  # Lightning takes seconds to import
@pytest.mark.filterwarnings("ignore")  # Lightning advises on loggers and loaders
def test_the_loop_in_lightning_learns_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both losses fall as in the plain loop, Lightning has counted the steps, and its checkpoint
    has the network and the balancer. A batch that is not finite changes nothing there either."""
    monkeypatch.chdir(tmp_path)
    plain = after(0)
    left = after(1, **{name: plain[name] for name in ("Net", "sign", "total")})
    module, trainer = left["module"], left["trainer"]
    assert trainer.global_step == 5 * 2048 // 64
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert logged["loss/sign"] < 0.5 * 0.693
    assert logged["loss/total"] < 0.5 * 8
    assert logged["weight/sign"] > logged["weight/total"]
    (saved,) = tmp_path.rglob("*.ckpt")
    state = torch.load(saved, weights_only=True)["state_dict"]
    assert any(name.startswith("stepper.balancer.") for name in state)
    torch.testing.assert_close(state, dict(module.state_dict()), rtol=0, atol=0)
    broken = torch.utils.data.TensorDataset(
        torch.full((64, 8), torch.nan), torch.ones(64, dtype=torch.long), torch.ones(64, 1)
    )
    before = copy.deepcopy(left["net"].state_dict())
    again = left["pl"].Trainer(
        max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False
    )
    again.fit(module, torch.utils.data.DataLoader(broken, batch_size=64))
    assert module.stepper.halted == 1
    torch.testing.assert_close(left["net"].state_dict(), before, rtol=0, atol=0)


@pytest.mark.slow
def test_the_loop_with_a_balancer_alone_learns() -> None:
    """Both losses fall below half of what a prediction of 0 has, and the weights equalise the
    gradients' norms over their running means."""
    left = after(2)
    one, other = (loss.item() for loss in left["losses"])
    x = torch.randn(100_000, 8, generator=torch.Generator().manual_seed(1))
    assert one < 0.5 * float(x.sum(1).cosh().log().mean())
    assert other < 0.5 * float((1 - x[:, 0].cos()).mean())
    scaled = left["weights"] * left["gradients"].norm(dim=1)
    assert scaled.max() < 3 * scaled.min()


def test_the_loops_fit_on_a_screen() -> None:
    """None has more than 40 lines of code; blank ones are not counted."""
    assert len(LOOPS) == 3
    assert max(sum(bool(line) for line in loop.splitlines()) for loop in LOOPS) <= 40


@pytest.mark.slow
def test_the_loop_runs_from_a_wheel_and_from_a_copy(tmp_path: Path) -> None:
    """Away from the checkout: with the distribution installed, and with `job/` in a folder of one's
    own; each is the one that is imported."""
    source, site, vendor = (tmp_path / name for name in ("source", "site", "vendor"))
    for package in ("job", "deploy"):
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(built, check=True)
    (wheel,) = tmp_path.glob("evengrad-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    shutil.copytree(source / "job", vendor / "job")
    loop = f"import job as evengrad\n{LOOPS[0]}\nprint(evengrad.__file__)\n"
    (tmp_path / "train.py").write_text(loop)
    for place in (site, vendor):
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == str(place / "job" / "__init__.py")


def test_another_name_is_the_same_package() -> None:
    """`import job as evengrad` is the package `job`; there is no package `evengrad`."""
    import job as evengrad

    assert evengrad.__name__ == "job"
    with pytest.raises(ModuleNotFoundError):
        __import__("evengrad.balance")

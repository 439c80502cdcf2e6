"""The same loop with libraries that keep checkpoints of PyTorch's distributed state."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from tests.bench.survival.by_hand import Keeper, Training, train_with
from tests.bench.survival.witness import Witness


class Distributed:
    """torch.distributed.checkpoint's async_save, as in its recipe, a folder for each checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"
        self.saving: Any = None

    def save(self, training: Training) -> None:
        self.close()
        place = self.folder / str(training.epoch)
        self.saving = async_save(_state(training), checkpoint_id=place, no_dist=True)

    def restore(self, training: Training) -> None:
        complete = [path.parent for path in self.folder.glob("*/.metadata")]
        if complete:
            state = _state(training)
            newest = max(complete, key=lambda path: int(path.name))
            load(state, checkpoint_id=newest, no_dist=True)
            _take_on(training, state)

    def close(self) -> None:
        if self.saving is not None:
            self.saving.result()


def _state(training: Training) -> dict[str, Any]:
    """What the recipe keeps, with moments also before the first step, and the position."""
    model, optimizer = get_state_dict(training.model, training.optimizer)
    return {
        "model": model,
        "optimizer": optimizer,
        "epoch": training.epoch,
        "step": training.step,
    }


def _take_on(training: Training, state: Mapping[str, Any]) -> None:
    training.epoch, training.step = state["epoch"], state["step"]
    set_state_dict(
        training.model,
        training.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


class Managed:
    """torch_checkpointing's manager.

    Its defaults for saving beside training need CUDA, so it saves within training here; and without
    O_DIRECT, which not every file system has.
    """

    def __init__(self, folder: Path) -> None:
        manager = import_module("torch_checkpointing.checkpoint_manager").CheckpointManager
        files = import_module("torch_checkpointing.storage.filesystem")
        self.folder = folder / "checkpoints"
        self.folder.mkdir(exist_ok=True)
        config = manager.Config.with_sync_save()
        config.storage_config = files.LocalFileSystemStorageConfig(use_direct_io=False)
        self.manager = manager(config)

    def save(self, training: Training) -> None:
        self.manager.save(str(self.folder / str(training.epoch)), _state(training))

    def restore(self, training: Training) -> None:
        complete = [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]
        if complete:
            place = str(self.folder / str(max(complete)))
            _take_on(training, self.manager.load(place, into=_state(training)))

    def close(self) -> None:
        self.manager.close()


KEEPERS: dict[str, type[Distributed | Managed]] = {"distributed": Distributed, "managed": Managed}


def train(folder: Path, how: str, witness: Witness) -> None:
    """how: a name of KEEPERS."""
    keeper: Keeper = KEEPERS[how](folder)
    train_with(keeper, folder, witness)

"""The predictor of a run: its network and its losses at a checkpoint, verified."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from job.checkpoint.restore import Restored, restore_weights
from job.data.dataset import load as load_data
from job.data.encoding.encoders import Encoder
from job.data.encoding.input_form import InputForm
from job.data.encoding.input_info import FEATURES, InputInfo
from job.distributed.device import wanted_device
from job.errors import Fault, InputError
from job.model.losses import TaskLoss
from job.model.network import Network
from job.predict.locate import BEST, Origin, locate
from job.predict.predictor import Predictor
from job.record.document import Damaged
from job.spec import Arrays, JobSpec
from job.spec.stored import has_content, parse_stored
from job.store import Missing
from job.train.build.network import new_network
from job.train.resume import SCALING, named_now

FORMS = TypeAdapter(dict[str, InputForm])


def load(
    run: str | Path,
    *,
    store: str | None = None,
    checkpoint: str = BEST,
    spec_folder: str | Path = ".",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Predictor:
    """The predictor of a run at one of its checkpoints, whose files have the SHA-256 recorded.

    run: its folder, run id, name/run id, or s3://bucket/prefix/name/run-id. store: where a run is
    that is named by its id; None: EVENGRAD_STORE, else ./runs. checkpoint: best, last, or a number
    of steps; a run that keeps no best one has the last. spec_folder: where code of one's own lies,
    as the spec names it. device: auto, cpu or cuda. Raises InputError, Damaged, StoreError.
    """
    origin = locate(str(run), store, checkpoint)
    spec, folder = _spec(origin), Path(spec_folder)
    check_code(spec, folder, ["$.model"])
    origin, found = _restored(origin, lambda: locate(str(run), store, checkpoint))
    tensors = {named_now(name): tensor for name, tensor in found.tensors.items()}
    where = f"{origin.run}/{origin.kept.folder}"
    forms = _forms(spec, folder, found, where)
    encoders = _encoders(spec, forms, found, where)
    network = _network(spec, forms, encoders, tensors, folder, where)
    losses = [TaskLoss(task) for task in spec.tasks]
    for k, loss in enumerate(losses):
        _fill(loss, {name: tensors.get(f"losses.{k}.{name}") for name in loss.state_dict()}, where)
    wanted = wanted_device(spec.train.model_copy(update={"device": device}))
    classes = found.manifest.values.get("classes", {})
    parts = (network, losses, forms, encoders, classes, wanted)
    return Predictor(origin, found.manifest, spec, folder, *parts)


def _restored(origin: Origin, look: Callable[[], Origin]) -> tuple[Origin, Restored]:
    """The weights of a checkpoint, or of the one that has taken its place.

    look: where the checkpoint is now. A run that trains meanwhile may delete the one that was found
    before it is read to its end; its index has another one by then.
    """
    while True:
        try:
            return origin, restore_weights(origin.store, origin.run, origin.kept)
        except (Missing, Damaged):
            before, origin = origin, look()
            if origin.kept == before.kept:
                raise


def _spec(origin: Origin) -> JobSpec:
    """The run's spec, whose content has the hash that the run index names."""
    key = f"{origin.run}/spec.json"
    spec = parse_stored(origin.store.get(key).data.decode("utf-8", "replace"), key)
    if not has_content(spec, origin.spec_hash):
        raise Damaged(f"{key} is damaged: it does not have the hash that the run index names")
    return spec


def check_code(spec: JobSpec, folder: Path, paths: Collection[str]) -> None:
    """Raise InputError if a file of one's own is not where it is looked for.

    paths: JSON paths of the sections whose code is needed.
    """
    for path, section in spec.own_code.items():
        if path in paths and not (folder / section.file).is_file():
            found = f"no {section.file} in {folder.absolute()}"
            rule = "code of your own is read from the folder of the spec"
            remedy = "name that folder: --spec-folder, or spec_folder"
            raise InputError([Fault(f"{path}.file", found, rule, remedy)])


def _forms(spec: JobSpec, folder: Path, found: Restored, where: str) -> dict[str, InputForm]:
    """By input, how the training split had it, in the order in which the network joins them.

    The stored spec sorts its keys. Of an older checkpoint from the data itself.
    """
    kept = found.manifest.values.get("inputs")
    if kept is None:
        return load_data(spec, folder).forms
    try:
        return FORMS.validate_python(kept)
    except ValidationError as error:
        raise Damaged(f"{where} is damaged: {error.errors()[0]['msg']}") from None


def _encoders(
    spec: JobSpec, forms: Mapping[str, InputForm], found: Restored, where: str
) -> dict[str, Encoder]:
    """By input, in the order of their forms; none of bars."""
    if not isinstance(spec.data, Arrays):
        return {}
    levels: dict[str, Any] = found.manifest.values.get("levels", {})
    try:
        return {
            name: form.encoder(name, spec.data.named[name], levels) for name, form in forms.items()
        }
    except KeyError as error:
        raise Damaged(f"{where} is damaged: it lacks the levels of {error}") from None


def _network(
    spec: JobSpec,
    forms: Mapping[str, InputForm],
    encoders: Mapping[str, Encoder],
    tensors: Mapping[str, Tensor],
    folder: Path,
    where: str,
) -> Network:
    """The network that was evaluated: of a run with an average, that average."""
    infos = {name: encoder.info for name, encoder in encoders.items()} or {FEATURES: InputInfo()}
    shapes = {name: form.shape for name, form in forms.items()}
    indicated = {
        name: each.tolist()
        for name in infos
        for key, each in tensors.items()
        if key.endswith(f".by_input.input_{name}.indicated")
    }
    with torch.random.fork_rng(devices=[]):
        model = new_network(spec, infos, shapes, indicated, folder)
    if isinstance(spec.data, Arrays):
        for name, scaling in model.scalings.items():
            scaling.may_miss = spec.data.named[name].missing != "refuse"
    found: dict[str, Tensor | None] = {}
    for name, fresh in model.state_dict().items():
        kept = tensors.get(f"ema.{name}", tensors.get(f"model.{name}"))
        older = kept is None and f"model.{name}".startswith(SCALING)  # features as they are
        found[name] = fresh if older else kept
    _fill(model, found, where)
    return model.eval()


def _fill(module: nn.Module, tensors: Mapping[str, Tensor | None], where: str) -> None:
    """Give a module its state; raises Damaged if a tensor is not there, or has another shape."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        if tensor is None or tensor.shape != own[name].shape:
            found = "no tensor" if tensor is None else f"shape {list(tensor.shape)}"
            raise Damaged(f"{where} holds {found} for {name}, where the spec has another network")
    module.load_state_dict({name: x for name, x in tensors.items() if x is not None})

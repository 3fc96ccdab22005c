"""Writing a Program folder: whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from e2compile import optimizer
from e2compile.energy.count import ByNode
from e2compile.energy.work import when
from e2compile.errors import UsageError
from e2compile.forward import MODEL, ForwardGraph
from e2compile.gates.samples import argument, uses_batch_statistics
from e2compile.graph import Kind, StepGraph, text
from e2compile.graph_data import graph_data
from e2compile.pipeline import Stage, TrainingGraph
from e2compile.runtime import manifest as manifests
from e2compile.runtime.manifest import Function, Manifest
from e2compile.runtime.stages import EVALUATION
from e2compile.runtime.state import INITIAL, RATES, name_of, read
from e2compile.task import Task

# Beside the library, in the cache too.
ADDED = "program/added.safetensors"


@contextmanager
def writing(output: Path | str | None) -> Iterator[tuple[Path, Path]]:
    """A temporary folder, and where it goes when the block ends without an error: `output`, or a new one.

    Raises UsageError where `output` holds something that is not a Program, or cannot be written.
    """
    final = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="e2compile-"))
    if final.exists() and not _is_replaceable(final):
        raise UsageError(f"{final} exists and is not a Program: choose another output")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {final.parent}: {error.strerror}") from error
    try:
        yield temporary, final
        _swap(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or (folder / manifests.NAME).is_file())


def _swap(temporary: Path, final: Path) -> None:
    """Put the new folder in place, with the runs of the old one."""
    os.chmod(temporary, 0o755)
    old = temporary.with_name(temporary.name + "-old")
    if final.exists():
        if (final / "runs").is_dir():
            shutil.move(final / "runs", temporary / "runs")
        os.rename(final, old)
    os.rename(temporary, final)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent) + "\n")


def read_functions(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_stage(folder: Path, number: int, stage: Stage, work: ByNode | None = None) -> None:
    """One text and one JSON file: the graph to read, and as data, with the work of its calls if known."""
    about = {"name": stage.name, "changed": stage.changed, "notes": stage.notes}
    _write_graph(folder / f"{number:02d}_{stage.name}", stage.text, about, stage.graph, work or {})


def write_evaluation(folder: Path, step: StepGraph) -> None:
    """The evaluation graph beside the stages of the training step."""
    _write_graph(folder / EVALUATION, text(step), {"name": EVALUATION}, step, {})


def _write_graph(
    path: Path, printed: str, about: dict[str, Any], graph: ForwardGraph | StepGraph, work: ByNode
) -> None:
    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.name}.txt").write_text(printed)
    signature = {}
    if isinstance(graph, StepGraph):
        slots = {"inputs": graph.inputs, "outputs": graph.outputs}
        signature = {key: [[s.kind.value, s.target] for s in found] for key, found in slots.items()}
    extra = {node: {"work": [[i.amounts, when(i)] for i in items]} for node, items in work.items()}
    content = {**about, "signature": signature, "graph": graph_data(graph.module, extra)}
    write_json(path.with_name(f"{path.name}.json"), content, indent=None)


def write_state(place: Path, manifest: Manifest, task: Task, rates: NDArray[np.float32]) -> None:
    """The task's weights and optimizer state, what passes added, and the learning rates, as safetensors."""
    known: dict[str, Tensor] = dict([*task.model.named_parameters(), *task.model.named_buffers()])
    if isinstance(task.loss, nn.Module):
        known |= {f"loss.{n}": t for n, t in [*task.loss.named_parameters(), *task.loss.named_buffers()]}
    known |= {
        f"{item.name}.{key}": value
        for item in optimizer.updated(task.model, task.optimizer)
        for key, value in item.state.items()
    }
    # what a pass keeps from step to step starts at zero
    fresh = [t for t in manifest.state if t.kind == Kind.PASS.value and t.target not in known]
    known |= {t.target: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in fresh}
    arrays = read(place / ADDED) if (place / ADDED).is_file() else {}
    for tensor in manifest.state:
        if name_of(tensor) not in arrays:
            arrays[name_of(tensor)] = known[tensor.target].detach().contiguous().numpy()
    (place / INITIAL).parent.mkdir(exist_ok=True)
    save_file(arrays, place / INITIAL)
    save_file({"rates": rates}, place / RATES)


def write_added(place: Path, graph: TrainingGraph) -> None:
    """The state that passes added, as it starts, beside the program whose functions take it; if there is any.

    It depends on passes and optimizer alone, not on weights: a program from the cache brings its own.
    """
    added = graph.forward.added
    arrays = {name: value.numpy() for name, value in added.items()}
    for item in optimizer.added(added, graph.task.optimizer):
        arrays |= {f"optimizer.{item.name}.{key}": value.numpy() for key, value in item.state.items()}
    if arrays:
        save_file(arrays, place / ADDED)


def aliases(model: nn.Module) -> dict[str, str]:
    """Second names of tied tensors, each with its first."""
    first: dict[int, str] = {}
    result = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if first.setdefault(id(tensor), name) != name:
            result[name] = first[id(tensor)]
    return result


def hidden(model: nn.Module, step: Function) -> tuple[str, ...]:
    """Parameters and buffers that the module's state_dict lacks: the loss's, passes', not persistent ones."""
    named = set(model.state_dict())
    kinds = (Kind.PARAMETER, Kind.BUFFER)
    return tuple(t.target for t in step.inputs if t.kind in kinds and t.target not in named)


def statistics(training: ForwardGraph) -> dict[str, float]:
    """The running statistics of each batch norm that uses the batch's own, with the share that a step has in
    the new ones: the norm's momentum, or more where it is called several times.
    """
    kept: dict[str, float] = {}
    for norm in filter(uses_batch_statistics, training.graph.nodes):
        for name in ("running_mean", "running_var"):
            running = argument(norm, name)
            if running is not None:
                target = running.target.removeprefix(MODEL)
                kept[target] = kept.get(target, 1.0) * (1 - argument(norm, "momentum"))
    return {name: 1 - share for name, share in kept.items()}


def seal(place: Path, manifest: Manifest) -> None:
    """Write the manifest with the checksums of everything else."""
    manifests.write(manifest, place)

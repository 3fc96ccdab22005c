"""The compiler on one screen: graphs, lowering, build, verification, and the Program folder."""

import datetime
import hashlib
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from e2compile import __version__, artefact, optimizer
from e2compile.cache import Cache, folder, source_digest
from e2compile.collector import paused, skip_the_last
from e2compile.counting import counted
from e2compile.errors import MissingError, UsageError
from e2compile.graph import Slot, StepGraph, entry_points
from e2compile.pipeline import TrainingGraph, forward_text, settings_text
from e2compile.runtime.manifest import Function, Manifest, Tensor
from e2compile.runtime.program import LIBRARY, Program
from e2compile.schedule import tabulate
from e2compile.targets import Target, TuningProgress, find

if TYPE_CHECKING:
    from e2compile.lower.workload import Contraction
    from e2compile.verification.recording import Recording

Watch = Callable[[str, float], None]

# What depends on the fingerprint alone, not on the weights.
_CACHED = ("graphs", "program", "report", "verify")


@paused()
def compile(
    graph: TrainingGraph,
    target: str = "cpu",
    output: Path | str | None = None,
    seed: int = 0,
    verify: bool = True,
    cache: bool = True,
    watch: Watch | None = None,
    host: str | None = None,
    memory_budget: int | None = None,
    tune: float | None = None,
    progress: Callable[[TuningProgress], None] | None = None,
) -> Program:
    """Compile a training graph for a target into a Program folder and load it.

    `output` defaults to a new temporary folder; an existing Program there is replaced, its runs are kept.
    `watch` is told each phase's name and seconds. With `verify` the program's numbers are compared with
    PyTorch's before anything is written to `output`. `host` is the machine that the library runs on, by
    default this one: "aarch64-linux-gnu", or "aarch64-linux-gnu:cortex-a53". For one that this machine cannot
    run, a program of the same kernels, compiled for this machine, is compared. `memory_budget` is what a step
    may hold in megabytes of 10^6 bytes, state and batch included: of the forward pass as much runs again in
    the backward pass as that takes. `tune` takes about so many seconds to measure what other kernels of
    contractions would be faster, and tells `progress` how far it is; with `cache` what was measured before is
    not measured again.
    Raises CompileError for operators without a lowering (all at once, with the user's lines), MissingError
    for a target or tool that is not there, VerificationError where numbers differ, UsageError for a target
    that cannot be tuned, or not in so many seconds.
    """
    skip_the_last()
    chosen = find(target, host)
    _check_tuning(chosen, tune)
    missing = chosen.missing()
    if missing is not None:
        raise MissingError(f"target {target} needs {missing}")
    graph = chosen.prepare(graph)
    clock = _Clock(watch or (lambda *_: None))
    rates = tabulate(graph.task)
    memory_bytes = None if memory_budget is None else memory_budget * 10**6
    if tune is not None:
        calls = _contractions(graph, chosen.scales)
        clock.done("contractions listed")
        chosen = chosen.tuned(calls, tune, folder() if cache else None, progress or (lambda _: None))
        clock.done("tuned")
    fingerprint = _fingerprint(graph, chosen, verify, memory_bytes)
    store = Cache(folder())
    with artefact.writing(output) as (place, final):
        is_cached = cache and store.fetch(fingerprint, place)
        if not is_cached:
            functions, recordings = _build(graph, chosen, place, clock, memory_bytes)
            artefact.write_json(place / "program" / "functions.json", functions)
            artefact.write_added(place, graph)
        manifest = _manifest(graph, chosen, fingerprint, seed, place)
        artefact.write_state(place, manifest, graph.task, rates)
        if not is_cached:
            _verify(
                _Built(graph, chosen, manifest, place, memory_bytes), recordings if verify else None, clock
            )
            artefact.write_json(place / "report" / "compile.json", clock.report(graph))
            if cache:
                store.keep(fingerprint, place, _CACHED)
        artefact.seal(place, manifest)
    clock.done("from the cache" if is_cached else "written")
    return Program(final)


class _Clock:
    """Seconds of each phase."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.last, self.phases = watch, time.perf_counter(), dict[str, float]()
        self.notes: dict[str, Any] = {}

    def done(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] = now - self.last
        self.watch(phase, now - self.last)
        self.last = now

    def report(self, graph: TrainingGraph) -> dict[str, Any]:
        passes = [
            {"name": s.name, "changed": s.changed, "notes": s.notes, "seconds": s.seconds}
            for s in graph.stages
        ]
        return {"seconds": self.phases, "stages": passes, **self.notes}


def _check_tuning(target: Target, seconds: float | None) -> None:
    if seconds is None:
        return
    if not 0 < seconds < math.inf:
        raise UsageError(f"tuning takes a number of seconds above 0, not {seconds}")
    reason = target.untunable()
    if reason is not None:
        raise UsageError(f"target {target.name} cannot be tuned: {reason}")


def _contractions(graph: TrainingGraph, scales: bool) -> "Counter[Contraction]":
    """Those of an executed step."""
    from e2compile.lower.flat import fused
    from e2compile.lower.layout import state_orders
    from e2compile.lower.module import contractions
    from e2compile.lower.schedule import schedule

    fusion = fused(entry_points(graph.step).step, scales=scales)
    return contractions(schedule(fusion, state_orders(fusion.step)))


def _build(
    graph: TrainingGraph, target: Target, place: Path, clock: _Clock, memory_bytes: int | None
) -> tuple[dict[str, Any], "dict[str, Recording]"]:
    """Graphs to files, functions to the library; gives the functions' signatures, and how to tap each."""
    # not above: a program from the cache does without TVM
    from e2compile.lower.flat import fused
    from e2compile.lower.layout import state_orders
    from e2compile.lower.liveness import memory
    from e2compile.lower.module import Lowering
    from e2compile.lower.taps import taps
    from e2compile.verification.recording import Recording

    entries = entry_points(graph.step)
    functions = {"step": entries.step, "evaluate": graph.evaluation_step}
    if entries.keep is not None:
        functions["keep"] = entries.keep
    clock.done("captured and rewritten")
    fusions = {
        name: fused(function, memory_bytes if name == "step" else None, target.scales)
        for name, function in functions.items()
    }
    work = counted(graph, target.scales, fusions)
    for number, stage in enumerate(graph.stages):
        artefact.write_stage(place / "graphs", number, stage, work.calls.get(number))
    artefact.write_evaluation(place / "graphs", graph.evaluation_step)
    artefact.write_json(place / "report" / "work.json", work.content, indent=None)
    clock.done("fused and counted")
    lowering = Lowering(target.kernels)
    orders = state_orders(fusions["step"].step)
    for name, fusion in fusions.items():
        lowering.function(name, fusion, orders)
    module = lowering.module()
    clock.notes["kernels"] = len(lowering.generated)
    clock.notes["calls"] = {name: len(s.kernels) for name, s in lowering.schedules.items()}
    clock.notes["lines"] = lowering.lines()
    clock.notes["sequence"] = lowering.sequence()
    clock.notes["planned_bytes"] = lowering.planned_bytes
    alive = {name: memory(plan) for name, plan in lowering.schedules.items()}
    artefact.write_json(place / "report" / "memory.json", alive, indent=None)
    clock.done("lowered")
    (place / "program").mkdir()
    target.build(module, place / LIBRARY)
    clock.done("built")
    signatures = {name: _function(g, orders) for name, g in functions.items()}
    return signatures, {
        name: Recording(lowering.called[name], taps(plan)) for name, plan in lowering.schedules.items()
    }


def _function(graph: StepGraph, orders: dict[str, Any]) -> dict[str, Any]:
    inputs = [
        _tensor(slot, node, orders) for slot, node in zip(graph.inputs, graph.placeholders, strict=True)
    ]
    returns = [(slot.kind.value, slot.target) for slot in graph.outputs if not slot.kind.is_state]
    return {"inputs": [vars(t) for t in inputs], "returns": returns}


def _tensor(slot: Slot, node: Any, orders: dict[str, Any]) -> Tensor:
    value = node.meta["val"]
    dtype = str(value.dtype).removeprefix("torch.")
    order = orders[slot.target] if slot.kind.is_state else None
    return Tensor(slot.kind.value, slot.target, tuple(value.shape), dtype, order)


def _manifest(graph: TrainingGraph, target: Target, fingerprint: str, seed: int, place: Path) -> Manifest:
    task = graph.task
    content = artefact.read_functions(place / "program" / "functions.json")
    functions = {name: Function.parse(f) for name, f in content.items()}
    return Manifest(
        fingerprint=fingerprint,
        target=target.name,
        host=target.host,
        seed=seed,
        functions=functions,
        passes=tuple(map(settings_text, graph.passes)),
        data=task.data if isinstance(task.data, str) else None,
        epochs=task.epochs,
        schedule_unit=task.schedule_unit,
        aliases=artefact.aliases(task.model),
        hidden=artefact.hidden(task.model, functions["step"]),
        statistics=artefact.statistics(graph.training),
        versions={"e2compile": __version__}
        | {name: version(name) for name in ("torch", "apache-tvm", "numpy")},
        source=task.source,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


@dataclass(frozen=True)
class _Built:
    """What was built, and where it lies."""

    graph: TrainingGraph
    target: Target
    manifest: Manifest
    place: Path
    memory_bytes: int | None


def _verify(build: _Built, recordings: "dict[str, Recording] | None", clock: _Clock) -> None:
    path = build.place / "verify" / "verify.json"
    if recordings is None:
        artefact.write_json(path, {"passed": None, "steps": 0, "worst": {}, "ran": None})
        return
    stand_in = build.target.stand_in()
    if stand_in == build.target:
        found = {"ran": "this program"} | _verified(build, recordings)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = {"ran": _ran(stand_in, build.target)} | _verified(
                *_rebuilt(build, stand_in, Path(folder))
            )
    artefact.write_json(path, found)
    clock.done("verified")


def _verified(build: _Built, recordings: "dict[str, Recording]") -> dict[str, Any]:
    from e2compile.verification.verify import verify_program

    artefact.seal(build.place, build.manifest)
    return verify_program(build.graph, Program(build.place), recordings)


def _ran(stand_in: Target, target: Target) -> str:
    return f"its kernels compiled for {stand_in.host.architecture}; the library for {target.host} was not run"


def _rebuilt(build: _Built, target: Target, folder: Path) -> "tuple[_Built, dict[str, Recording]]":
    """The same program for another target."""
    place = folder / "program"
    shutil.copytree(build.place / "state", place / "state")
    _, recordings = _build(build.graph, target, place, _Clock(lambda *_: None), build.memory_bytes)
    return replace(
        build, target=target, manifest=replace(build.manifest, host=target.host), place=place
    ), recordings


def _fingerprint(graph: TrainingGraph, target: Target, verify: bool, memory_bytes: int | None = None) -> str:
    """A digest of all that the built files depend on: graphs, options, target, versions, this code."""
    task = graph.task
    groups = [
        (i.name, i.group, i.options | {"lr": None, "initial_lr": None})
        for i in optimizer.updated(task.model, task.optimizer)
    ]
    content = [
        forward_text(graph.training),
        forward_text(graph.evaluation),
        repr(task.loss) if isinstance(task.loss, torch.nn.Module) else "",  # a function has no stable text
        repr(type(task.optimizer)),
        repr(groups),
        repr(graph.passes),
        repr(target),
        str(verify),
        str(memory_bytes),
        *(version(name) for name in ("torch", "apache-tvm", "apache-tvm-ffi")),
        source_digest(),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

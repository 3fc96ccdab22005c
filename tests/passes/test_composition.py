"""Every set of passes composes: the program is verified, and no gated block runs for all."""

from itertools import combinations

import pytest
import torch
from torch import fx

import e2compile
from e2compile.passes import BatchDrop, LayerGate, SignPredict
from e2compile.pipeline import Pass, Stage, capture
from tests import models
from tests.networks import CIFAR, network
from tests.steps import images

PASSES: dict[str, Pass] = {
    "smd": BatchDrop(),
    "slu": LayerGate(first=True),
    # so low a limit that some layers' full products run: a conditional within a block that is not always run
    "psg": SignPredict(fallback="layer", unsure_limit=0.2),
}
SUBSETS = [names for count in (1, 2, 3) for names in combinations(PASSES, count)]


def stages(names: tuple[str, ...]) -> dict[str, Stage]:
    torch.manual_seed(0)
    graph = capture(models.functional_net(4), images((5, 3, 32, 32)))
    return {stage.name: stage for stage in graph.apply(*(PASSES[name] for name in names)).stages}


@pytest.mark.parametrize("names", [n for n in SUBSETS if "slu" in n], ids=",".join)
def test_every_gated_block_is_outlined(names: tuple[str, ...]) -> None:
    found = stages(names)
    assert found["slu"].changed == 2
    assert (found["outlined"].changed, found["outlined"].notes) == (4, ())


def branches(module: fx.GraphModule) -> dict[str, fx.GraphModule]:
    """A graph's branches, all of which it reads, and reads for something."""
    found = {n: child for n, child in module.named_children() if isinstance(child, fx.GraphModule)}
    reads = module.graph.find_nodes(op="get_attr")
    assert {node.target for node in reads} == set(found)
    assert all(node.users for node in reads)
    return found


def test_a_conditional_that_moves_into_a_block_leaves_nothing_outside() -> None:
    outer = branches(stages(("slu", "psg"))["outlined"].graph.module)
    inner = {name for branch in outer.values() for name in branches(branch)}
    assert any("execute" not in name for name in inner)
    assert not inner & set(outer)


@pytest.mark.parametrize("names", SUBSETS, ids=",".join)
def test_every_subset_compiles_and_is_verified(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    graph = capture(models.functional_net(4), images((5, 3, 32, 32)))
    program = e2compile.compile(graph.apply(*(PASSES[name] for name in names)), cache=False)
    result = program.execute(tuple(t.numpy() for t in images((5, 3, 32, 32))))
    kinds = {name.rpartition(".")[2] for name in result.counters}
    assert kinds == ({"executed"} if "slu" in names else set()) | (
        {"sure", "fallback"} if "psg" in names else set()
    )


def test_all_passes_on_blocks_with_depthwise_convolutions() -> None:
    """benchmarks/subsets.py does every set on whole networks, with the gates forced too."""
    graph = capture(network("mobilenet_v2"), images(CIFAR)).apply(*PASSES.values())
    program = e2compile.compile(graph, cache=False)
    outlined = next(stage for stage in graph.stages if stage.name == "outlined")
    assert outlined.changed
    assert outlined.notes == ()
    assert program.execute(tuple(t.numpy() for t in images(CIFAR))).counters

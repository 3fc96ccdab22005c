"""Stages as a Program keeps them, of graphs that were never compiled."""

from e2compile.graph import StepGraph
from e2compile.graph_data import graph_data
from e2compile.runtime.stages import SavedStage


def saved(graph: StepGraph, name: str = "graph") -> SavedStage:
    slots = {"inputs": graph.inputs, "outputs": graph.outputs}
    signature = {key: [[slot.kind.value, slot.target] for slot in found] for key, found in slots.items()}
    return SavedStage(0, name, "", 0, (), signature, graph_data(graph.module))

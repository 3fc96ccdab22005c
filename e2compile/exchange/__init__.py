"""Graphs of a Program for other tools: ONNX, Graphviz. Needs no torch."""

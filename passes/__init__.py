"""The passes, in their order; `BY_NAME` is what the command line knows."""

from e2compile.passes.batch_drop import BatchDrop
from e2compile.passes.layer_gate import LayerGate
from e2compile.passes.quantise import Quantise
from e2compile.passes.sign_predict import SignPredict

ALL = (BatchDrop, LayerGate, SignPredict, Quantise)
BY_NAME = {item.name: item for item in ALL}

__all__ = ["ALL", "BY_NAME", "BatchDrop", "LayerGate", "Quantise", "SignPredict"]

"""The passes, in their default order; `BY_NAME` is what the command line knows them by."""

from e2compile.passes.batch_drop import BatchDrop
from e2compile.passes.layer_gate import LayerGate
from e2compile.passes.sign_predict import SignPredict

DEFAULT = (BatchDrop, LayerGate, SignPredict)

BY_NAME = {item.name: item for item in DEFAULT}

__all__ = ["BY_NAME", "DEFAULT", "BatchDrop", "LayerGate", "SignPredict"]

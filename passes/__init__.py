"""The passes, in their default order; `BY_NAME` is what the command line knows them by."""

from e2compile.passes.batch_drop import BatchDrop
from e2compile.passes.sign_predict import SignPredict

DEFAULT = (SignPredict, BatchDrop)

BY_NAME = {item.name: item for item in DEFAULT}

# Named on the command line and in the design, not in this version.
PLANNED = ("slu",)

__all__ = ["BY_NAME", "DEFAULT", "PLANNED", "BatchDrop", "SignPredict"]

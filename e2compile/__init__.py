"""e2compile: a PyTorch training step compiled so that it does not execute what it can do without."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout passes/ and targets/ lie beside this folder; an installed wheel has them inside it.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

"""The shipped calibrations: each log fitted anew, its coefficients, and its error on the groups held out.

python benchmarks/calibrations.py
"""

from pathlib import Path

import e2compile.energy
from e2compile import display_energy
from e2compile.energy.calibrate import calibrate

LOGS = Path(e2compile.energy.__file__).parent / "logs"


def main() -> None:
    for path in sorted(LOGS.glob("*.csv")):
        display_energy.calibrated(calibrate(path))


if __name__ == "__main__":
    main()

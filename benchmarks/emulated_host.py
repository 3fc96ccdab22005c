"""Steps of a program's host part for aarch64, in an emulator, against the same program for this machine.

    python benchmarks/emulated_host.py --root DIR --site DIR [--host aarch64-linux-gnu:cortex-a53]
                                       [--target fpga:ultra96] [--passes P] [--steps N] [--json FILE]

examples/digits.py is compiled for either machine, both programs run the same steps from the same state, and
every tensor of the state that they leave must have the same bits. The loss of a step is shown for both: it is
a mean over samples that no gradient reads, in the order of the machine's vectors. It takes qemu-user-static,
the cross compiler that `e2compile targets` names, and two folders. ROOT has Debian's arm64 packages unpacked,
without being installed: after `dpkg --add-architecture arm64 && apt-get update`

    apt-get download libpython3.11-minimal:arm64 libpython3.11-stdlib:arm64 python3.11-minimal:arm64 \\
        libc6:arm64 libexpat1:arm64 libffi8:arm64 libgcc-s1:arm64 libicu72:arm64 liblzma5:arm64 \\
        libstdc++6:arm64 libtinfo6:arm64 libxml2:arm64 libzstd1:arm64 zlib1g:arm64
    for package in *_arm64.deb; do dpkg-deb -x $package ROOT; done

SITE has the Python packages, without torch:

    pip install --target SITE --platform manylinux_2_28_aarch64 --python-version 3.11 --only-binary=:all: \\
        'apache-tvm>=0.27,<0.28' apache-tvm-ffi==0.1.14.post1 numpy safetensors platformdirs
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

QEMU, CPU = "qemu-aarch64-static", "max"
# What Linux says of such a CPU. The emulator shows the /proc/cpuinfo of the machine that it runs on.
FEATURES = "fp asimd asimddp"
LOSSES = "losses"
REPOSITORY = Path(__file__).resolve().parent.parent


def missing(root: Path, site: Path) -> str | None:
    """What this machine lacks for it; None if nothing."""
    if shutil.which(QEMU) is None:
        return f"{QEMU}: apt-get install qemu-user-static"
    lacking = [path for path in (interpreter(root), site / "tvm", site / "numpy") if not path.exists()]
    return f"{lacking[0]}: see the head of this script" if lacking else None


def interpreter(root: Path) -> Path:
    return root / "usr" / "bin" / "python3.11"


def package(folder: Path) -> None:
    """Put e2compile as it is checked out into a folder that another Python can import it from."""
    whole = folder / "e2compile"
    whole.mkdir()
    for part in (*(REPOSITORY / "e2compile").iterdir(), REPOSITORY / "passes", REPOSITORY / "targets"):
        (whole / part.name).symlink_to(part)


def emulated(root: Path, site: Path, own: Path, arguments: list[str]) -> None:
    """Run this script in the emulator, on the packages in `site` and the one in `own`."""
    libraries = [root / part / "aarch64-linux-gnu" for part in ("usr/lib", "lib")]
    variables = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": f"{site}:{own}",
        "TVM_NUM_THREADS": os.environ.get("TVM_NUM_THREADS", "1"),
    }
    given = [part for key, value in variables.items() for part in ("-E", f"{key}={value}")]
    command = [QEMU, "-cpu", CPU, "-L", str(root), *given, str(interpreter(root)), __file__, *arguments]
    subprocess.run(command, check=True)


def steps(folder: Path, batches: Path, state: Path) -> None:
    """Train a program on the batches in a file, and write the state that it leaves."""
    if platform.machine() == "aarch64":
        from e2compile.runtime import host

        host.cpuinfo = lambda: {"Features": FEATURES}
    import e2compile

    program = e2compile.load(folder)
    with np.load(batches) as given:
        count = len(given.files) // 2
        losses = [program.step((given[f"x{i}"], given[f"y{i}"])).loss for i in range(count)]
    np.savez(state, **{LOSSES: np.array(losses)}, **program.arrays())


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import e2compile
    from e2compile.options import parse_passes
    from e2compile.pipeline import capture_task
    from e2compile.runtime.fit import Options, Run
    from e2compile.task import load_task

    task = load_task(str(REPOSITORY / "examples" / "digits.py"))
    graph = capture_task(task).apply(*parse_passes(options.passes))
    here = e2compile.compile(graph, options.target, folder / "here", cache=False)
    e2compile.compile(graph, options.target, folder / "there", verify=False, cache=False, host=options.host)
    loader = Run(here, "digits", Options()).loader
    drawn = [loader.batch(i) for i in range(options.steps)]
    arrays = {f"{n}{i}": value for i, batch in enumerate(drawn) for n, value in zip("xy", batch, strict=True)}
    np.savez(folder / "batches.npz", **arrays)
    steps(folder / "here", folder / "batches.npz", folder / "here.npz")
    package(folder)
    places = [str(folder / name) for name in ("there", "batches.npz", "there.npz")]
    emulated(options.root.resolve(), options.site.resolve(), folder, ["--run", *places])
    with np.load(folder / "here.npz") as left, np.load(folder / "there.npz") as right:
        tensors = [name for name in left.files if name != LOSSES]
        return {
            "target": options.target,
            "host": options.host,
            "passes": options.passes,
            "tensors": len(tensors),
            "differ": [name for name in tensors if left[name].tobytes() != right[name].tobytes()],
            "losses": [found[LOSSES].tolist() for found in (left, right)],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--site", type=Path)
    parser.add_argument("--host", default="aarch64-linux-gnu:cortex-a53")
    parser.add_argument("--target", default="fpga:ultra96")
    parser.add_argument("--passes", default="none")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", type=Path, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        steps(*options.run)
        return
    if options.root is None or options.site is None:
        parser.error("--root and --site are needed")
    lacking = missing(options.root, options.site)
    if lacking is not None:
        sys.exit(f"this machine lacks {lacking}")
    with tempfile.TemporaryDirectory() as place:
        row = compare(options, Path(place))
    same = row["tensors"] - len(row["differ"])
    print(f"{same} of {row['tensors']} tensors of the state have equal bits after {options.steps} steps")
    print(f"losses here {row['losses'][0]}, in the emulator {row['losses'][1]}")
    if options.json is not None:
        import machine

        options.json.write_text(json.dumps({"machine": machine.describe(), **row}, indent=1) + "\n")
    sys.exit(bool(row["differ"]))


if __name__ == "__main__":
    main()

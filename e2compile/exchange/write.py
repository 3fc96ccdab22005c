"""Files for other tools: a stage as ONNX, for Graphviz or as JSON, the trained network as ONNX."""

import json
from pathlib import Path

from e2compile.errors import MissingError
from e2compile.exchange.dot import dot
from e2compile.runtime.export import write_whole
from e2compile.runtime.program import Program
from e2compile.runtime.stages import SavedStage, read_evaluation


def write_stage(stage: SavedStage, path: Path, format: str) -> int:
    """Write a stage as `onnx`, `dot` or `json`; gives the file's bytes.

    Raises UsageError for a file that cannot be written, MissingError where ONNX is not installed.
    """
    if format == "onnx":
        _need_onnx()
        from e2compile.exchange.model import stage_model

        return _write(path, stage_model(stage).SerializeToString())
    if format == "dot":
        return _write(path, dot(stage).encode())
    about = {"name": stage.name, "changed": stage.changed, "notes": stage.notes}
    content = {**about, "signature": stage.signature, "graph": stage.graph}
    return _write(path, (json.dumps(content, indent=1) + "\n").encode())


def write_network(program: Program, path: Path) -> int:
    """Write the network in evaluation mode with a program's weights as ONNX; gives the file's bytes.

    Raises as `write_stage` does, and UsageError for a network that ONNX's own operators cannot express.
    """
    _need_onnx()
    from e2compile.exchange.model import inference_model

    model = inference_model(read_evaluation(program.folder), program.weights())
    return _write(path, model.SerializeToString())


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError("onnx is not installed: pip install 'e2compile[onnx]'") from error


def _write(path: Path, content: bytes) -> int:
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    return len(content)

"""How many threads a process's programs run on: all cores that it may use, or as many as it is told."""

import os
from pathlib import Path

import pytest

from e2compile.errors import UsageError
from e2compile.runtime.engine import cores, use_threads
from tests.commands import python

_COUNT = """
import os, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS"):
    os.environ.pop(name, None)
from e2compile.runtime.engine import import_tvm
tvm = import_tvm()
print(tvm.get_global_func("runtime.NumThreads")(), len(os.sched_getaffinity(0)))
"""
_TRAIN = """
import sys
from e2compile.cli import main
code = main(sys.argv[1:])
import tvm
print(code, tvm.get_global_func("runtime.NumThreads")())
"""


def test_a_process_of_one_core_runs_one_thread() -> None:
    assert python(_COUNT).stdout.split() == ["1", "1"]


def test_a_run_takes_the_threads_that_it_is_given(program_copy: Path) -> None:
    found = python(_TRAIN, "train", program_copy, "--data", "digits", "--steps", "2", "--threads", "1")
    assert found.stdout.splitlines()[-1] == "0 1"


@pytest.mark.parametrize("count", [0, -1, cores() + 1])
def test_more_threads_than_cores_are_refused(count: int) -> None:
    before = os.environ.get("TVM_NUM_THREADS")
    with pytest.raises(UsageError, match=rf"this process may use {cores()} core"):
        use_threads(count)
    assert os.environ.get("TVM_NUM_THREADS") == before

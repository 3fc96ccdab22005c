"""The CPU target: kernels in TIR, compiled by LLVM."""

from e2compile.targets.llvm.target import CPU, LlvmTarget

__all__ = ["CPU", "LlvmTarget"]

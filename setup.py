"""Compiles ``memory/model/vectors/nearest.c``; all else stands in pyproject.toml.

By the C compiler of Zig, which pip brings with it: no machine needs one of its own, and it is the same everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

VECTORS = Path("memory", "model", "vectors")
# For any processor of its kind; the code itself looks for more (`best_variant`).
FLAGS = (
    "-mcpu=baseline",
    "-O3",
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-shared",
    "-fPIC",
    "-s",
)


class CompileKernels(build_ext):
    """A library that Python's `ctypes` loads, which needs no headers of Python's."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", target, *ext.sources, "-lm"]
        with tempfile.TemporaryDirectory() as cache:
            subprocess.run(command, check=True, env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache})


setup(
    ext_modules=[
        Extension(
            "memory.model.vectors.nearest",
            [str(VECTORS / "nearest.c")],
            depends=[str(VECTORS / "variant.h")],
        )
    ],
    cmdclass={"build_ext": CompileKernels},
)

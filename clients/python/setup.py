"""Generates meshnode/wire from the .proto files when the package is built.

The .proto files are the only source: nothing generated is kept in the
repository, and a wheel has all that it needs. A source distribution carries a
copy of the .proto files.
"""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
FILES = ["mesh/v1/cluster.proto", "mesh/v1/process.proto"]


def proto_root() -> pathlib.Path:
    for root in (HERE / "proto", HERE.parent.parent / "proto"):
        if (root / FILES[0]).exists():
            return root
    raise FileNotFoundError("mesh/v1/cluster.proto is neither in proto/ nor in ../../proto/")


def generate() -> None:
    from importlib.resources import files

    from grpc_tools import protoc

    root = proto_root()
    wire = HERE / "src" / "meshnode" / "wire"
    wire.mkdir(exist_ok=True)
    out = HERE / "build" / "proto"
    out.mkdir(parents=True, exist_ok=True)
    well_known = str(files("grpc_tools") / "_proto")
    args = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", *FILES]
    if protoc.main(args) != 0:
        raise RuntimeError("protoc failed: " + " ".join(args))
    for made in (out / "mesh" / "v1").iterdir():
        shutil.copy(made, wire / made.name)
    (wire / "__init__.py").write_text('"""The generated messages of mesh/v1/*.proto."""\n')


class BuildPy(build_py):
    """build_py after the messages are generated."""

    def run(self) -> None:
        generate()
        super().run()


class Sdist(sdist):
    """sdist with the .proto files in it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        root = proto_root()
        for name in FILES:
            to = pathlib.Path(base_dir) / "proto" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to)


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})

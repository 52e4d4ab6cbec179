"""Build steps that pyproject.toml cannot say: the protocol's descriptors go into wheels, its files into sdists."""

import pathlib
import shutil
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
# Unpacked from an sdist, or in the repository.
PROTOS = next((folder for folder in (HERE / "proto", HERE.parents[1] / "proto") if folder.is_dir()), HERE / "proto")
FILES = ["google/rpc/status.proto", "google/rpc/error_details.proto", "flexquant/v1/precision.proto",
         "flexquant/v1/inference.proto", "flexquant/v1/model.proto"]


class BuildWithDescriptors(build_py):
    """Compiles the protocol with grpcio-tools' protoc."""

    def run(self):
        super().run()
        root = HERE / "src" if getattr(self, "editable_mode", False) else pathlib.Path(self.build_lib)
        target = root / "flexquant_client" / "flexquant.protoset"
        target.parent.mkdir(parents=True, exist_ok=True)
        from grpc_tools import protoc  # a requirement of this step only

        include = pathlib.Path(protoc.__file__).parent / "_proto"
        status = protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", "--include_imports",
                              f"--descriptor_set_out={target}", *(str(PROTOS / name) for name in FILES)])
        if status != 0:
            sys.exit(f"protoc failed on {PROTOS}")


class SdistWithProtos(sdist):
    """An sdist that builds alone."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        for name in FILES:
            target = pathlib.Path(base_dir, "proto", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROTOS / name, target)


setup(cmdclass={"build_py": BuildWithDescriptors, "sdist": SdistWithProtos})

"""Spack recipe: spack repo add packaging/spack && spack dev-build fstq-bench@main"""
from spack.package import *


class FstqBench(MakefilePackage):
    """Benchmark suite for communication-efficient federated fine-tuning of language models."""

    license("BSD-3-Clause")
    version("main")

    variant("cuda", default=False, description="Build the device cuda")

    depends_on("c", type="build")
    depends_on("gmake", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("python@3:", type="run")
    depends_on("openmpi@4:")
    depends_on("hdf5@1.10: ~mpi +hl")
    depends_on("hwloc@2:")
    depends_on("openblas threads=none")
    depends_on("xxhash@0.8:")
    depends_on("random123")
    depends_on("jansson")
    depends_on("inih")
    depends_on("zstd")
    depends_on("lz4")
    depends_on("cuda@11:", when="+cuda")

    def arguments(self, spec, prefix):
        args = [f"PREFIX={prefix}", "CUDA=1" if "+cuda" in spec else "CUDA=0"]
        if "+cuda" in spec:
            args.append(f"CUDA_HOME={spec['cuda'].prefix}")
        return args

    def build(self, spec, prefix):
        make(*self.arguments(spec, prefix))

    def install(self, spec, prefix):
        make("install", *self.arguments(spec, prefix))

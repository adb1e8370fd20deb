"""Builds the extensions; everything else about the project is in pyproject.toml.

HEADRACE_BUILD chooses how: `release` (default), `debug` (-O0, assertions, HEADRACE_DEBUG invariants, bounds checks) or
`sanitize` (debug with AddressSanitizer and UndefinedBehaviorSanitizer; docs/development.md says how to run that one).
HEADRACE_BUILD_JOBS: compilers at a time, by default one for each CPU that we may use.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

BUILD = os.environ.get("HEADRACE_BUILD", "release")
FLAGS = {
    "release": ["-O3", "-DNDEBUG", "-g1"],
    "debug": ["-O0", "-g3", "-UNDEBUG", "-DHEADRACE_DEBUG=1"],
    "sanitize": ["-O1", "-g3", "-UNDEBUG", "-DHEADRACE_DEBUG=1", "-fno-omit-frame-pointer"],
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
if BUILD not in FLAGS:
    raise SystemExit(f"HEADRACE_BUILD={BUILD!r}: use one of {', '.join(FLAGS)}")
JOBS = os.environ.get("HEADRACE_BUILD_JOBS", str(len(os.sched_getaffinity(0))))
if not JOBS.isdecimal() or int(JOBS) < 1:
    raise SystemExit(f"HEADRACE_BUILD_JOBS={JOBS!r} must be a whole number, at least 1")

compile_args = [*FLAGS[BUILD], "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"]
# What Cython's own generated code does, not ours.
compile_args += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
link_args = ["-lm"]
if BUILD == "sanitize":
    compile_args += SANITIZERS
    link_args += SANITIZERS

HEADERS = sorted(str(path) for pattern in ("*.h", "*.pxd", "*.pxi") for path in Path("ext").glob(pattern))

extensions = [
    Extension(
        f"headrace._{source.stem}",
        [str(source)],
        include_dirs=["ext"],
        depends=HEADERS,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for source in sorted(Path("ext").glob("*.pyx"))
]


class BuildPy(build_py):
    """Adds the file that lets `import mms` be found in any process (headrace.stand_in); not to an editable install."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            line = 'import headrace.stand_in; headrace.stand_in.install("mms")\n'
            Path(self.build_lib, "headrace-stand-in.pth").write_text(line)


setup(
    cmdclass={"build_py": BuildPy},
    options={"build_ext": {"parallel": int(JOBS)}},
    ext_modules=cythonize(
        extensions,
        nthreads=int(JOBS),
        build_dir=f"build/cython-{BUILD}",
        include_path=["ext"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": BUILD != "release",
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
            "warn.unused": True,
            "warn.maybe_uninitialized": True,
        },
    ),
)

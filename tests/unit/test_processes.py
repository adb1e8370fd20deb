"""What a process asks of the kernel, in processes that have no more to lose."""

import subprocess
import sys

import pytest

LIMITED = """
import resource, sys
from headrace import processes
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
print(processes.raise_file_limit(int(sys.argv[1])), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("wanted", "said"), [(32, "32 (64, 256)"), (128, "128 (128, 256)"), (1000, "256 (256, 256)")])
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(wanted, said):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(wanted)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == said, done.stderr

"""What holds for every test: Hypothesis leaves no files behind, and in CI tries the same examples each time."""

import os

from hypothesis import settings

settings.register_profile("here", database=None)
settings.register_profile("ci", database=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

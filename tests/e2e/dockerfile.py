"""A Dockerfile as its instructions, stage by stage; as much of its grammar as a plain Dockerfile uses.

Source of the grammar: docs.docker.com/reference/dockerfile (escape, shell form and exec form, ENV and LABEL).
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """From one FROM to the next. steps: (instruction, rest of the line), in order, continuation lines joined."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def commands(self) -> list[list[str]]:
        """The words of each command of each RUN; such a RUN is a chain of `&&` with nothing else of a shell in it."""
        chains = [rest.split(" && ") for instruction, rest in self.steps if instruction == "RUN"]
        return [shlex.split(command) for chain in chains for command in chain]

    def pairs(self, instruction: str) -> dict[str, str]:
        """KEY=VALUE of all ENV or all LABEL instructions."""
        words = [word for name, rest in self.steps if name == instruction for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words)

    def last(self, instruction: str) -> str:
        return [rest for name, rest in self.steps if name == instruction][-1]

    def words(self, instruction: str) -> list[str]:
        """The JSON list of ENTRYPOINT, CMD or HEALTHCHECK ... CMD."""
        found: list[str] = json.loads(self.last(instruction)[self.last(instruction).index("[") :])
        return found


def parse(path: Path) -> list[Stage]:
    """The stages. An ARG before the first FROM is not a part of any."""
    lines = [line for line in path.read_text().splitlines() if not re.match(r"\s*#", line)]
    stages: list[Stage] = []
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            stages.append(Stage(rest))
        elif instruction and stages:
            stages[-1].steps.append((instruction, rest.strip()))
    return stages

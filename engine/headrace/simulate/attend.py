"""`python -m headrace.simulate.attend PARENT COMMAND ...` becomes COMMAND, which the kernel kills when PARENT ends."""

import os
import sys

from headrace import processes

NOT_FOUND = 127  # as shells have it


def main(argv: list[str]) -> int:
    parent, *command = argv
    processes.die_with_parent(int(parent))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"headrace: the command {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return NOT_FOUND


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

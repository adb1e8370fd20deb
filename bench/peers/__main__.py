"""python -m bench.peers [install | list] [NAME ...]: makes their virtual environments, or says which there are."""

import argparse
import sys

from bench.errors import BenchError
from bench.peers.catalogue import PEERS
from bench.peers.install import install, version


def main(words: list[str]) -> int:
    """Status 1: one could not be installed. The others are, all the same."""
    parser = argparse.ArgumentParser("bench.peers", description="The servers that Headrace is compared with.")
    parser.add_argument("what", choices=("install", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)} [default: all]")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.names if name not in PEERS]:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(PEERS)}")
    failed = 0
    for peer in (PEERS[name] for name in arguments.names or PEERS):
        if arguments.what == "install":
            print(f"bench.peers: installing {peer.name} {version(peer)}", file=sys.stderr, flush=True)
            try:
                install(peer)
            except BenchError as error:
                print(f"bench.peers: {error}", file=sys.stderr)
                failed = 1
        else:
            print(f"{peer.name} {version(peer)}: {peer.absent() or 'installed'}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

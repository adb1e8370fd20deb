"""All rivals by name, in the order in which they are shown."""

from bench.peers.bentoml import adapter as bentoml
from bench.peers.fastapi import adapter as fastapi
from bench.peers.litserve import adapter as litserve
from bench.peers.mlserver import adapter as mlserver
from bench.peers.mosec import adapter as mosec
from bench.peers.multi_model_server import adapter as multi_model_server
from bench.peers.peer import Peer
from bench.peers.ray_serve import adapter as ray_serve
from bench.peers.torchserve import adapter as torchserve
from bench.peers.triton import adapter as triton

_MODULES = (multi_model_server, torchserve, mosec, fastapi, litserve, mlserver, bentoml, ray_serve, triton)
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        *(module.PEER for module in _MODULES[:2]),
        multi_model_server.BATCHED,
        torchserve.BATCHED,
        *(module.PEER for module in _MODULES[2:]),
    )
}

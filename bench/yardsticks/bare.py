"""What an HTTP server in pure Python on uvloop costs when it does nothing else: `bare.py PORT BODY`.

An asyncio.Protocol that gathers a request to its end, as a server must that gives it to a model, and answers BODY,
whatever was asked. One process, one thread, keep-alive and pipelining. It checks nothing: not for serving anyone.
"""

import asyncio
import sys
from typing import cast

import uvloop

FIELD = b"\r\ncontent-length:"


def response_of(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Bare(asyncio.Protocol):
    def __init__(self, response: bytes) -> None:
        self.response = response
        self.buffer = bytearray()
        self.wanted = 0  # bytes of the request at the buffer's start; 0: its head has not ended yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, related by shape only

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        while True:
            if not self.wanted:
                end = buffer.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = buffer[: end + 2].lower()
                at = head.find(FIELD)
                length = 0 if at < 0 else int(head[at + len(FIELD) : head.index(b"\r\n", at + 2)])
                self.wanted = end + 4 + length
            if len(buffer) < self.wanted:
                return
            del buffer[: self.wanted]
            self.wanted = 0
            self.transport.write(self.response)


async def main(port: int, body: bytes) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(response_of(body)), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2].encode()))

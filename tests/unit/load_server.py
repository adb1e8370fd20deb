"""A server of a few lines for tests of the load generator: what it does with a request is the test's choice."""

import re
import socket
import threading
from collections import Counter


class Server:
    """Gives each connection to `serve(socket, request)`, request by request; false ends the connection."""

    def __init__(self, serve):
        self.serve, self.seen, self.connections = serve, Counter(), 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.threads.append(threading.Thread(target=self._talk, args=[connection]))
            self.threads[-1].start()

    def _talk(self, connection):
        with connection:
            data = b""
            while True:
                while not (found := re.match(rb"(?s)(\S+) (\S+) (.*?)\r\n\r\n", data)):
                    try:
                        more = connection.recv(65536)
                    except OSError:
                        return
                    if not more:
                        return
                    data += more
                length = re.search(rb"Content-Length: (\d+)", found[3])
                end = found.end() + (int(length[1]) if length else 0)
                while len(data) < end:
                    data += connection.recv(65536)
                self.seen[found[2].decode()] += 1
                request, data = data[:end], data[end:]
                try:
                    if not self.serve(connection, request):
                        return
                except OSError:
                    return

    def close(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

"""A proxy that a machine without a way out uses for https: it answers CONNECT only."""

from __future__ import annotations

import socket
import threading

from tests.support.http_server import QuietHandler, Served


class ConnectProxy(Served):
    """Leads every tunnel to one port of this machine, whatever host it is for.

    Args:
        target: that port.

    Attributes:
        url: with a login.
        hosts: that tunnels were for.
    """

    LOGIN = "Basic bWU6YSBi"  # me:a b

    def __init__(self, target: int) -> None:
        self.hosts: list[str] = []
        proxy = self

        class Handler(QuietHandler):
            def do_CONNECT(self) -> None:
                if self.headers.get("Proxy-Authorization") != proxy.LOGIN:
                    self.send_error(407)
                    return
                proxy.hosts.append(self.path.partition(":")[0])
                with socket.create_connection(("127.0.0.1", target)) as other:
                    self.send_response(200)
                    self.end_headers()
                    _pass_on(self.connection, other)
                self.close_connection = True

        super().__init__(Handler)
        self.url = f"http://me:a%20b@127.0.0.1:{self.port}"


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # a side has hung up
        for end in (source, target):
            end.close()

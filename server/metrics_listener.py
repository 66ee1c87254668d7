"""Where Prometheus reads: one loopback listener a process, plain HTTP, nothing but figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ringfence.model.errors import ConfigError
from ringfence.model.settings_file import split_address


@contextmanager
def serve_metrics(address: str | None, *collectors: Collector) -> Iterator[int | None]:
    """Answer ``/metrics`` for the length of the block; yield the port that was taken.

    Args:
        address: loopback host:port; port 0 lets the system choose; None: nowhere.
        collectors: what is told, besides the process's own memory, time and open files.

    Raises:
        ConfigError: the address is taken. The operator's to mend.
    """
    if address is None:
        yield None
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    host, port = split_address(address)
    try:
        server, thread = start_http_server(port, addr=host.strip("[]"), registry=registry)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {address}: {error.strerror}.",
            hint="Another program may hold the port: change the metrics address in coordinator.toml.",
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

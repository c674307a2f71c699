"""A program: one Ray cluster of two nodes on this machine, one of which is killed while it trains.

    python tests/search_on_ray.py STORE

In a process of its own: Ray's threads, signal handlers and warnings stay out of the tests. ``STORE`` has its tasks
already; a second store, beside it, is worked on through Ray's client.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from contextlib import closing
from pathlib import Path

from ray.cluster_utils import Cluster
from search_jobs import EPOCHS, Tiny, quick, slow_or_failing

from cnnscale.searching.engine import Driver
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.pools import dumps_of, open_executor
from cnnscale.searching.trials import pack

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def both_train() -> bool:
    """Whether two workers are amid a training, by their last lines in the log."""
    last = {line.split()[-1]: line for line in Path(os.environ["CNNSCALE_TEST_LOG"]).read_text().splitlines()}
    return sum(f"epoch{EPOCHS - 1}" not in line for line in last.values()) == 2


def train(store: Path, address: str, train_fn, notify=lambda: None) -> None:
    executor = open_executor(address)
    with closing(Ledger(store)) as ledger:
        payload = pack(Tiny, train_fn, dumps_of(executor))
        Driver(ledger, executor, payload, notify=notify, poll_s=0.05).run()


def main(store: Path) -> None:
    port = free_port()
    head = {**NODE, "include_dashboard": False, "ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE)]
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    second = store.with_name("client.db")
    shutil.copy(store, second)

    def kill() -> None:
        if nodes and both_train():
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    train(store, "ray", slow_or_failing, kill)
    assert not nodes
    train(second, f"ray://127.0.0.1:{port}", quick)
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

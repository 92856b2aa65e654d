"""A Ray cluster on this machine, in a process of its own: a head that runs nothing, and nodes of one core each.

    python -m benchmarks.ray_cluster NODES

Prints its address. Each line on its standard input kills a node without a word; the end of it ends the cluster.
"""

import os
import sys
from typing import Any


def main() -> None:
    """Run the cluster."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(int(sys.argv[1]))]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    main()

"""Traffic to this machine itself never goes through a proxy, whatever `http_proxy` says.

httpx.Client(mounts=loopback.MOUNTS)                    # also httpx.AsyncClient, httpx2 and openai's clients
subprocess.Popen(command, env=loopback.environment())   # a process with clients of its own
"""

import os

HOSTS = ("127.0.0.1", "localhost", "::1")
MOUNTS: dict[str, None] = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
"""The `mounts` of a client of httpx: its own transport for these hosts, in place of a proxy."""


def environment() -> dict[str, str]:
    """The environment of this process, with `no_proxy` extended by `HOSTS`."""
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(dict.fromkeys([*filter(None, map(str.strip, exempt.split(","))), *HOSTS]))
    return {**os.environ, "no_proxy": hosts, "NO_PROXY": hosts}

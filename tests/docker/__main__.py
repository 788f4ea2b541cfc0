"""`make test-docker`: the compose file and the integration tests on containers.

Official images where they can be pulled, else stand-ins made of what the package registries
have (see images.py). Without an engine that answers, one is started for as long; that takes
root. Arguments go to pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from streams.config.settings import CACHE
from streams.local.process import LocalServerError
from tests.docker.engine import engine
from tests.docker.images import images

HERE = Path(__file__).parent
INTEGRATION = HERE.parent / "integration"
# These start servers of their own, without Docker, and are run by `make test`; so is what needs
# transactions, whose markers a broker in a container cannot send to itself by its outer address.
OWN_SERVERS = {
    f"test_{name}.py"
    for name in [
        "backup",
        "batches",
        "command",
        "cut_logs",
        "demo",
        "erasure",
        "erasure_bound",
        "local_stack",
        "operations",
        "readme",
    ]
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docker", description=__doc__)
    parser.add_argument("--images", choices=("auto", "official", "stand-in"), default="auto")
    parser.add_argument("--only", choices=("compose", "servers", "integration"))
    arguments, for_pytest = parser.parse_known_args()
    parts = {
        "compose": [HERE / "check_compose.py"],
        "servers": [HERE / "check_servers.py"],
        "integration": [p for p in INTEGRATION.glob("test_*.py") if p.name not in OWN_SERVERS],
    }
    chosen = [path for part in parts if arguments.only in (None, part) for path in parts[part]]
    try:
        with engine(CACHE / "docker"):
            named = images(arguments.images)
            print("images:", *sorted(named.values()))
            environment = os.environ | named
            for server in ("KAFKA", "REDIS"):
                image = named[f"VISUAL_MEMORY_{server}_IMAGE"]
                environment[f"VISUAL_MEMORY_TEST_{server}_IMAGE"] = image
            if "VISUAL_MEMORY_GRAFANA_IMAGE" not in named:
                # The reaper of testcontainers is an image too; the tests remove what they start.
                environment["TESTCONTAINERS_RYUK_DISABLED"] = "true"
            command = [sys.executable, "-m", "pytest", *map(str, sorted(chosen)), *for_pytest]
            return subprocess.run(command, env=environment, check=False).returncode
    except LocalServerError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

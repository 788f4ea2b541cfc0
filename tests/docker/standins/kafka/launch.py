"""Start Kafka as the official image does: KAFKA_A_B becomes a.b, and the folder is formatted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONFIG = Path("/opt/kafka/config/server.properties")
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS", "KAFKA_OPTS"}
CLUSTER_ID = "5L6g3nShT-eMCtK--X86sw"


def main() -> None:
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES
    }
    CONFIG.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    java = ["java", *os.environ.get("KAFKA_HEAP_OPTS", "-Xmx1g").split()]
    java += ["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    java += ["-cp", "/opt/kafka/libs/*"]
    cluster = os.environ.get("CLUSTER_ID", CLUSTER_ID)
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", cluster]
    subprocess.run([*java, *tool, "--config", str(CONFIG)], check=True)
    os.execvp("java", [*java, "kafka.Kafka", str(CONFIG)])


main()

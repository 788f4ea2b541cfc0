"""Write the golden copies anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

from memory.redis.connection import connect
from tests import servers
from tests.golden import copies

for name, copy in copies.COPIES.items():
    copies.write(name, copy())
with tempfile.TemporaryDirectory() as folder, servers.redis(Path(folder)) as url:
    client = connect(url)
    copies.write("redis", copies.stored(client, copies.NAMESPACE))
    client.close()

"""The paper's experiments, each through the running service.

    python -m benchmarks.experiments [--only NAME] [--json FILE] [--docs FOLDER]
    python -m benchmarks.experiments --against FILE
    python -m benchmarks.experiments --from FILE --docs FOLDER

The first asks the service, which takes some ten minutes; so does the second, which ends with 1 where a number
lies outside the interval that a file keeps; the third writes what a file keeps: the page experiments.md and
its drawings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import service
from benchmarks.__main__ import machine
from benchmarks.experiments.report import page
from benchmarks.experiments.statistics import outside
from benchmarks.experiments.studies import STUDIES


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--only", default="", help="studies that have this in their name")
    parser.add_argument("--from", dest="kept", type=Path, help="take the numbers of this file")
    parser.add_argument("--against", type=Path, help="compare with the intervals of this file")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--docs", type=Path, help="write the page and its drawings here")
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.kept.read_text()) if options.kept else {}
    if not options.kept:
        results["machine"] = machine()
        with tempfile.TemporaryDirectory() as folder, service.servers(Path(folder)) as servers:
            for name, study in STUDIES.items():
                if options.only in name:
                    results[name] = study(servers)
                    print(f"{name}: {json.dumps(results[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.docs:
        from benchmarks.experiments.plots import draw  # matplotlib is there for these alone

        (options.docs / "experiments.md").write_text(page(results))
        draw(results, options.docs / "experiments")
    if options.against:
        kept = json.loads(options.against.read_text())
        faults = outside(results, kept)
        print("\n".join(faults) or f"every number within its interval of {kept['machine']['date']}")
        sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

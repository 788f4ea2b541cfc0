"""The commands of operators: topics, workers, settings, access."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime

import click

from memory.errors import Misconfigured
from memory.model.times import SECOND
from memory.redis import scan
from streams.cli.options import as_json, emit, say, servers
from streams.config import memory_topics, permissions_page
from streams.config import permissions as rights
from streams.config.roles import ROLES
from streams.config.settings import Settings, load


@click.command()
@click.option(
    "--kafka-user",
    multiple=True,
    metavar="PRINCIPAL=NAME",
    help="Kafka's name of a principal, as `ingest=CN=ingest,O=us`; repeatable.",
)
@click.option(
    "--redis-user",
    multiple=True,
    metavar="PRINCIPAL=NAME",
    help="Redis' name of a principal; repeatable.",
)
@click.option(
    "--only", type=click.Choice(["kafka", "redis"]), help="Only the commands of this server."
)
@click.option("--table", is_flag=True, help="Print who may do what as Markdown instead.")
def permissions(
    *, kafka_user: tuple[str, ...], redis_user: tuple[str, ...], only: str | None, table: bool
) -> None:
    """Print the commands that give each part its least rights in Kafka and in Redis.

    Principals are called NAMESPACE-PRINCIPAL unless told otherwise. Topic prefix, namespace and
    Kafka's address come from the settings. No password is printed, and none is changed.
    """
    if table:
        click.echo(permissions_page.table(), nl=False)
        return
    settings = load()
    kafka = rights.parse_names(kafka_user, settings.namespace)
    redis = rights.parse_names(redis_user, settings.namespace)
    lines: list[str] = []
    if only != "redis":
        lines += permissions_page.kafka_commands(
            kafka,
            bootstrap=settings.kafka,
            prefix=settings.topic_prefix,
            namespace=settings.namespace,
        )
    if only != "kafka":
        lines += permissions_page.redis_commands(redis, namespace=settings.namespace)
    click.echo("\n".join(lines))


@click.command()
def provision() -> None:
    """Create the topics, and the memory in Redis: its functions and its index.

    For the operator's user, so that workers need no such rights. It changes nothing that is
    there. Settings come from the environment.
    """
    from streams import bootstrap

    settings = load()
    memory_topics.create_topics(settings)
    store = bootstrap.redis_client(settings)
    try:
        index = bootstrap.open_index(settings, store, bootstrap.embedder(settings))
        index.check_durability()
        click.echo(
            f"ready: {len(memory_topics.topic_specs(settings))} topics, {settings.namespace}"
        )
    finally:
        store.close()


@click.command("worker")
@click.argument("role", type=click.Choice([*ROLES, "erase", "monitor"]))
@servers
def worker_command(settings: Settings, role: str) -> None:
    """Run one worker in the foreground; settings come from the environment."""
    from streams import bootstrap

    if role == "monitor":
        bootstrap.run_monitor(settings)
    elif role == "erase":
        # Others would export its metrics too.
        from streams.erasure.wiring import run_eraser

        run_eraser(settings)
    else:
        bootstrap.run_worker(settings, role)


@click.command("settings")
def settings_command() -> None:
    """Print all settings with their defaults and meaning, as Markdown."""
    from streams.config import settings_page

    click.echo(settings_page.page(), nl=False)


@click.command("schemas")
def schemas_command() -> None:
    """Print the JSON Schema of what the memory says: answers, receipts, rejections."""
    from streams.contract.messages import json_schemas

    emit(json_schemas())


@click.command("topics")
@click.option("--check", is_flag=True, help="Create nothing; only compare.")
@click.option(
    "--configure",
    is_flag=True,
    help="Set what breaks a promise of those that are there; each change is shown.",
)
@servers
@as_json
def topics_command(settings: Settings, check: bool, configure: bool, json_: bool) -> None:
    """Create the topics with their configuration, and check it."""
    from streams.config import connections
    from streams.kafka import admin as declared

    cluster, specs = connections.kafka_cluster(settings), memory_topics.topic_specs(settings)
    if check and configure:
        raise click.UsageError("give either --check or --configure")
    if not check:
        declared.create(cluster, specs)
    changes = declared.configure(cluster, specs) if configure else []
    problems = declared.check(cluster, specs)
    if json_:
        names = [spec.name for spec in specs]
        emit({"topics": names, "changes": changes, "problems": problems})
    else:
        for change in changes:
            say(change)
        for problem in problems:
            say(problem, "red")
        say(f"{len(specs)} topics, {len(problems)} problems")
    sys.exit(1 if problems else 0)


@click.command("fences")
@click.option(
    "--give-up",
    "given_up",
    multiple=True,
    metavar="PARTITION:OFFSET",
    help="Let this record be passed over; repeatable.",
)
@click.option(
    "--retell", is_flag=True, help="Where the log was cut: tell it again what the memory knows."
)
@servers
@as_json
def fences_command(
    settings: Settings, given_up: tuple[str, ...], retell: bool, json_: bool
) -> None:
    """Show what in the facts of forgetting cannot be understood, and who wrote it.

    Such a record keeps every worker from starting: it may be a fact of forgetting. One of a newer
    version is understood after an upgrade; one that is none is given up.
    """
    from streams import bootstrap
    from streams.config import connections
    from streams.kafka import fence_log

    cluster = connections.kafka_cluster(settings)
    if retell:
        with closing(bootstrap.redis_client(settings)) as store:
            index = bootstrap.open_index(settings, store)
            topic_ids = memory_topics.known_topic_ids(settings)
            facts = scan.facts_of_forgetting(store, index.names.prefix)
            told = fence_log.retell(cluster, topic_ids, index, facts)
        say(f"{told} facts told again")
    count, garbage = fence_log.find_garbage(cluster)
    found = {f"{one.partition}:{one.offset}": one for one in garbage}
    if unknown := sorted(set(given_up) - found.keys()):
        raise Misconfigured(f"nothing stands there that cannot be understood: {', '.join(unknown)}")
    if hiding := [place for place in given_up if found[place].may_hide]:
        raise Misconfigured(
            f"the key at {', '.join(hiding)} is that of another fact, which may be compacted away: "
            "restore the topic from a copy"
        )
    for place in given_up:
        fence_log.give_up(cluster, found.pop(place))
    if json_:
        left = [
            {"partition": one.partition, "offset": one.offset, "time": one.time}
            | {"source": one.source, "why": one.why}
            for one in found.values()
        ]
        emit({"facts": count, "garbage": left, "given_up": list(given_up)})
    else:
        for place, one in found.items():
            when = datetime.fromtimestamp(one.time / SECOND, UTC).isoformat(timespec="seconds")
            said = f"{place} of {when} by {one.source or 'nobody named'}: {one.why}"
            say(said, "red")
        say(f"{count} facts, {len(found)} records that cannot be understood")
    sys.exit(1 if found else 0)

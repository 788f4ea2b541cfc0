"""`docker compose up` from the file in the repository: it learns, answers, and outlives kills."""

from __future__ import annotations

import io
import itertools
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest
from PIL import Image, ImageDraw

from memory.errors import Unavailable
from streams.client import MemoryClient
from streams.contract.messages import Answer
from tests.docker.engine import docker
from tests.docker.stack import Stack, until

ROLES = ("ingest", "correct", "forget", "query")
numbers = itertools.count()


def drawing(shape: str, colour: str) -> bytes:
    image = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "disc" else pen.rectangle)((20, 20, 76, 76), fill=colour)
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()


RED_DISC = drawing("disc", "red")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as started:
        with MemoryClient(started.kafka, source="school") as client:
            client.ingest(RED_DISC, id="red-disc", label="disc")
            client.ingest(drawing("square", "blue"), id="blue-square", label="square")
        yield started


def asked(stack: Stack) -> Answer:
    """What the memory says of the red disc, after it has learned one more image of a square."""
    with MemoryClient(stack.kafka, source="school") as client:
        image = drawing("square", f"#00{next(numbers) % 200:02x}ff")
        written = client.ingest(image, id=f"square-{next(numbers)}", label="square")
        return client.query(RED_DISC, k=1, after=[written.position()], timeout=60)


def test_it_answers_a_question_after_learning_an_image(stack: Stack) -> None:
    answer = asked(stack)
    assert (answer.status, answer.label) == ("answered", "disc")
    assert [neighbour.image_id for neighbour in answer.neighbors] == ["red-disc"]


def test_its_commands_work_inside(stack: Stack) -> None:
    said = stack.compose("exec", "-T", "monitor", "visual-memory", "status", "--json")
    assert json.loads(said)["items"] >= 2


def test_a_profile_gives_the_embedding_roles_a_gpu(stack: Stack) -> None:
    services = json.loads(stack.compose("--profile", "gpu", "config", "--format", "json"))[
        "services"
    ]
    for service in ("ingest-gpu", "query-gpu"):
        (device,) = services[service]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert services[service]["command"] == ["worker", service.removesuffix("-gpu")]
    assert not {"ingest-gpu", "query-gpu"} & set(stack.services)


def test_it_is_corrected_and_forgets(stack: Stack) -> None:
    with MemoryClient(stack.kafka, source="school") as client:
        image = drawing("disc", "lime")
        learned = client.ingest(image, id="lime-disc", label="dics", subjects=["ada"])
        mended = client.correct("lime-disc", "disc")
        after = [learned.position(), mended.position()]
        assert client.query(image, k=1, after=after, timeout=60).label == "disc"
        client.receipt(client.forget(subject="ada"), "erased")
        found = client.query(image, k=100, timeout=60).neighbors
        assert "lime-disc" not in {neighbour.image_id for neighbour in found}


def test_no_container_may_do_more_than_it_needs(stack: Stack) -> None:
    for container in stack.containers():
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"], service
        assert host["ReadonlyRootfs"] or service == "kafka", service
        if service != "setup":
            assert docker("exec", container["Id"], "id", "-u") != "0", service
            assert "Health" in container["State"], service
        for bindings in (host["PortBindings"] or {}).values():
            assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings), service


def test_a_second_ingest_worker_takes_part_of_the_partitions(stack: Stack) -> None:
    stack.up("--scale", "ingest=2", "--no-recreate")
    try:
        assert len(stack.containers("ingest")) == 2
        read = 'visual_memory_assigned_partitions{role="ingest",worker="ingest"} == 1'
        until(lambda: len(measured(stack, read)) == 2, "each ingest worker reads one partition")
        assert asked(stack).label == "disc"
    finally:
        stack.up("--scale", "ingest=1", "--no-recreate")


def measured(stack: Stack, expression: str) -> list[float]:
    """The values of an expression in the stack's Prometheus."""
    query = urllib.parse.urlencode({"query": expression})
    url = f"{stack.prometheus}/api/v1/query?{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [float(series["value"][1]) for series in json.load(answer)["data"]["result"]]


def test_prometheus_scrapes_each_worker_and_has_the_alerts(stack: Stack) -> None:
    workers = 'count by (worker) (up{job="visual-memory"} == 1)'
    until(lambda: len(measured(stack, workers)) == len(ROLES) + 2, "six workers are scraped")
    until(lambda: measured(stack, "max(visual_memory_items)") > [2.0], "the images are counted")
    with urllib.request.urlopen(f"{stack.prometheus}/api/v1/rules", timeout=10) as answer:
        (group,) = json.load(answer)["data"]["groups"]
    assert len(group["rules"]) > 5


@pytest.mark.parametrize("service", [*ROLES, "erase", "redis", "kafka", "monitor"])
def test_a_killed_container_comes_back_and_nothing_is_lost(stack: Stack, service: str) -> None:
    stack.kill(service)

    def answers() -> bool:
        try:
            return asked(stack).label == "disc"
        except Unavailable:
            return False

    until(answers, f"the memory does not answer after {service} was killed")
    until(stack.healthy, f"not all is healthy after {service} was killed")


def test_a_killed_prometheus_comes_back_with_what_it_knew(stack: Stack) -> None:
    until(lambda: bool(measured(stack, "visual_memory_items")), "the images are counted")
    stack.kill("prometheus")

    def knows() -> bool:
        try:
            return bool(measured(stack, "max_over_time(visual_memory_items[1h]) > 2"))
        except OSError:
            return False

    until(knows, "Prometheus does not answer after it was killed")


def test_what_was_learned_outlives_the_containers(stack: Stack) -> None:
    stack.compose("down", "--timeout", "30")
    stack.up()
    answer = asked(stack)
    assert (answer.status, answer.label) == ("answered", "disc")

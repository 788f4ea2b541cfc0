"""The floor under any memory on Kafka: aiokafka, and a dict where others search."""

import asyncio
import json
import os

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

KAFKA, PREFIX = os.environ["KAFKA"], os.environ["PREFIX"]
found, vectors = {}, {}


def learn(event):
    found.pop(vectors.pop(event["id"], None), None)
    if not event["deleted"]:
        vectors[event["id"]] = event["vector"]
        found[event["vector"]] = (event["id"], event["label"], 0.0)


async def main():
    producer = AIOKafkaProducer(bootstrap_servers=KAFKA, linger_ms=0)
    consumer = AIOKafkaConsumer(
        *(PREFIX + "events", PREFIX + "questions"),
        bootstrap_servers=KAFKA,
        group_id=PREFIX,
        auto_offset_reset="earliest",
    )
    await producer.start()
    await consumer.start()
    async for record in consumer:
        said = msgspec.msgpack.decode(record.value)
        if record.topic.endswith("events"):
            learn(said)
        else:
            nearest = found.get(said["vector"], ("none", "none", 0.0))
            answer = json.dumps({"label": nearest[1], "neighbors": [nearest] * said["k"]})
            await producer.send(PREFIX + "answers", answer.encode(), said["id"].encode())


asyncio.run(main())

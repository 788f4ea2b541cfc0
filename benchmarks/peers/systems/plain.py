"""aiokafka and redis-py: what one writes in an afternoon."""

import asyncio
import json
import os
from collections import Counter

import msgpack
import redis.asyncio as redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

KAFKA, PREFIX, DIM = os.environ["KAFKA"], os.environ["PREFIX"], os.environ["DIM"]
ALGORITHM = os.environ.get("ALGORITHM", "FLAT")
KNN = "*=>[KNN $k @vector $v AS distance]"


async def learn(store):
    consumer = AIOKafkaConsumer(
        PREFIX + "events", bootstrap_servers=KAFKA, group_id=PREFIX, auto_offset_reset="earliest"
    )
    await consumer.start()
    while True:
        batches = await consumer.getmany(timeout_ms=1000, max_records=500)
        pipeline = store.pipeline(transaction=False)
        for event in (msgpack.unpackb(r.value) for records in batches.values() for r in records):
            if event["deleted"]:
                pipeline.delete(PREFIX + event["id"])
            else:
                fields = {"label": event["label"], "vector": event["vector"]}
                pipeline.hset(PREFIX + event["id"], mapping=fields)
        await pipeline.execute()


async def answer(store, producer, question):
    found = await store.execute_command(
        *("FT.SEARCH", PREFIX, KNN, "PARAMS", 4, "k", question["k"], "v", question["vector"]),
        *("RETURN", 2, "label", "distance", "SORTBY", "distance", "LIMIT", 0, question["k"]),
        *("DIALECT", 2),
    )
    rows = []
    for key, fields in zip(found[1::2], found[2::2]):
        said = dict(zip(fields[::2], fields[1::2]))
        name = key.decode().removeprefix(PREFIX)
        rows.append((name, said[b"label"].decode(), float(said[b"distance"])))
    label = Counter(label for _, label, _ in rows).most_common(1)[0][0] if rows else None
    said = {"label": label, "neighbors": rows}
    await producer.send(PREFIX + "answers", json.dumps(said).encode(), question["id"].encode())


async def main():
    store = redis.from_url(os.environ["REDIS_URL"], protocol=2)
    await store.execute_command(
        *("FT.CREATE", PREFIX, "ON", "HASH", "PREFIX", 1, PREFIX, "SCHEMA", "label", "TAG"),
        *("vector", "VECTOR", ALGORITHM, 6, "TYPE", "FLOAT32", "DIM", DIM),
        *("DISTANCE_METRIC", "COSINE"),
    )
    producer = AIOKafkaProducer(bootstrap_servers=KAFKA, linger_ms=0)
    consumer = AIOKafkaConsumer(
        PREFIX + "questions", bootstrap_servers=KAFKA, group_id=PREFIX + "q"
    )
    await producer.start()
    await consumer.start()
    learning = asyncio.create_task(learn(store))
    async for record in consumer:
        asyncio.create_task(answer(store, producer, msgpack.unpackb(record.value)))


asyncio.run(main())

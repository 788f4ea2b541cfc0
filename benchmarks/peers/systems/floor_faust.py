"""The floor under a memory of Faust workers and a durable Redis: a key is looked up where others search.

One worker writes, another answers, as with roles of their own; both know of each other by Redis alone.
"""

import asyncio
import json
import os
import sys

import faust
import msgspec
import redis.asyncio as redis

PREFIX, ROLE = os.environ["PREFIX"], os.environ["ROLE"]
app = faust.App(
    PREFIX + ROLE,
    broker="kafka://" + os.environ["KAFKA"],
    store="memory://",
    topic_disable_leader=True,
    topic_allow_declare=False,
    producer_linger=0,
    consumer_auto_offset_reset="earliest",
    datadir=os.environ["DATADIR"],
)
raw = {"key_serializer": "raw", "value_serializer": "raw"}
answers = app.topic(PREFIX + "answers", **raw)
waiting, vectors = [], {}


async def write(store, wake):
    """What came while Redis synced its file is one pipeline."""
    while True:
        await wake.wait()
        wake.clear()
        events = list(map(msgspec.msgpack.decode, waiting))
        waiting.clear()
        pipeline = store.pipeline(transaction=False)
        for event in events:
            if (old := vectors.pop(event["id"], None)) is not None:
                pipeline.hdel(PREFIX, old)
            if not event["deleted"]:
                vectors[event["id"]] = event["vector"]
                pipeline.hset(PREFIX, event["vector"], json.dumps([event["id"], event["label"]]))
        await pipeline.execute()


async def answer(store, question):
    held = await store.hget(PREFIX, question["vector"])
    nearest = [*json.loads(held), 0.0] if held else ["none", "none", 0.0]
    said = {"label": nearest[1], "neighbors": [nearest] * question["k"]}
    await answers.send(key=question["id"].encode(), value=json.dumps(said).encode())


if ROLE == "write":

    @app.agent(app.topic(PREFIX + "events", **raw))
    async def learn(events):
        wake = asyncio.Event()
        writing = asyncio.create_task(write(redis.from_url(os.environ["REDIS_URL"]), wake))
        async for event in events:
            waiting.append(event)
            wake.set()

else:

    @app.agent(app.topic(PREFIX + "questions", **raw))
    async def ask(questions):
        store = redis.from_url(os.environ["REDIS_URL"])
        async for question in questions:
            asyncio.create_task(answer(store, msgspec.msgpack.decode(question)))


sys.argv = ["faust", "worker", "-l", "warn", "--without-web"]
app.main()

"""Quix Streams with a sink of one's own into Redis, and a second application that answers."""

import json
import os
from collections import Counter

import msgpack
import redis
from quixstreams import Application
from quixstreams.sinks import BatchingSink

KAFKA, PREFIX, DIM = os.environ["KAFKA"], os.environ["PREFIX"], os.environ["DIM"]
KNN = "*=>[KNN $k @vector $v AS distance]"
store = redis.from_url(os.environ["REDIS_URL"], protocol=2)


class Memory(BatchingSink):
    def write(self, batch):
        pipeline = store.pipeline(transaction=False)
        for event in (msgpack.unpackb(item.value) for item in batch):
            if event["deleted"]:
                pipeline.delete(PREFIX + event["id"])
            else:
                fields = {"label": event["label"], "vector": event["vector"]}
                pipeline.hset(PREFIX + event["id"], mapping=fields)
        pipeline.execute()


def application(group, offsets):
    return Application(
        broker_address=KAFKA,
        consumer_group=PREFIX + group,
        auto_offset_reset=offsets,
        commit_interval=0.02,
        auto_create_topics=False,
        consumer_poll_timeout=0.01,
    )


def answer(value):
    question = msgpack.unpackb(value)
    found = store.execute_command(
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
    return json.dumps({"label": label, "neighbors": rows}).encode()


store.execute_command(
    *("FT.CREATE", PREFIX, "ON", "HASH", "PREFIX", 1, PREFIX, "SCHEMA", "label", "TAG"),
    *("vector", "VECTOR", "FLAT", 6, "TYPE", "FLOAT32", "DIM", DIM, "DISTANCE_METRIC", "COSINE"),
)
if os.fork():
    learning = application("learn", "earliest")
    events = learning.topic(PREFIX + "events", value_deserializer="bytes", key_deserializer="bytes")
    learning.dataframe(events).sink(Memory())
    learning.run()
else:
    asking = application("ask", "latest")
    questions = asking.topic(
        PREFIX + "questions", value_deserializer="bytes", key_deserializer="bytes"
    )
    answers = asking.topic(PREFIX + "answers", value_serializer="bytes", key_serializer="bytes")
    asking.dataframe(questions).apply(answer).to_topic(answers)
    asking.run()

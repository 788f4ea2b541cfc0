"""confluent-kafka and one numpy matrix: nothing outlives the process."""

import json
import os
from collections import Counter

import msgpack
import numpy as np
from confluent_kafka import Consumer, Producer

KAFKA, PREFIX, DIM = os.environ["KAFKA"], os.environ["PREFIX"], int(os.environ["DIM"])
matrix = np.zeros((1 << 16, DIM), np.float32)
rows, ids, labels, free = {}, {}, {}, list(range(len(matrix) - 1, -1, -1))


def learn(event):
    if event["deleted"]:
        if (row := rows.pop(event["id"], None)) is not None:
            matrix[row] = 0
            ids.pop(row), labels.pop(row), free.append(row)
        return
    row = rows.get(event["id"])
    if row is None:
        row = rows[event["id"]] = free.pop()
    matrix[row] = np.frombuffer(event["vector"], np.float32)
    ids[row], labels[row] = event["id"], event["label"]


def answer(questions, producer):
    asked = np.stack([np.frombuffer(q["vector"], np.float32) for q in questions])
    used = max(ids, default=-1) + 1
    distances = 1 - asked @ matrix[:used].T
    for question, line in zip(questions, distances):
        k = min(question["k"], used)
        nearest = np.argpartition(line, k - 1)[:k] if k else []
        nearest = sorted((r for r in map(int, nearest) if r in ids), key=lambda r: line[r])
        said = {
            "label": Counter(labels[r] for r in nearest).most_common(1)[0][0] if nearest else None,
            "neighbors": [(ids[r], labels[r], float(line[r])) for r in nearest],
        }
        producer.produce(PREFIX + "answers", json.dumps(said), question["id"])
    producer.poll(0)


consumer = Consumer(
    {"bootstrap.servers": KAFKA, "group.id": PREFIX, "auto.offset.reset": "earliest"}
)
consumer.subscribe([PREFIX + "events", PREFIX + "questions"])
producer = Producer({"bootstrap.servers": KAFKA, "linger.ms": 0})
while True:
    first = consumer.poll(1)
    records = [] if first is None else [first, *consumer.consume(500, timeout=0)]
    questions = []
    for record in records:
        said = msgpack.unpackb(record.value())
        learn(said) if record.topic().endswith("events") else questions.append(said)
    if questions:
        answer(questions, producer)

"""Clients of Kafka as they are made: what they promise, and that they leave nothing open."""

from __future__ import annotations

from contextlib import closing

from streams.kafka.cluster import KafkaCluster


def test_a_producer_waits_for_all_replicas_writes_nothing_twice_and_makes_no_topic(
    kafka_bootstrap: str,
) -> None:
    with closing(KafkaCluster(kafka_bootstrap).producer(linger_ms=7)) as producer:
        config = producer.config
        assert config["acks"] in (-1, "all")
        assert config["enable_idempotence"] is True
        assert config["allow_auto_create_topics"] is False
        assert config["linger_ms"] == 7
        assert config["delivery_timeout_ms"] == 60_000


def test_a_consumer_is_in_no_group_commits_nothing_and_makes_no_topic(kafka_bootstrap: str) -> None:
    with closing(KafkaCluster(kafka_bootstrap).consumer()) as consumer:
        config = consumer.config
        assert config["group_id"] is None
        assert config["enable_auto_commit"] is False
        assert config["auto_offset_reset"] == "earliest"
        assert config["allow_auto_create_topics"] is False

"""A topic as a client sees it that nobody here wrote."""

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition


def read(bootstrap, name, isolation="read_committed"):
    """Every record of a topic as it can be seen now, to the end that is open to the client."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "nobody", "isolation.level": isolation, "enable.partition.eof": True,
         "enable.auto.commit": False}
    )  # fmt: skip
    try:
        places = consumer.list_topics(name, timeout=10).topics[name].partitions
        consumer.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in places])
        out, ended = [], set()
        while len(ended) < len(places):
            message = consumer.poll(10)
            assert message is not None, "no answer in 10 s"
            if message.error():
                ended.add(message.partition())
            else:
                out.append(message)
        return out
    finally:
        consumer.close()

"""What can be wrong with the broker: none where one is wanted, or an embedded one that does not come up."""


class BrokerError(Exception):
    """There is no usable Kafka; the message says where it was sought, what came back, and what to do."""


class EmbeddedKafkaError(BrokerError):
    """The embedded Kafka was not fetched or did not come up; the message says what, where and what to do."""

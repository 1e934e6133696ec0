"""The read barrier's question: where does the topic end?"""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.config.errors import TableUnavailable


class LogEnd:
    """
    The topic's end, asked on a connection of its own: on the fetching one it would wait behind the long poll, 101 ms
    against 0.2 (faust.md, 4).

    Callers that wait share one request, but a request answers only those who came before it was sent: the end that is
    under way to us may be older than a write that was answered just now.
    """

    def __init__(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        self._consumer = consumer
        self._partition = partition
        self._waiting: list[asyncio.Future[int]] = []
        self._asking: asyncio.Task[None] | None = None
        self.requests = 0

    async def get(self) -> int:
        """The offset of the record that will be written next, as it is at some moment of this call."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def close(self) -> None:
        """Gives up a request that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            self.requests += 1
            try:
                ends = await self._consumer.end_offsets([self._partition])
            except asyncio.CancelledError:
                for answer in waiting + self._waiting:
                    answer.cancel()
                raise
            except (KafkaError, OSError) as error:
                for answer in waiting:
                    if not answer.done():
                        answer.set_exception(_unavailable(self._partition, error))
                continue
            for answer in waiting:
                if not answer.done():
                    answer.set_result(ends[self._partition])


def _unavailable(partition: TopicPartition, cause: Exception) -> TableUnavailable:
    error = TableUnavailable(
        f"Kafka did not say where {partition.topic} ends: {cause!r}; nothing was changed. Try again when it answers"
    )
    error.__cause__ = cause
    return error

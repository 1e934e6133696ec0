"""Whether this process lives, and whether events flow: what a load balancer and an operator ask without a key."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

from app.config.table import ConfigTable
from app.log.clients import Kafka
from app.settings import Settings

REMEMBERED_SECS = 1.0
"""However many ask, Kafka is asked once a second."""
TIMEOUT_SECS = 3.0


class Readiness:
    """Says what is missing before events flow: the table at its end, every partition assigned to some worker."""

    def __init__(self, kafka: Kafka, settings: Settings, table: ConfigTable, partitions: int) -> None:
        self._kafka = kafka
        self._group = settings.topic("workers")
        self._topic = settings.topic("events")
        self._table = table
        self._partitions = partitions
        self._admin: AIOKafkaAdminClient | None = None
        self._unassigned = _Remembered(self._ask)

    async def missing(self) -> list[str]:
        """What is missing, in words; empty when events flow."""
        found = []
        if self._table.crashed or not self._table.ready.is_set():
            found.append(
                f"the configuration table has not reached the end of its topic (stands at {self._table.position})"
            )
        unassigned = await self._unassigned.get()
        return [*found, unassigned] if unassigned else found

    async def stop(self) -> None:
        """Lets go of Kafka."""
        await self._unassigned.stop()
        await self._disconnect()

    async def _ask(self) -> str:
        """What is wrong with the workers' group, nothing when all partitions are assigned."""
        try:
            async with asyncio.timeout(TIMEOUT_SECS):
                if self._admin is None:
                    self._admin = self._kafka.admin(request_timeout_ms=int(TIMEOUT_SECS * 1000))
                    await self._admin.start()
                (response,) = await self._admin.describe_consumer_groups([self._group])
        except (KafkaError, OSError, TimeoutError) as error:
            # It may know a broker that is gone; the next question begins anew.
            await self._disconnect()
            return f"Kafka does not say who reads {self._topic}: {error!r}"
        return self._judge(response.to_object()["groups"][0])

    def _judge(self, group: dict[str, Any]) -> str:
        if group["state"] in ("Dead", "Empty", ""):
            return f"no worker reads {self._topic} (group {self._group} has no members)"
        if group["state"] != "Stable":
            return f"the workers are sharing out the partitions (group {self._group} is in {group['state']})"
        assigned = {
            partition.partition
            for member in group["members"]
            if member["member_assignment"]
            for partition in ConsumerProtocolMemberAssignment.decode(member["member_assignment"]).partitions()
            if partition.topic == self._topic
        }
        without = self._partitions - len(assigned)
        return f"{without} of {self._partitions} partitions of {self._topic} have no worker" if without else ""

    async def _disconnect(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()


class _Remembered:
    """An answer that is asked for at most once a second, and by one at a time."""

    def __init__(self, ask: Callable[[], Awaitable[str]]) -> None:
        self._ask = ask
        self._answer = ""
        self._until = 0.0
        self._asking: asyncio.Task[str] | None = None

    async def get(self) -> str:
        """The answer, at most a second old. Who asks while another asks shares that one's answer."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            return self._answer
        if self._asking is None:
            self._asking = loop.create_task(self._refresh())
        # Whoever goes away leaves the question to the others.
        return await asyncio.shield(self._asking)

    async def stop(self) -> None:
        """Ends a question under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _refresh(self) -> str:
        try:
            self._answer = await self._ask()
            self._until = asyncio.get_running_loop().time() + REMEMBERED_SECS
            return self._answer
        finally:
            self._asking = None

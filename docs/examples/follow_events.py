"""Prints public events and acknowledges each that it has printed. Needs `pip install nats-py`.

follow_events.py nats://HOST:PORT CONSUMER [COUNT]
"""

import asyncio
import json
import sys

import nats


async def follow(url, consumer, count=None):
    connection = await nats.connect(url)
    events = await connection.jetstream().pull_subscribe_bind(durable=consumer, stream="TEPHRA_EVENTS")
    seen = 0
    while count is None or seen < count:
        try:
            messages = await events.fetch(100 if count is None else min(100, count - seen), timeout=30)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            event = json.loads(message.data)
            print(event["sequence"], event["id"], event["time"], event["type"], event["subject"], flush=True)
            await message.ack()
            seen += 1
    await connection.drain()


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))

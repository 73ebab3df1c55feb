"""Prints public events and acknowledges each that it has printed. Needs `pip install nats-py[nkeys]`.

follow_events.py nats://HOST:PORT CONSUMER [COUNT] [--creds FILE | --nkey FILE] [--ca FILE]
"""

import argparse
import asyncio
import json
import ssl

import nats


async def follow(url, consumer, count=None, **identity):
    connection = await nats.connect(url, **identity)
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
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("consumer")
    parser.add_argument("count", type=int, nargs="?")
    parser.add_argument("--creds", help="a .creds file: a JWT and its seed")
    parser.add_argument("--nkey", help="a file with the seed of an NKey")
    parser.add_argument("--ca", help="whom to trust with TLS, PEM")
    args = parser.parse_args()
    identity = {"user_credentials": args.creds, "nkeys_seed": args.nkey}
    if args.ca:
        identity["tls"] = ssl.create_default_context(cafile=args.ca)
    asyncio.run(follow(args.url, args.consumer, args.count, **identity))

"""Passes connections to ports of this machine's loopback on to the same ports of another machine.

forward.py HOST PORT...: in the guest, so that Ceph's daemons are where the cluster's maps say.
"""

import asyncio
import sys

PIECE_BYTES = 1 << 18


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass  # whoever has gone is gone for the other too
    finally:
        writer.close()


def passed_on(host: str, port: int):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    return serve


async def main(host: str, *ports: str) -> None:
    servers = [await asyncio.start_server(passed_on(host, int(port)), "127.0.0.1", int(port)) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main(*sys.argv[1:]))

"""The load of every peer that runs in Python: single submits, bulk submits, the drain of both, and the time to a handler's
start while nothing else waits. Prints one JSON object.

A peer is an object with
    await submit()          one job, durable when it returns
    await submit_many(n)    n jobs in one call; None where it has no such call
    await left()            how many jobs have not ended, as its store says
    await work(handler)     begins working; handler() is called as each job starts; returns once it listens
"""

import asyncio
import importlib.metadata
import json
import os
import time

CLIENTS = 32
BULK = 1000
SEQUENTIAL = 200
TASKS = int(os.environ.get("TASKS", "10000"))
# Longer than any peer has taken for what is asked here; a job that never starts must not hold up the others.
PATIENCE = 240
# The first jobs open connections and plan statements.
NOT_COUNTED = 20


def pinned(name):
    """The name of a peer with the version that is installed."""
    return f"{name} {importlib.metadata.version(name)}"


async def measure(about, peer):
    await singly(peer, -(-TASKS // 10))
    figures = {"single": await singly(peer, TASKS)}
    figures["bulk"] = await in_bulk(peer) if peer.submit_many else None
    started = Started()
    waiting = await peer.left()
    begun = time.perf_counter()
    await peer.work(started)
    await asyncio.wait_for(drained(peer, started, waiting), PATIENCE)
    figures["drain"] = waiting / (time.perf_counter() - begun)
    figures["p50"], figures["p99"] = await latency(peer, started)
    print(json.dumps(about | figures), flush=True)


class Started:
    """Counts the jobs that started, and tells when the next one did."""

    def __init__(self):
        self.count = 0
        self.next = None

    def __call__(self):
        self.count += 1
        if self.next and not self.next.done():
            self.next.set_result(time.perf_counter())


async def singly(peer, tasks):
    left = iter(range(tasks))

    async def client():
        for _ in left:
            await peer.submit()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return tasks / (time.perf_counter() - begun)


async def in_bulk(peer):
    calls = -(-TASKS // BULK)
    begun = time.perf_counter()
    for _ in range(calls):
        await peer.submit_many(BULK)
    return calls * BULK / (time.perf_counter() - begun)


async def drained(peer, started, tasks):
    # The store is asked only at the end: a count is work for it too.
    while started.count < tasks or await peer.left() > 0:
        await asyncio.sleep(0.002)


async def latency(peer, started):
    sample = []
    for number in range(SEQUENTIAL + NOT_COUNTED):
        started.next = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        await peer.submit()
        at = await asyncio.wait_for(started.next, PATIENCE)
        if number >= NOT_COUNTED:
            sample.append((at - begun) * 1000)
        while await peer.left() > 0:
            await asyncio.sleep(0.002)
    sample.sort()
    return [sample[round((len(sample) - 1) * share)] for share in (0.5, 0.99)]

"""Celery over RabbitMQ, which is found by AMQP_URL: a quorum queue, messages on the disk, each confirmed before the call
returns."""

import asyncio
import logging
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import celery
import kombu

import load

CONCURRENCY = 30
QUEUE = "noop"

app = celery.Celery("peer", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_queues=[kombu.Queue(QUEUE, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=load.CLIENTS + 2,
    worker_concurrency=CONCURRENCY,
    worker_detect_quorum_queues=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)
handler = None
ended = 0
counting = threading.Lock()


@app.task(name=QUEUE)
def noop(message):
    global ended
    handler()
    with counting:
        ended += 1


class Celery:
    message = "forty bytes, as the peers are measured"

    def __init__(self):
        self.threads = ThreadPoolExecutor(load.CLIENTS)
        self.submitted = 0

    async def submit(self):
        self.submitted += 1
        await self.run(lambda: noop.delay(self.message))

    async def submit_many(self, n):
        self.submitted += n
        await self.run(celery.group(noop.s(self.message) for _ in range(n)).apply_async)

    async def left(self):
        # RabbitMQ tells how many wait, not how many ended; its worker is this process.
        return self.submitted - ended

    async def work(self, wanted):
        global handler
        loop = asyncio.get_running_loop()
        handler = lambda: loop.call_soon_threadsafe(wanted)
        listens = threading.Event()
        celery.signals.worker_ready.connect(lambda **_: listens.set(), weak=False)
        options = {"pool": "threads", "quiet": True, "without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        self.worker = app.Worker(**options)
        # Its signal handlers are for a main thread, and who it is does not matter here.
        self.worker.install_platform_tweaks = lambda worker: None
        threading.Thread(target=self.worker.start, daemon=True).start()
        await self.run(listens.wait)

    async def run(self, call):
        await asyncio.get_running_loop().run_in_executor(self.threads, call)


async def main():
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # The queue is declared with the first message.
    peer = Celery()
    settings = f"{CONCURRENCY} threads in one process, RabbitMQ, a quorum queue, confirms, late acks"
    await load.measure({"peer": load.pinned("celery"), "settings": settings}, peer)
    # The worker has no end of its own within a process.
    os._exit(0)


asyncio.run(main())

"""procrastinate. PostgreSQL is found by PGHOST, PGUSER and PGDATABASE."""

import asyncio
import logging

import procrastinate

import load

CONCURRENCY = 30
LEFT = "SELECT count(*) AS count FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"

# One connection for each client, and one that listens.
connector = procrastinate.PsycopgConnector(max_size=load.CLIENTS + 1)
app = procrastinate.App(connector=connector)
handler = None


@app.task(name="noop")
async def noop(message):
    handler()


class Procrastinate:
    message = "forty bytes, as the peers are measured"

    async def submit(self):
        await noop.defer_async(message=self.message)

    async def submit_many(self, n):
        await noop.batch_defer_async(*({"message": self.message} for _ in range(n)))

    async def left(self):
        return (await connector.execute_query_one_async(LEFT))["count"]

    async def work(self, wanted):
        global handler
        handler = wanted
        work = app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        self.working = asyncio.create_task(work)


async def main():
    logging.disable(logging.CRITICAL)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        peer = Procrastinate()
        about = {"peer": load.pinned("procrastinate"), "settings": f"{CONCURRENCY} jobs at once, woken by NOTIFY"}
        await load.measure(about, peer)
        peer.working.cancel()
        await asyncio.gather(peer.working, return_exceptions=True)


asyncio.run(main())

// graphile-worker. PostgreSQL is found by PGHOST, PGUSER and PGDATABASE.

import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";

import { measure, pinned } from "./load.mjs";

// What its documentation on performance recommends for many short jobs, as numbers.
const JOBS = 24;
const LOCAL_QUEUE = 500;

const pgPool = new pg.Pool({ max: 32 });
pgPool.on("error", (error) => {
    throw error;
});
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ pgPool, logger });
await utils.migrate();
const payload = { message: "forty bytes, as the peers are measured" };
let runner;

await measure(
    { peer: pinned("graphile-worker"), settings: `${JOBS} jobs at once, local queue of ${LOCAL_QUEUE}` },
    {
        submit: () => utils.addJob("noop", payload),
        submitMany: (n) => utils.addJobs(Array(n).fill({ identifier: "noop", payload })),
        left: async () => Number((await pgPool.query("SELECT count(*) FROM graphile_worker.jobs")).rows[0].count),
        work: async (handler) => {
            const worker = { concurrentJobs: JOBS, localQueue: { size: LOCAL_QUEUE }, completeJobBatchDelay: 0 };
            runner = await run({
                pgPool,
                logger,
                noHandleSignals: true,
                taskList: { noop: handler },
                preset: { worker },
            });
        },
    },
);
await runner.stop();
await utils.release();
await pgPool.end();

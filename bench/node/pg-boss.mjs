// pg-boss. PostgreSQL is found by PGHOST, PGUSER and PGDATABASE.

import pg from "pg";
import { PgBoss } from "pg-boss";

import { measure, pinned } from "./load.mjs";

const BATCH = 500;
const QUEUE = "noop";

// The options name what the environment does: it does not look there itself.
const boss = new PgBoss({
    host: process.env.PGHOST,
    user: process.env.PGUSER,
    database: process.env.PGDATABASE,
    max: 32,
    useListenNotify: true,
});
boss.on("error", (error) => {
    throw error;
});
await boss.start();
await boss.createQueue(QUEUE, { notify: true });
const pgPool = new pg.Pool({ max: 1 });
const data = { message: "forty bytes, as the peers are measured" };
const LEFT = `SELECT count(*) FROM pgboss.job WHERE name = '${QUEUE}' AND state < 'completed'`;

await measure(
    { peer: pinned("pg-boss"), settings: `batches of ${BATCH}, woken by NOTIFY` },
    {
        submit: () => boss.send(QUEUE, data),
        submitMany: (n) => boss.insert(QUEUE, Array(n).fill({ data })),
        left: async () => Number((await pgPool.query(LEFT)).rows[0].count),
        work: (handler) =>
            boss.work(QUEUE, { batchSize: BATCH, burstWhenBatchFull: true }, async (jobs) => jobs.forEach(handler)),
    },
);
await boss.stop({ graceful: false });
await pgPool.end();

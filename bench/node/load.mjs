// The load of every peer that runs in Node.js: single submits, bulk submits, the drain of both, and the time to a
// handler's start while nothing else waits. Prints one JSON object. It never says how a peer is called: each says so itself.
//
// A peer is an object with
//   submit()          one job, durable when the promise resolves
//   submitMany(n)     n jobs in one call
//   left()            how many jobs have not ended, as the database says
//   work(handler)     begins working; handler() is called as each job starts; resolves once it listens

import { readFileSync } from "node:fs";

const CLIENTS = 32;
const BULK = 1000;
const SEQUENTIAL = 200;
const TASKS = Number(process.env.TASKS ?? 10_000);
// A round that is not counted: connections are opened, statements planned, code compiled.
const WARM_UP = Math.ceil(TASKS / 10);
// Longer than any peer has taken for what is asked here; a job that never starts must not hold up the others.
const PATIENCE_MS = 120_000;

// The name of a peer with the version that package.json pins.
export function pinned(name) {
    const { dependencies } = JSON.parse(readFileSync(new URL("package.json", import.meta.url)));
    return `${name} ${dependencies[name]}`;
}

export async function measure(about, peer) {
    await singly(peer, WARM_UP);
    const single = await singly(peer, TASKS);
    const bulk = await inBulk(peer);
    const counted = { started: 0, next: null };
    const handler = () => {
        counted.started += 1;
        counted.next?.();
    };
    const waiting = await peer.left();
    const begun = performance.now();
    await peer.work(handler);
    await drained(peer, counted, waiting);
    const drain = waiting / seconds(begun);
    const [p50, p99] = await latency(peer, counted);
    console.log(JSON.stringify({ ...about, single, bulk, drain, p50, p99 }));
}

const seconds = (since) => (performance.now() - since) / 1000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function singly(peer, tasks) {
    let left = tasks;
    const begun = performance.now();
    const client = async () => {
        while (left-- > 0) await peer.submit();
    };
    await Promise.all(Array.from({ length: CLIENTS }, client));
    return tasks / seconds(begun);
}

async function inBulk(peer) {
    const calls = Math.ceil(TASKS / BULK);
    const begun = performance.now();
    for (let call = 0; call < calls; call += 1) await peer.submitMany(BULK);
    return (calls * BULK) / seconds(begun);
}

async function drained(peer, counted, tasks) {
    const begun = performance.now();
    // The database is asked only at the end: a count is work for it too.
    while (counted.started < tasks || (await peer.left()) > 0) {
        if (performance.now() - begun > PATIENCE_MS) throw new Error(`${counted.started} of ${tasks} jobs in time`);
        await pause(2);
    }
}

async function latency(peer, counted) {
    const sample = [];
    // The first few are not counted.
    for (let number = -20; number < SEQUENTIAL; number += 1) {
        const started = new Promise((resolve, reject) => {
            const late = setTimeout(() => reject(new Error("a job did not start in time")), PATIENCE_MS);
            counted.next = () => {
                clearTimeout(late);
                resolve(performance.now());
            };
        });
        const begun = performance.now();
        await peer.submit();
        const ms = (await started) - begun;
        if (number >= 0) sample.push(ms);
        while ((await peer.left()) > 0) await pause(2);
    }
    sample.sort((a, b) => a - b);
    const at = (share) => sample[Math.round((sample.length - 1) * share)];
    return [at(0.5), at(0.99)];
}

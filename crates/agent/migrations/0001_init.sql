-- The agent's journal. One row for each task that this node ever took, kept a while after its end to refuse old fences.
CREATE TABLE attempt (
    task        TEXT    NOT NULL PRIMARY KEY,
    store_epoch INTEGER NOT NULL,          -- the highest fence seen: (store_epoch, attempt)
    attempt     INTEGER NOT NULL,
    state       TEXT    NOT NULL,          -- accepted | abandoned | ended | parked | settled
    assignment  TEXT,                      -- the verified envelope, until the server has the result
    report      TEXT,                      -- the result, until the server has it
    clean       INTEGER NOT NULL DEFAULT 0,-- settled: whether nothing is left of it
    changed_at  INTEGER NOT NULL           -- microseconds
) STRICT, WITHOUT ROWID;

-- What a start must look at; settled rows are many and not in here.
CREATE INDEX attempt_open ON attempt (state) WHERE state IN ('accepted', 'ended');
CREATE INDEX attempt_old ON attempt (changed_at) WHERE state IN ('abandoned', 'parked', 'settled');

-- The highest epoch of each machine: an older one is refused.
CREATE TABLE vm_epoch (
    vm    TEXT    NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Offers that came by the broker and were acknowledged there, until they are begun or over.
CREATE TABLE offer (
    task        TEXT    NOT NULL,
    store_epoch INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    assignment  TEXT    NOT NULL,
    offered_at  INTEGER NOT NULL,
    PRIMARY KEY (task, store_epoch, attempt)
) STRICT, WITHOUT ROWID;

-- What was refused, in all, since this node began to count; and which count that is, and whose.
CREATE TABLE refused (
    why         TEXT    NOT NULL PRIMARY KEY,
    many        INTEGER NOT NULL,
    task        TEXT,                      -- of the last one, where its signature was right
    store_epoch INTEGER,
    attempt     INTEGER,
    at          INTEGER NOT NULL           -- of the last one; microseconds
) STRICT, WITHOUT ROWID;

CREATE TABLE refusals (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    count TEXT    NOT NULL,
    node  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

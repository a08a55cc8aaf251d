-- Ids are UUIDs as text, moments are microseconds since the Unix epoch, documents are JSON as text.

-- One row: the store's epoch, the number of the last log entry, the hash of the last link.
CREATE TABLE log_head (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    store_epoch INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    hash        TEXT   NOT NULL
) STRICT, WITHOUT ROWID;

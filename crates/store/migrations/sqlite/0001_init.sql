-- Ids are UUIDs as text, moments are microseconds since the Unix epoch, documents are JSON as text.
-- `seq` beside a row is the number of the log entry with which it was written: the order of commits.

-- One row: the store's epoch, the number of the last log entry, the hash of the last link; `mark`: the certificate
-- authority of the servers over this database; `fleet`: another word after each change of a node or of a node's book.
CREATE TABLE log_head (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    store_epoch INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    hash        TEXT    NOT NULL,
    mark        TEXT,
    fleet       TEXT
) STRICT, WITHOUT ROWID;

INSERT INTO log_head (one, store_epoch, seq, hash)
VALUES (1, 1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- In which history of which cluster the store was last at work, where its server tells it.
CREATE TABLE timeline (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    system_id   TEXT NOT NULL,
    number      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events and audit entries, without gaps.
CREATE TABLE log (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    class   TEXT    NOT NULL,
    tenant  TEXT,
    kind    TEXT    NOT NULL,
    noun    TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    data    TEXT    NOT NULL
) STRICT;

CREATE INDEX log_by_subject ON log (subject, seq);
CREATE INDEX log_by_tenant ON log (tenant, seq) WHERE tenant IS NOT NULL;

-- One link per batch of entries: hash = sha256(the hash before, sha256 of the entries' hashes); `hashes`: those, 32 bytes
-- each, as one base64.
CREATE TABLE links (
    last_seq  INTEGER PRIMARY KEY,
    first_seq INTEGER NOT NULL,
    hashes    TEXT    NOT NULL,
    hash      TEXT    NOT NULL
) STRICT;

-- Where the chain stood when a server signed it: a compact JWS.
CREATE TABLE checkpoints (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    signed TEXT    NOT NULL
) STRICT;

-- Limits: -1 is none. `generation`: how often name or limits were written.
CREATE TABLE tenants (
    id               TEXT PRIMARY KEY,
    name             TEXT    NOT NULL UNIQUE,
    limit_vcpus      INTEGER NOT NULL,
    limit_memory_mib INTEGER NOT NULL,
    limit_disk_gib   INTEGER NOT NULL,
    limit_vms        INTEGER NOT NULL,
    limit_running_vms INTEGER NOT NULL,
    limit_snapshots  INTEGER NOT NULL,
    limit_images_gib INTEGER NOT NULL,
    generation       INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO tenants VALUES ('00000000-0000-7000-8000-000000000001', 'default', -1, -1, -1, -1, -1, -1, -1, 1, 0, 0);

-- Both books are sums of the allocations.
CREATE TABLE tenant_books (
    tenant          TEXT PRIMARY KEY,
    held_vcpus      INTEGER NOT NULL,
    held_memory_mib INTEGER NOT NULL,
    held_disk_gib   INTEGER NOT NULL,
    held_vms        INTEGER NOT NULL,
    held_running_vms INTEGER NOT NULL,
    held_snapshots  INTEGER NOT NULL,
    used_vcpus      INTEGER NOT NULL,
    used_memory_mib INTEGER NOT NULL,
    used_disk_gib   INTEGER NOT NULL,
    used_vms        INTEGER NOT NULL,
    used_running_vms INTEGER NOT NULL,
    used_snapshots  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE node_books (
    node            TEXT PRIMARY KEY,
    held_vcpus      INTEGER NOT NULL,
    held_memory_mib INTEGER NOT NULL,
    held_disk_gib   INTEGER NOT NULL,
    held_vms        INTEGER NOT NULL,
    held_running_vms INTEGER NOT NULL,
    held_snapshots  INTEGER NOT NULL,
    used_vcpus      INTEGER NOT NULL,
    used_memory_mib INTEGER NOT NULL,
    used_disk_gib   INTEGER NOT NULL,
    used_vms        INTEGER NOT NULL,
    used_running_vms INTEGER NOT NULL,
    used_snapshots  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE allocations (
    noun       TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    tenant     TEXT    NOT NULL,
    node       TEXT,
    vcpus      INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_gib   INTEGER NOT NULL,
    vms        INTEGER NOT NULL,
    running_vms INTEGER NOT NULL,
    snapshots  INTEGER NOT NULL,
    hold       TEXT    NOT NULL,
    PRIMARY KEY (noun, id)
) STRICT, WITHOUT ROWID;

-- What administrators hold for tenants by hand; how much stands in its allocation.
CREATE TABLE reservations (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX reservations_of_tenant ON reservations (tenant, id);
CREATE INDEX reservations_by_end ON reservations (expires_at);

-- `beat_seq`: the log's head when the last heartbeat was received; NULL before the first of an enrolment. What changed
-- after it may be newer than the inventory that the next heartbeat brings. `heard_epoch`: the store's epoch when the node
-- last said all that it has; until that is the present one it gets no tasks. `orphans`: machines reported here that are
-- not ours, as they were last written to the log. `transport`: by which road its tasks travel. `revoked_at`: since when
-- its certificate is good for nothing. `labels`, `overcommit`: an operator's, whose changes `generation` counts. `set_aside`: the create that
-- waits for room and for which the node is kept. `refused`: what its agent said that it refused, as the audit has it.
CREATE TABLE nodes (
    id         TEXT PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    state      TEXT    NOT NULL,
    freshness  TEXT    NOT NULL,
    transport  TEXT    NOT NULL,
    enrolment  TEXT,
    facts      TEXT    NOT NULL,
    last_seen  INTEGER,
    lost_at    INTEGER,
    beat_seq   INTEGER,
    heard_epoch INTEGER NOT NULL,
    orphans    TEXT    NOT NULL,
    paused_at  INTEGER,
    revoked_at INTEGER,
    created_at INTEGER NOT NULL,
    labels     TEXT    NOT NULL DEFAULT '{}',
    overcommit TEXT    NOT NULL DEFAULT '{}',
    generation INTEGER NOT NULL DEFAULT 1,
    state_since INTEGER,
    set_aside  TEXT,
    refused    TEXT
) STRICT;

CREATE INDEX nodes_set_aside ON nodes (id) WHERE set_aside IS NOT NULL;
CREATE INDEX nodes_draining ON nodes (id) WHERE state = 'draining';
CREATE INDEX nodes_paused ON nodes (id) WHERE paused_at IS NOT NULL;
CREATE INDEX nodes_revoked ON nodes (id) WHERE revoked_at IS NOT NULL;
CREATE INDEX nodes_offered ON nodes (id) WHERE transport <> 'poll';

-- Certificates that were given to nodes, for as long as results may be kept that were signed with their keys. `thumbprint`:
-- sha256, as base64url. `certificate`: PEM.
CREATE TABLE node_certificates (
    thumbprint  TEXT PRIMARY KEY,
    certificate TEXT NOT NULL,
    ends_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX node_certificates_by_end ON node_certificates (ends_at);

-- Nodes that were removed, for as long as a certificate of theirs may still be shown: their connections are cut.
CREATE TABLE removed_nodes (
    id         TEXT PRIMARY KEY,
    removed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `lane`: which free slots of its node it waits for, its class's, or none (`abort`). `ripe`: 0 until `not_before`.
-- `clean`: what is left of its attempts: 1 nothing, 2 something from which another is to go on, 0 nobody knows.
-- `retry`: where it is not the kind's own. `snapshot`: which the parameters name. `proof`: of what its node last reported and
-- was settled (model/proof.rs), as its node signed it.
CREATE TABLE tasks (
    id             TEXT PRIMARY KEY,
    seq            INTEGER NOT NULL,
    tenant         TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    turn           TEXT    NOT NULL,
    vm             TEXT,
    target_node    TEXT,
    params         TEXT    NOT NULL,
    snapshot       TEXT,
    state          TEXT    NOT NULL,
    node           TEXT,
    store_epoch    INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    max_attempts   INTEGER NOT NULL,
    clean          INTEGER NOT NULL,
    enrolment      TEXT,
    lease_until    INTEGER,
    abort_reason   TEXT,
    progress       TEXT,
    phases         TEXT    NOT NULL,
    output         TEXT,
    error          TEXT,
    code           TEXT,
    retry_of       TEXT,
    created_by     TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    not_before     INTEGER NOT NULL,
    queue_deadline INTEGER NOT NULL,
    deadline       INTEGER,
    started_at     INTEGER,
    finished_at    INTEGER,
    lane           TEXT    NOT NULL,
    ripe           INTEGER NOT NULL,
    priority       INTEGER NOT NULL,
    queue_timeout_s INTEGER NOT NULL,
    timeout_s      INTEGER NOT NULL,
    retry          TEXT,
    dead_letter    TEXT,
    proof          TEXT
) STRICT;

-- What a node may fetch, in the order in which it is to. Together with the next two: every task that has not ended.
CREATE INDEX tasks_leasable ON tasks (node, lane, priority DESC, seq)
 WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 1;
CREATE INDEX tasks_later ON tasks (not_before)
 WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0;
CREATE INDEX tasks_in_backoff ON tasks (kind, not_before)
 WHERE state IN ('queued', 'aborting') AND lease_until IS NULL AND ripe = 0 AND attempt > 0;
CREATE INDEX tasks_leased ON tasks (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX tasks_queue_deadline ON tasks (queue_deadline) WHERE state = 'queued';
CREATE INDEX tasks_deadline ON tasks (deadline) WHERE deadline IS NOT NULL AND state IN ('queued', 'running');
-- What waits for a node with room.
CREATE INDEX tasks_unplaced ON tasks (tenant, priority DESC, seq)
 WHERE state = 'queued' AND node IS NULL AND kind = 'vm.create';
-- Turns.
CREATE INDEX tasks_on_vm ON tasks (vm, seq) WHERE vm IS NOT NULL AND state IN ('queued', 'running', 'aborting');
-- Lists.
CREATE INDEX tasks_by_tenant ON tasks (tenant, id);
CREATE INDEX tasks_by_vm ON tasks (vm, id) WHERE vm IS NOT NULL;
CREATE INDEX tasks_by_code ON tasks (code, id) WHERE code IS NOT NULL;
CREATE INDEX tasks_by_retry ON tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX tasks_dead ON tasks (tenant, id) WHERE dead_letter = 'waiting';

-- What is to be offered by the broker: each task of a node there that waits to be leased, or, in plain form, was leased to
-- be sent. `attempt`: the one that is offered. `due_at`: not sent before; while somebody sends it, until when nobody else
-- does. `confirmed_at`: since when the broker has it; it is not sent again.
CREATE TABLE outbox (
    task         TEXT PRIMARY KEY,
    node         TEXT    NOT NULL,
    store_epoch  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    intent       TEXT    NOT NULL,
    form         TEXT    NOT NULL,
    due_at       INTEGER NOT NULL,
    confirmed_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_due ON outbox (due_at) WHERE confirmed_at IS NULL;
CREATE INDEX outbox_on_node ON outbox (node);

-- How often something happened to tasks, by the minute (counted from the Unix epoch; 0: all that is no longer told by
-- minutes, of all nodes). `took`: about how long the task had waited or run (model/stats.rs; 0: nothing to know), `ms`: in
-- milliseconds, all of them together.
CREATE TABLE task_stats (
    minute INTEGER NOT NULL,
    tenant TEXT    NOT NULL,
    node   TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    what   TEXT    NOT NULL,
    took   INTEGER NOT NULL,
    tasks  INTEGER NOT NULL,
    ms     INTEGER NOT NULL,
    PRIMARY KEY (minute, tenant, node, kind, what, took)
) STRICT, WITHOUT ROWID;

-- Lines for people, the last ones of each task. `said`: the last line of the node in that attempt, by the node's clock.
-- `bytes`: of this line and all before it.
CREATE TABLE task_log (
    task    TEXT    NOT NULL,
    number  INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    author  TEXT    NOT NULL,
    text    TEXT    NOT NULL,
    said    INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

-- Texts that are kept apart from their tasks, which have a reference in their place.
CREATE TABLE secrets (
    id   TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE INDEX secrets_by_task ON secrets (task);

-- `image_digest`, `anti_affinity`: the spec's. `reaped_at`: when a deletion for the end of its time was last filed.
CREATE TABLE vms (
    id         TEXT PRIMARY KEY,
    seq        INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    ready      INTEGER NOT NULL,
    reason     TEXT,
    detail     TEXT,
    last_state TEXT,
    task       TEXT,
    node       TEXT,
    epoch      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    observed_generation INTEGER NOT NULL,
    protected  INTEGER NOT NULL,
    expires_at INTEGER,
    reaped_at  INTEGER,
    restart_at INTEGER,
    tries      TEXT    NOT NULL,
    spec       TEXT    NOT NULL,
    image_digest TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    anti_affinity TEXT
) STRICT;

CREATE INDEX vms_by_image ON vms (image_digest, tenant) WHERE state <> 'deleted';
CREATE UNIQUE INDEX vms_by_name ON vms (tenant, name) WHERE state <> 'deleted';
CREATE INDEX vms_apart ON vms (tenant, anti_affinity) WHERE anti_affinity IS NOT NULL AND state <> 'deleted';
CREATE INDEX vms_on_node ON vms (node, id) WHERE state <> 'deleted';
CREATE INDEX vms_by_restart ON vms (restart_at) WHERE restart_at IS NOT NULL AND task IS NULL AND state <> 'deleted';
CREATE INDEX vms_by_expiry ON vms (expires_at) WHERE expires_at IS NOT NULL AND protected = 0 AND state <> 'deleted';
-- Lists.
CREATE INDEX vms_by_tenant ON vms (tenant, id) WHERE state <> 'deleted';
CREATE INDEX vms_deleted ON vms (id) WHERE state = 'deleted';
CREATE INDEX vms_deleted_by_tenant ON vms (tenant, id) WHERE state = 'deleted';

-- `disk_bytes` and `memory_bytes` are known once the snapshot is whole.
CREATE TABLE snapshots (
    id           TEXT PRIMARY KEY,
    seq          INTEGER NOT NULL,
    tenant       TEXT    NOT NULL,
    vm           TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    detail       TEXT,
    memory       INTEGER NOT NULL,
    quiesced     INTEGER,
    disk_bytes   INTEGER,
    memory_bytes INTEGER,
    task         TEXT,
    node         TEXT,
    spec         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX snapshots_by_name ON snapshots (vm, name) WHERE state <> 'deleted';
CREATE INDEX snapshots_on_node ON snapshots (node, id) WHERE state <> 'deleted';
-- Lists.
CREATE INDEX snapshots_on_vm ON snapshots (vm, id) WHERE state <> 'deleted';
CREATE INDEX snapshots_by_tenant ON snapshots (tenant, id) WHERE state <> 'deleted';
CREATE INDEX snapshots_deleted ON snapshots (id) WHERE state = 'deleted';

CREATE TABLE images (
    tenant     TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    manifest   TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest)
) STRICT;

CREATE INDEX images_by_digest ON images (digest);

-- `shipped`: the name came with an image that was shipped, and nobody has decided otherwise since.
CREATE TABLE image_names (
    tenant  TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    digest  TEXT    NOT NULL,
    shipped INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX image_names_by_digest ON image_names (tenant, digest);

-- Files that are being taken in as images: what people see of it. `beat_at`: when the server that does it last said so.
CREATE TABLE imports (
    id          TEXT PRIMARY KEY,
    tenant      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    state       TEXT    NOT NULL,
    progress    TEXT    NOT NULL,
    cancel      INTEGER NOT NULL,
    image       TEXT,
    error       TEXT,
    created_by  TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    beat_at     INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;

CREATE INDEX imports_by_tenant ON imports (tenant, id);
CREATE INDEX imports_running ON imports (beat_at) WHERE state = 'running';

-- First answers, kept for 24 h and until their work, a task or an import, ends, if there is any.
CREATE TABLE idempotency (
    tenant     TEXT    NOT NULL,
    principal  TEXT    NOT NULL,
    route      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    work       TEXT,
    answer     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, principal, route, key)
) STRICT;

CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- `id`: as the audit names it. `used_key`, `used_by`, `enrolment`: the sha256 of the public key that was certified, for
-- which node, and under which enrolment; all three NULL where it was made good for nothing.
CREATE TABLE join_tokens (
    hash       TEXT PRIMARY KEY,
    id         TEXT    NOT NULL,
    node_name  TEXT,
    approve    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER,
    used_key   TEXT,
    used_by    TEXT,
    enrolment  TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE api_tokens (
    hash       TEXT PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    principal  TEXT    NOT NULL,
    audience   TEXT    NOT NULL,
    tenant     TEXT,
    role       TEXT    NOT NULL,
    scopes     TEXT,
    label      TEXT    NOT NULL,
    format     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    made_with  TEXT,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_tokens_of_tenant ON api_tokens (tenant, audience, id);
CREATE INDEX api_tokens_of_principal ON api_tokens (principal, id);
CREATE INDEX api_tokens_made_with ON api_tokens (made_with) WHERE made_with IS NOT NULL;

CREATE TABLE service_accounts (
    id         TEXT PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX service_accounts_by_name ON service_accounts (tenant, name) WHERE deleted_at IS NULL;

-- Keys that sign tasks. `public`: 32 bytes as base64url. `private`: sealed; NULL once the key is over.
CREATE TABLE signing_keys (
    kid        TEXT PRIMARY KEY,
    state      TEXT    NOT NULL,
    public     TEXT    NOT NULL,
    private    TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys under which values are sealed, wrapped by a master key, which is in no database. `owner`: a tenant, or `control`.
-- `master`: the name of what wraps, the same in all rows, so that nothing is wrapped under a key that was rotated away.
CREATE TABLE data_keys (
    owner      TEXT PRIMARY KEY,
    master     TEXT    NOT NULL,
    wrapped    TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

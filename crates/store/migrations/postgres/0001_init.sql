-- The same tables as SQLite's; texts compare by their bytes (ids and their order do not depend on a language).
-- Ids are UUIDs as text, moments are microseconds since the Unix epoch, documents are JSON as text.
-- `seq` beside a row is the number of the log entry with which it was written: the order of commits.

-- One row: the store's epoch, the number of the last log entry, the hash of the last link; `mark`: the certificate
-- authority of the servers over this database; `fleet`: another word after each change of a node or of a node's book.
CREATE TABLE log_head (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    store_epoch BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    hash        TEXT COLLATE "C" NOT NULL,
    mark        TEXT COLLATE "C",
    fleet       TEXT COLLATE "C"
);

INSERT INTO log_head (one, store_epoch, seq, hash)
VALUES (1, 1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- In which history of which cluster the store was last at work, where its server tells it.
CREATE TABLE timeline (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    system_id   TEXT COLLATE "C" NOT NULL,
    number      BIGINT NOT NULL
);

-- Events and audit entries, without gaps.
CREATE TABLE log (
    seq     BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    class   TEXT COLLATE "C" NOT NULL,
    tenant  TEXT COLLATE "C",
    kind    TEXT COLLATE "C" NOT NULL,
    noun    TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    data    TEXT COLLATE "C" NOT NULL
);

CREATE INDEX log_by_subject ON log (subject, seq);
CREATE INDEX log_by_tenant ON log (tenant, seq) WHERE tenant IS NOT NULL;
-- As for lists of tasks, below.
ALTER TABLE log ALTER tenant SET (n_distinct = 10000), ALTER subject SET (n_distinct = 10000);

-- One link per batch of entries: hash = sha256(the hash before, sha256 of the entries' hashes); `hashes`: those, 32 bytes
-- each, as one base64.
CREATE TABLE links (
    last_seq  BIGINT PRIMARY KEY,
    first_seq BIGINT NOT NULL,
    hashes    TEXT COLLATE "C" NOT NULL,
    hash      TEXT COLLATE "C" NOT NULL
);

-- Where the chain stood when a server signed it: a compact JWS.
CREATE TABLE checkpoints (
    seq    BIGINT PRIMARY KEY,
    at     BIGINT NOT NULL,
    signed TEXT COLLATE "C" NOT NULL
);

-- Limits: -1 is none. `generation`: how often name or limits were written.
CREATE TABLE tenants (
    id               TEXT COLLATE "C" PRIMARY KEY,
    name             TEXT COLLATE "C" NOT NULL UNIQUE,
    limit_vcpus      BIGINT NOT NULL,
    limit_memory_mib BIGINT NOT NULL,
    limit_disk_gib   BIGINT NOT NULL,
    limit_vms        BIGINT NOT NULL,
    limit_running_vms BIGINT NOT NULL,
    limit_snapshots  BIGINT NOT NULL,
    limit_images_gib BIGINT NOT NULL,
    generation       BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL
);

INSERT INTO tenants VALUES ('00000000-0000-7000-8000-000000000001', 'default', -1, -1, -1, -1, -1, -1, -1, 1, 0, 0);

-- Both books are sums of the allocations.
CREATE TABLE tenant_books (
    tenant          TEXT COLLATE "C" PRIMARY KEY,
    held_vcpus      BIGINT NOT NULL,
    held_memory_mib BIGINT NOT NULL,
    held_disk_gib   BIGINT NOT NULL,
    held_vms        BIGINT NOT NULL,
    held_running_vms BIGINT NOT NULL,
    held_snapshots  BIGINT NOT NULL,
    used_vcpus      BIGINT NOT NULL,
    used_memory_mib BIGINT NOT NULL,
    used_disk_gib   BIGINT NOT NULL,
    used_vms        BIGINT NOT NULL,
    used_running_vms BIGINT NOT NULL,
    used_snapshots  BIGINT NOT NULL
);

CREATE TABLE node_books (
    node            TEXT COLLATE "C" PRIMARY KEY,
    held_vcpus      BIGINT NOT NULL,
    held_memory_mib BIGINT NOT NULL,
    held_disk_gib   BIGINT NOT NULL,
    held_vms        BIGINT NOT NULL,
    held_running_vms BIGINT NOT NULL,
    held_snapshots  BIGINT NOT NULL,
    used_vcpus      BIGINT NOT NULL,
    used_memory_mib BIGINT NOT NULL,
    used_disk_gib   BIGINT NOT NULL,
    used_vms        BIGINT NOT NULL,
    used_running_vms BIGINT NOT NULL,
    used_snapshots  BIGINT NOT NULL
);

CREATE TABLE allocations (
    noun       TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    tenant     TEXT COLLATE "C" NOT NULL,
    node       TEXT COLLATE "C",
    vcpus      BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib   BIGINT NOT NULL,
    vms        BIGINT NOT NULL,
    running_vms BIGINT NOT NULL,
    snapshots  BIGINT NOT NULL,
    hold       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (noun, id)
);

-- What administrators hold for tenants by hand; how much stands in its allocation.
CREATE TABLE reservations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX reservations_of_tenant ON reservations (tenant, id);
CREATE INDEX reservations_by_end ON reservations (expires_at);

-- `beat_seq`: the log's head when the last heartbeat was received; NULL before the first of an enrolment. What changed
-- after it may be newer than the inventory that the next heartbeat brings. `heard_epoch`: the store's epoch when the node
-- last said all that it has; until that is the present one it gets no tasks. `orphans`: machines reported here that are
-- not ours, as they were last written to the log. `labels`, `overcommit`: an operator's, whose changes `generation` counts. `set_aside`: the create that
-- waits for room and for which the node is kept. `refused`: what its agent said that it refused, as the audit has it.
CREATE TABLE nodes (
    id         TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL UNIQUE,
    state      TEXT COLLATE "C" NOT NULL,
    freshness  TEXT COLLATE "C" NOT NULL,
    transport  TEXT COLLATE "C" NOT NULL,
    enrolment  TEXT COLLATE "C",
    facts      TEXT COLLATE "C" NOT NULL,
    last_seen  BIGINT,
    lost_at    BIGINT,
    beat_seq   BIGINT,
    heard_epoch BIGINT NOT NULL,
    orphans    TEXT COLLATE "C" NOT NULL,
    paused_at  BIGINT,
    revoked_at BIGINT,
    created_at BIGINT NOT NULL,
    labels     TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    overcommit TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    generation BIGINT NOT NULL DEFAULT 1,
    state_since BIGINT,
    set_aside  TEXT COLLATE "C",
    refused    TEXT COLLATE "C"
);

CREATE INDEX nodes_set_aside ON nodes (id) WHERE set_aside IS NOT NULL;
CREATE INDEX nodes_draining ON nodes (id) WHERE state = 'draining';
CREATE INDEX nodes_paused ON nodes (id) WHERE paused_at IS NOT NULL;
CREATE INDEX nodes_revoked ON nodes (id) WHERE revoked_at IS NOT NULL;
CREATE INDEX nodes_offered ON nodes (id) WHERE transport <> 'poll';

-- Certificates that were given to nodes, for as long as results may be kept that were signed with their keys. `thumbprint`:
-- sha256, as base64url. `certificate`: PEM.
CREATE TABLE node_certificates (
    thumbprint  TEXT COLLATE "C" PRIMARY KEY,
    certificate TEXT NOT NULL,
    ends_at     BIGINT NOT NULL
);

CREATE INDEX node_certificates_by_end ON node_certificates (ends_at);

-- Nodes that were removed, for as long as a certificate of theirs may still be shown: their connections are cut.
CREATE TABLE removed_nodes (
    id         TEXT COLLATE "C" PRIMARY KEY,
    removed_at BIGINT NOT NULL
);

-- `lane`: which free slots of its node it waits for, its class's, or none (`abort`). `ripe`: 0 until `not_before`.
-- `clean`: what is left of its attempts: 1 nothing, 2 something from which another is to go on, 0 nobody knows.
-- `retry`: where it is not the kind's own. `snapshot`: which the parameters name. `proof`: of what its node last reported and
-- was settled (model/proof.rs), as its node signed it.
CREATE TABLE tasks (
    id             TEXT COLLATE "C" PRIMARY KEY,
    seq            BIGINT NOT NULL,
    tenant         TEXT COLLATE "C" NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    turn           TEXT COLLATE "C" NOT NULL,
    vm             TEXT COLLATE "C",
    target_node    TEXT COLLATE "C",
    params         TEXT COLLATE "C" NOT NULL,
    snapshot       TEXT COLLATE "C",
    state          TEXT COLLATE "C" NOT NULL,
    node           TEXT COLLATE "C",
    store_epoch    BIGINT NOT NULL,
    attempt        BIGINT NOT NULL,
    max_attempts   BIGINT NOT NULL,
    clean          BIGINT NOT NULL,
    enrolment      TEXT COLLATE "C",
    lease_until    BIGINT,
    abort_reason   TEXT COLLATE "C",
    progress       TEXT COLLATE "C",
    phases         TEXT COLLATE "C" NOT NULL,
    output         TEXT COLLATE "C",
    error          TEXT COLLATE "C",
    code           TEXT COLLATE "C",
    retry_of       TEXT COLLATE "C",
    created_by     TEXT COLLATE "C" NOT NULL,
    created_at     BIGINT NOT NULL,
    not_before     BIGINT NOT NULL,
    queue_deadline BIGINT NOT NULL,
    deadline       BIGINT,
    started_at     BIGINT,
    finished_at    BIGINT,
    lane           TEXT COLLATE "C" NOT NULL,
    ripe           BIGINT NOT NULL,
    priority       BIGINT NOT NULL,
    queue_timeout_s BIGINT NOT NULL,
    timeout_s      BIGINT NOT NULL,
    retry          TEXT COLLATE "C",
    dead_letter    TEXT COLLATE "C",
    proof          TEXT
);

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
-- A plan is made before it is known whose rows are asked for: it is to walk their index, though they may be nearly all, or
-- nearly none.
ALTER TABLE tasks ALTER tenant SET (n_distinct = 10000), ALTER vm SET (n_distinct = 10000),
                  ALTER code SET (n_distinct = 10000);
-- What ended leaves its places in the indexes of what has not, and each claim steps over them until they are cleared: with
-- a history of millions a fifth of it is too long to wait for.
ALTER TABLE tasks SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- What is to be offered by the broker: each task of a node there that waits to be leased, or, in plain form, was leased to
-- be sent. `attempt`: the one that is offered. `due_at`: not sent before; while somebody sends it, until when nobody else
-- does. `confirmed_at`: since when the broker has it; it is not sent again.
CREATE TABLE outbox (
    task         TEXT COLLATE "C" PRIMARY KEY,
    node         TEXT COLLATE "C" NOT NULL,
    store_epoch  BIGINT NOT NULL,
    attempt      BIGINT NOT NULL,
    intent       TEXT COLLATE "C" NOT NULL,
    form         TEXT COLLATE "C" NOT NULL,
    due_at       BIGINT NOT NULL,
    confirmed_at BIGINT
);

CREATE INDEX outbox_due ON outbox (due_at) WHERE confirmed_at IS NULL;
CREATE INDEX outbox_on_node ON outbox (node);

-- How often something happened to tasks, by the minute (counted from the Unix epoch; 0: all that is no longer told by
-- minutes, of all nodes). `took`: about how long the task had waited or run (model/stats.rs; 0: nothing to know), `ms`: in
-- milliseconds, all of them together.
CREATE TABLE task_stats (
    minute BIGINT NOT NULL,
    tenant TEXT COLLATE "C" NOT NULL,
    node   TEXT COLLATE "C" NOT NULL,
    kind   TEXT COLLATE "C" NOT NULL,
    what   TEXT COLLATE "C" NOT NULL,
    took   BIGINT NOT NULL,
    tasks  BIGINT NOT NULL,
    ms     BIGINT NOT NULL,
    PRIMARY KEY (minute, tenant, node, kind, what, took)
);

-- Lines for people, the last ones of each task. `said`: the last line of the node in that attempt, by the node's clock.
-- `bytes`: of this line and all before it.
CREATE TABLE task_log (
    task    TEXT COLLATE "C" NOT NULL,
    number  BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    author  TEXT COLLATE "C" NOT NULL,
    text    TEXT COLLATE "C" NOT NULL,
    said    BIGINT NOT NULL,
    bytes   BIGINT NOT NULL,
    PRIMARY KEY (task, number)
);

-- Texts that are kept apart from their tasks, which have a reference in their place.
CREATE TABLE secrets (
    id   TEXT COLLATE "C" PRIMARY KEY,
    task TEXT COLLATE "C" NOT NULL,
    text TEXT COLLATE "C" NOT NULL
);

CREATE INDEX secrets_by_task ON secrets (task);

-- `image_digest`, `anti_affinity`: the spec's. `reaped_at`: when a deletion for the end of its time was last filed.
CREATE TABLE vms (
    id         TEXT COLLATE "C" PRIMARY KEY,
    seq        BIGINT NOT NULL,
    tenant     TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    ready      BIGINT NOT NULL,
    reason     TEXT COLLATE "C",
    detail     TEXT COLLATE "C",
    last_state TEXT COLLATE "C",
    task       TEXT COLLATE "C",
    node       TEXT COLLATE "C",
    epoch      BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    observed_generation BIGINT NOT NULL,
    protected  BIGINT NOT NULL,
    expires_at BIGINT,
    reaped_at  BIGINT,
    restart_at BIGINT,
    tries      TEXT COLLATE "C" NOT NULL,
    spec       TEXT COLLATE "C" NOT NULL,
    image_digest TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    anti_affinity TEXT COLLATE "C"
);

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
ALTER TABLE vms ALTER tenant SET (n_distinct = 10000), ALTER node SET (n_distinct = 10000);

-- `disk_bytes` and `memory_bytes` are known once the snapshot is whole.
CREATE TABLE snapshots (
    id           TEXT COLLATE "C" PRIMARY KEY,
    seq          BIGINT NOT NULL,
    tenant       TEXT COLLATE "C" NOT NULL,
    vm           TEXT COLLATE "C" NOT NULL,
    name         TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    detail       TEXT COLLATE "C",
    memory       BIGINT NOT NULL,
    quiesced     BIGINT,
    disk_bytes   BIGINT,
    memory_bytes BIGINT,
    task         TEXT COLLATE "C",
    node         TEXT COLLATE "C",
    spec         TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);

CREATE UNIQUE INDEX snapshots_by_name ON snapshots (vm, name) WHERE state <> 'deleted';
CREATE INDEX snapshots_on_node ON snapshots (node, id) WHERE state <> 'deleted';
-- Lists.
CREATE INDEX snapshots_on_vm ON snapshots (vm, id) WHERE state <> 'deleted';
CREATE INDEX snapshots_by_tenant ON snapshots (tenant, id) WHERE state <> 'deleted';
CREATE INDEX snapshots_deleted ON snapshots (id) WHERE state = 'deleted';
ALTER TABLE snapshots ALTER tenant SET (n_distinct = 10000), ALTER vm SET (n_distinct = 10000);

CREATE TABLE images (
    tenant     TEXT COLLATE "C" NOT NULL,
    digest     TEXT COLLATE "C" NOT NULL,
    manifest   TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE INDEX images_by_digest ON images (digest);

-- `shipped`: the name came with an image that was shipped, and nobody has decided otherwise since.
CREATE TABLE image_names (
    tenant  TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    digest  TEXT COLLATE "C" NOT NULL,
    shipped BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE INDEX image_names_by_digest ON image_names (tenant, digest);

-- Files that are being taken in as images: what people see of it. `beat_at`: when the server that does it last said so.
CREATE TABLE imports (
    id          TEXT COLLATE "C" PRIMARY KEY,
    tenant      TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    source      TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    progress    TEXT COLLATE "C" NOT NULL,
    cancel      BIGINT NOT NULL,
    image       TEXT COLLATE "C",
    error       TEXT COLLATE "C",
    created_by  TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT NOT NULL,
    beat_at     BIGINT NOT NULL,
    finished_at BIGINT
);

CREATE INDEX imports_by_tenant ON imports (tenant, id);
ALTER TABLE imports ALTER tenant SET (n_distinct = 10000);
CREATE INDEX imports_running ON imports (beat_at) WHERE state = 'running';

-- First answers, kept for 24 h and until their work, a task or an import, ends, if there is any.
CREATE TABLE idempotency (
    tenant     TEXT COLLATE "C" NOT NULL,
    principal  TEXT COLLATE "C" NOT NULL,
    route      TEXT COLLATE "C" NOT NULL,
    key        TEXT COLLATE "C" NOT NULL,
    body       TEXT COLLATE "C" NOT NULL,
    work       TEXT COLLATE "C",
    answer     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, principal, route, key)
);

CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- `id`: as the audit names it. `used_key`, `used_by`, `enrolment`: the sha256 of the public key that was certified, for
-- which node, and under which enrolment; all three NULL where it was made good for nothing.
CREATE TABLE join_tokens (
    hash       TEXT COLLATE "C" PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL,
    node_name  TEXT COLLATE "C",
    approve    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT,
    used_key   TEXT COLLATE "C",
    used_by    TEXT COLLATE "C",
    enrolment  TEXT COLLATE "C"
);

CREATE TABLE api_tokens (
    hash       TEXT COLLATE "C" PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    principal  TEXT COLLATE "C" NOT NULL,
    audience   TEXT COLLATE "C" NOT NULL,
    tenant     TEXT COLLATE "C",
    role       TEXT COLLATE "C" NOT NULL,
    scopes     TEXT COLLATE "C",
    label      TEXT COLLATE "C" NOT NULL,
    format     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    made_with  TEXT COLLATE "C",
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX api_tokens_of_tenant ON api_tokens (tenant, audience, id);
CREATE INDEX api_tokens_of_principal ON api_tokens (principal, id);
CREATE INDEX api_tokens_made_with ON api_tokens (made_with) WHERE made_with IS NOT NULL;

CREATE TABLE service_accounts (
    id         TEXT COLLATE "C" PRIMARY KEY,
    tenant     TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    role       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX service_accounts_by_name ON service_accounts (tenant, name) WHERE deleted_at IS NULL;

-- Keys that sign tasks. `public`: 32 bytes as base64url. `private`: sealed; NULL once the key is over.
CREATE TABLE signing_keys (
    kid        TEXT COLLATE "C" PRIMARY KEY,
    state      TEXT COLLATE "C" NOT NULL,
    public     TEXT COLLATE "C" NOT NULL,
    private    TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- Keys under which values are sealed, wrapped by a master key, which is in no database. `owner`: a tenant, or `control`.
-- `master`: the name of what wraps, the same in all rows, so that nothing is wrapped under a key that was rotated away.
CREATE TABLE data_keys (
    owner      TEXT COLLATE "C" PRIMARY KEY,
    master     TEXT COLLATE "C" NOT NULL,
    wrapped    TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

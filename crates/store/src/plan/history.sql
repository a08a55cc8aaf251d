-- A store that has been at work for a while: much that has ended, little that has not. 2,000 nodes, 50 tenants,
-- of which 3 have nearly all.

INSERT INTO tenants SELECT 'tenant-' || n, 'tenant-' || n, -1, -1, -1, -1, -1, -1, -1, 1, n, n FROM generate_series(0, 49) n;
INSERT INTO tenant_books SELECT 'tenant-' || n, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9 FROM generate_series(0, 49) n;
INSERT INTO nodes (id, name, state, freshness, transport, enrolment, facts, heard_epoch, orphans, created_at)
SELECT 'node-' || n, 'node-' || n, 'ready', 'fresh', 'poll', 'enrolment-' || n, '{}', 1, '[]', n
  FROM generate_series(1, 2000) n;
INSERT INTO node_books SELECT 'node-' || n, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9 FROM generate_series(1, 2000) n;

INSERT INTO tasks (id, seq, tenant, kind, turn, vm, params, state, node, store_epoch, attempt, max_attempts, clean,
                   enrolment, lease_until, phases, code, retry_of, created_by, created_at, not_before, queue_deadline,
                   deadline, lane, ripe, priority, queue_timeout_s, timeout_s, dead_letter)
SELECT 'task-' || n, n, 'tenant-' || n % 3, 'echo', 'none', CASE n % 2 WHEN 0 THEN 'vm-' || n % 20000 END, '{}', state,
       'node-' || n % 2000, 1, 1, 3, 1, CASE state WHEN 'running' THEN 'enrolment-' || n % 2000 END,
       CASE state WHEN 'running' THEN n END, '[]', CASE n % 50 WHEN 0 THEN 'HANDLER_FAILED' END,
       CASE n % 100 WHEN 0 THEN 'task-' || n - 1 END, 'somebody', n, n, n, CASE state WHEN 'running' THEN n END, 'quick',
       n % 3, 0, 60, 60, CASE WHEN n % 1000 = 0 AND state = 'failed' THEN 'waiting' END
  FROM (SELECT n, CASE WHEN n > 35000 THEN 'queued' WHEN n > 34000 THEN 'running' WHEN n % 50 = 0 THEN 'failed'
                       ELSE 'succeeded' END AS state
          FROM generate_series(1, 40000) n) made;
UPDATE tasks SET ripe = 1 WHERE ripe > 1;
INSERT INTO outbox SELECT id, node, 1, 1, 'run', 'amqp', 0, NULL FROM tasks WHERE state = 'queued';
INSERT INTO task_log SELECT 'task-' || n, 1, n, 1, 'node', '"text"', 1, 4 FROM generate_series(1, 30000) n;
INSERT INTO task_stats
SELECT n / 100, 'tenant-' || n % 3, 'node-' || n % 2000, 'echo', 'ended', n % 7, 1, 1 FROM generate_series(1, 20000) n;
INSERT INTO secrets SELECT 'secret-' || n, 'task-' || n, 'text' FROM generate_series(1, 20000) n;
INSERT INTO idempotency
SELECT 'tenant-' || n % 3, 'somebody', 'POST /tasks', 'key-' || n, 'body', 'task-' || n, '{}', n
  FROM generate_series(1, 20000) n;

INSERT INTO log
SELECT n, n, 'event', 'tenant-' || n % 3, 'task.ended', 'task', 'task-' || n, '{}' FROM generate_series(1, 80000) n;
INSERT INTO links SELECT n * 2, n * 2 - 1, 'hashes', 'hash' FROM generate_series(1, 40000) n;

INSERT INTO vms (id, seq, tenant, name, state, ready, task, node, epoch, generation, observed_generation, protected,
                 expires_at, restart_at, tries, spec, image_digest, created_at, updated_at, anti_affinity)
SELECT 'vm-' || n, n, 'tenant-' || n % 3, 'vm-' || n, CASE n % 4 WHEN 0 THEN 'running' ELSE 'deleted' END, 1,
       CASE n % 400 WHEN 0 THEN 'task-' || n END, 'node-' || n / 10, 1, 1, 1, 0, CASE n % 5 WHEN 0 THEN n END,
       CASE n % 90 WHEN 0 THEN n END, '[]', '{}', 'digest-' || n % 100, n, n,
       CASE n % 8 WHEN 0 THEN 'group-' || n / 80 END
  FROM generate_series(1, 20000) n;
INSERT INTO allocations
SELECT 'vm', 'vm-' || n, 'tenant-' || n % 3, 'node-' || n / 10, 1, 1, 1, 1, 1, 0, 'used'
  FROM generate_series(1, 20000) n WHERE n % 4 = 0;
INSERT INTO reservations
SELECT 'reservation-' || n, 'tenant-' || n % 50, 'reason', 'somebody', n, n FROM generate_series(1, 5000) n;
INSERT INTO snapshots (id, seq, tenant, vm, name, state, memory, task, node, spec, created_at, updated_at)
SELECT 'snapshot-' || n, n, 'tenant-' || n % 3, 'vm-' || n, 'one', CASE n % 4 WHEN 0 THEN 'ready' ELSE 'deleted' END, 0,
       CASE n % 4000 WHEN 0 THEN 'task-' || n END, 'node-' || n / 10, '{}', n, n
  FROM generate_series(1, 20000) n;

INSERT INTO images SELECT 'tenant-' || n % 3, 'digest-' || n, '{}', n FROM generate_series(1, 5000) n;
INSERT INTO image_names SELECT 'tenant-' || n % 3, 'image-' || n, 'digest-' || n, 0 FROM generate_series(1, 5000) n;
INSERT INTO imports (id, tenant, name, source, state, progress, cancel, created_by, created_at, beat_at)
SELECT 'import-' || n, 'tenant-' || n % 3, 'name', 'upload', 'done', '{}', 0, 'somebody', n, n
  FROM generate_series(1, 5000) n;
INSERT INTO api_tokens (hash, id, principal, audience, tenant, role, label, format, created_at, created_by, made_with)
SELECT 'hash-' || n, 'token-' || n, 'somebody-' || n / 10, 'tenant', 'tenant-' || n / 100, 'operator', 'label', 'opaque', n,
       'somebody', 'token-' || n / 5
  FROM generate_series(1, 5000) n;
INSERT INTO service_accounts (id, tenant, name, role, created_at, created_by)
SELECT 'account-' || n, 'tenant-' || n / 100, 'account-' || n, 'operator', n, 'somebody' FROM generate_series(1, 5000) n;
INSERT INTO join_tokens
SELECT 'hash-' || n, 'token-' || n, NULL, 1, n, 'somebody', n, n, 'key-' || n, 'node-1', 'enrolment-1'
  FROM generate_series(1, 5000) n;

INSERT INTO node_certificates SELECT 'thumbprint-' || n, 'certificate', n FROM generate_series(1, 5000) n;

ANALYZE;

-- Jobs number `first` to before `last` of `jobs`, which came in the last 90 days, each with its steps and events.
-- All but the newest have ended; a third has labels; a fifth belongs to the first API key, few to the second.
WITH numbered AS (
    SELECT n, gen_random_uuid() AS id, now() - (%(jobs)s - n) * interval '90 days' / %(jobs)s AS created_at,
        hashint4(n) & 1023 AS dice
    FROM generate_series(%(first)s::int, %(last)s::int - 1) AS n
), drawn AS (
    SELECT *,
        CASE WHEN n >= %(jobs)s * 0.997 THEN 'pending' WHEN n >= %(jobs)s * 0.9965 THEN 'running'
            WHEN dice < 1 THEN 'human_intervention' WHEN dice < 60 THEN 'error' WHEN dice < 90 THEN 'cancelled'
            ELSE 'finished' END AS status,
        CASE WHEN dice %% 5 = 0 THEN 1 WHEN dice = 1 THEN 2 WHEN dice %% 5 = 2 THEN 3 END AS owner
    FROM numbered
), job AS (
    INSERT INTO jobs (
        id, owner_id, idempotency_key, request_digest, instruction, options, metadata, credentials, status, run,
        lease_owner, lease_expires_at, sandbox_id, sandbox_key, sandbox, step_count, event_count, output,
        error_code, error_message, model_calls, input_tokens, output_tokens, created_at, started_at, updated_at,
        finished_at
    )
    SELECT
        id,
        md5(owner::text)::uuid,
        CASE WHEN dice %% 4 = 0 THEN 'order-' || n END,
        CASE WHEN dice %% 4 = 0 THEN sha256(n::text::bytea) END,
        'Open the browser, find invoice ' || n || ' in the portal, download it and tell me its total',
        '{"max_steps": 50, "timeout_seconds": null, "user_system_prompt": null, "language": "auto",
            "model_name": "doubao-1-5-ui-tars-250428", "model_base_url": "https://ark.example/api/v3",
            "dialect": "doubao", "keep_sandbox": false, "max_model_calls": null, "max_tokens": null,
            "use_memory": false, "traceparent": null}',
        CASE WHEN dice %% 3 = 0 THEN jsonb_build_object('batch', 'b-' || n / 1000, 'team', 'team-' || dice %% 7)
            ELSE '{}' END,
        CASE WHEN status IN ('pending', 'running', 'human_intervention') THEN decode(repeat('a7', 300), 'hex') END,
        status,
        (status <> 'pending')::int,
        CASE status WHEN 'running' THEN 'worker1@host/1' END,
        CASE status WHEN 'running' THEN now() + interval '1 day' END,
        CASE WHEN status <> 'pending' THEN 'BOX-' || n END,
        CASE WHEN status <> 'pending' THEN encode(sha256(n::text::bytea), 'hex') END,
        CASE WHEN status <> 'pending' THEN jsonb_build_object(
            'sandbox_id', 'BOX-' || n, 'shape', 'beijing-2c-4g-cpu', 'os', 'Linux', 'virtualization', 'Container',
            'architecture', 'x86_64', 'hardware_accelerated_encoding', false, 'created_by_task', true,
            'expires_at', created_at + interval '1 hour') END,
        CASE status WHEN 'pending' THEN 0 ELSE %(steps)s END,
        CASE status WHEN 'pending' THEN 1 ELSE %(events)s END,
        CASE status WHEN 'finished' THEN 'The total of invoice ' || n || ' is 42.17' END,
        CASE status WHEN 'error' THEN 'max_steps' END,
        CASE status WHEN 'error' THEN 'not finished after 50 steps' END,
        6, 31000, 900,
        created_at, created_at + interval '2 seconds', created_at + interval '90 seconds',
        CASE WHEN status IN ('finished', 'error', 'cancelled') THEN created_at + interval '90 seconds' END
    FROM drawn
    RETURNING id, status, step_count, event_count, created_at
), step AS (
    INSERT INTO steps (
        job_id, number, run, status, screenshot, raw, thought, actions, input_tokens, output_tokens, model_ms,
        action_ms, created_at, finished_at
    )
    SELECT
        id, number, 1, 'done', 'https://screens.example/' || id || '/' || number || '.webp',
        'Thought: ' || repeat('I see the list of invoices. ', 6) || E'\nAction: click(point=''<point>5 5</point>'')',
        repeat('I see the list of invoices. ', 6),
        '[{"type": "mouse:click", "x": {"type": "px", "value": 640}, "y": {"type": "px", "value": 360}}]',
        5200, 150, 1800, 420,
        created_at + number * interval '10 seconds', created_at + number * interval '12 seconds'
    FROM job, generate_series(1, step_count) AS number
)
INSERT INTO events (job_id, seq, type, payload, created_at)
SELECT id, seq, kind,
    CASE kind
        WHEN 'status' THEN jsonb_build_object('status', 'running', 'run', 1, 'worker', 'worker1@host/1')
        WHEN 'observation' THEN jsonb_build_object(
            'step', seq / 3, 'screenshot', 'https://screens.example/' || id || '.webp')
        WHEN 'thinking' THEN jsonb_build_object(
            'step', seq / 3, 'content', repeat('I see the list of invoices. ', 6))
        WHEN 'action' THEN jsonb_build_object(
            'step', seq / 3, 'content', 'click(point=''<point>5 5</point>'')', 'actions',
            '[{"type": "mouse:click", "x": {"type": "px", "value": 640}, "y": {"type": "px", "value": 360}}]'::jsonb)
        ELSE jsonb_build_object('output', 'The total is 42.17', 'done', true)
    END,
    created_at + seq * interval '4 seconds'
FROM job, generate_series(1, event_count) AS seq, LATERAL (
    SELECT CASE WHEN seq <= 2 THEN 'status' WHEN seq = event_count AND status = 'finished' THEN 'finished'
        ELSE (ARRAY['observation', 'thinking', 'action'])[seq %% 3 + 1] END AS kind
)

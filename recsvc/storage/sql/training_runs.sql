-- insert_run --
-- A run that waits; refused by the unique index while another run of the tenant is under way.
INSERT INTO training_runs (tenant_key, training_run_id, state, parameters, heartbeat_time)
VALUES (%(tenant)s, %(run_id)s, 'QUEUED', %(parameters)s, now())
ON CONFLICT DO NOTHING
RETURNING *;

-- get_run --
-- One run.
SELECT * FROM training_runs WHERE tenant_key = %(tenant)s AND training_run_id = %(run_id)s;

-- update_run --
-- How far a run is; also its sign of life.
UPDATE training_runs
SET state = 'RUNNING', stage = %(stage)s, progress = %(progress)s, start_time = coalesce(start_time, now()),
    heartbeat_time = now()
WHERE tenant_key = %(tenant)s AND training_run_id = %(run_id)s AND state IN ('QUEUED', 'RUNNING');

-- finish_run --
-- A run that ended, well or not.
UPDATE training_runs
SET state = %(state)s, model_id = %(model_id)s, activated = %(activated)s, error = %(error)s,
    progress = CASE WHEN %(state)s = 'SUCCEEDED' THEN 1 ELSE progress END, end_time = now(), heartbeat_time = now()
WHERE tenant_key = %(tenant)s AND training_run_id = %(run_id)s AND state IN ('QUEUED', 'RUNNING');

-- abandon_silent_runs --
-- Runs without a sign of life have died with their process.
UPDATE training_runs SET state = 'FAILED', error = 'the training process ended without a result', end_time = now()
WHERE tenant_key = %(tenant)s AND state IN ('QUEUED', 'RUNNING')
  AND heartbeat_time < now() - make_interval(secs => %(silence_s)s);

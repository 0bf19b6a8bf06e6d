-- How much a model lets the strength of a signal count.

ALTER TABLE models ADD COLUMN signal_power real NOT NULL DEFAULT 0;
COMMENT ON COLUMN models.signal_power IS
    'what an item''s signal is raised to where a history counts; 0 = every liked item alike, 1 = in proportion';

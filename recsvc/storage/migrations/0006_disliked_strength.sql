-- How much a model lets an item count that a user came to and did not like.

ALTER TABLE models ADD COLUMN disliked_strength real NOT NULL DEFAULT 0;
COMMENT ON COLUMN models.disliked_strength IS
    'what a disliked item counts in a history, beside signal^signal_power of a liked one; 0 = it is left out';

-- Which users' states are of another model than the active one: after a switch the projector carries them over.

CREATE INDEX user_state_model ON user_state (tenant_key, model_key);

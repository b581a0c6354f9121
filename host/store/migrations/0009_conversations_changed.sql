-- When a conversation was changed last: made, given items or metadata, or the end of a response in it. Null: an older version
-- has written it, and its time begins when somebody asks.
ALTER TABLE conversations ADD COLUMN changed_at BIGINT;

-- For the removal of what nobody has changed for long.
CREATE INDEX conversations_changed ON conversations (changed_at);

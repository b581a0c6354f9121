-- A conversation: what a principal and its agents have said, turn by turn.
CREATE TABLE conversations (
    principal  TEXT   NOT NULL,
    -- conv_… for one that was made through the API, otherwise a name that a client chose.
    id         TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    -- {"key":"value",…}
    metadata   TEXT   NOT NULL,
    -- The checkpoint: the last response that ended as completed.
    latest_completed_response_id TEXT,
    -- The write guard: the response that is being made.
    active_response_id TEXT,
    -- The position of the next item. It only grows, so it is also the version of the history.
    next_position BIGINT NOT NULL,
    PRIMARY KEY (principal, id)
);

-- The items of conversations: the input and the output of every completed response, and what clients added.
CREATE TABLE conversation_items (
    principal       TEXT   NOT NULL,
    conversation_id TEXT   NOT NULL,
    position        BIGINT NOT NULL,
    id              TEXT   NOT NULL,
    item            TEXT   NOT NULL,
    PRIMARY KEY (principal, conversation_id, position)
);

CREATE INDEX conversation_items_id ON conversation_items (principal, conversation_id, id);

-- The conversation that a response belongs to, if it was kept.
ALTER TABLE responses ADD COLUMN conversation_id TEXT;

-- For the removal of what has been kept long enough.
CREATE INDEX responses_ended ON responses (ended_at) WHERE ended_at IS NOT NULL;

-- What agents keep beyond their runs, for a principal. It goes when the agent deletes it; what belongs to a
-- conversation goes with the conversation.
CREATE TABLE state (
    principal       TEXT   NOT NULL,
    -- By its name: it keeps what it has when its component is replaced.
    agent           TEXT   NOT NULL,
    -- Empty: it belongs to no conversation.
    conversation_id TEXT   NOT NULL,
    -- UTF-8. Bytes, because both databases put those in the same order.
    key             BYTEA  NOT NULL,
    value           BYTEA  NOT NULL,
    PRIMARY KEY (principal, agent, conversation_id, key)
);

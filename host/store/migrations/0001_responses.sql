-- One set of statements for SQLite and PostgreSQL. Only TEXT, BIGINT and BYTEA are used: the types that both
-- databases and the driver share. Times are milliseconds since 1970; JSON is TEXT.

-- A response, and the run that makes it.
CREATE TABLE responses (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- Whose it is. Nobody else sees it.
    principal  TEXT   NOT NULL,
    -- queued, in_progress, completed, failed, incomplete, cancelled. The last four are written once.
    status     TEXT   NOT NULL,
    -- Counts the ownerships of the run. A write carries the epoch it was made under and is void under another.
    epoch      BIGINT NOT NULL,
    -- The agent, and the sha256 of the component that runs it.
    agent      TEXT   NOT NULL,
    component  TEXT   NOT NULL,
    -- The response that this one goes on from.
    previous_response_id TEXT,
    -- The client's Idempotency-Key, and the sha256 of the request it was sent with.
    idempotency_key TEXT,
    fingerprint TEXT,
    created_at BIGINT NOT NULL,
    ended_at   BIGINT,
    -- The request as it was accepted: {"fields":{…},"input":[…]}.
    request    TEXT   NOT NULL,
    -- The final response object; null while the run is active.
    response   TEXT
);

-- A key names one response of its principal.
CREATE UNIQUE INDEX responses_idempotency ON responses (principal, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE INDEX responses_active ON responses (created_at) WHERE ended_at IS NULL;

-- What subscribers have seen or may see: rows of whole frames, each the events that one commit added.
CREATE TABLE events (
    response_id    TEXT   NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence  BIGINT NOT NULL,
    frames         BYTEA  NOT NULL,
    PRIMARY KEY (response_id, first_sequence)
);

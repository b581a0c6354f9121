-- Who is told when responses end: see `docs/src/api/webhooks.md`.

-- An endpoint: a URL that events are sent to.
CREATE TABLE webhook_endpoints (
    -- `whe_` and 32 hexadecimal digits, by the time at which it was made.
    id          TEXT   NOT NULL PRIMARY KEY,
    -- Whose responses it is told of.
    principal   TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    url         TEXT   NOT NULL,
    -- JSON: a list of the types of events that it wants. Some of them may never happen here.
    event_types TEXT   NOT NULL,
    -- 1: it is told of all stored responses; 0: of those in the background.
    all_runs    BIGINT NOT NULL,
    -- What signs its events, sealed with the key `compaction` of `secrets`.
    secrets     TEXT   NOT NULL,
    -- What may be shown of the secret.
    secret_hint TEXT   NOT NULL,
    -- 1: it stands in the configuration and is the operator's; 0: its principal made it.
    configured  BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    -- Since when nothing is sent to it; null: it is told.
    disabled_at BIGINT
);

CREATE INDEX webhook_endpoints_principal ON webhook_endpoints (principal, id);

-- An event on its way to an endpoint. It is written in the transaction that ends the response.
CREATE TABLE webhook_deliveries (
    -- `whd_` and 32 hexadecimal digits, by the time at which it was written.
    id           TEXT   NOT NULL PRIMARY KEY,
    -- The event: each endpoint is sent it with this id, however often.
    event_id     TEXT   NOT NULL,
    endpoint_id  TEXT   NOT NULL,
    -- The response that has ended.
    response_id  TEXT   NOT NULL,
    event_type   TEXT   NOT NULL,
    -- The body that is sent.
    payload      TEXT   NOT NULL,
    -- pending, delivered, dead.
    state        TEXT   NOT NULL DEFAULT 'pending',
    -- How often it was tried.
    attempts     BIGINT NOT NULL DEFAULT 0,
    created_at   BIGINT NOT NULL,
    -- From when the time counts after which it is given up: when it was written, or sent again by hand.
    queued_at    BIGINT NOT NULL,
    -- When it is tried next, while it is pending. While somebody tries it: until when nobody else does.
    next_try_at  BIGINT,
    -- Who tries it: a name that each start of a server has for itself.
    claim        TEXT,
    last_try_at  BIGINT,
    -- The HTTP status of the last answer; null when there was none.
    last_status  BIGINT,
    -- Why the last try failed; null when it did not.
    last_error   TEXT,
    -- How the body of the last answer began.
    last_answer  TEXT,
    -- When it was delivered or given up.
    ended_at     BIGINT
);

-- An endpoint is told of an event once.
CREATE UNIQUE INDEX webhook_deliveries_event ON webhook_deliveries (event_id, endpoint_id);
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_try_at, endpoint_id) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;

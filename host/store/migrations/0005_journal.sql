-- What the imports of a run have answered, so that the run can be executed again after a crash: rows of whole lines,
-- each line one entry, JSON. They go when the run ends.
CREATE TABLE journal (
    response_id    TEXT   NOT NULL,
    first_position BIGINT NOT NULL,
    last_position  BIGINT NOT NULL,
    entries        BYTEA  NOT NULL,
    PRIMARY KEY (response_id, first_position)
);

-- The components of runs that have not ended, and of the agents that are loaded: a run goes on with the component that
-- it began with.
CREATE TABLE components (
    -- Of the bytes, hexadecimal.
    sha256     TEXT   NOT NULL PRIMARY KEY,
    wasm       BYTEA  NOT NULL,
    created_at BIGINT NOT NULL
);

-- How often the run was resumed since it last got on, and how far it had got then: its events and entries together.
ALTER TABLE responses ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE responses ADD COLUMN progress BIGINT NOT NULL DEFAULT 0;

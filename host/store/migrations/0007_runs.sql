-- What the agents of runs have written to their logs: rows of whole lines, each line JSON. They stay as long as the
-- response.
CREATE TABLE run_logs (
    response_id TEXT   NOT NULL,
    first_line  BIGINT NOT NULL,
    last_line   BIGINT NOT NULL,
    lines       BYTEA  NOT NULL,
    PRIMARY KEY (response_id, first_line)
);

-- What runs have used, all attempts together.
CREATE TABLE run_usage (
    response_id   TEXT   NOT NULL PRIMARY KEY,
    -- In microseconds.
    cpu           BIGINT NOT NULL,
    -- The most bytes of memory that an instance had.
    memory        BIGINT NOT NULL,
    -- Of upstream models.
    input_tokens  BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    -- How many lines the component has written that are in the log: what is executed again does not write them again.
    heard         BIGINT NOT NULL
);

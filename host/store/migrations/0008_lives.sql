-- Active runs over the lives of the server. A run has no row before it first sleeps, waits for its turn, or is cut off: it
-- is executed then. The row goes when the run ends, unless it has attempts; then it goes with the response. (The columns `attempts` and `progress` of `responses` are not used any
-- more.)
CREATE TABLE lives (
    response_id TEXT   NOT NULL PRIMARY KEY,
    -- 1 while the run has an instance: from before it is executed until it sleeps, is stopped in order, or ends. A start
    -- that finds 1 knows that the life before it ended badly while this run was executed.
    executing   BIGINT NOT NULL,
    -- Until when the run sleeps without an instance; null when it does not sleep.
    wake_at     BIGINT,
    -- How often a life ended badly while the run had an instance, since the run last got on. `attempts` is forgiven when
    -- the run was executed for a while without harm.
    attempts    BIGINT NOT NULL,
    crashes     BIGINT NOT NULL,
    -- How far the run had got when it was last counted: its events and entries together.
    progress    BIGINT NOT NULL
);

-- What an active run goes on from stays until it has ended.

-- How many responses, from `previous_response_id` back, the run goes on from; null: all that there are.
ALTER TABLE responses ADD COLUMN history_turns BIGINT;
-- The items of the conversation that the run is a turn of, JSON, once the conversation was deleted. It goes when the run
-- ends.
ALTER TABLE responses ADD COLUMN history TEXT;
-- When its principal deleted it, while an active run goes on from it. Nobody sees it any more.
ALTER TABLE responses ADD COLUMN deleted_at BIGINT;

-- Which runs go on from a response.
CREATE INDEX responses_previous ON responses (previous_response_id) WHERE previous_response_id IS NOT NULL;
CREATE INDEX responses_deleted ON responses (deleted_at) WHERE deleted_at IS NOT NULL;

-- What the agent has reported as the usage of its response so far, JSON: a run that is ended without being executed again
-- has that. Null: nothing.
ALTER TABLE run_usage ADD COLUMN reported TEXT;

-- Written to see whether the database takes writes.
CREATE TABLE probe (
    id         BIGINT NOT NULL PRIMARY KEY,
    written_at BIGINT NOT NULL
);

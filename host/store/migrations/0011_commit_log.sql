-- What was committed and is not yet in the tables of its kind: one row for each transaction, with what all runs have said in
-- it. So a transaction writes in one place, however many runs it is about. A run's part moves to `events`, `journal` and
-- `run_logs` when it ends, when it has no instance any more, and when it has grown; a start moves what the last stop has
-- left. A row goes when nothing of it is only there.
CREATE TABLE commit_log (
    -- Grows with each transaction.
    id      BIGINT NOT NULL PRIMARY KEY,
    -- Records, one after the other: kind (one byte: 0 events, 1 journal, 2 run_logs), length of the response's id (one
    -- byte), the id, first and last number (eight bytes each), length (four bytes), bytes. Numbers are little-endian.
    records BYTEA  NOT NULL
);

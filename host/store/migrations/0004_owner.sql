-- The server that may write: one row. Its epoch counts the owners, and its lease tells whether the owner lives. On SQLite
-- a lock on a file beside the database does both, and the table stays empty.
CREATE TABLE owner (
    id          BIGINT NOT NULL PRIMARY KEY,
    epoch       BIGINT NOT NULL,
    -- By the clock of the database.
    lease_until BIGINT NOT NULL
);

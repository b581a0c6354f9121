-- What this server knows and nobody else: keys for what it hands out sealed. They are made once and never change.
CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    -- Hexadecimal.
    value TEXT NOT NULL
);

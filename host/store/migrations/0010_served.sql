-- The version of each plugin that served last where signatures are looked at: an older one, whose faults are known, does not
-- take its place unless the operator says so.
CREATE TABLE served (
    -- `agent` or `tool component`.
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    -- As the component says it.
    version TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- What a server of version 10 left that was killed: an active run, a row for each of its commits.
INSERT INTO responses (id, principal, status, epoch, agent, component, created_at, request, history_turns) VALUES
    ('resp_00000000000000000000000000000001', 'ann', 'in_progress', 1, 'echo', '00', 1, '{"fields":{},"input":[]}', 0);
INSERT INTO events (response_id, first_sequence, last_sequence, frames) VALUES
    ('resp_00000000000000000000000000000001', 0, 1, CAST('event: a

event: b

' AS BYTEA)),
    ('resp_00000000000000000000000000000001', 2, 2, CAST('event: c

' AS BYTEA));
INSERT INTO journal (response_id, first_position, last_position, entries) VALUES
    ('resp_00000000000000000000000000000001', 0, 0, CAST('one
' AS BYTEA)),
    ('resp_00000000000000000000000000000001', 1, 2, CAST('two
three
' AS BYTEA));

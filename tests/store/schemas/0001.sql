-- What a server with schema version 1 has written: a response that completed, with its key, one that failed, and one
-- that was active when the server was stopped.
INSERT INTO responses (id, principal, status, epoch, agent, component, idempotency_key, fingerprint, created_at,
    ended_at, request, response)
VALUES ('resp_00000000000000000000000000000001', 'ann', 'completed', 1, 'echo', '00', 'k', 'f', 1000, 2000,
    '{"fields":{"model":"echo"},"input":[{"id":"msg_in_000000000000000000000000000000010000","type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}]}',
    '{"id":"resp_00000000000000000000000000000001","status":"completed","output":[{"id":"msg_000000000000000000000000000000010000"}]}');
INSERT INTO responses (id, principal, status, epoch, agent, component, previous_response_id, created_at, ended_at,
    request, response)
VALUES ('resp_00000000000000000000000000000002', 'ann', 'failed', 1, 'echo', '00',
    'resp_00000000000000000000000000000001', 3000, 4000, '{"fields":{"model":"echo"},"input":[]}',
    '{"id":"resp_00000000000000000000000000000002","status":"failed","output":[]}');
INSERT INTO responses (id, principal, status, epoch, agent, component, created_at, request)
VALUES ('resp_00000000000000000000000000000003', 'ann', 'in_progress', 1, 'echo', '00', 5000,
    '{"fields":{"model":"echo"},"input":[]}');
INSERT INTO events (response_id, first_sequence, last_sequence, frames)
VALUES ('resp_00000000000000000000000000000001', 0, 1, CAST('event: a

event: b

' AS BYTEA));

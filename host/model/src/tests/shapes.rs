//! What upstreams send, however odd, and what is made of it.
//!
//! The cases stand in `shapes/*.txt`. Each has a name, what is sent, and after `=` what comes of it:
//!
//! | line | what is sent |
//! |---|---|
//! | `d JSON` | a chunk with this delta |
//! | `f WORD` | a chunk with this finish reason |
//! | `c JSON` | a chunk |
//! | `call INDEX ID NAME ARGUMENTS` | a chunk with a piece of a function call; `-` is left out |
//! | `done` | `[DONE]` |
//! | `r TEXT` | a line as it is; `\r` at its end is a carriage return |
//! | `x HEX` | bytes |
//! | `body JSON` | no stream, but this body |

use super::*;

const FILES: [&str; 4] = [
    include_str!("shapes/ends.txt"),
    include_str!("shapes/errors.txt"),
    include_str!("shapes/calls.txt"),
    include_str!("shapes/words.txt"),
];

/// What an upstream sends, and what is to come of it.
#[derive(Clone, Debug, Default)]
struct Case {
    name: String,
    is_stream: bool,
    sent: Vec<Bytes>,
    expected: String,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = Case::default();
    for line in FILES.iter().flat_map(|file| file.lines()).filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(expected) = line.strip_prefix('=') {
            case.expected = expected.trim().to_owned();
            cases.push(std::mem::take(&mut case));
        } else if let Some(sent) = line.strip_prefix("  ") {
            case.add(sent);
        } else {
            case.name = line.to_owned();
            case.is_stream = true;
        }
    }
    cases
}

impl Case {
    fn add(&mut self, line: &str) {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let sent: Bytes = match what {
            "d" => chunk(serde_json::from_str(rest).unwrap(), None).into(),
            "f" => chunk(json!({}), Some(rest)).into(),
            "c" => format!("data: {rest}\n\n").into(),
            "call" => chunk(json!({"tool_calls": [call_piece(rest)]}), None).into(),
            "done" => "data: [DONE]\n\n".into(),
            "r" => match rest.strip_suffix("\\r") {
                Some(line) => format!("{line}\r\n").into(),
                None => format!("{rest}\n").into(),
            },
            "x" => {
                let digits: Vec<u8> = rest.bytes().filter(u8::is_ascii_hexdigit).collect();
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                digits.chunks(2).map(byte).collect()
            }
            "body" => {
                self.is_stream = false;
                rest.to_owned().into()
            }
            other => panic!("{}: {other}", self.name),
        };
        self.sent.push(sent);
    }
}

fn call_piece(line: &str) -> Value {
    let mut fields = line.splitn(4, ' ');
    let mut next = || fields.next().unwrap_or_default();
    let (mut call, mut function) = (json!({}), json!({}));
    let (index, id, name, arguments) = (next(), next(), next(), next());
    if index != "-" {
        call["index"] = serde_json::from_str(index).unwrap();
    }
    if id != "-" {
        call["id"] = id.into();
    }
    if name != "-" {
        function["name"] = name.into();
    }
    function["arguments"] = arguments.into();
    call["function"] = function;
    call
}

/// Sends the case that the model names.
async fn send(State(cases): State<Arc<Vec<Case>>>, Json(body): Json<Value>) -> Response {
    let case = &cases[body["model"].as_str().unwrap().parse::<usize>().unwrap()];
    let kind = if case.is_stream { "text/event-stream" } else { "application/json" };
    let sent = case.sent.clone().into_iter().map(Ok::<_, std::io::Error>);
    ([("content-type", kind)], Body::from_stream(stream::iter(sent))).into_response()
}

/// What comes of a call, in the words of the cases.
async fn outcome(models: &Models, model: usize) -> String {
    let function = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}});
    let mut call = call(&model.to_string());
    call.options.insert("tools".to_owned(), json!([function("f"), function("g")]));
    let mut generation = match models.start(call).await {
        Ok(generation) => generation,
        Err(error) => return failed(&error),
    };
    // Deltas of one kind in a row are one.
    let mut said: Vec<(&str, String)> = Vec::new();
    let mut told: Vec<CallDelta> = Vec::new();
    let end = loop {
        let (kind, text) = match generation.next().await {
            Ok(Some(Delta::Text(text))) => ("say", text),
            Ok(Some(Delta::Reasoning(text))) => ("think", text),
            Ok(Some(Delta::Refusal(text))) => ("refuse", text),
            Ok(Some(Delta::Logprobs(_))) => panic!("nobody asked for that"),
            Ok(Some(Delta::Call(delta))) => {
                match told.iter_mut().find(|call| call.place == delta.place) {
                    Some(call) => call.arguments.push_str(&delta.arguments),
                    None => told.push(delta),
                }
                continue;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        match said.last_mut() {
            Some((last, all)) if *last == kind => all.push_str(&text),
            _ => said.push((kind, text)),
        }
    };
    let mut words: Vec<String> = said.iter().map(|(kind, text)| format!("{kind} {}", json!(text))).collect();
    if let Err(error) = end {
        words.push(failed(&error));
        return words.join(" ");
    }
    let Completion { items, finish_reason, usage, .. } = generation.completion().unwrap();
    let calls: Vec<&Value> = items.iter().filter(|item| item["type"] == "function_call").collect();
    let ids: std::collections::HashSet<_> = calls.iter().map(|call| call["call_id"].as_str().unwrap()).collect();
    assert!(ids.len() == calls.len() && !ids.contains(""), "every call has an id of its own: {calls:?}");
    assert_eq!(told.len(), calls.len(), "every call is told");
    for (told, call) in told.iter().zip(&calls) {
        let arguments = call["arguments"].as_str().unwrap();
        let none = arguments == "{}" && told.arguments.trim().is_empty();
        assert!(told.name == call["name"] && (told.arguments == arguments || none), "{told:?} {call}");
        words.push(format!("call {} {arguments}", told.name));
    }
    words.push(finish_reason);
    if usage != Usage::default() {
        words.push(format!("{}+{}", usage.input_tokens, usage.output_tokens));
    }
    words.join(" ")
}

/// The code, and what a message quotes.
fn failed(error: &ModelError) -> String {
    match error.message.split('`').nth(1) {
        Some(quoted) => format!("{} `{quoted}`", error.code),
        None => error.code.to_owned(),
    }
}

#[tokio::test]
async fn whatever_upstreams_send_is_read_as_it_is_meant() {
    let cases = Arc::new(cases());
    assert!(cases.len() >= 120, "{}", cases.len());
    let app = Router::new().route("/v1/chat/completions", post(send)).with_state(cases.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let models = models(&one(ProviderConfig { max_retries: 0, ..provider(base_url) })).unwrap();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let came = outcome(&models, number).await;
        if came != case.expected {
            wrong.push(format!("{}\n  expected {}\n  came     {came}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

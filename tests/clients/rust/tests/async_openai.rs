//! async-openai, typed: what it cannot read, it refuses.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::responses::{
    CreateResponse, CreateResponseArgs, FunctionCallOutput, FunctionCallOutputItemParam, FunctionTool,
    FunctionToolCall, ImageDetail, InputContent, InputImageContent, InputItem, InputParam, InputTextContent, Item,
    OutputItem, Response, ResponseStreamEvent, Status, Tool,
};
use futures::StreamExt;
use serde_json::json;

const ANSWER: &str = "Every run outlives its client.";
const IMAGE: &str = "data:image/png;base64,iVBORw0KGgo=";

fn client() -> Client<OpenAIConfig> {
    let given = |name| std::env::var(name).expect(name);
    let config =
        OpenAIConfig::new().with_api_base(format!("{}/v1", given("OUTLAST_URL"))).with_api_key(given("OUTLAST_KEY"));
    Client::with_config(config)
}

fn function(name: &str, parameters: serde_json::Value) -> Tool {
    Tool::Function(FunctionTool { name: name.to_owned(), parameters: Some(parameters), ..FunctionTool::default() })
}

fn tools() -> Vec<Tool> {
    let text = json!({"type": "string"});
    let weather = json!({"type": "object", "properties": {"city": text, "unit": text}, "required": ["city", "unit"]});
    vec![function("get_weather", weather), function("take_picture", json!({"type": "object", "properties": {}}))]
}

fn request(input: impl Into<InputParam>, previous: Option<&Response>) -> CreateResponse {
    let mut request = CreateResponseArgs::default();
    request.model("chat/gpt-4o").input(input).tools(tools());
    if let Some(previous) = previous {
        request.previous_response_id(&previous.id);
    }
    request.build().expect("a request")
}

async fn ask(input: impl Into<InputParam>, previous: Option<&Response>) -> Result<Response, OpenAIError> {
    client().responses().create(request(input, previous)).await
}

/// The events up to the end, or up to the first error.
async fn events(input: &str) -> Result<Vec<ResponseStreamEvent>, OpenAIError> {
    let mut stream = client().responses().create_stream(request(input, None)).await?;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event?);
    }
    Ok(events)
}

fn calls(response: &Response) -> Vec<FunctionToolCall> {
    let call = |item: &OutputItem| match item {
        OutputItem::FunctionCall(call) => Some(call.clone()),
        _ => None,
    };
    response.output.iter().filter_map(call).collect()
}

/// The outputs of all calls.
fn outputs(response: &Response, output: impl Fn(&FunctionToolCall) -> FunctionCallOutput) -> Vec<InputItem> {
    let item = |call: &FunctionToolCall| {
        InputItem::Item(Item::FunctionCallOutput(FunctionCallOutputItemParam {
            call_id: Some(call.call_id.clone()),
            output: output(call),
            id: None,
            status: None,
            name: None,
            namespace: None,
            caller: None,
        }))
    };
    calls(response).iter().map(item).collect()
}

fn weather(call: &FunctionToolCall) -> FunctionCallOutput {
    let arguments: serde_json::Value = serde_json::from_str(&call.arguments).expect("arguments");
    FunctionCallOutput::Text(format!("{} 21", arguments["city"].as_str().expect("a city")))
}

#[tokio::test]
async fn an_answer_is_kept() {
    let response = ask("hello", None).await.expect("a response");
    assert_eq!((response.status.clone(), response.output_text().as_deref()), (Status::Completed, Some(ANSWER)));
    assert!(response.usage.as_ref().expect("usage").total_tokens > 0);
    let stored = client().responses().retrieve(&response.id).await.expect("the stored response");
    assert_eq!(stored, response);
}

#[tokio::test]
async fn a_stream() {
    let events = events("hello").await.expect("a stream");
    let delta = |event: &ResponseStreamEvent| match event {
        ResponseStreamEvent::ResponseOutputTextDelta(event) => Some(event.delta.clone()),
        _ => None,
    };
    let deltas: Vec<String> = events.iter().filter_map(delta).collect();
    assert!(deltas.len() > 1, "{deltas:?}");
    assert_eq!(deltas.concat(), ANSWER);
    let Some(ResponseStreamEvent::ResponseCompleted(last)) = events.last() else { panic!("{events:?}") };
    let mut again = client().responses().retrieve_stream(&last.response.id).await.expect("the stream again");
    let mut repeated = Vec::new();
    while let Some(event) = again.next().await {
        repeated.push(event.expect("an event"));
    }
    assert_eq!(repeated, events);
}

#[tokio::test]
async fn a_tool_loop_is_a_chain_of_previous_responses() {
    let first = ask("weather in Bonn and Kiel", None).await.expect("calls");
    assert_eq!(calls(&first).len(), 2);
    let answer = ask(InputParam::Items(outputs(&first, weather)), Some(&first)).await.expect("an answer");
    assert_eq!(answer.output_text().as_deref(), Some("The tools say: Bonn 21 and Kiel 21."));
    assert_eq!(answer.previous_response_id.as_deref(), Some(first.id.as_str()));
    let again = ask("what have I said", Some(&answer)).await.expect("what was said");
    assert_eq!(again.output_text().as_deref(), Some("weather in Bonn and Kiel"));
}

#[tokio::test]
async fn an_image_from_a_tool() {
    let first = ask("take a picture", None).await.expect("a call");
    let image = InputImageContent {
        detail: ImageDetail::Auto,
        image_url: Some(IMAGE.to_owned()),
        ..InputImageContent::default()
    };
    let text = InputTextContent { text: "A dot.".to_owned(), ..InputTextContent::default() };
    let output = |_: &FunctionToolCall| {
        FunctionCallOutput::Content(vec![
            InputContent::InputText(text.clone()),
            InputContent::InputImage(image.clone()),
        ])
    };
    let answer = ask(InputParam::Items(outputs(&first, output)), Some(&first)).await.expect("an answer");
    assert_eq!(answer.output_text(), Some(format!("I see 1: {IMAGE}")));
}

#[tokio::test]
async fn a_failure_is_an_error() {
    for (text, status, code) in [
        ("an overloaded model", 502, "server_error"),
        ("a limited model", 429, "rate_limit_exceeded"),
        ("a rejected call", 502, "server_error"),
        ("a conversation without end", 400, "context_length_exceeded"),
        ("a cut answer", 502, "server_error"),
    ] {
        match ask(text, None).await {
            Err(OpenAIError::ApiError(error)) => {
                assert_eq!(error.status_code.as_u16(), status, "{text}: {error}");
                // The crate does not read the body of a 5xx: it is the message as a whole.
                assert!(error.to_string().contains(code), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// The crate gives an `error` event as an event.
#[tokio::test]
async fn a_failure_in_a_stream_is_an_error() {
    for text in ["an overloaded model", "a cut answer"] {
        let events = events(text).await.expect("a stream");
        let error = events.iter().find_map(|event| match event {
            ResponseStreamEvent::ResponseError(error) => Some(error),
            _ => None,
        });
        assert!(error.is_some_and(|error| error.message.contains("model")), "{text}: {events:?}");
        assert!(matches!(events.last(), Some(ResponseStreamEvent::ResponseFailed(_))), "{text}: {events:?}");
    }
}

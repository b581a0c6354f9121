//! What an MCP server offers and answers, in the words of the interface `tools`.

use std::collections::BTreeMap;

use rmcp::model::{CallToolResult, ContentBlock, ResourceContents, Tool};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    bindings::types::{Failure, FailureKind},
    failure::{failure, shorten},
    grants::is_name_byte,
    toolbox::component::{BETWEEN, DESCRIPTION, NAMES, PARAMETERS, ToolFunction},
};

/// The tools of a server, by the names that agents call them. The name in a function is the server's own.
pub(super) type Offer = BTreeMap<String, ToolFunction>;

/// What agents see of these tools, and why some are left out.
pub(super) fn offer(server: &str, tools: Vec<Tool>) -> (Offer, Vec<String>) {
    let (mut offer, mut left_out) = (Offer::new(), Vec::new());
    for tool in tools {
        let own = tool.name.into_owned();
        let shown = shorten(&own, 80);
        let name = name(server, &own);
        let parameters = Value::Object((*tool.input_schema).clone()).to_string();
        if parameters.len() > PARAMETERS {
            left_out.push(format!("`{shown}`, whose parameters have {} bytes, limit {PARAMETERS}", parameters.len()));
            continue;
        }
        if offer.contains_key(&name) {
            left_out.push(format!("`{shown}`, because there is another `{name}`"));
            continue;
        }
        let hints = tool.annotations.unwrap_or_default();
        let idempotent = hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true);
        let description = shorten(&tool.description.unwrap_or_default(), DESCRIPTION);
        offer.insert(name, ToolFunction { name: own, description, parameters, idempotent });
    }
    (offer, left_out)
}

/// The name that agents call a tool: what models do not take is replaced, and what is too long is cut.
fn name(server: &str, own: &str) -> String {
    let fitting = |c: char| if c.is_ascii() && is_name_byte(c as u8) { c } else { '_' };
    let mut name = format!("{server}{BETWEEN}{}", own.chars().map(fitting).collect::<String>());
    if name.len() > NAMES.1 {
        let digest = hex::encode(Sha256::digest(own));
        // All of it is ASCII.
        name.truncate(NAMES.1 - 9);
        name.push('_');
        name.push_str(&digest[..8]);
    }
    name
}

/// What a tool answered, as text for a model.
pub(super) fn answer(result: CallToolResult) -> Result<String, Failure> {
    let mut text = result.content.into_iter().map(block).collect::<Vec<_>>().join("\n");
    if let (true, Some(value)) = (text.is_empty(), result.structured_content) {
        text = value.to_string();
    }
    match result.is_error {
        Some(true) => Err(failure(FailureKind::Other, "tool_error", shorten(&text, DESCRIPTION))),
        _ => Ok(text),
    }
}

fn block(block: ContentBlock) -> String {
    let left_out = |what: &str, kind: &str| format!("[{what} of type {kind}, which is not shown]");
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => left_out("an image", &image.mime_type),
        ContentBlock::Audio(audio) => left_out("a sound", &audio.mime_type),
        ContentBlock::ResourceLink(link) => format!("[{}]({})", link.name, link.uri),
        ContentBlock::Resource(resource) => match resource.resource {
            ResourceContents::TextResourceContents { text, .. } => text,
            ResourceContents::BlobResourceContents { uri, mime_type, .. } => {
                left_out(&format!("the resource {uri}"), mime_type.as_deref().unwrap_or("unknown"))
            }
            _ => left_out("a resource", "unknown"),
        },
        _ => left_out("a content", "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools(tools: Value) -> (Offer, Vec<String>) {
        offer("hub", serde_json::from_value(tools).unwrap())
    }

    #[test]
    fn names_fit_what_models_take() {
        let schema = json!({"type": "object"});
        let (offer, left_out) = tools(json!([
            {"name": "create_issue", "inputSchema": schema, "description": "Creates."},
            {"name": "repo.read/é", "inputSchema": schema, "annotations": {"readOnlyHint": true}},
            {"name": "repo_read.é", "inputSchema": schema},
            {"name": "x".repeat(100), "inputSchema": schema, "annotations": {"idempotentHint": true}},
            {"name": "large", "inputSchema": {"description": "x".repeat(70_000)}},
        ]));
        let names: Vec<_> = offer.keys().map(String::as_str).collect();
        assert_eq!(names[..2], ["hub__create_issue", "hub__repo_read__"]);
        assert!(names[2].len() == 64 && names[2].starts_with("hub__xxx") && names.len() == 3, "{names:?}");
        assert_eq!(offer["hub__repo_read__"].name, "repo.read/é");
        let idempotent: Vec<_> = offer.values().map(|tool| tool.idempotent).collect();
        assert_eq!(idempotent, [false, true, true]);
        assert!(left_out[0].contains("another `hub__repo_read__`") && left_out[1].contains("65536"), "{left_out:?}");
    }

    #[test]
    fn an_answer_is_text() {
        let said = |result: Value| answer(serde_json::from_value(result).unwrap());
        let content = json!([
            {"type": "text", "text": "one"},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "two"}},
            {"type": "resource_link", "uri": "file:///b", "name": "b"},
        ]);
        let text = "one\n[an image of type image/png, which is not shown]\ntwo\n[b](file:///b)";
        assert_eq!(said(json!({"content": content})).unwrap(), text);
        assert_eq!(said(json!({"content": [], "structuredContent": {"n": 1}})).unwrap(), "{\"n\":1}");
        let failed = said(json!({"content": [{"type": "text", "text": "no"}], "isError": true})).unwrap_err();
        assert_eq!((failed.code.as_str(), failed.message.as_str()), ("tool_error", "no"));
    }
}

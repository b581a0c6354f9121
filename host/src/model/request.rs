//! From items of the Responses API to what the providers understand.

use genai::chat::{
    ChatMessage, ChatOptions, ChatRequest, ChatResponseFormat, ContentPart, JsonSpec, MessageContent, ReasoningEffort,
    Tool, ToolCall, ToolChoice, ToolResponse,
};
use serde_json::{Map, Value};

use super::error::{ModelError, ModelErrorKind};

/// One model call, as an agent asks for it.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `provider/model`, or a model of the default provider; none: the default model.
    pub model: Option<String>,
    /// What stands before the conversation.
    pub instructions: Option<String>,
    /// Items of the Responses API, oldest first.
    pub input: Vec<Value>,
    /// Sampling and more, with the Responses API's own names.
    pub options: Map<String, Value>,
}

impl Call {
    /// The conversation and its tools.
    pub(super) fn request(&self) -> Result<ChatRequest, ModelError> {
        let mut request = ChatRequest::default();
        if let Some(instructions) = self.instructions.as_ref().filter(|text| !text.is_empty()) {
            request = request.with_system(instructions);
        }
        for (index, item) in self.input.iter().enumerate() {
            if let Some(message) = message(item).map_err(|what| invalid(format!("input[{index}]: {what}")))? {
                request = request.append_message(message);
            }
        }
        let tools = self.options.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for tool in tools {
            request = request.append_tool(self::tool(tool)?);
        }
        Ok(request)
    }

    /// Sampling and more.
    pub(super) fn options(&self) -> ChatOptions {
        let number = |name: &str| self.options.get(name).and_then(Value::as_f64);
        let mut options = ChatOptions::default().with_capture_usage(true).with_capture_tool_calls(true);
        options.temperature = number("temperature");
        options.top_p = number("top_p");
        options.max_tokens = self
            .options
            .get("max_output_tokens")
            .and_then(Value::as_u64)
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let effort = self.options.get("reasoning").and_then(|reasoning| reasoning["effort"].as_str());
        options.reasoning_effort = effort.and_then(ReasoningEffort::from_keyword);
        options.response_format = self.options.get("text").and_then(|text| format(&text["format"]));
        options.tool_choice = self.options.get("tool_choice").and_then(tool_choice);
        options
    }
}

fn message(item: &Value) -> Result<Option<ChatMessage>, String> {
    let text = |field: &str| item[field].as_str().map(str::to_owned).ok_or(format!("`{field}` is not a text"));
    Ok(match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let content = content(&item["content"])?;
            Some(match item["role"].as_str() {
                Some("user") => ChatMessage::user(content),
                Some("assistant") => ChatMessage::assistant(content),
                Some("system" | "developer") => ChatMessage::system(content),
                _ => return Err("`role` must be user, assistant, system or developer".to_owned()),
            })
        }
        "function_call" => {
            let arguments = text("arguments")?;
            Some(ChatMessage::from(vec![ToolCall {
                call_id: text("call_id")?,
                fn_name: text("name")?,
                fn_arguments: serde_json::from_str(&arguments).unwrap_or(Value::String(arguments)),
                thought_signatures: None,
            }]))
        }
        "function_call_output" => {
            let output = match &item["output"] {
                Value::String(text) => text.clone(),
                parts => content(parts)?.joined_texts().unwrap_or_default(),
            };
            Some(ChatMessage::from(ToolResponse::new(text("call_id")?, output)))
        }
        // Another provider's thoughts mean nothing to this one.
        "reasoning" => None,
        other => return Err(format!("items of type `{other}` cannot be sent to a model")),
    })
}

fn content(value: &Value) -> Result<MessageContent, String> {
    if let Some(text) = value.as_str() {
        return Ok(MessageContent::from_text(text));
    }
    let parts = value.as_array().ok_or("`content` is neither a text nor a list of parts")?;
    let parts: Vec<ContentPart> = parts.iter().map(part).collect::<Result<_, _>>()?;
    Ok(MessageContent::from_parts(parts))
}

fn part(part: &Value) -> Result<ContentPart, String> {
    let text = |field: &str| part[field].as_str().ok_or(format!("a part without `{field}`"));
    match part["type"].as_str() {
        Some("input_text" | "output_text") => Ok(ContentPart::from_text(text("text")?)),
        Some("refusal") => Ok(ContentPart::from_text(text("refusal")?)),
        Some("input_image") => {
            let url = text("image_url")?;
            Ok(match data_url(url) {
                Some((media_type, data)) => ContentPart::from_binary_base64(media_type, data, None),
                None => ContentPart::from_binary_url("image/*", url, None),
            })
        }
        Some("input_file") => {
            let name = part["filename"].as_str().map(str::to_owned);
            match part["file_data"].as_str().and_then(data_url) {
                Some((media_type, data)) => Ok(ContentPart::from_binary_base64(media_type, data, name)),
                None => Err("a file must come as `file_data` with a data: URL".to_owned()),
            }
        }
        other => Err(format!("parts of type `{}` cannot be sent to a model", other.unwrap_or("none"))),
    }
}

/// The media type and the base64 text of `data:…;base64,…`.
fn data_url(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("data:")?.split_once(";base64,")
}

fn tool(tool: &Value) -> Result<Tool, ModelError> {
    let name = tool["name"].as_str().ok_or_else(|| invalid("tools: a function without `name`".to_owned()))?;
    let mut made = Tool::new(name);
    if let Some(description) = tool["description"].as_str() {
        made = made.with_description(description);
    }
    if tool["parameters"].is_object() {
        made = made.with_schema(tool["parameters"].clone());
    }
    if let Some(strict) = tool["strict"].as_bool() {
        made = made.with_strict(strict);
    }
    Ok(made)
}

fn tool_choice(choice: &Value) -> Option<ToolChoice> {
    match choice.as_str() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => Some(ToolChoice::None),
        Some("required") => Some(ToolChoice::Required),
        _ => choice["name"].as_str().map(ToolChoice::tool),
    }
}

fn format(format: &Value) -> Option<ChatResponseFormat> {
    match format["type"].as_str()? {
        "json_object" => Some(ChatResponseFormat::JsonMode),
        "json_schema" => {
            let name = format["name"].as_str().unwrap_or("answer");
            Some(ChatResponseFormat::JsonSpec(JsonSpec::new(name, format["schema"].clone())))
        }
        _ => None,
    }
}

fn invalid(message: String) -> ModelError {
    ModelError::new(ModelErrorKind::Invalid, "invalid_input", message)
}

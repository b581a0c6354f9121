//! The tools of a request, and the choice among them.

use std::collections::HashMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{CustomType, FunctionType, NamespaceType, ToolChoiceMode};

/// A tool of a request.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum RequestTool {
    /// A function of the client.
    Function(FunctionTool),
    /// A tool of the client that takes a text.
    Custom(CustomTool),
    /// Functions and custom tools of the client, under one name.
    Namespace(NamespaceTool),
    /// Any other. `local_shell`, `shell`, `apply_patch` and `tool_search` are offered to a model where the client runs them.
    /// Those that this server does not serve are shown, and no model is told of them.
    Other(OtherTool),
}

/// A tool of the client that takes a text. A model is told that it is a function with one string, `input`.
#[derive(Debug, ToSchema)]
pub struct CustomTool {
    /// `custom`
    pub r#type: CustomType,
    /// 1 to 64 letters, digits, `_` or `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// The form of the text: any, or a grammar, which the model is shown.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
}

/// Functions and custom tools of the client, under one name. A model knows a member as `namespace__member`.
#[derive(Debug, ToSchema)]
pub struct NamespaceTool {
    /// `namespace`
    pub r#type: NamespaceType,
    /// 1 to 64 letters, digits, `_` or `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub name: String,
    /// What its members are for.
    pub description: Option<String>,
    /// Its members.
    pub tools: Vec<NamespaceMember>,
}

/// A member of a namespace.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum NamespaceMember {
    /// A function.
    Function(FunctionTool),
    /// A tool that takes a text.
    Custom(CustomTool),
    /// Any other: no model is told of it.
    Other(OtherTool),
}

/// A tool of another type. It may have any fields.
#[derive(Debug, ToSchema)]
pub struct OtherTool {
    /// Its type.
    pub r#type: OtherToolType,
}

/// Any other type of tools, such as `shell` or `web_search`.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^(?!(function|custom|namespace)$)")]
pub struct OtherToolType(pub String);

/// A function of the client.
#[derive(Debug, ToSchema)]
pub struct FunctionTool {
    /// `function`
    pub r#type: FunctionType,
    /// 1 to 64 letters, digits, `_` or `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether the arguments follow the schema exactly.
    pub strict: Option<bool>,
}

/// Whether the model may, must or must not call a tool, or which one.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// Any function, or none.
    Mode(ToolChoiceMode),
    /// One of the request's tools, `{"type":"function","name":…}` or `{"type":"custom","name":…}`, or some of them:
    /// `{"type":"allowed_tools","mode":"auto","tools":[…]}`.
    #[schema(value_type = Object)]
    Other(HashMap<String, Value>),
}

//! The one error envelope: `{"error":{"message","type","param","code"}}`.

use serde::Serialize;
use utoipa::ToSchema;

/// What kind of answer an error is. It decides the HTTP status and the envelope's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400: the request is wrong and will stay wrong.
    InvalidRequest,
    /// 401: no key, or not a valid one.
    Authentication,
    /// 403: not from there, or not with this key.
    Forbidden,
    /// 404: no such thing, or not this principal's.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the client took too long to send its request.
    RequestTimeout,
    /// 409: the request is fine, the state of something is against it.
    Conflict,
    /// 413: too large.
    TooLarge,
    /// 415: not JSON.
    UnsupportedMediaType,
    /// 421: this server does not answer to that name.
    Misdirected,
    /// 426: the resource is served over another protocol.
    UpgradeRequired,
    /// 429: a limit on how much may go on at once.
    RateLimited,
    /// 500: a defect of the server. The text is generic; the details are in the log.
    Internal,
    /// 502: the agent, its model or a tool failed.
    BadGateway,
    /// 503: the server cannot do this now. A repeat is safe.
    Unavailable,
    /// 504: the agent, its model or a tool took too long.
    GatewayTimeout,
}

impl ErrorKind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Authentication => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Misdirected => 421,
            Self::UpgradeRequired => 426,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The envelope's `type`, in OpenAI's words.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication_error",
            Self::RateLimited => "rate_limit_error",
            Self::Internal | Self::BadGateway | Self::Unavailable | Self::GatewayTimeout => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// An error that a client sees.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Status and type.
    pub kind: ErrorKind,
    /// A stable word for programs.
    pub code: &'static str,
    /// What was wrong and what would be right.
    pub message: String,
    /// The field of the request that was wrong, as a path: `input[3].content`.
    pub param: Option<String>,
    /// When to repeat, in whole seconds: the `retry-after` header.
    pub retry_after: Option<u64>,
    /// The response that failed, or the active one that blocks this request.
    pub response_id: Option<String>,
    /// Whether SDKs must be told not to repeat what they would repeat by themselves: `x-should-retry: false`.
    pub never_retry: bool,
}

/// How much of an id is shown that names nothing, in characters.
const SHOWN: usize = 80;

/// What a message shows of an id, or another name, that a client made up.
pub fn shown_id(id: &str) -> String {
    id.chars().take(SHOWN).collect()
}

impl ApiError {
    /// An error of `kind` with a code and a message.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            response_id: None,
            never_retry: false,
        }
    }

    /// A 400 about one field of the request.
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, code, message).with_param(param)
    }

    /// A 404 for a response id.
    pub fn response_not_found(id: &str) -> Self {
        let shown = shown_id(id);
        Self::new(ErrorKind::NotFound, "response_not_found", format!("Response with id '{shown}' not found."))
    }

    /// The answer to what went wrong in the server itself.
    pub fn internal() -> Self {
        Self::new(ErrorKind::Internal, "internal_error", "The server failed. The log of the server says why.")
    }

    /// A 503 for a database that does not answer or does not take writes.
    pub fn storage_unavailable() -> Self {
        let message = "The database is not available right now; nothing was started. Retry the request.";
        Self::new(ErrorKind::Unavailable, "storage_unavailable", message).with_retry_after(1)
    }

    /// Names the field that was wrong.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to repeat, in seconds.
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Names the response that failed or is in the way, so that a client that lost its id finds it.
    pub fn about(mut self, response_id: impl Into<String>) -> Self {
        self.response_id = Some(response_id.into());
        self
    }

    /// Says that a repeat is of no use, although the status suggests one.
    pub fn never_retry(mut self) -> Self {
        self.never_retry = true;
        self
    }

    /// The JSON that goes over the wire.
    pub fn envelope(&self) -> ErrorEnvelope<'_> {
        ErrorEnvelope {
            error: ErrorBody {
                message: &self.message,
                kind: self.kind.type_name(),
                param: self.param.as_deref(),
                code: self.code,
                response_id: self.response_id.as_deref(),
            },
        }
    }
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorEnvelope<'a> {
    /// What is wrong.
    pub error: ErrorBody<'a>,
}

/// What is wrong, and what would be right.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// For people.
    #[schema(value_type = String)]
    pub message: &'a str,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: &'static str,
    /// The field of the request that is wrong, as a path: `input[3].content`.
    #[schema(value_type = Option<String>, required)]
    pub param: Option<&'a str>,
    /// A stable word for programs.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// The response that failed, or the active one that blocks this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub response_id: Option<&'a str>,
}

//! What clients send about webhooks.

use utoipa::ToSchema;

/// A new webhook endpoint.
#[derive(Debug, ToSchema)]
#[schema(as = CreateWebhookEndpoint)]
pub struct CreateWebhookShape {
    /// What it is called.
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    /// Where events are sent: an `https` URL of a host with a public address, without user and password.
    #[schema(max_length = 2048, example = "https://example.com/webhooks")]
    pub url: String,
    /// The types of events that it wants. `GET /v1/webhook_event_types` lists those that are sent; others are accepted, and
    /// never sent.
    #[schema(min_items = 1, max_items = 100, example = json!(["response.completed"]))]
    pub event_types: Vec<String>,
    /// Of which responses it is told. Default: `background`.
    pub runs: Option<WebhookRuns>,
}

/// What is changed of a webhook endpoint.
#[derive(Debug, ToSchema)]
#[schema(as = UpdateWebhookEndpoint)]
pub struct UpdateWebhookShape {
    /// Another name.
    #[schema(min_length = 1, max_length = 256)]
    pub name: Option<String>,
    /// Another URL. Events are sent again to an endpoint that was disabled.
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// All types of events that it wants from now on.
    #[schema(min_items = 1, max_items = 100)]
    pub event_types: Option<Vec<String>>,
    /// Of which responses it is told from now on.
    pub runs: Option<WebhookRuns>,
    /// Whether nothing is sent to it. What waits for it then is given up.
    pub disabled: Option<bool>,
}

/// Of which responses a webhook endpoint is told: those in the background, or all that are stored.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookRuns {
    /// Those in the background.
    Background,
    /// All that are stored.
    All,
}

/// How the secret of a webhook endpoint is replaced.
#[derive(Debug, ToSchema)]
#[schema(as = RotateWebhookSecret)]
pub struct RotateWebhookSecretShape {
    /// Whether the old secret signs as well for a day. Default: false.
    pub keep_old_secret_active_for_24_hours: Option<bool>,
}

/// A sample event for a webhook endpoint.
#[derive(Debug, ToSchema)]
#[schema(as = TestWebhookEndpoint)]
pub struct TestWebhookShape {
    /// The type of the event.
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-z0-9._]+$", example = "response.completed")]
    pub event_type: String,
}

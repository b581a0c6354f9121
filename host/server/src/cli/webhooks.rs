//! `outlast webhooks`: who is told when responses end, through the server's API for operators.

use std::time::Duration;

use clap::{Args, Subcommand};
use outlast_runtime::clock::since_1970;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    admin::{self, Access, Api, age, given, lines, long, shown, table, text},
    output::print,
};

/// See who is told when responses end, and what was sent.
///
/// On a server with keys, OUTLAST_KEY must hold one that has `admin = true`; `outlast key new NAME --admin` makes it.
#[derive(Debug, Args)]
pub(super) struct Webhooks {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the webhook endpoints of all principals and of the configuration.
    #[command(after_help = "Examples:\n  outlast webhooks list")]
    List {
        /// Only those after the endpoint with this id.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many, at most 100.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Send a sample event to an endpoint, and print what it answers.
    #[command(after_help = "Examples:\n  outlast webhooks test whe_0197… --event response.failed")]
    Test {
        /// The id of the endpoint.
        id: String,
        /// The type of the event.
        #[arg(long, value_name = "TYPE", default_value = "response.completed")]
        event: String,
    },
    /// List what is sent to webhooks, the latest first.
    #[command(after_help = "Examples:\n  outlast webhooks deliveries --state dead")]
    Deliveries {
        /// Only to this endpoint.
        #[arg(long, value_name = "ID")]
        endpoint: Option<String>,
        /// Only of this principal.
        #[arg(long)]
        principal: Option<String>,
        /// Only in this state: pending, delivered, dead.
        #[arg(long)]
        state: Option<String>,
        /// Only about this response.
        #[arg(long, value_name = "ID")]
        response: Option<String>,
        /// Only those that are older than the delivery with this id.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many, at most 100.
        #[arg(long, default_value_t = 20)]
        limit: u64,
    },
    /// Deliver an event again, with the id that it had.
    #[command(after_help = "Examples:\n  outlast webhooks redeliver whd_0197…")]
    Redeliver {
        /// The id of the delivery.
        id: String,
    },
}

impl Webhooks {
    pub(super) fn run(self) -> Result<(), String> {
        let Self { command, access } = self;
        let json = access.json;
        access.with("webhooks", async |api| command.run(&api, json).await)
    }
}

impl Command {
    async fn run(self, api: &Api, json: bool) -> Result<(), String> {
        match self {
            Self::List { after, limit } => {
                let query = given([("after", after), ("limit", Some(limit.to_string()))]);
                let list = api.ask(Method::GET, "/webhooks", &query).await?;
                print(if json { lines(&list["data"]) } else { endpoints(&list) })
            }
            Self::Test { id, event } => {
                let path = format!("/webhooks/{}/test", part(&id)?);
                let answer = api.send(Method::POST, &path, &[], Some(&json!({"event_type": event}))).await?;
                print(if json { format!("{answer}\n") } else { format!("it answers {}\n", answer["status_code"]) })
            }
            Self::Deliveries { endpoint, principal, state, response, after, limit } => {
                let query = given([
                    ("endpoint", endpoint),
                    ("principal", principal),
                    ("state", state),
                    ("response", response),
                    ("after", after),
                    ("limit", Some(limit.to_string())),
                ]);
                let list = api.ask(Method::GET, "/webhooks/deliveries", &query).await?;
                print(if json { lines(&list["data"]) } else { deliveries(&list) })
            }
            Self::Redeliver { id } => {
                let path = format!("/webhooks/deliveries/{}/redeliver", part(&id)?);
                let delivery = api.ask(Method::POST, &path, &[]).await?;
                print(if json { format!("{delivery}\n") } else { format!("{id} is delivered again\n") })
            }
        }
    }
}

/// An id as a part of a path.
fn part(id: &str) -> Result<&str, String> {
    admin::part(id, "an id, which looks like whe_0197… or whd_0197…")
}

/// A list of endpoints, in columns.
fn endpoints(list: &Value) -> String {
    let columns = ["ID", "NAME", "PRINCIPAL", "RUNS", "STATE", "AGE", "URL"];
    table(list, "webhook endpoints", columns, "webhooks list", |endpoint| {
        let state = match (endpoint["disabled_at_ms"].is_null(), endpoint["configured"] == true) {
            (false, _) => "disabled",
            (true, true) => "configured",
            (true, false) => "enabled",
        };
        [
            text(endpoint, "id").to_owned(),
            shown(text(endpoint, "name")),
            shown(text(endpoint, "principal")),
            text(endpoint, "runs").to_owned(),
            state.to_owned(),
            age(endpoint),
            shown(text(endpoint, "url")),
        ]
    })
}

/// A list of deliveries, in columns.
fn deliveries(list: &Value) -> String {
    let columns = ["ID", "EVENT", "RESPONSE", "STATE", "ATTEMPTS", "AGE", "NEXT", "LAST"];
    table(list, "deliveries", columns, "webhooks deliveries", |delivery| {
        let next = delivery["next_try_at_ms"].as_u64().map(Duration::from_millis);
        let last = delivery["last_error"].as_str().map(shown);
        [
            text(delivery, "id").to_owned(),
            text(delivery, "event_type").to_owned(),
            text(delivery, "response_id").to_owned(),
            text(delivery, "state").to_owned(),
            delivery["attempts"].to_string(),
            age(delivery),
            next.map_or_else(|| "-".to_owned(), |next| long(next.saturating_sub(since_1970()))),
            last.unwrap_or_else(|| {
                delivery["last_status"].as_u64().map_or("-".to_owned(), |status| status.to_string())
            }),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_answers_does_not_control_the_terminal() {
        let list = json!({"data": [{"id": "whe_1", "name": "a\u{1b}[2Jb"}]});
        assert!(endpoints(&list).contains("a\\u001b[2Jb"), "{}", endpoints(&list));
        assert_eq!(endpoints(&json!({"data": []})), "no webhook endpoints\n");
    }
}

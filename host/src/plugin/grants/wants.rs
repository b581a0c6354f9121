//! What a component wants to be granted. It grants nothing: the operator reads it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AgentConfig, HttpGrant, ModelGrant, StateSize};
use crate::plugin::{http::HostPattern, tools::ToolPattern};

/// The largest `wants`, in bytes.
const BYTES: usize = 16 * 1024;

/// What a component wants to be granted, from its `describe`. Members that are not known here are for other servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Wants {
    /// The upstream models.
    pub models: Option<ModelGrant>,
    /// Where it sends HTTP requests.
    pub http: Vec<WantedHost>,
    /// The tools that it calls.
    pub tools: Vec<ToolPattern>,
    /// How much it keeps for each principal.
    pub state: Option<StateSize>,
    /// What for.
    pub why: Option<String>,
}

/// A host that a component wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WantedHost {
    /// The host.
    pub host: HostPattern,
    /// The methods; none for all.
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    /// The headers that the operator is to put in.
    #[serde(default)]
    pub headers: Vec<String>,
    /// What for.
    #[serde(default)]
    pub why: Option<String>,
}

impl Wants {
    /// Reads what `describe` says.
    pub(in crate::plugin) fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES {
            return Err(format!("`wants` may have {BYTES} bytes"));
        }
        let wrong = |error| format!("`wants` is not what it must be: {error}");
        // An object, and no list of its members.
        let members: Map<String, Value> = serde_json::from_str(text).map_err(wrong)?;
        Self::deserialize(Value::Object(members)).map_err(wrong)
    }

    /// What is wanted, in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.why.iter().cloned().collect();
        lines.extend(self.models.as_ref().map(|models| format!("models {models}")));
        lines.extend(self.state.map(|state| format!("state {state}")));
        if !self.tools.is_empty() {
            lines.push(format!("tools {}", list(&self.tools.iter().map(ToString::to_string).collect::<Vec<_>>())));
        }
        lines.extend(self.http.iter().map(|wanted| {
            let methods =
                wanted.methods.as_ref().map_or_else(|| "all methods".to_owned(), |methods| methods.join(", "));
            let mut line = format!("http {} ({methods})", wanted.host);
            if !wanted.headers.is_empty() {
                line.push_str(&format!(", where you put in {}", wanted.headers.join(", ")));
            }
            line.extend(wanted.why.iter().flat_map(|why| [": ", why]));
            line
        }));
        lines
    }

    /// What is wanted and not granted: the lines of the agent's section that would grant it, on top of what it has.
    pub fn missing(&self, granted: &AgentConfig) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(wanted) = &self.models {
            let has = granted.models.clone().unwrap_or(ModelGrant::All(false));
            if !has.covers(wanted) {
                lines.push(format!("models = {}", has.and(wanted)));
            }
        }
        if let Some(wanted) = self.state
            && !granted.state.is_some_and(|has| has.covers(wanted))
            && wanted != StateSize::Usual(false)
        {
            lines.push(format!("state = {wanted}"));
        }
        let lacks = |wanted: &&ToolPattern| !granted.tools.iter().any(|has| has.covers(wanted));
        let mut tools: Vec<_> = self.tools.iter().filter(lacks).map(ToString::to_string).collect();
        if !tools.is_empty() {
            tools.splice(0..0, granted.tools.iter().map(ToString::to_string));
            lines.push(format!("tools = {}", list(&tools)));
        }
        lines.extend(self.missing_http(&granted.http));
        lines
    }

    /// The same for HTTP alone, which is all that a tool component may be granted.
    pub fn missing_http(&self, granted: &HttpGrant) -> Vec<String> {
        let mut lines = Vec::new();
        let lacks = |wanted: &&WantedHost| !granted.hosts.iter().any(|has| has.covers(&wanted.host));
        let mut hosts: Vec<String> = self.http.iter().filter(lacks).map(|wanted| wanted.host.to_string()).collect();
        if !hosts.is_empty() {
            hosts.splice(0..0, granted.hosts.iter().map(ToString::to_string));
            lines.push(format!("http.hosts = {}", list(&hosts)));
        }
        if let Some(has) = &granted.methods {
            let wanted = self.http.iter().flat_map(|wanted| wanted.methods.iter().flatten());
            let mut methods = has.clone();
            for method in wanted {
                if !methods.contains(method) {
                    methods.push(method.clone());
                }
            }
            if methods.len() > has.len() {
                lines.push(format!("http.methods = {}", list(&methods)));
            }
        }
        for wanted in &self.http {
            for header in &wanted.headers {
                let has = |name: &String| name.eq_ignore_ascii_case(header);
                let known =
                    granted.secrets.iter().any(|(host, headers)| host.covers(&wanted.host) && headers.keys().any(has));
                if !known {
                    lines.push(format!("http.secrets.\"{}\".{header} = \"…\"", wanted.host));
                }
            }
        }
        lines
    }
}

/// A list as in the configuration.
fn list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> AgentConfig {
        use figment::providers::{Format as _, Toml};
        figment::Figment::from(Toml::string(text)).extract().unwrap()
    }

    #[test]
    fn what_is_missing_is_said_as_lines_of_the_configuration() {
        let wants = Wants::read(
            r#"{"models": ["a/*"], "state": "1MiB", "tools": ["units__*"], "later": 1,
                "http": [{"host": "x.example.com", "methods": ["POST"], "headers": ["authorization"], "why": "to ask"}]}"#,
        )
        .unwrap();
        assert_eq!(
            wants.lines(),
            [
                "models [\"a/*\"]",
                "state \"1.0 MiB\"",
                "tools [\"units__*\"]",
                "http x.example.com (POST), where you put in authorization: to ask",
            ]
        );
        assert_eq!(
            wants.missing(&AgentConfig::default()),
            [
                "models = [\"a/*\"]",
                "state = \"1.0 MiB\"",
                "tools = [\"units__*\"]",
                "http.hosts = [\"x.example.com\"]",
                "http.secrets.\"x.example.com\".authorization = \"…\"",
            ]
        );
        let some =
            "models = [\"b/x\"]\nstate = true\ntools = [\"u*\"]\nhttp.hosts = [\"y.org\"]\nhttp.methods = [\"GET\"]";
        assert_eq!(
            wants.missing(&config(some)),
            [
                "models = [\"b/x\", \"a/*\"]",
                "http.hosts = [\"y.org\", \"x.example.com\"]",
                "http.methods = [\"GET\", \"POST\"]",
                "http.secrets.\"x.example.com\".authorization = \"…\"",
            ]
        );
        let all = "models = true\ntools = [\"*\"]\nstate = \"2MiB\"\nhttp.hosts = [\"*.example.com\"]\n\
                   http.secrets.\"*.example.com\".Authorization = \"Bearer x\"";
        assert!(wants.missing(&config(all)).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(Wants::read("[]").is_err() && Wants::read("{\"models\": 1}").is_err());
        assert!(Wants::read(&format!("{{\"why\": \"{}\"}}", "x".repeat(BYTES))).unwrap_err().contains("16384"));
        assert_eq!(Wants::read("{}"), Ok(Wants::default()));
    }
}

//! What a component wants to be granted. It grants nothing: the operator reads it.

use outlast_runtime::text::is_hidden;
use reqwest::{Method, header::HeaderName};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use toml_edit::Key;

use super::{
    agent::{AgentConfig, StateSize},
    host_pattern::HostPattern,
    http::{HostGrant, HttpGrant, method},
    models::ModelGrant,
    tools::ToolPattern,
};
use crate::refused::hidden_in;

/// The largest `wants`, in bytes.
const BYTES: usize = 16 * 1024;
/// What all methods are where they have to be listed.
const ALL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

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
    #[serde(default, deserialize_with = "methods")]
    pub methods: Option<Vec<Method>>,
    /// The headers that the operator is to put in.
    #[serde(default, deserialize_with = "headers")]
    pub headers: Vec<HeaderName>,
    /// What for.
    #[serde(default)]
    pub why: Option<String>,
}

impl WantedHost {
    /// The methods, each by itself.
    fn each_method(&self) -> Vec<&str> {
        self.methods.as_ref().map_or_else(|| ALL.to_vec(), |methods| methods.iter().map(Method::as_str).collect())
    }

    /// The entry of `hosts` that grants this and no more, on top of what there is.
    fn entry(&self, granted: &HttpGrant) -> HostGrant {
        let all = self.methods.is_none() && granted.methods.is_none();
        let methods = (!all).then(|| self.each_method().into_iter().map(str::to_owned).collect());
        HostGrant { host: self.host.clone(), methods }
    }

    /// Whether all of it is granted.
    fn is_granted(&self, granted: &HttpGrant) -> bool {
        let entries: Vec<_> = granted.hosts.iter().filter(|entry| entry.host.covers(&self.host)).collect();
        self.each_method().into_iter().all(|method| {
            let takes = |methods: &[String]| methods.iter().any(|granted| granted == method);
            entries.iter().any(|entry| granted.methods_at(entry).is_none_or(takes))
        })
    }
}

impl Wants {
    /// Reads what `describe` says.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES {
            return Err(format!("`wants` may have at most {BYTES} bytes"));
        }
        let wrong = |error| format!("`wants` is not valid: {error}");
        // An object, and no list of its members.
        let members: Map<String, Value> = serde_json::from_str(text).map_err(wrong)?;
        check_shown(&members)?;
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
                wanted.methods.as_ref().map_or_else(|| "all methods".to_owned(), |_| wanted.each_method().join(", "));
            let mut line = format!("http {} ({methods})", wanted.host);
            if !wanted.headers.is_empty() {
                let headers: Vec<_> = wanted.headers.iter().map(HeaderName::as_str).collect();
                line.push_str(&format!(", where you put in {}", headers.join(", ")));
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
        let lacking = self.http.iter().filter(|wanted| !wanted.is_granted(granted));
        let hosts: Vec<_> = lacking.map(|wanted| wanted.entry(granted).to_toml()).collect();
        if !hosts.is_empty() {
            let all = granted.hosts.iter().map(HostGrant::to_toml).chain(hosts);
            lines.push(format!("http.hosts = {}", all.collect::<toml_edit::Array>()));
        }
        for wanted in &self.http {
            for header in &wanted.headers {
                let has = |name: &String| name.eq_ignore_ascii_case(header.as_str());
                let known =
                    granted.secrets.iter().any(|(host, headers)| host.covers(&wanted.host) && headers.keys().any(has));
                if !known {
                    let (host, header) = (Key::new(wanted.host.to_string()), Key::new(header.as_str()));
                    lines.push(format!("http.secrets.{host}.{header} = \"…\""));
                }
            }
        }
        lines
    }
}

/// Refuses characters that an operator would not see for what they are, in whatever is said.
fn check_shown(members: &Map<String, Value>) -> Result<(), String> {
    fn hidden(value: &Value) -> Option<char> {
        match value {
            Value::String(text) => text.chars().find(|character| is_hidden(*character)),
            Value::Array(list) => list.iter().find_map(hidden),
            Value::Object(members) => members
                .iter()
                .find_map(|(name, value)| name.chars().find(|it| is_hidden(*it)).or_else(|| hidden(value))),
            _ => None,
        }
    }
    members.iter().try_for_each(|(name, value)| {
        let found = name.chars().find(|character| is_hidden(*character)).or_else(|| hidden(value));
        found.map_or(Ok(()), |character| Err(hidden_in(&format!("wants.{name}"), character)))
    })
}

/// Reads methods, as a request has them.
fn methods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Method>>, D::Error> {
    let Some(names) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(None) };
    if names.is_empty() {
        return Err(de::Error::custom("`methods` is empty: leave it out where all are wanted"));
    }
    names.iter().map(|name| method(name).map_err(de::Error::custom)).collect::<Result<_, _>>().map(Some)
}

/// Reads the names of headers.
fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let header = |name: &String| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| de::Error::custom(format!("`{name}` is not the name of a header such as `authorization`")))
    };
    names.iter().map(header).collect()
}

/// A list as in the configuration.
fn list(texts: &[String]) -> String {
    texts.iter().collect::<toml_edit::Array>().to_string()
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
                "state \"1MiB\"",
                "tools [\"units__*\"]",
                "http x.example.com (POST), where you put in authorization: to ask",
            ]
        );
        assert_eq!(
            wants.missing(&AgentConfig::default()),
            [
                "models = [\"a/*\"]",
                "state = \"1MiB\"",
                "tools = [\"units__*\"]",
                "http.hosts = [{ host = \"x.example.com\", methods = [\"POST\"] }]",
                "http.secrets.\"x.example.com\".authorization = \"…\"",
            ]
        );
        let some =
            "models = [\"b/x\"]\nstate = true\ntools = [\"u*\"]\nhttp.hosts = [\"y.org\"]\nhttp.methods = [\"GET\"]";
        assert_eq!(
            wants.missing(&config(some)),
            [
                "models = [\"b/x\", \"a/*\"]",
                "http.hosts = [\"y.org\", { host = \"x.example.com\", methods = [\"POST\"] }]",
                "http.secrets.\"x.example.com\".authorization = \"…\"",
            ]
        );
        let all = "models = true\ntools = [\"*\"]\nstate = \"2MiB\"\nhttp.hosts = [\"*.example.com\"]\n\
                   http.secrets.\"*.example.com\".Authorization = \"Bearer x\"";
        assert!(wants.missing(&config(all)).is_empty());
    }

    /// What the lines grant to an agent that has `before`.
    fn granted(wants: &Wants, before: &str) -> AgentConfig {
        let has = config(before);
        // Each line takes the place of what was said under its key.
        let keys = |text: &str| text.split(" = ").next().unwrap().to_owned();
        let missing = wants.missing(&has);
        let new: Vec<_> = missing.iter().map(|line| keys(line)).collect();
        let stays = before.lines().filter(|line| !new.contains(&keys(line))).map(str::to_owned);
        config(&stays.chain(missing).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn the_lines_grant_what_is_wanted_and_no_more() {
        let wants = Wants::read(
            r#"{"models": ["a/it's \"new\"", "b/*"], "state": "1500B", "tools": ["units__*"],
                "http": [{"host": "read.example.com", "methods": ["GET"], "headers": ["X-Key"]},
                         {"host": "*.write.example.com:8443", "methods": ["POST", "PUT"]},
                         {"host": "all.example.com"}]}"#,
        )
        .unwrap();
        let before = ["", "http.methods = [\"HEAD\"]\nhttp.hosts = [\"old.example.com\"]\nstate = true"];
        for before in before {
            let after = granted(&wants, before);
            assert!(wants.missing(&after).is_empty(), "{:?}", wants.missing(&after));
            let takes = |url: &str, method: &str| {
                let mut entries = after.http.hosts.iter().filter(|entry| entry.host.matches(&url.parse().unwrap()));
                entries.any(|entry| after.http.methods_at(entry).is_none_or(|some| some.iter().any(|it| it == method)))
            };
            for (url, method, expected) in [
                ("https://read.example.com/", "GET", true),
                ("https://read.example.com/", "POST", false),
                ("https://a.write.example.com:8443/", "POST", true),
                ("https://a.write.example.com:8443/", "PUT", true),
                ("https://a.write.example.com:8443/", "GET", false),
                ("https://all.example.com/", "DELETE", true),
                ("https://old.example.com/", "HEAD", !before.is_empty()),
                ("https://old.example.com/", "GET", false),
                ("https://other.example.com/", "GET", false),
            ] {
                assert_eq!(takes(url, method), expected, "{url} {method} after {before:?}");
            }
            let state =
                if before.is_empty() { StateSize::Size(bytesize::ByteSize::b(1_500)) } else { StateSize::Usual(true) };
            assert_eq!((after.state, &after.models), (Some(state), &wants.models));
            assert!(after.http.secrets.values().all(|headers| headers.keys().eq(["x-key"])));
        }
    }

    #[test]
    fn what_would_not_be_shown_as_it_is_is_refused() {
        for (wants, named) in [
            (r#"{"why": "harmless\nserved    yes"}"#, "`wants.why` contains the character U+000A"),
            (r#"{"why": "\u001b[2A"}"#, "U+001B"),
            (r#"{"later": [{"x\u202e": 1}]}"#, "`wants.later` contains the character U+202E"),
            (r#"{"http": [{"host": "api.example.\ncom"}]}"#, "`wants.http` contains the character U+000A"),
            (r#"{"http": [{"host": "a.test", "headers": ["x = 1"]}]}"#, "`x = 1` is not the name of a header"),
            (r#"{"http": [{"host": "a.test", "methods": ["GET\"]"]}]}"#, "is not a method"),
            (r#"{"http": [{"host": "a.test", "methods": ["CONNECT"]}]}"#, "CONNECT"),
            (r#"{"http": [{"host": "a.test", "methods": []}]}"#, "leave it out"),
        ] {
            let why = Wants::read(wants).unwrap_err();
            assert!(why.contains(named), "{wants}: {why}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(Wants::read("[]").is_err() && Wants::read("{\"models\": 1}").is_err());
        assert!(Wants::read(&format!("{{\"why\": \"{}\"}}", "x".repeat(BYTES))).unwrap_err().contains("16384"));
        assert_eq!(Wants::read("{}"), Ok(Wants::default()));
    }
}

//! What the operator says of an MCP server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use serde::Deserialize;

use crate::{
    grants::{Filled, GrantError, Pin, Template},
    toolbox::component::name_is_plain,
};

/// How long a call takes at most of which the operator says nothing.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What stands where a secret was.
const HIDDEN: &str = "[secret]";
/// The shortest text that is hidden, in bytes: anything shorter stands everywhere, and is no secret.
const SHORTEST_SECRET: usize = 4;
/// Headers that belong to the protocol.
const RESERVED: [&str; 4] = ["accept", "mcp-session-id", "mcp-protocol-version", "last-event-id"];

/// What the operator says of one MCP server: the section `[mcp.NAME]`. It has a `url`, or a `command`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// Where it is, over streamable HTTP. `${NAME}` stands for an environment variable.
    pub url: Option<Template>,
    /// Headers of every request to it, by their names. `${NAME}` stands for an environment variable. Default: none.
    pub headers: BTreeMap<String, Template>,
    /// The program that it is, and its arguments: a child of this server, which speaks on standard input and output.
    pub command: Vec<String>,
    /// The environment variables of the child, which has no others but `PATH`. `${NAME}` stands for one of this server.
    pub env: BTreeMap<String, Template>,
    /// The folder that the child works in. Default: an empty one, which is gone when the child is.
    pub cwd: Option<PathBuf>,
    /// The sha256 of what it offers, as the log tells it: it offers nothing else. Default: whatever it offers.
    pub tools_sha256: Option<Pin>,
    /// The longest that a call may take. Default `60s`.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for McpConfig {
    fn default() -> Self {
        let (headers, env) = (BTreeMap::new(), BTreeMap::new());
        Self { url: None, headers, command: Vec::new(), env, cwd: None, tools_sha256: None, timeout: TIMEOUT }
    }
}

/// How to reach a server.
#[derive(Clone)]
pub(super) enum Way {
    /// Over streamable HTTP.
    Http { url: Url, headers: Vec<(HeaderName, HeaderValue)> },
    /// A child of this server.
    Child { program: String, arguments: Vec<String>, env: Vec<(String, String)>, cwd: Option<PathBuf> },
}

/// What neither an agent nor a log is to see.
#[derive(Clone, Default)]
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    /// Takes it out of a text.
    pub(super) fn hide(&self, mut text: String) -> String {
        for secret in &self.0 {
            if text.contains(secret) {
                text = text.replace(secret, HIDDEN);
            }
        }
        text
    }

    fn add(&mut self, secrets: Vec<String>) {
        self.0.extend(secrets.into_iter().filter(|secret| secret.len() >= SHORTEST_SECRET));
        // The longer one first, of which the shorter may be a part.
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
}

impl McpConfig {
    /// Checks it. `lookup` reads environment variables.
    pub(super) fn checked(
        &self,
        name: &str,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<(Way, Hidden), GrantError> {
        if !name_is_plain(name) {
            let what = format!(
                "{name}: a name must be 1 to 32 of a-z, 0-9, `-`, `_`, start with a letter or digit, and have no two `_` in \
                 a row"
            );
            return Err(GrantError { key: "mcp".to_owned(), what });
        }
        let wrong = |what: String| GrantError { key: format!("mcp.{name}"), what };
        let mut hidden = Hidden::default();
        match (&self.url, &self.command[..]) {
            (Some(url), []) => {
                if self.cwd.is_some() {
                    return Err(wrong("cwd is for a `command`, and this server has a `url`".to_owned()));
                }
                if let Some(variable) = self.env.keys().next() {
                    return Err(wrong(format!("env.{variable} is for a `command`, and this server has a `url`")));
                }
                let filled = url.fill(&lookup).map_err(|what| wrong(format!("url {what}")))?;
                if url.has_variables() {
                    hidden.add(filled.secrets);
                }
                let parsed = Url::parse(&filled.value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
                let url = parsed.ok_or_else(|| wrong("url must begin with `http://` or `https://`".to_owned()))?;
                let mut headers = Vec::new();
                for (header, template) in &self.headers {
                    let wrong = |what: &str| wrong(format!("headers.{header} {what}"));
                    let name = HeaderName::from_bytes(header.as_bytes())
                        .map_err(|_| wrong("has a name that is not valid for a header"))?;
                    if RESERVED.contains(&name.as_str()) {
                        return Err(wrong("belongs to the protocol"));
                    }
                    let Filled { value, secrets } = template.fill(&lookup).map_err(|what| wrong(&what))?;
                    let mut value = HeaderValue::from_str(&value)
                        .map_err(|_| wrong("has a value that is not valid for a header"))?;
                    value.set_sensitive(true);
                    hidden.add(secrets);
                    headers.push((name, value));
                }
                Ok((Way::Http { url, headers }, hidden))
            }
            (None, [program, arguments @ ..]) => {
                if let Some(header) = self.headers.keys().next() {
                    return Err(wrong(format!("headers.{header} is for a `url`, and this server has a `command`")));
                }
                let mut env = Vec::new();
                for (variable, template) in &self.env {
                    let filled = template.fill(&lookup).map_err(|what| wrong(format!("env.{variable} {what}")))?;
                    if template.has_variables() {
                        hidden.add(filled.secrets);
                    }
                    env.push((variable.clone(), filled.value));
                }
                let absolute = |path: &Path| {
                    std::path::absolute(path).map_err(|error| wrong(format!("command or cwd cannot be found: {error}")))
                };
                // What names a file means one of this server's folder, as everywhere in the configuration.
                let program = match program.contains('/') {
                    true => absolute(Path::new(program))?.display().to_string(),
                    false => program.clone(),
                };
                let cwd = self.cwd.as_deref().map(absolute).transpose()?;
                Ok((Way::Child { program, arguments: arguments.to_vec(), env, cwd }, hidden))
            }
            _ => Err(wrong("url or mcp.NAME.command must be set, and not both".replace("NAME", name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, toml: &str) -> Result<(Way, Hidden), String> {
        let config: McpConfig = toml_edit::de::from_str(toml).unwrap();
        let lookup = |name: &str| (name == "TOKEN").then(|| "t0ken".to_owned());
        config.checked(name, lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_somewhere_or_a_child() {
        let (way, hidden) =
            checked("hub", "url = \"https://a.test/mcp\"\nheaders = { authorization = \"Bearer ${TOKEN}\" }").unwrap();
        let Way::Http { url, headers } = way else { panic!("a child") };
        assert_eq!((url.as_str(), headers[0].1.to_str().unwrap()), ("https://a.test/mcp", "Bearer t0ken"));
        assert!(headers[0].1.is_sensitive());
        assert_eq!(hidden.hide("it was t0ken".to_owned()), "it was [secret]");

        let (way, hidden) =
            checked("hub", "command = [\"npx\", \"-y\"]\nenv = { A = \"${TOKEN}\", B = \"plain\" }").unwrap();
        let Way::Child { program, arguments, env, cwd: None } = way else { panic!("a URL") };
        assert_eq!((program.as_str(), arguments), ("npx", vec!["-y".to_owned()]));
        assert_eq!(env, [("A".to_owned(), "t0ken".to_owned()), ("B".to_owned(), "plain".to_owned())]);
        assert_eq!(hidden.hide("plain t0ken".to_owned()), "plain [secret]");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, toml, expected) in [
            ("Hub", "url = \"https://a.test\"", "configuration: mcp.Hub: a name must be"),
            ("hub", "", "configuration: mcp.hub.url or mcp.hub.command must be set"),
            ("hub", "url = \"a\"\ncommand = [\"b\"]", "not both"),
            ("hub", "url = \"file:///a\"", "mcp.hub.url must begin with"),
            ("hub", "url = \"https://${NONE}/\"", "mcp.hub.url names the environment variable NONE"),
            ("hub", "url = \"https://a.test\"\nheaders = { accept = \"x\" }", "mcp.hub.headers.accept belongs to"),
            ("hub", "url = \"https://a.test\"\nenv = { A = \"x\" }", "mcp.hub.env.A is for a `command`"),
            ("hub", "url = \"https://a.test\"\ncwd = \"x\"", "mcp.hub.cwd is for a `command`"),
            ("hub", "command = [\"a\"]\nheaders = { a = \"x\" }", "mcp.hub.headers.a is for a `url`"),
        ] {
            let error = checked(name, toml).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }
}

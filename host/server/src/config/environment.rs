//! The environment variables `OUTLAST_…`: which of them are configuration, and what becomes of the others.
//!
//! A server shares its environment with whoever starts it, and its prefix is a plain word. So a variable that is no key
//! is no error by itself:
//!
//! | the variable | what becomes of it |
//! |---|---|
//! | `OUTLAST_LISTEN`, `OUTLAST_LIMITS__RUN_TIMEOUT`, `OUTLAST_AGENTS__ECHO__STATE` | it is configuration |
//! | `OUTLAST_KEY`, `OUTLAST_URL` | it is for `outlast runs`, and ignored here |
//! | `OUTLAST_SERVICE_HOST`, `OUTLAST_PORT=tcp://…`, `OUTLAST_PORT_80_TCP_ADDR` | Kubernetes makes it for a Service that is called `outlast`, and `OUTLAST_API_SERVICE_HOST` for `outlast-api`: ignored |
//! | `OUTLAST_LIMITS_RUN_TIMEOUT`, `OUTLAST_LISTN`, `OUTLAST_LIMITS__TIMEOUT` | nearly a key: refused, with the right name |
//! | `OUTLAST_VERSION`, `OUTLAST_HOME` | ignored, with a warning in the log |

use figment::{
    Figment, Profile, Provider,
    error::Kind,
    providers::Env,
    value::{Dict, Map, UncasedStr},
};
use outlast_http::TlsConfig;
use serde::de::DeserializeOwned;

use super::{Config, Limits};

/// What an error calls the environment.
pub(super) const NAME: &str = "the environment";
/// What a variable begins with.
const PREFIX: &str = "OUTLAST_";
/// What stands between a section and a key.
const BETWEEN: &str = "__";
/// Variables of other commands.
const OF_CLIENTS: [&str; 2] = ["KEY", "URL"];
/// Sections of which each holds others by a name.
const NAMED: [&str; 4] = ["AGENTS", "MCP", "PROVIDERS", "TOOLS"];
/// How many letters may be wrong for a name to be meant: of a short one, and of a longer one.
const WRONG: (usize, usize) = (1, 2);
/// How long a short name may be.
const SHORT: usize = 5;

/// What the environment says.
pub(super) struct Environment {
    /// The configuration in it.
    pub provider: Known,
    /// Of each variable that means nothing here, a sentence.
    pub warnings: Vec<String>,
}

/// The variables that are configuration, as a source of one.
pub(super) struct Known(Vec<String>);

impl Provider for Known {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(NAME)
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        let known = self.0.clone();
        let is_known = move |name: &UncasedStr| known.iter().any(|key| name == key.as_str());
        Env::prefixed(PREFIX).filter(is_known).split(BETWEEN).data()
    }
}

/// Reads the environment.
///
/// # Errors
///
/// A variable is nearly a key.
pub(super) fn read() -> Result<Environment, String> {
    let keys = Keys::new();
    let (mut known, mut warnings) = (Vec::new(), Vec::new());
    for (name, value) in std::env::vars_os() {
        let Some(rest) = name.to_str().and_then(|name| name.split_at_checked(PREFIX.len())) else { continue };
        if !rest.0.eq_ignore_ascii_case(PREFIX) || rest.1.is_empty() {
            continue;
        }
        let (shown, rest) = (name.display(), rest.1.to_ascii_uppercase());
        match keys.judge(&rest, &value.to_string_lossy()) {
            Judgement::Key => known.push(rest),
            Judgement::Foreign => {}
            Judgement::Unknown => warnings.push(format!(
                "the environment variable {shown} is not known, and is ignored; sections are separated by two \
                 underscores, as in OUTLAST_LIMITS__RUN_TIMEOUT"
            )),
            Judgement::Nearly(right) => {
                return Err(format!(
                    "the environment variable {shown} is not a key: did you mean {right}? Sections are separated by \
                     two underscores. Correct or unset it"
                ));
            }
        }
    }
    warnings.sort();
    Ok(Environment { provider: Known(known), warnings })
}

/// The name of the variable for a key.
pub(super) fn variable<'a>(path: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<_> = path.map(str::to_uppercase).collect();
    format!("{PREFIX}{}", parts.join(BETWEEN))
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Key,
    /// Somebody else's, who is known.
    Foreign,
    Unknown,
    /// The variable that is meant.
    Nearly(String),
}

/// All keys whose names are known beforehand.
struct Keys {
    top: Vec<String>,
    limits: Vec<String>,
    tls: Vec<String>,
}

impl Keys {
    fn new() -> Self {
        Self { top: fields::<Config>(), limits: fields::<Limits>(), tls: fields::<TlsConfig>() }
    }

    fn judge(&self, name: &str, value: &str) -> Judgement {
        if OF_CLIENTS.contains(&name) {
            return Judgement::Foreign;
        }
        let known = match name.split_once(BETWEEN) {
            None => self.top.iter().any(|key| key == name),
            Some(("LIMITS", key)) => self.limits.iter().any(|limit| limit == key),
            Some(("TLS", key)) => self.tls.iter().any(|known| known == key),
            Some((section, rest)) => NAMED.contains(&section) && !rest.is_empty(),
        };
        if known {
            return Judgement::Key;
        }
        if is_service_link(name, value) {
            return Judgement::Foreign;
        }
        match self.meant(name) {
            Some(right) => Judgement::Nearly(right),
            None => Judgement::Unknown,
        }
    }

    /// The variable that somebody may have meant by this one.
    fn meant(&self, name: &str) -> Option<String> {
        let top = self.top.iter().cloned();
        let section = |name: &'static str| move |key: &String| format!("{name}{BETWEEN}{key}");
        let limits = self.limits.iter().map(section("LIMITS")).chain(self.tls.iter().map(section("TLS")));
        // A limit without its section is meant as well as one with a wrong separator.
        let bare = self.limits.iter().map(|key| (key.clone(), format!("LIMITS{BETWEEN}{key}")));
        let candidates = top.chain(limits).map(|key| (key.clone(), key)).chain(bare);
        let distance = |key: &str| strsim::osa_distance(&letters(key), &letters(name));
        let nearest = candidates.map(|(key, right)| (distance(&key), key.len(), right)).min()?;
        let (wrong, length, right) = nearest;
        if wrong <= if length <= SHORT { WRONG.0 } else { WRONG.1 } {
            return Some(format!("{PREFIX}{right}"));
        }
        // A section that exists, with a key that does not, or with a wrong separator.
        let (section, _) = name.split_once('_')?;
        let rest = name[section.len()..].trim_start_matches('_');
        match section {
            "LIMITS" => {
                let near = self.limits.iter().map(|key| (strsim::osa_distance(key, rest), key)).min()?;
                Some(format!("{PREFIX}LIMITS{BETWEEN}{}", near.1))
            }
            _ if NAMED.contains(&section) => {
                let (of, key) = rest.split_once('_')?;
                Some(format!("{PREFIX}{section}{BETWEEN}{of}{BETWEEN}{}", key.trim_start_matches('_')))
            }
            _ => None,
        }
    }
}

/// A name without what separates its words.
fn letters(name: &str) -> String {
    name.replace('_', "")
}

/// Whether Kubernetes, or a link of Docker, makes such a variable for a service whose name is `outlast`, or begins so.
fn is_service_link(name: &str, value: &str) -> bool {
    // The name of the service goes on before these.
    let behind = |marker: &str| {
        let at = if name.starts_with(marker) { Some(0) } else { name.find(&format!("_{marker}")).map(|at| at + 1) };
        at.map(|at| &name[at + marker.len()..])
    };
    if behind("SERVICE_HOST") == Some("") {
        return true;
    }
    // `SERVICE_PORT`, and `SERVICE_PORT_HTTP` for a port with a name.
    if behind("SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_')) {
        return true;
    }
    let protocols = ["TCP", "UDP", "SCTP"];
    let Some(rest) = behind("PORT") else { return false };
    if rest.is_empty() {
        return value.split_once("://").is_some_and(|(scheme, _)| protocols.contains(&&*scheme.to_uppercase()));
    }
    let mut parts = rest.trim_start_matches('_').split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    let protocol = parts.next().is_some_and(|part| protocols.contains(&part));
    let detail = parts.next().is_none_or(|part| ["ADDR", "PORT", "PROTO"].contains(&part));
    number && protocol && detail && parts.next().is_none()
}

/// The keys of a section, in capitals. It says them itself, when it is asked for one that does not exist.
fn fields<T: DeserializeOwned>() -> Vec<String> {
    let nobody = Figment::from(("no such key", true)).extract::<T>();
    match nobody.map_err(|error| error.kind) {
        Err(Kind::UnknownField(_, known)) => known.iter().map(|key| key.to_uppercase()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, value: &str) -> Judgement {
        Keys::new().judge(name, value)
    }

    #[test]
    fn every_key_is_configuration() {
        let keys = Keys::new();
        assert!(keys.top.len() > 15 && keys.limits.len() > 40);
        for key in &keys.top {
            assert_eq!(judged(key, ""), Judgement::Key, "{key}");
        }
        for key in &keys.limits {
            assert_eq!(judged(&format!("LIMITS__{key}"), ""), Judgement::Key, "{key}");
        }
        for key in
            ["TLS__KEY", "AGENTS__ECHO__STATE", "PROVIDERS__OPENAI__API_KEY", "MCP__HUB__URL", "TOOLS__CALC__TIMEOUT"]
        {
            assert_eq!(judged(key, ""), Judgement::Key, "{key}");
        }
        assert_eq!(judged("KEY", "ol-1"), Judgement::Foreign);
    }

    #[test]
    fn what_a_service_link_makes_is_somebody_elses() {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8642"),
            ("SERVICE_PORT_HTTP_API", "8642"),
            ("PORT", "tcp://10.0.0.1:8642"),
            ("PORT_8642_TCP", "tcp://10.0.0.1:8642"),
            ("PORT_8642_TCP_ADDR", "10.0.0.1"),
            ("PORT_8642_TCP_PORT", "8642"),
            ("PORT_8642_TCP_PROTO", "tcp"),
            ("PORT_53_UDP_ADDR", "10.0.0.1"),
            ("MCP_SERVICE_HOST", "10.0.0.1"),
            ("TOOLS_API_PORT", "udp://10.0.0.1:53"),
            ("LIMITS_PORT_1_TCP", "tcp://10.0.0.1:1"),
        ] {
            assert_eq!(judged(name, value), Judgement::Foreign, "{name}");
        }
    }

    #[test]
    fn a_name_of_somebody_who_is_not_known_is_no_error() {
        for name in
            ["VERSION", "HOME", "HOST", "ENV", "DATA_DIR", "LOG_LEVEL", "DATABASE_URL", "IMAGE", "USER", "TOOLS_DIR"]
        {
            assert_eq!(judged(name, "x"), Judgement::Unknown, "{name}");
        }
        assert_eq!(judged("PORT", "8642"), Judgement::Unknown);
        assert_eq!(judged("PORT_8642_TCP_WHAT", "1"), Judgement::Unknown);
    }

    #[test]
    fn what_is_nearly_a_key_is_named_with_the_right_one() {
        for (name, right) in [
            ("LIMITS_RUN_TIMEOUT", "OUTLAST_LIMITS__RUN_TIMEOUT"),
            ("LIMITS__RUN__TIMEOUT", "OUTLAST_LIMITS__RUN_TIMEOUT"),
            ("LIMITS__MEMORRY", "OUTLAST_LIMITS__MEMORY"),
            ("RUN_TIMEOUT", "OUTLAST_LIMITS__RUN_TIMEOUT"),
            ("LISTN", "OUTLAST_LISTEN"),
            ("TLS_CERTIFICATE", "OUTLAST_TLS__CERTIFICATE"),
            ("DATABSAE", "OUTLAST_DATABASE"),
            ("PLUGIN", "OUTLAST_PLUGINS"),
            ("LOGFORMAT", "OUTLAST_LOG_FORMAT"),
            ("AGENTS_ECHO_STATE", "OUTLAST_AGENTS__ECHO__STATE"),
            ("PROVIDERS_OPENAI_API_KEY", "OUTLAST_PROVIDERS__OPENAI__API_KEY"),
        ] {
            assert_eq!(judged(name, "1"), Judgement::Nearly(right.to_owned()), "{name}");
        }
        let Judgement::Nearly(right) = judged("LIMITS__NOTHING_LIKE_IT", "1") else { panic!() };
        assert!(right.starts_with("OUTLAST_LIMITS__"), "{right}");
    }
}

use serde::Serialize;

/// What a component wants to be granted, for [`Agent::wants`](crate::Agent::wants) and
/// [`ToolComponent::wants`](crate::ToolComponent::wants). The operator reads it, with
/// `outlast plugin inspect` and in the server's log, and decides; asking grants nothing.
///
/// ```
/// # use outlast_guest::{Agent, Failure, Outcome, Turn, Wants};
/// # struct Weather;
/// impl Agent for Weather {
///     const NAME: &str = "weather";
///     const ABOUT: &str = "Knows the weather.";
///
///     fn wants() -> Wants {
///         Wants::new()
///             .why("It asks a weather service, and lets a model put that into words.")
///             .models()
///             .http("api.weather.example", ["GET"])
///             .secret("api.weather.example", "authorization")
///     }
///     # fn run(_: Turn) -> Result<Outcome, Failure> { Ok(Outcome::Completed) }
/// }
/// # assert!(Weather::wants().to_json().unwrap().contains("api.weather.example"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Wants {
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Models>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http: Vec<Host>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Models {
    All(bool),
    These(Vec<String>),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Host {
    host: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
}

impl Wants {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What for, in a sentence for the operator.
    #[must_use]
    pub fn why(mut self, why: &str) -> Self {
        self.why = Some(why.to_owned());
        self
    }

    /// Models, whichever the client or the configuration names.
    #[must_use]
    pub fn models(mut self) -> Self {
        self.models = Some(Models::All(true));
        self
    }

    /// These models: `provider/model`, or `provider/*`.
    #[must_use]
    pub fn these_models<'a>(mut self, models: impl IntoIterator<Item = &'a str>) -> Self {
        self.models = Some(Models::These(models.into_iter().map(str::to_owned).collect()));
        self
    }

    /// Requests with these methods to a host: `api.example.com`, or `*.example.org`. No method is all methods.
    #[must_use]
    pub fn http<'a>(mut self, host: &str, methods: impl IntoIterator<Item = &'a str>) -> Self {
        self.host(host).methods.extend(methods.into_iter().map(str::to_owned));
        self
    }

    /// A header that the operator puts into the requests to a host, and that the agent does not see.
    #[must_use]
    pub fn secret(mut self, host: &str, header: &str) -> Self {
        self.host(host).headers.push(header.to_owned());
        self
    }

    /// These tools: `units__convert`, or `units__*` for all whose names begin so.
    #[must_use]
    pub fn tools<'a>(mut self, tools: impl IntoIterator<Item = &'a str>) -> Self {
        self.tools.extend(tools.into_iter().map(str::to_owned));
        self
    }

    /// So much to keep for each principal, for example `1MiB`.
    #[must_use]
    pub fn state(mut self, size: &str) -> Self {
        self.state = Some(size.to_owned());
        self
    }

    /// As the JSON of the contract; none for nothing.
    pub fn to_json(&self) -> Option<String> {
        if *self == Self::default() { None } else { serde_json::to_string(self).ok() }
    }

    /// What is wanted of a host.
    fn host(&mut self, host: &str) -> &mut Host {
        let place = self.http.iter().position(|wanted| wanted.host == host).unwrap_or_else(|| {
            self.http.push(Host { host: host.to_owned(), ..Host::default() });
            self.http.len() - 1
        });
        &mut self.http[place]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_wanted_is_the_json_of_the_contract() {
        assert_eq!(Wants::new().to_json(), None);
        let wants = Wants::new().models().http("a", ["GET"]).secret("a", "x-key").secret("b", "x-key").state("1MiB");
        let expected = json!({
            "models": true,
            "http": [{"host": "a", "methods": ["GET"], "headers": ["x-key"]}, {"host": "b", "headers": ["x-key"]}],
            "state": "1MiB",
        });
        assert_eq!(serde_json::from_str::<Value>(&wants.to_json().unwrap()).unwrap(), expected);
    }
}

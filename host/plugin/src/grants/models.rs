//! Which upstream models an agent may call.

use std::{fmt, str::FromStr};

use outlast_model::Target;
use outlast_runtime::text::is_hidden;
use serde::Deserialize;

/// The models that may be called: `true` for all, or patterns.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "must be true, false, or a list like [\"openai/*\"]")]
pub enum ModelGrant {
    /// All, or none.
    All(bool),
    /// Those that one of the patterns fits.
    These(Vec<ModelPattern>),
}

/// `provider/model`, `provider/*`, `provider/gpt-4*` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ModelPattern(String);

impl ModelGrant {
    /// Whether no model may be called.
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::All(all) => !all,
            Self::These(patterns) => patterns.is_empty(),
        }
    }

    /// Whether this model may be called.
    pub(crate) fn allows(&self, target: &Target) -> bool {
        self.fits(&target.to_string())
    }

    /// Whether the model of this name may be, `provider/model`.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::All(all) => *all,
            Self::These(patterns) => patterns.iter().any(|pattern| pattern.fits(name)),
        }
    }

    /// Whether this lets everything be called that `wanted` would.
    pub(crate) fn covers(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (_, Self::All(false)) | (Self::All(true), _) => true,
            (_, Self::All(true)) => self.fits("*"),
            (_, Self::These(patterns)) => patterns.iter().all(|pattern| self.fits(&pattern.0)),
        }
    }

    /// This and `more`.
    pub(super) fn and(&self, more: &Self) -> Self {
        match (self, more) {
            (Self::All(true), _) | (_, Self::All(true)) => Self::All(true),
            (Self::All(false), these) | (these, Self::All(false)) => these.clone(),
            (Self::These(some), Self::These(more)) => {
                let new = more.iter().filter(|pattern| !some.contains(pattern));
                Self::These(some.iter().chain(new).cloned().collect())
            }
        }
    }

    /// The models that are named in full.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        let patterns = match self {
            Self::All(_) => &[][..],
            Self::These(patterns) => patterns,
        };
        patterns.iter().map(|pattern| pattern.0.as_str()).filter(|pattern| !pattern.ends_with('*'))
    }
}

impl ModelPattern {
    fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}

impl FromStr for ModelPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text
            .split_once('/')
            .is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty() && !provider.contains('*'));
        let star_within = text.strip_suffix('*').unwrap_or(text).contains('*');
        let shown = !text.chars().any(is_hidden);
        match (whole || text == "*") && !star_within && shown {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("`{text}` must be `provider/model`, `provider/*` or `*`")),
        }
    }
}

impl TryFrom<String> for ModelPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// As in the configuration.
impl fmt::Display for ModelGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(all) => write!(f, "{all}"),
            Self::These(patterns) => {
                write!(f, "{}", patterns.iter().map(|pattern| pattern.0.as_str()).collect::<toml_edit::Array>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(patterns: &[&str]) -> ModelGrant {
        ModelGrant::These(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    #[test]
    fn a_pattern_fits_what_it_says() {
        let some = grant(&["a/*", "b/gpt-4*", "c/org/model"]);
        for (name, fits) in [
            ("a/x", true),
            ("a/x/y", true),
            ("ab/x", false),
            ("b/gpt-4o", true),
            ("b/gpt-3", false),
            ("c/org/model", true),
        ] {
            assert_eq!(some.fits(name), fits, "{name}");
        }
        assert!(grant(&["*"]).fits("a/x") && ModelGrant::All(true).fits("a/x") && !ModelGrant::All(false).fits("a/x"));
        assert_eq!(some.named().collect::<Vec<_>>(), ["c/org/model"]);
        assert_eq!(some.to_string(), "[\"a/*\", \"b/gpt-4*\", \"c/org/model\"]");
    }

    #[test]
    fn a_wider_grant_covers_a_narrower_wish() {
        assert!(grant(&["a/*"]).covers(&grant(&["a/x", "a/y*"])));
        assert!(!grant(&["a/x*"]).covers(&grant(&["a/*"])));
        assert!(!grant(&["a/*"]).covers(&ModelGrant::All(true)) && grant(&["*"]).covers(&ModelGrant::All(true)));
        assert!(ModelGrant::All(false).covers(&ModelGrant::All(false)));
    }

    #[test]
    fn anything_else_is_no_pattern() {
        for text in ["", "gpt-4o", "/x", "a/", "*/x", "a/*x", "**"] {
            assert!(text.parse::<ModelPattern>().is_err(), "{text}");
        }
    }
}

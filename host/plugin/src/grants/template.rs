//! Values with environment variables in them, which may be secrets.

use serde::Deserialize;

/// A value that may be a secret, as it stands in the configuration. Never shown: it may be the secret itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Template(String);

/// A template with its variables filled in.
pub struct Filled {
    /// The whole value.
    pub value: String,
    /// The parts that are secret: what the variables stand for, or all of it where there is none.
    pub(crate) secrets: Vec<String>,
}

impl Template {
    /// Whether environment variables are named in it.
    pub(crate) fn has_variables(&self) -> bool {
        self.0.contains("${")
    }

    /// Fills in the variables.
    pub fn fill(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Filled, String> {
        let (mut value, mut secrets) = (String::new(), Vec::new());
        let mut rest = self.0.as_str();
        while let Some((before, behind)) = rest.split_once("${") {
            let (name, behind) = behind.split_once('}').ok_or("has `${` without `}`")?;
            let found = lookup(name).filter(|found| !found.is_empty());
            let found = found.ok_or_else(|| format!("names the environment variable {name}, which is not set"))?;
            value.push_str(before);
            value.push_str(&found);
            secrets.push(found);
            rest = behind;
        }
        value.push_str(rest);
        if secrets.is_empty() {
            secrets.push(value.clone());
        }
        Ok(Filled { value, secrets })
    }
}

impl From<&str> for Template {
    fn from(template: &str) -> Self {
        Self(template.to_owned())
    }
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> Result<(String, Vec<String>), String> {
        let lookup = |name: &str| (name == "TOKEN").then(|| "t0p".to_owned());
        Template(template.to_owned()).fill(lookup).map(|filled| (filled.value, filled.secrets))
    }

    #[test]
    fn variables_are_filled_in() {
        assert_eq!(filled("Bearer ${TOKEN}"), Ok(("Bearer t0p".to_owned(), vec!["t0p".to_owned()])));
        assert_eq!(filled("${TOKEN}:${TOKEN}!").unwrap().0, "t0p:t0p!");
        assert_eq!(filled("plain $x"), Ok(("plain $x".to_owned(), vec!["plain $x".to_owned()])));
        assert!(filled("${NONE}").unwrap_err().contains("NONE, which is not set"));
        assert!(filled("a ${TOKEN").unwrap_err().contains("without `}`"));
    }

    #[test]
    fn a_value_is_not_shown() {
        assert_eq!(format!("{:?}", Template("t0p".to_owned())), "[secret]");
    }
}

//! Paths as people write them.
//!
//! A client joins a base URL and a path: with a slash too many, or without `/v1`. Such a path means the one it resembles.
//! Only paths of the API: what a proxy in front of the server keeps back, it keeps back by its path.

use axum::http::Uri;

/// What the paths of the API begin with.
const VERSION: &str = "/v1/";
/// What may come without it.
const RESOURCES: [&str; 3] = ["responses", "conversations", "models"];

/// The target that is meant, if it is another one.
pub(super) fn meant(target: &Uri) -> Option<Uri> {
    let path = target.path();
    let mut plain = String::with_capacity(path.len() + VERSION.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        plain.push('/');
        plain.push_str(part);
    }
    let first = plain.split('/').nth(1).unwrap_or_default();
    if RESOURCES.contains(&first) {
        plain.insert_str(0, VERSION.trim_end_matches('/'));
    }
    if plain == path || !plain.starts_with(VERSION) {
        return None;
    }
    if let Some(query) = target.query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = target.clone().into_parts();
    parts.path_and_query = Some(plain.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_api_is_found_however_it_is_joined() {
        for (target, expected) in [
            ("/v1/responses/", "/v1/responses"),
            ("//v1//responses", "/v1/responses"),
            ("/responses", "/v1/responses"),
            ("/responses/resp_1?stream=true", "/v1/responses/resp_1?stream=true"),
            ("/models/chat/gpt-4o/", "/v1/models/chat/gpt-4o"),
            ("http://localhost/v1/models/", "http://localhost/v1/models"),
        ] {
            assert_eq!(meant(&target.parse().unwrap()).unwrap().to_string(), expected, "{target}");
        }
    }

    #[test]
    fn no_other_path_is_touched() {
        for target in ["/v1/responses", "/", "/v1", "//admin/runs", "/admin/runs/", "/metrics/", "/x/responses", "*"] {
            assert_eq!(meant(&target.parse().unwrap()), None, "{target}");
        }
    }
}

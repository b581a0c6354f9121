//! Fetching a component from an OCI registry.
//!
//! A registry is somebody else's server. What it sends is bounded while it comes, and the credentials for it go to its own
//! host. A registry may say that tokens are to be had elsewhere, at a *realm*; an honest one and one that collects
//! passwords say it in the same way. So a realm is asked only at the registry's own host, or where the operator says so
//! (`registry_realms`); that of Docker Hub is known.
//!
//! Registries are asked over `https`; over `http` only on this machine, and no redirect leads from one to the other.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_auth::parser::ChallengeParser;
use oci_client::{Reference, secrets::RegistryAuth};
use outlast_model::install_tls;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    redirect::Policy,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::oci::{
    Artifact, Content, FetchLimits, MANIFEST_BYTES, MANIFESTS, OciReference, SHA256, content, credentials, too_large,
};
use crate::{failure::shorten, refused::Refused};

/// How long a registry may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is a token or an error, in bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// The most redirects that are followed.
const REDIRECTS: usize = 10;
/// Docker Hub, and where its tokens are.
const DOCKER_HUB: (&str, &str) = ("index.docker.io", "auth.docker.io");

/// Fetches a component. `progress` is told how many bytes are there, and of how many, now and then.
///
/// # Errors
///
/// There is none, it is not the one of the digest, the registry does not give it, or it takes too long or is too large.
pub async fn pull(
    reference: &OciReference,
    limits: &FetchLimits,
    progress: impl FnMut(u64, u64),
) -> Result<Artifact, Refused> {
    let late = |_| {
        let why = format!("fetching it took longer than {:?} (limits.plugin_fetch_timeout)", limits.timeout);
        Refused(why)
    };
    tokio::time::timeout(limits.timeout, pull_now(reference, limits, progress)).await.map_err(late)?
}

async fn pull_now(
    reference: &OciReference,
    limits: &FetchLimits,
    mut progress: impl FnMut(u64, u64),
) -> Result<Artifact, Refused> {
    let mut registry = Registry::new(reference, &limits.realms).await?;
    let tag = reference.0.digest().or(reference.0.tag()).unwrap_or("latest");
    let answer = registry.get(&format!("manifests/{tag}"), &MANIFESTS.join(", ")).await?;
    let too_long = || Refused(format!("its manifest is larger than {MANIFEST_BYTES} bytes"));
    let manifest = registry.read(answer, MANIFEST_BYTES).await?.ok_or_else(too_long)?;
    let digest = hex::encode(Sha256::digest(&manifest));
    if let Some(pinned) = reference.digest().filter(|pinned| !pinned.eq_ignore_ascii_case(&digest)) {
        return Err(Refused(format!(
            "the registry gave a manifest with the digest sha256:{digest}, not sha256:{pinned}"
        )));
    }
    let Content { layer, sha256, signature } = content(&manifest)?;
    let size = usize::try_from(layer.size).unwrap_or_default();
    if size > limits.bytes {
        return Err(too_large(size as u64, limits.bytes));
    }
    let mut answer = registry.get(&format!("blobs/{}", layer.digest), "*/*").await?;
    let mut wasm = Vec::with_capacity(size);
    while let Some(part) = answer.chunk().await.map_err(|error| registry.failed(&error))? {
        if wasm.len() + part.len() > limits.bytes {
            return Err(too_large((wasm.len() + part.len()) as u64, limits.bytes));
        }
        wasm.extend_from_slice(&part);
        progress(wasm.len() as u64, size as u64);
    }
    if hex::encode(Sha256::digest(&wasm)) != sha256 {
        return Err(Refused(format!("the registry gave a component whose digest is not sha256:{sha256}")));
    }
    Ok(Artifact { reference: pinned(reference, &digest), manifest: manifest.into(), wasm: wasm.into(), signature })
}

/// The reference with its digest.
fn pinned(reference: &OciReference, digest: &str) -> OciReference {
    let digest = format!("{SHA256}{digest}");
    match (reference.digest(), reference.0.tag()) {
        (Some(_), _) => reference.clone(),
        (None, Some(tag)) => {
            let (registry, repository) = reference.repository();
            OciReference(Reference::with_tag_and_digest(
                registry.to_owned(),
                repository.to_owned(),
                tag.to_owned(),
                digest,
            ))
        }
        (None, None) => OciReference(reference.0.clone_with_digest(digest)),
    }
}

/// A registry, as it is asked for one component.
struct Registry<'a> {
    client: Client,
    reference: &'a OciReference,
    /// Its address, without a scheme.
    host: String,
    realms: &'a [String],
    credentials: RegistryAuth,
    /// What it wants to be shown.
    authorization: Option<HeaderValue>,
}

/// Where tokens are to be had.
#[derive(Debug, PartialEq, Eq)]
struct Realm {
    url: Url,
    service: Option<String>,
}

impl<'a> Registry<'a> {
    async fn new(reference: &'a OciReference, realms: &'a [String]) -> Result<Self, Refused> {
        install_tls();
        let host = reference.0.resolve_registry().to_owned();
        let redirects = Policy::custom(|attempt| {
            let begun = attempt.previous().first().map(Url::scheme);
            if attempt.previous().len() > REDIRECTS {
                attempt.error("it redirects too often")
            } else if begun == Some("https") && attempt.url().scheme() != "https" {
                attempt.error("it redirects from https to http")
            } else {
                attempt.follow()
            }
        });
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .build()
            .map_err(|error| Refused(format!("cannot create an HTTP client: {error}")))?;
        let credentials = credentials(host.clone()).await?;
        let authorization = match &credentials {
            RegistryAuth::Bearer(token) => Some(bearer(token)?),
            _ => None,
        };
        Ok(Self { client, reference, host, realms, credentials, authorization })
    }

    /// Asks for a part of the repository. Redirects lead to where it lies; what the registry is shown is not sent there.
    async fn get(&mut self, path: &str, accept: &str) -> Result<Response, Refused> {
        let scheme = if self.reference.is_local() { "http" } else { "https" };
        let (_, repository) = self.reference.repository();
        let url = format!("{scheme}://{}/v2/{repository}/{path}", self.host);
        let mut answer = self.send(&url, accept).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            self.authorization = Some(self.authorize(&answer).await?);
            answer = self.send(&url, accept).await?;
        }
        let host = self.reference.0.registry();
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            StatusCode::NOT_FOUND => Err(Refused(format!("the registry {host} does not have it"))),
            status => {
                let said = self.read(answer, ANSWER_BYTES).await?.unwrap_or_default();
                let said = shorten(&String::from_utf8_lossy(&said), 500);
                Err(Refused(format!("the registry {host} answered with {status}: {said}")))
            }
        }
    }

    async fn send(&self, url: &str, accept: &str) -> Result<Response, Refused> {
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| self.failed(&error))
    }

    /// What an answer is, if it is not larger than `most` bytes.
    async fn read(&self, mut answer: Response, most: usize) -> Result<Option<Vec<u8>>, Refused> {
        let mut read = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| self.failed(&error))? {
            if read.len() + part.len() > most {
                return Ok(None);
            }
            read.extend_from_slice(&part);
        }
        Ok(Some(read))
    }

    /// What the registry is to be shown, as it says in the answer to a request without.
    async fn authorize(&self, answer: &Response) -> Result<HeaderValue, Refused> {
        let mut basic = false;
        for header in answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
            for challenge in ChallengeParser::new(header).filter_map(Result::ok) {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let url = parameter("realm").unwrap_or_default();
                    return self.token(self.realm(&url, parameter("service"))?).await;
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        match &self.credentials {
            RegistryAuth::Basic(user, password) if basic => {
                shown("Basic", &STANDARD.encode(format!("{user}:{password}")))
            }
            _ => Err(self.denied()),
        }
    }

    /// Where the registry says that tokens are, if it may be asked.
    fn realm(&self, url: &str, service: Option<String>) -> Result<Realm, Refused> {
        let registry = self.reference.0.registry();
        let wrong =
            |why: &str| Refused(format!("the registry {registry} sends for a token to `{}`: {why}", shorten(url, 200)));
        let parsed = Url::parse(url).map_err(|_| wrong("that is not a URL"))?;
        let Some(host) = parsed.host_str() else { return Err(wrong("that is not a URL with a host")) };
        if parsed.scheme() != "https" && !(self.reference.is_local() && parsed.scheme() == "http") {
            return Err(wrong("that is not https"));
        }
        let own = Url::parse(&format!("https://{}", self.host)).ok();
        let own = own.as_ref().and_then(Url::host_str) == Some(host);
        let hub = (self.host.as_str(), host) == DOCKER_HUB;
        if !own && !hub && !self.realms.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Err(wrong(&format!(
                "credentials go to the registry's own host only, unless `registry_realms = [\"{host}\"]` in the \
                 configuration says that they may go there"
            )));
        }
        Ok(Realm { url: parsed, service })
    }

    /// Asks for a token.
    async fn token(&self, realm: Realm) -> Result<HeaderValue, Refused> {
        let Realm { mut url, service } = realm;
        let (_, repository) = self.reference.repository();
        url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let mut request = self.client.get(url);
        if let RegistryAuth::Basic(user, password) = &self.credentials {
            request = request.basic_auth(user, Some(password));
        }
        let answer = request.send().await.map_err(|error| self.failed(&error))?;
        if !answer.status().is_success() {
            return Err(self.denied());
        }
        let read = self.read(answer, ANSWER_BYTES).await?.unwrap_or_default();
        // Some give it twice, under both names.
        let fields = serde_json::from_slice::<Map<String, Value>>(&read).unwrap_or_default();
        let token = fields.get("token").or(fields.get("access_token")).and_then(Value::as_str);
        let host = self.reference.0.registry();
        bearer(token.ok_or_else(|| Refused(format!("the registry {host} gave no token")))?)
    }

    fn denied(&self) -> Refused {
        let host = self.reference.0.registry();
        Refused(format!(
            "the registry {host} does not give it: `docker login {host}` stores credentials, and DOCKER_CONFIG names the \
             folder of another config.json"
        ))
    }

    fn failed(&self, error: &reqwest::Error) -> Refused {
        let host = self.reference.0.registry();
        match error.is_connect() || error.is_timeout() {
            true => Refused(format!("the registry {host} cannot be reached: {}", chain(error))),
            false => Refused(format!("the registry {host} does not give it: {}", chain(error))),
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Refused> {
    shown("Bearer", token)
}

fn shown(scheme: &str, secret: &str) -> Result<HeaderValue, Refused> {
    let header = HeaderValue::from_str(&format!("{scheme} {secret}"));
    let mut header = header.map_err(|_| Refused("the token for the registry is not valid in a header".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    shorten(&text, 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_realm_is_the_registrys_own_or_one_that_is_named() {
        let realms = ["gitlab.com".to_owned()];
        let asked = async |reference: &str, url: &str| {
            let reference: OciReference = reference.parse().unwrap();
            let registry = Registry::new(&reference, &realms).await.unwrap();
            registry.realm(url, None).map(|realm| realm.url.to_string()).map_err(|Refused(why)| why)
        };
        for (reference, url) in [
            ("oci://ghcr.io/x/y:1", "https://ghcr.io/token"),
            ("oci://registry.gitlab.com/x:1", "https://gitlab.com/jwt/auth"),
            ("oci://docker.io/library/x:1", "https://auth.docker.io/token"),
            ("oci://localhost:5000/x:1", "http://localhost:5001/token"),
        ] {
            assert_eq!(asked(reference, url).await.as_deref(), Ok(url));
        }
        for (reference, url, words) in [
            (
                "oci://ghcr.io/x/y:1",
                "https://ghcr.io.evil.example/token",
                "registry_realms = [\"ghcr.io.evil.example\"]",
            ),
            ("oci://ghcr.io/x/y:1", "https://ghcr.io@evil.example/token", "registry_realms"),
            ("oci://ghcr.io/x/y:1", "https://auth.docker.io/token", "registry_realms"),
            ("oci://ghcr.io/x/y:1", "http://ghcr.io/token", "not https"),
            ("oci://localhost:5000/x:1", "http://10.0.0.1/token", "registry_realms"),
            ("oci://ghcr.io/x/y:1", "/token", "not a URL"),
        ] {
            let why = asked(reference, url).await.unwrap_err();
            assert!(why.contains(words), "{url}: {why}");
        }
    }
}

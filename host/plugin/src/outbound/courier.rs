//! What the server itself sends to URLs that its principals name: webhooks.
//!
//! Such a URL leads to a public address, over `https`. Where it leads is looked at when it is named, and again whenever
//! something is sent: a name may lead elsewhere by then. Addresses in networks that the operator names are allowed as well,
//! and `http` to those alone. Redirects are not followed.

use std::{error::Error, time::Duration};

use futures::StreamExt as _;
use reqwest::{Client, Response, Url, header};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{NotAllowed, Reach, Resolver, client, literal};
use crate::{failure::shorten, grants::PrivateNetworks};

/// The longest URL, in bytes.
const URL_BYTES: usize = 2_048;
/// How many headers an answer may have.
const HEADERS: usize = 100;
/// How much of the body of an answer is read.
const ANSWER_BYTES: usize = 1_024;
/// How long a name may be looked for that somebody waits for.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends to URLs that principals name.
#[derive(Debug)]
pub struct Courier {
    /// Over `https`, to whatever may be reached.
    secure: Way,
    /// Over `http`, to networks of the operator.
    plain: Way,
}

#[derive(Debug)]
struct Way {
    reach: Reach,
    resolver: Resolver,
    client: Client,
}

/// The head of an answer, and how its body begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The header `retry-after`.
    pub retry_after: Option<String>,
    /// At most the first KiB of the body.
    pub beginning: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// The URL leads to where nothing may be sent.
    #[error("{0}")]
    Denied(WrongUrl),
    /// No connection.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// No whole head of an answer.
    #[error("no answer: {0}")]
    BrokenOff(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Why nothing is sent to a URL. In sentences for whoever has named it: whether a name is known here, and what is not
/// public, is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongUrl {
    /// It is not one, or too long.
    #[error("must be an absolute URL of at most {URL_BYTES} bytes")]
    NotUrl,
    /// It has a scheme that is not served.
    #[error("must begin with `https://`")]
    Scheme,
    /// It has a user or a password.
    #[error("must not have a user or a password")]
    Credentials,
    /// It leads nowhere, or to where nothing may be sent.
    #[error("must lead to a host with a public address, over `https`; the server's `webhook_private` allows others")]
    Address,
}

impl Courier {
    /// One that reaches public addresses and those in these networks.
    ///
    /// # Errors
    ///
    /// The system has no client.
    pub fn new(private: PrivateNetworks) -> Result<Self, String> {
        Self::resolving(private, Resolver::new)
    }

    fn resolving(private: PrivateNetworks, resolver: impl Fn(Reach) -> Resolver) -> Result<Self, String> {
        let way = |reach: Reach| -> Result<Way, String> {
            let resolver = resolver(reach.clone());
            Ok(Way { reach, client: client(resolver.clone(), HEADERS)?, resolver })
        };
        Ok(Self { secure: way(Reach::Public(private.clone()))?, plain: way(Reach::Within(private))? })
    }

    /// Whether a URL has the right form and, where it names an address, a right one.
    ///
    /// # Errors
    ///
    /// It has not.
    pub fn check_form(&self, url: &str) -> Result<(), WrongUrl> {
        self.way(url).map(drop)
    }

    /// Whether something may be sent to a URL, as its name leads now.
    ///
    /// # Errors
    ///
    /// It may not.
    pub async fn check(&self, url: &str) -> Result<(), WrongUrl> {
        let (way, url) = self.way(url)?;
        if literal(&url).is_some() {
            return Ok(());
        }
        let name = url.host_str().unwrap_or_default().to_owned();
        match timeout(LOOKUP_TIMEOUT, way.resolver.find(name)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(WrongUrl::Address),
        }
    }

    /// Sends a body with these headers, and reads the answer.
    ///
    /// # Errors
    ///
    /// There is no answer within `patience`.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
        patience: Duration,
    ) -> Result<Reply, NoReply> {
        let end = Instant::now() + patience;
        let (way, url) = self.way(url).map_err(NoReply::Denied)?;
        let request = way.client.post(url).header(header::CONTENT_TYPE, "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        match timeout_at(end, request.send()).await {
            Err(_) => Err(NoReply::Timeout(patience)),
            Ok(Err(error)) => Err(no_reply(&error)),
            Ok(Ok(response)) => {
                let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let (status, retry_after) = (response.status().as_u16(), retry_after.map(str::to_owned));
                Ok(Reply { status, retry_after, beginning: beginning(response, end).await })
            }
        }
    }

    fn way(&self, text: &str) -> Result<(&Way, Url), WrongUrl> {
        if text.len() > URL_BYTES {
            return Err(WrongUrl::NotUrl);
        }
        let mut url = Url::parse(text).map_err(|_| WrongUrl::NotUrl)?;
        let way = match url.scheme() {
            "https" => &self.secure,
            "http" => &self.plain,
            _ => return Err(WrongUrl::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WrongUrl::Credentials);
        }
        if !url.has_host() || literal(&url).is_some_and(|address| !way.reach.allows(address)) {
            return Err(WrongUrl::Address);
        }
        url.set_fragment(None);
        Ok((way, url))
    }
}

/// How the body of an answer begins, as far as it comes. The status has said what matters.
async fn beginning(response: Response, end: Instant) -> Vec<u8> {
    let (mut read, mut pieces) = (Vec::new(), response.bytes_stream());
    while read.len() < ANSWER_BYTES
        && let Ok(Some(Ok(piece))) = timeout_at(end, pieces.next()).await
    {
        read.extend_from_slice(&piece[..piece.len().min(ANSWER_BYTES - read.len())]);
    }
    read
}

fn no_reply(error: &reqwest::Error) -> NoReply {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
        if cause.is::<NotAllowed>() {
            return NoReply::Denied(WrongUrl::Address);
        }
    }
    let why = shorten(&cause.to_string(), 200);
    if error.is_connect() { NoReply::Unreachable(why) } else { NoReply::BrokenOff(why) }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures::future::BoxFuture;
    use tokio::net::TcpListener;

    use super::*;

    fn networks(json: &str) -> PrivateNetworks {
        serde_json::from_str(json).unwrap()
    }

    fn courier(private: &str) -> Courier {
        outlast_model::install_tls();
        Courier::new(networks(private)).unwrap()
    }

    #[tokio::test]
    async fn a_url_leads_to_a_public_address_over_https() {
        for (private, url, expected) in [
            ("false", "https://1.1.1.1/hook?a=b", Ok(())),
            ("false", "http://1.1.1.1/", Err(WrongUrl::Address)),
            ("false", "https://127.0.0.1/", Err(WrongUrl::Address)),
            ("false", "https://[::ffff:10.0.0.1]/", Err(WrongUrl::Address)),
            ("false", "https://169.254.169.254/latest/meta-data", Err(WrongUrl::Address)),
            ("false", "https://2130706433/", Err(WrongUrl::Address)),
            ("false", "https://localhost/", Err(WrongUrl::Address)),
            ("false", "https://nowhere.invalid/", Err(WrongUrl::Address)),
            ("false", "https://ann:secret@1.1.1.1/", Err(WrongUrl::Credentials)),
            ("false", "ftp://1.1.1.1/", Err(WrongUrl::Scheme)),
            ("false", "1.1.1.1/hook", Err(WrongUrl::NotUrl)),
            ("false", "", Err(WrongUrl::NotUrl)),
            ("[\"127.0.0.0/8\"]", "http://127.0.0.1:1/", Ok(())),
            ("[\"127.0.0.0/8\"]", "http://localhost:1/", Ok(())),
            ("[\"127.0.0.0/8\"]", "http://1.1.1.1/", Err(WrongUrl::Address)),
            ("[\"127.0.0.0/8\"]", "https://10.0.0.1/", Err(WrongUrl::Address)),
            ("true", "http://10.0.0.1/", Ok(())),
        ] {
            assert_eq!(courier(private).check(url).await, expected, "{private} {url}");
        }
        let long = format!("https://1.1.1.1/{}", "x".repeat(URL_BYTES));
        assert_eq!(courier("false").check(&long).await, Err(WrongUrl::NotUrl));
    }

    /// A name that is public when it is looked at, and this machine when something is sent.
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_later_is_not_followed() {
        outlast_model::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let lookup = move |_| -> BoxFuture<'static, io::Result<Vec<_>>> {
            let address = if counted.fetch_add(1, Ordering::SeqCst) == 0 { "1.1.1.1:0" } else { "127.0.0.1:0" };
            Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
        };
        let lookup = Arc::new(lookup);
        let courier =
            Courier::resolving(networks("false"), |reach| Resolver::looking_up(reach, lookup.clone())).unwrap();
        let url = format!("https://rebinding.test:{port}/");
        assert_eq!(courier.check(&url).await, Ok(()));
        let sent = courier.post(&url, &[], String::new(), Duration::from_secs(60));
        tokio::select! {
            sent = sent => assert_eq!(sent, Err(NoReply::Denied(WrongUrl::Address))),
            _ = listener.accept() => panic!("it was connected to"),
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}

//! The client that requests go through: it connects to the addresses that are allowed and to no others.
//!
//! A name is checked by the client's own resolver, so that the address that was checked is the one that is connected to. No
//! proxy is used, whatever the environment says: through one, no address could be checked.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::sync::Semaphore;

use crate::grants::PrivateNetworks;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept that nobody uses, and how many of them for each host.
const IDLE: (Duration, usize) = (Duration::from_secs(30), 4);
/// How many names a client may look up at once.
const SEARCHES: usize = 16;

/// Which addresses a client connects to.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// Public ones, and those in these networks.
    Public(PrivateNetworks),
    /// Only those in these networks.
    Within(PrivateNetworks),
}

impl Reach {
    pub fn allows(&self, address: IpAddr) -> bool {
        match self {
            Self::Public(networks) => networks.allow(address),
            Self::Within(networks) => networks.contain(address),
        }
    }
}

/// A client that follows no redirects. `headers` is how many an answer may have.
pub(super) fn client(resolver: Resolver, headers: usize) -> Result<Client, String> {
    let client = Client::builder()
        .dns_resolver(resolver)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Its limits are known, and every server speaks it.
        .http1_only()
        .http1_max_headers(headers)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE.0)
        .pool_max_idle_per_host(IDLE.1)
        .user_agent(concat!("outlast/", env!("CARGO_PKG_VERSION")));
    client.build().map_err(|error| format!("no client can be made: {error}"))
}

/// The address that a URL names, if it names one.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// What looks a name up.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Finds the addresses of names, and keeps those back that are not allowed.
#[derive(Clone)]
pub(super) struct Resolver {
    reach: Reach,
    lookup: Lookup,
    /// A search takes a thread until it ends, also when nobody waits for it any more.
    searches: Arc<Semaphore>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("reach", &self.reach).finish_non_exhaustive()
    }
}

/// A name has only addresses that are not allowed.
#[derive(Debug, thiserror::Error)]
#[error("it has no public address")]
pub(super) struct NotAllowed;

impl Resolver {
    /// With the system's way to look names up.
    pub fn new(reach: Reach) -> Self {
        let system = |name: String| -> BoxFuture<'static, _> {
            Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) })
        };
        Self::looking_up(reach, Arc::new(system))
    }

    pub fn looking_up(reach: Reach, lookup: Lookup) -> Self {
        Self { reach, lookup, searches: Arc::new(Semaphore::new(SEARCHES)) }
    }

    /// The allowed addresses of a name.
    pub async fn find(&self, name: String) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let place = self.searches.clone().acquire_owned().await?;
        let lookup = (self.lookup)(name);
        let search = tokio::spawn(async move {
            let found = lookup.await;
            drop(place);
            found
        });
        let mut found = search.await??;
        if found.is_empty() {
            return Err(io::Error::other("it has no address").into());
        }
        found.retain(|address| self.reach.allows(address.ip()));
        if found.is_empty() { Err(NotAllowed.into()) } else { Ok(found) }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found: Addrs = Box::new(resolver.find(name).await?.into_iter());
            Ok(found)
        })
    }
}

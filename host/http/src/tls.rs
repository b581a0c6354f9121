//! TLS: what the server proves its name with, and how connections begin with it.
//!
//! The certificate and its key are files, which whoever renews the certificate replaces. They are looked at again and again,
//! by what is in them: links that lead elsewhere, and file systems that tell of no change, make no difference. What cannot be
//! used leaves in place what was used before, and the log says so. A connection keeps the certificate that it began with.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use outlast_metrics::Metrics;
use parking_lot::Mutex;
use rustls::{
    Error, InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject as _},
    },
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

/// The pause between two looks at the files.
const LOOK: Duration = Duration::from_secs(5);
/// The largest file, in bytes.
const FILE: u64 = 1 << 20;
/// What a client may speak, best first: the names that TLS has for HTTP/2 and HTTP/1.1.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Where the certificate is, and its key. Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate, and behind it those that lead to one that clients know.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

/// What the server shows to prove its name.
#[derive(Debug)]
pub struct Certificates {
    files: TlsConfig,
    current: ArcSwap<ServerConfig>,
    looked: Mutex<Looked>,
    metrics: Arc<Metrics>,
}

/// What was found at the last look.
#[derive(Debug)]
struct Looked {
    /// What is used.
    used: [u8; 32],
    /// What cannot be.
    refused: Option<[u8; 32]>,
    /// Whether the log says so.
    told: bool,
}

/// What is in the files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// Which one cannot be read, and why.
    fn read(config: &TlsConfig) -> Result<Self, String> {
        Ok(Self { certificate: read("certificate", &config.certificate)?, key: read("key", &config.key)? })
    }

    fn digest(&self) -> [u8; 32] {
        let parts = [Sha256::digest(&self.certificate), Sha256::digest(&self.key)];
        Sha256::digest(parts.concat()).into()
    }
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// One of them cannot be read or used, or they do not belong together.
    pub fn open(files: TlsConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let found = Files::read(&files)?;
        let current = ArcSwap::from(made(&files, &found)?);
        let looked = Mutex::new(Looked { used: found.digest(), refused: None, told: false });
        Ok(Arc::new(Self { files, current, looked, metrics }))
    }

    /// Follows the files as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look(false).await;
        }
    }

    /// Looks at the files, and uses what is in them from now on. Somebody may be about to replace them one by one: what cannot
    /// be used is told when it is still there at the next look, or if somebody has `asked`.
    pub async fn look(self: &Arc<Self>, asked: bool) {
        let this = self.clone();
        let looking = tokio::task::spawn_blocking(move || this.look_now(asked));
        if let Err(error) = looking.await {
            error!(%error, "looking at the certificate");
        }
    }

    fn look_now(&self, asked: bool) {
        let mut looked = self.looked.lock();
        let found = Files::read(&self.files);
        let digest = found.as_ref().map_or_else(|why| Sha256::digest(why).into(), Files::digest);
        if digest == looked.used {
            (looked.refused, looked.told) = (None, false);
            if asked {
                info!("the certificate is the same as before");
            }
            return;
        }
        match found.and_then(|found| made(&self.files, &found)) {
            Ok(config) => {
                self.current.store(config);
                *looked = Looked { used: digest, refused: None, told: false };
                self.metrics.http.certificate_read(true);
                info!("the certificate was read again");
            }
            Err(why) => {
                let again = looked.refused == Some(digest);
                if asked || (again && !looked.told) {
                    self.metrics.http.certificate_read(false);
                    error!("the certificate stays as it was: {why}");
                    looked.told = true;
                } else if !again {
                    looked.told = false;
                }
                looked.refused = Some(digest);
            }
        }
    }

    /// What makes connections of those that begin now.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("tls.{key}: {} cannot be read: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    let mut bytes = Vec::new();
    file.take(FILE + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > FILE {
        return Err(cannot(&format_args!("it has more than {FILE} bytes")));
    }
    Ok(bytes)
}

/// What a connection is made with.
///
/// # Errors
///
/// What is wrong with the files, and what they should have.
fn made(config: &TlsConfig, files: &Files) -> Result<Arc<ServerConfig>, String> {
    let (certificate, key) = (config.certificate.display(), config.key.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files.certificate).collect();
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => {
            return Err(format!(
                "tls.certificate: {certificate} has no certificate. It must be PEM, which begins with `-----BEGIN \
                 CERTIFICATE-----`"
            ));
        }
        Err(error) => return Err(format!("tls.certificate: {certificate} is not PEM: {error}")),
    };
    let private = match PrivateKeyDer::from_pem_slice(&files.key) {
        Ok(private) => private,
        Err(PemError::NoItemsFound) => {
            return Err(format!(
                "tls.key: {key} has no private key. It must be PEM, which begins with `-----BEGIN PRIVATE KEY-----`, and \
                 not encrypted"
            ));
        }
        Err(error) => return Err(format!("tls.key: {key} is not PEM: {error}")),
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?;
    let mut made = builder.with_no_client_auth().with_single_cert(chain, private).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("tls.key: {key} is not the key of the first certificate in {certificate}")
        }
        Error::InvalidCertificate(why) => {
            format!("tls.certificate: {certificate} has a certificate that cannot be used: {why}")
        }
        other => format!("tls.key: {key} with {certificate} cannot be used: {other}"),
    })?;
    made.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(Arc::new(made))
}

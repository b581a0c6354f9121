//! Certificates, and clients that trust them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{scratch, wait};

/// The name in every certificate, with 127.0.0.1.
const NAME: &str = "localhost";

/// Somebody who makes certificates, and a folder with them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    /// A new one, in whose folder there are `ca.pem`, `cert.pem` and `key.pem`.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = scratch::dir("tls-");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        let authority = Self { issuer, dir };
        authority.renew();
        authority
    }

    /// A certificate and its key, in PEM.
    pub fn certify(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Replaces the certificate and its key by others.
    pub fn renew(&self) {
        let (certificate, key) = self.certify();
        std::fs::write(self.file("key.pem"), key).unwrap();
        std::fs::write(self.file("cert.pem"), certificate).unwrap();
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The line of the configuration.
    pub fn config(&self) -> String {
        config(&self.file("cert.pem"), &self.file("key.pem"))
    }

    /// A client that trusts it.
    pub fn client(&self) -> reqwest::Client {
        let _ = ring::default_provider().install_default();
        let trusted = reqwest::Certificate::from_der(self.issuer.der()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([trusted]).build().unwrap()
    }

    /// A connection to `127.0.0.1:PORT`, which offers these protocols. With `narrow`, with as small a buffer as the system
    /// allows.
    pub async fn connect(&self, address: &str, protocols: &[&[u8]], narrow: bool) -> TlsStream<tokio::net::TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpSocket::new_v4().unwrap();
        if narrow {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        let address: SocketAddr = address.parse().unwrap();
        let stream = socket.connect(address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        wait::within(wait::PATIENCE, "a TLS connection", connecting).await.unwrap()
    }

    /// The certificate that a server shows now.
    pub async fn shown(&self, address: &str) -> CertificateDer<'static> {
        let stream = self.connect(address, &[], false).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// The line of the configuration for these files.
pub fn config(certificate: &Path, key: &Path) -> String {
    format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}")
}

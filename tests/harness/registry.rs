//! A throw-away OCI registry from the system's `docker-registry`.
//!
//! Where it is not installed, the tests say so and end; in continuous integration that is a failure.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest},
    secrets::RegistryAuth,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    notice,
    process::{self, Signal},
    scratch, wait,
};

/// Who may use a registry that asks: the name and the password, and both as a line for the registry (bcrypt).
pub const USER: (&str, &str) = ("ann", "kept-secret");
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuugjrnmyST9hDU2VkExG3mV9hXnoLEHZW\n";

/// A registry. Ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Option<Child>,
    address: String,
    asks: bool,
    _dir: TempDir,
}

/// What is pushed.
#[derive(Clone, Debug)]
pub struct Push {
    /// The component, or whatever else.
    pub layers: Vec<Vec<u8>>,
    /// What it says it is.
    pub media_type: &'static str,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
}

impl Push {
    /// A component as `wkg oci push` pushes it.
    pub fn component(wasm: Vec<u8>) -> Self {
        Self { layers: vec![wasm], media_type: "application/wasm", annotations: BTreeMap::new() }
    }
}

impl Registry {
    /// A registry for everybody; none where `docker-registry` is not installed.
    pub fn start() -> Option<Self> {
        Self::started(false)
    }

    /// A registry that asks for [`USER`].
    pub fn asking() -> Option<Self> {
        Self::started(true)
    }

    fn started(asks: bool) -> Option<Self> {
        let program = notice::installed("docker-registry", "docker-registry", "nothing was fetched from a registry")?;
        let dir = scratch::dir("registry-");
        let (data, users, config) =
            (dir.path().join("data"), dir.path().join("htpasswd"), dir.path().join("config.yml"));
        let mut text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            data.display()
        );
        if asks {
            std::fs::write(&users, HTPASSWD).unwrap();
            text.push_str(&format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", users.display()));
        }
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = process::spawn(command, Signal::KILL).unwrap();
        let (stderr, log) = (child.stderr.take().unwrap(), Arc::<Mutex<String>>::default());
        let written = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = wait::eventually_blocking("the registry listens", || {
            let log = log.lock().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the registry ended with {status}:\n{log}");
            }
            let (_, rest) = log.split_once("listening on ")?;
            let end = rest.find(|character: char| !character.is_ascii_digit() && !".:".contains(character))?;
            Some(rest[..end].to_owned())
        });
        Some(Self { process: Some(child), address, asks, _dir: dir })
    }

    /// Its address, without a scheme.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes, and returns the reference with its digest.
    pub async fn push(&self, name: &str, push: Push) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let reference: Reference = format!("{}/{name}", self.address).parse().unwrap();
        let auth = match self.asks {
            true => RegistryAuth::Basic(USER.0.to_owned(), USER.1.to_owned()),
            false => RegistryAuth::Anonymous,
        };
        let layers: Vec<_> =
            push.layers.into_iter().map(|layer| ImageLayer::new(layer, push.media_type.to_owned(), None)).collect();
        let config = Config::new(b"{}".to_vec(), "application/vnd.wasm.config.v0+json".to_owned(), None);
        let annotations = (!push.annotations.is_empty()).then_some(push.annotations);
        let manifest = OciImageManifest::build(&layers, &config, annotations);
        client.push(&reference, &layers, config, &auth, Some(manifest)).await.unwrap();
        let (raw, _) = client.pull_manifest_raw(&reference, &auth, &[OCI_IMAGE_MEDIA_TYPE]).await.unwrap();
        format!("oci://{reference}@sha256:{}", hex::encode(Sha256::digest(&raw)))
    }

    /// Stops it. What it has is gone with it.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process::signal(&process, Signal::KILL);
            let _ = process.wait();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

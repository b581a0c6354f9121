//! Components in OCI registries: `oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]`.
//!
//! What is pulled is a Wasm OCI artifact, as `wkg oci push` and `oras push … x.wasm:application/wasm` make it: a manifest
//! with one layer, which is the component. The digest of a reference is that of the manifest, and the manifest has the
//! digest of the layer: both are compared, whatever the registry says. A signature, as `outlast plugin sign` makes it, is
//! the annotation [`SIGNATURE`] of the manifest.
//!
//! Credentials are those of `docker login`. [`pull`](super::pull) fetches.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::{
    Reference,
    manifest::{
        IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
        OciDescriptor, OciImageManifest,
    },
    secrets::RegistryAuth,
};

use crate::{refused::Refused, sandbox::PluginLimits};

/// The annotation of a manifest that is the signature of its component: what would be in the file `.sig`.
pub const SIGNATURE: &str = "outlast.signature";

const SCHEME: &str = "oci://";
pub(super) const SHA256: &str = "sha256:";
/// The media types of a component: that of today, and the one that older tools write.
const COMPONENTS: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];
/// What is asked for, and others, so that it can be said what is there in place of a component.
pub(super) const MANIFESTS: [&str; 4] =
    [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];
/// The largest manifest, in bytes: what registries allow.
pub(super) const MANIFEST_BYTES: usize = 4 << 20;

/// Where a component is in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciReference(pub(super) Reference);

/// How much of a registry is trusted.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// The largest component, in bytes: `limits.plugin_bytes`.
    pub bytes: usize,
    /// The longest that fetching one may take: `limits.plugin_fetch_timeout`.
    pub timeout: Duration,
    /// Hosts that may be asked for tokens beside the registry's own: `registry_realms`.
    pub realms: Vec<String>,
}

impl FetchLimits {
    /// Those of all plugins, and these hosts.
    pub fn new(limits: &PluginLimits, realms: Vec<String>) -> Self {
        Self { bytes: limits.plugin_bytes, timeout: limits.fetch_timeout, realms }
    }
}

/// A component that was fetched. Its digests are right.
#[derive(Debug)]
pub struct Artifact {
    /// Where it was, with its digest.
    pub reference: OciReference,
    /// Its manifest, byte for byte.
    pub manifest: Bytes,
    /// The component.
    pub wasm: Bytes,
    /// Its signature, if it has one.
    pub signature: Option<String>,
}

/// What a manifest says of its component.
pub(super) struct Content {
    pub(super) layer: OciDescriptor,
    /// Its sha256, hexadecimal.
    pub(super) sha256: String,
    pub(super) signature: Option<String>,
}

impl OciReference {
    /// Whether a text is meant as one.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The digest of its manifest: the 64 hexadecimal digits behind `sha256:`.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()?.strip_prefix(SHA256)
    }

    /// The registry and the repository in it.
    pub(super) fn repository(&self) -> (&str, &str) {
        (self.0.registry(), self.0.repository())
    }

    pub(super) fn is_local(&self) -> bool {
        let host = self.0.registry().rsplit_once(':').map_or(self.0.registry(), |(host, _)| host);
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl FromStr for OciReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:…]";
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| format!("`{text}` is not {form}"))?;
        // Without a host, the name would lead to Docker Hub.
        let host = rest.split_once('/').map(|(host, _)| host).unwrap_or_default();
        if host != "localhost" && !host.contains(['.', ':']) {
            return Err(format!("`{text}` names no registry; it must be {form}"));
        }
        let reference = Reference::from_str(rest).map_err(|error| format!("`{text}` is not {form}: {error}"))?;
        let fits = |digest: &str| {
            let hexadecimal = digest.strip_prefix(SHA256);
            hexadecimal.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        if let Some(digest) = reference.digest().filter(|digest| !fits(digest)) {
            return Err(format!("`{text}` is not {form}: `{digest}` is not {SHA256} and 64 hexadecimal digits"));
        }
        Ok(Self(reference))
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

/// What a manifest says of its component.
pub(super) fn content(manifest: &[u8]) -> Result<Content, Refused> {
    if manifest.len() > MANIFEST_BYTES {
        return Err(Refused(format!(
            "its manifest has {} bytes, and at most {MANIFEST_BYTES} are read",
            manifest.len()
        )));
    }
    let wrong = |error| Refused(format!("its manifest cannot be read: {error}"));
    let how = "`wkg oci push` and `oras push … x.wasm:application/wasm` make what is loaded";
    let value: serde_json::Value = serde_json::from_slice(manifest).map_err(wrong)?;
    if value.get("manifests").is_some() {
        return Err(Refused(format!(
            "it is a list of images for several platforms, and a component is one for all; {how}"
        )));
    }
    let manifest: OciImageManifest = serde_json::from_value(value).map_err(wrong)?;
    let layer = match &*manifest.layers {
        [layer] => layer.clone(),
        layers => {
            return Err(Refused(format!("it has {} layers, and a component is one; {how}", layers.len())));
        }
    };
    if !COMPONENTS.contains(&layer.media_type.as_str()) {
        return Err(Refused(format!("its layer is `{}`, not `{}`; {how}", layer.media_type, COMPONENTS[0])));
    }
    let sha256 = layer.digest.strip_prefix(SHA256).map(str::to_ascii_lowercase);
    let sha256 =
        sha256.ok_or_else(|| Refused(format!("the digest of its layer is `{}`, not a sha256", layer.digest)))?;
    let signature = manifest.annotations.and_then(|mut annotations| annotations.remove(SIGNATURE));
    Ok(Content { layer, sha256, signature })
}

/// Why a component of so many bytes is not loaded.
pub(super) fn too_large(bytes: u64, most: usize) -> Refused {
    Refused(format!("it has {bytes} bytes, and at most {most} are loaded (limits.plugin_bytes)"))
}

/// What `docker login` has left for a registry.
pub(super) async fn credentials(host: String) -> Result<RegistryAuth, Refused> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(RegistryAuth::Anonymous) };
    // A helper is a program that is waited for.
    let found = tokio::task::spawn_blocking(move || credentials_in(&path, &host)).await;
    found.map_err(|error| Refused(format!("looking for credentials failed: {error}")))?
}

fn credentials_in(path: &Path, host: &str) -> Result<RegistryAuth, Refused> {
    let cannot = |why: &dyn fmt::Display| {
        Refused(format!("the credentials for {host} in {} cannot be used: {why}", path.display()))
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        opened => opened.map_err(|error| cannot(&error))?,
    };
    // Docker Hub is known by its first address.
    let server = if host == "index.docker.io" { "https://index.docker.io/v1/" } else { host };
    match docker_credential::get_credential_from_reader(BufReader::new(file), server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // The words of all helpers for a registry that they do not know.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(RegistryAuth::Anonymous)
        }
        // What it printed may be a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => Err(cannot(&format!("`{helper}` failed"))),
        Err(error) => Err(cannot(&error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<OciReference, String> {
        text.parse()
    }

    #[test]
    fn a_reference_names_its_registry() {
        let digest = "0f".repeat(32);
        let whole = format!("oci://127.0.0.1:5000/team/shout:1.2@sha256:{digest}");
        let reference = parsed(&whole).unwrap();
        assert_eq!((reference.to_string(), reference.digest()), (whole, Some(&*digest)));
        assert!(reference.is_local() && parsed("oci://localhost:5000/x").unwrap().is_local());
        assert!(!parsed("oci://ghcr.io/x/y:1").unwrap().is_local());
        for (wrong, words) in [
            ("oci://shout:1", "names no registry"),
            ("oci://library/shout", "names no registry"),
            ("oci://ghcr.io/X", "is not oci://"),
            ("oci://ghcr.io/x@sha256:12", "is not oci://"),
            ("https://ghcr.io/x", "is not oci://"),
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_manifest_has_one_layer_that_is_a_component() {
        let manifest = |layers: serde_json::Value| {
            let config = json!({"mediaType": "application/vnd.wasm.config.v0+json", "digest": "sha256:00", "size": 2});
            let annotations = json!({"outlast.signature": "ed25519:x"});
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers, "annotations": annotations});
            content(manifest.to_string().as_bytes()).map_err(|Refused(why)| why)
        };
        let layer = |kind: &str| json!({"mediaType": kind, "digest": "sha256:AB", "size": 7});
        let Content { sha256, signature, .. } = manifest(json!([layer("application/wasm")])).unwrap();
        assert_eq!((&*sha256, signature.as_deref()), ("ab", Some("ed25519:x")));
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (layers, words) in [
            (json!([]), "0 layers"),
            (json!([layer("application/wasm"), layer("application/wasm")]), "2 layers"),
            (json!([layer(tar)]), tar),
        ] {
            let why = manifest(layers).err().unwrap();
            assert!(why.contains(words) && why.contains("wkg oci push"), "{why}");
        }
        let Refused(why) = content(br#"{"schemaVersion": 2, "manifests": []}"#).err().unwrap();
        assert!(why.contains("list of images"), "{why}");
    }

    #[test]
    fn credentials_are_those_of_docker_login() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let found = |host: &str| credentials_in(&path, host);
        assert_eq!(found("ghcr.io"), Ok(RegistryAuth::Anonymous), "nobody has logged in");
        let config = json!({
            "auths": {"ghcr.io": {"auth": "YW5uOmtlcHQ="}, "https://index.docker.io/v1/": {"auth": "Ym9iOmtlcHQ="}},
            "credHelpers": {"quay.io": "that-is-not-there"},
        });
        std::fs::write(&path, config.to_string()).unwrap();
        let basic = |user: &str| Ok(RegistryAuth::Basic(user.to_owned(), "kept".to_owned()));
        assert_eq!(found("ghcr.io"), basic("ann"));
        assert_eq!(found("index.docker.io"), basic("bob"));
        assert_eq!(found("registry.example.com"), Ok(RegistryAuth::Anonymous));
        let Refused(why) = found("quay.io").unwrap_err();
        assert!(why.contains("quay.io") && why.contains("config.json"), "{why}");
        std::fs::write(&path, "{").unwrap();
        assert!(found("ghcr.io").is_err());
    }
}

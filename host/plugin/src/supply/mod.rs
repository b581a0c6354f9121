//! Where plugins come from, and which of them serve.

mod fetched;
mod folder;
mod oci;
mod plugin;
mod pull;
mod registry;
mod rollback;
mod signature;
mod source;

pub use self::{
    fetched::{Fetched, put, remove},
    folder::{Change, Folder, FolderError, Serving, Trust, components, read_component},
    oci::{Artifact, FetchLimits, OciReference, SIGNATURE},
    plugin::Plugin,
    pull::pull,
    registry::Registry,
    rollback::PluginVersion,
    signature::{PublicKey, Signatures, SigningKey, read_signature, signature_path},
    source::{Source, one_or_many},
};

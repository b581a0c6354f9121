//! A component that a command is given: a file, or a reference to a registry.

use std::{io::IsTerminal as _, path::Path};

use bytesize::ByteSize;
use outlast_plugin::{Artifact, OciReference, SIGNATURE, pull};

use crate::{
    cli::output,
    local::{Examined, Local},
};

/// Reads a component, or fetches it, and looks at it. Where it comes from, with its digest, if that is a registry.
pub(super) async fn examine(component: &str, local: &Local) -> Result<(Examined, Option<OciReference>), String> {
    if !OciReference::is_meant(component) {
        let examined = local.examine(Path::new(component)).await.map_err(|why| why.to_string())?;
        return Ok((examined, None));
    }
    let reference: OciReference = component.parse()?;
    let size = |bytes| ByteSize::b(bytes).display().iec().to_string();
    let terminal = std::io::stderr().is_terminal();
    let limits = local.config().fetch_limits();
    let pulled = pull(&reference, &limits, |bytes, of| {
        if terminal {
            output::progress(format_args!("{} of {} ", size(bytes), size(of)));
        }
    });
    let pulled = pulled.await;
    if terminal {
        output::note_text(format_args!("\n"));
    }
    let Artifact { reference, wasm, signature, .. } = pulled.map_err(|why| why.to_string())?;
    let place = format!("annotation `{SIGNATURE}`");
    let examined = local.examine_bytes(component, wasm, (&place, signature)).await.map_err(|why| why.to_string())?;
    Ok((examined, Some(reference)))
}

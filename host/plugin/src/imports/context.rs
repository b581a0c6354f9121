//! The interface `context`: what surrounds this turn.

use crate::{
    bindings::context::Host,
    failure::Diverged,
    sandbox::{RunState, digest},
};

/// The history of a first turn.
const NOTHING: &str = "[]";

impl Host for RunState {
    async fn request(&mut self) -> wasmtime::Result<String> {
        Ok(self.active("context.request")?.request.clone())
    }

    async fn history(&mut self) -> wasmtime::Result<String> {
        const IMPORT: &str = "context.history";
        let history = self.active(IMPORT)?.history.clone();
        // It is kept elsewhere, and only has to be the same again. That there is none needs no entry.
        let (now, history) = self.aside(history.len(), move || (digest(&[history.as_bytes()]), history)).await;
        match self.replayed_if_next::<String>(IMPORT)? {
            Some(then) if then != now => {
                return Err(Diverged("has lost the history that it continues".to_owned()).into());
            }
            Some(_) => {}
            None if history == NOTHING => {}
            None => {
                // An error when something else comes next.
                self.replayed::<String>(IMPORT, "")?;
                self.record(IMPORT, String::new(), &now).await?;
            }
        }
        Ok(history)
    }

    async fn config(&mut self) -> wasmtime::Result<String> {
        const IMPORT: &str = "context.config";
        // The operator may say something else meanwhile.
        if let Some(then) = self.replayed(IMPORT, "")? {
            return Ok(then);
        }
        let config = self.active(IMPORT)?.granted()?.config.clone();
        self.record(IMPORT, String::new(), &config).await?;
        Ok(config)
    }

    async fn cancelled(&mut self) -> wasmtime::Result<bool> {
        // No entry: it is no until the run is cancelled, and a run that is cancelled is not executed again.
        Ok(self.active("context.cancelled")?.stop.is_cancelled())
    }
}

//! The keys can be exchanged while the server runs, and the certificate.
//!
//! SIGHUP makes the server read its configuration again, and take the keys that it has now: a key that is gone opens
//! nothing from then on, and what goes on for it ends. Nothing else of the configuration is taken over. One that is not right
//! changes nothing, and the log says why. The files of the certificate are read again too.

use std::{sync::Arc, time::Duration};

use outlast_http::{Certificates, Exchanged, Keys};
use outlast_metrics::Metrics;
use outlast_run::Manager;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use crate::config::{Config, ConfigError};

/// The longest until the keys are looked at whose time may be over. Clocks are set.
const LOOK: Duration = Duration::from_secs(60);

/// Reads the configuration again.
pub type Reread = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// What is exchanged.
pub(crate) struct Exchange {
    pub keys: Arc<Keys>,
    pub certificates: Option<Arc<Certificates>>,
    pub manager: Arc<Manager>,
    pub metrics: Arc<Metrics>,
    pub reread: Reread,
}

impl Exchange {
    /// Exchanges the keys each time that `hangup` is notified, and notifies `then` behind it. Ends what goes on for keys whose
    /// time is over.
    pub(crate) async fn follow(self, hangup: Arc<Notify>, then: Arc<Notify>) {
        loop {
            let next = self.keys.expire();
            tokio::select! {
                () = sleep_until(Instant::now() + next.unwrap_or(LOOK).min(LOOK)) => {}
                () = hangup.notified() => {
                    let exchanged = self.exchange().await;
                    self.metrics.http.keys_read(exchanged.is_ok());
                    match exchanged {
                        Ok(Exchanged { keys, new, gone }) => info!(keys, new, gone, "the keys were read again"),
                        Err(why) => error!("the keys are unchanged: {why}"),
                    }
                    if let Some(certificates) = &self.certificates {
                        certificates.look(true).await;
                    }
                    then.notify_one();
                }
            }
        }
    }

    async fn exchange(&self) -> Result<Exchanged, String> {
        let reread = self.reread.clone();
        let read = tokio::task::spawn_blocking(move || reread()).await.map_err(|error| error.to_string())?;
        let config = read.map_err(|error| format!("configuration: {error}"))?;
        let exchanged = self.keys.exchange(&config.keys)?;
        self.manager.share(config.shares());
        Ok(exchanged)
    }
}

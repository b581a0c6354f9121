//! After a stop in the middle: every run that was active goes on.
//!
//! A run whose process was killed is still active in the database. At the next start its ownership is taken over, and it
//! is executed again, by the component that it began with: its imports answer from its journal, and what it says is
//! compared with its events, until both are at their ends; then it is live. Its subscribers find the stream continued
//! from where it was. A run that sleeps is left asleep.
//!
//! A run that cannot be executed again ends as `failed`, with a message that says why, and holds up no other.

use std::{sync::Arc, time::Duration};

use outlast_protocol::ResponseId;
use outlast_store::{TakenOver, TakenRun};
use tracing::{info, warn};

use super::{
    Manager,
    ending::failed,
    life::{Begin, Later},
    probation,
    replay::{PAUSE, not_resumed},
    to_json,
};

/// How often a run is resumed without getting on before it is given up, unless it does no harm for a while in between.
const ATTEMPTS: i64 = 5;
/// How often in any case.
const CRASHES: i64 = 25;

/// Makes the runs go on that were taken over, and returns how many there are. When this returns, they can be found and
/// subscribed to; they are read and replayed behind it, each when there is a place for it.
pub fn resume(manager: &Arc<Manager>, TakenOver { runs, unreadable }: TakenOver) -> usize {
    let (resumed, now) = (runs.len(), manager.clock().milliseconds());
    let mut asleep = 0;
    let mut suspects = Vec::new();
    for taken in runs {
        let run = manager.adopt(&taken);
        let TakenRun { attempts, crashes, wake_at, .. } = taken;
        let begin = if attempts > ATTEMPTS || crashes > CRASHES {
            let times = if attempts > ATTEMPTS { ATTEMPTS } else { CRASHES };
            let why = format!("it was resumed {times} times without making progress");
            info!(response = %run.id, why, "this run is not resumed");
            Begin::Never(not_resumed(why))
        } else if let Some(wake_at) = wake_at.filter(|wake_at| *wake_at > now) {
            asleep += 1;
            let until = Duration::from_millis(wake_at.unsigned_abs());
            run.metrics.sleep();
            Begin::Later(Later { until, ..Later::default() })
        } else if attempts >= probation::SUSPICIOUS {
            suspects.push((run, attempts));
            continue;
        } else {
            Begin::Later(Later::default())
        };
        manager.live(run, begin, None, manager.token());
    }
    probation::let_in(manager, suspects);
    end_unreadable(manager, unreadable);
    if resumed > 0 {
        info!(runs = resumed, asleep, "resuming the runs that the last stop interrupted");
    }
    resumed
}

/// Ends runs whose rows cannot be read.
fn end_unreadable(manager: &Arc<Manager>, ids: Vec<ResponseId>) {
    for id in ids {
        let manager = manager.clone();
        tokio::spawn(async move {
            let message = "The run could not be resumed: what is stored of it is damaged.";
            let response = failed(&manager, &id, message).await;
            let (json, background) = (to_json(&response), response.background);
            let end =
                async || manager.store().end_unreadable(&id, &json, background, manager.clock().milliseconds()).await;
            while let Err(error) = end().await {
                warn!(response = %id, %error, "a run that cannot be read cannot be ended yet");
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

//! Delivers.
//!
//! One loop looks for deliveries whose time has come, claims them and lets each be tried by a task of its own: so many at
//! once to each endpoint, so that a slow one holds up itself alone. What came of a try is written before the endpoint's place
//! is free again. A delivery whose claim was cut off by a stop is tried again by the next start, with the same id.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use outlast_metrics::WebhookTry;
use outlast_plugin::{NoReply, Reply};
use outlast_runtime::clock::in_milliseconds;
use outlast_store::{Claim, Claimed, StoreError, Tried, TryOutcome};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Webhooks,
    schedule::{Failed, retry_after},
    secrets::Secrets,
    signature::signatures,
};

/// How many deliveries are being tried at once, to all endpoints together.
const TRIES: usize = 1_024;
/// How many are claimed at once.
const CLAIMED: usize = 64;
/// How long a claim holds beyond the time that an endpoint may take to answer: what came of the try must be written by then.
const CLAIM: Duration = Duration::from_secs(60);
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(60);
/// The pause while the database does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How long those that are being tried may take when the server stops.
const LAST_TRIES: Duration = Duration::from_secs(2);

/// How a try has ended.
struct Ended {
    what: WebhookTry,
    status: Option<u16>,
    error: Option<String>,
    answer: Option<String>,
    retry_after: Option<Duration>,
}

impl Webhooks {
    /// Delivers until `stop`.
    pub async fn deliver(self: Arc<Self>, stop: CancellationToken) {
        let mut tries = JoinSet::new();
        let mut freed = false;
        loop {
            let looked = match self.store.held().holds() {
                true => self.look(&mut tries, &mut freed).await,
                // Another server may be the owner.
                false => Ok(PAUSE),
            };
            let pause = looked.unwrap_or_else(|error| {
                match error.is_temporary() {
                    true => debug!(%error, "webhooks wait for the database"),
                    false => error!(%error, "webhooks cannot be delivered"),
                }
                PAUSE
            });
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.bell.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            while let Some(ended) = tries.try_join_next() {
                if let Err(error) = ended {
                    error!(%error, "the task of a delivery panicked");
                }
            }
        }
        let last = async { while tries.join_next().await.is_some() {} };
        if timeout(LAST_TRIES, last).await.is_err() {
            info!("leaving deliveries to webhooks to the next start");
        }
    }

    /// Begins whatever can be tried now. How long nothing else is to be done, unless something happens.
    async fn look(self: &Arc<Self>, tries: &mut JoinSet<()>, freed: &mut bool) -> Result<Duration, StoreError> {
        if !*freed {
            let count = self.store.free_claims(&self.name, self.now()).await?;
            if count > 0 {
                info!(deliveries = count, "deliveries to webhooks that the last stop cut off are tried again");
            }
            *freed = true;
        }
        loop {
            let (busy, now) = (self.busy.lock().clone(), self.now());
            let most = TRIES.saturating_sub(busy.values().sum()).min(CLAIMED);
            if most == 0 {
                return Ok(LOOK);
            }
            let hold = self.limits.timeout + CLAIM;
            let until = now.saturating_add(in_milliseconds(hold));
            let claim = Claim { by: &self.name, now, until, busy: &busy, each: self.limits.concurrency, most };
            match self.store.next_delivery(&claim).await? {
                None => return Ok(LOOK),
                Some(next) if next > now => {
                    return Ok(Duration::from_millis((next - now).unsigned_abs()).min(LOOK));
                }
                Some(_) => {}
            }
            let claimed = self.store.claim_deliveries(&claim).await?;
            if claimed.is_empty() {
                return Ok(PAUSE);
            }
            for delivery in claimed {
                let place = Place::take(self, &delivery.endpoint_id);
                let webhooks = self.clone();
                tries.spawn(async move {
                    let _place = place;
                    webhooks.attempt(&delivery, until).await;
                });
            }
        }
    }

    /// Tries a delivery, and writes what came of it.
    async fn attempt(&self, delivery: &Claimed, until: i64) {
        let start = Instant::now();
        let Ok(secrets) = self.opened(&delivery.endpoint_id, &delivery.principal, &delivery.secrets) else {
            let why = "the secret of the endpoint cannot be opened";
            self.metrics.tried(WebhookTry::Failed, start.elapsed());
            self.settle(delivery, until, &Ended::failed(WebhookTry::Failed, why)).await;
            return;
        };
        let body = delivery.payload.clone();
        // Nothing leaves a server that may have been replaced.
        let sent = self.store.held().gate(self.post(&delivery.url, &delivery.event_id, body, &secrets)).await;
        let ended = Ended::of(sent);
        self.metrics.tried(ended.what, start.elapsed());
        self.settle(delivery, until, &ended).await;
    }

    async fn settle(&self, delivery: &Claimed, until: i64, ended: &Ended) {
        let (at, gone) = (self.now(), ended.status == Some(410));
        let outcome = match ended.what {
            WebhookTry::Delivered => TryOutcome::Delivered,
            _ if gone => TryOutcome::Dead,
            _ => {
                let random = self.seal.random().map_or(0, u32::from_ne_bytes);
                let Claimed { attempts, queued_at, .. } = *delivery;
                let failed = Failed { at, attempts, queued_at, retry_after: ended.retry_after, random };
                failed.outcome(self.limits.retry_for)
            }
        };
        let tried = Tried {
            id: &delivery.id,
            by: &self.name,
            at,
            status: ended.status,
            error: ended.error.as_deref(),
            answer: ended.answer.as_deref(),
            outcome,
        };
        // Once the claim is over, somebody tries it again anyway.
        let settled = loop {
            match self.store.settle_delivery(&tried).await {
                Ok(settled) => break settled,
                Err(error) if self.now() < until => {
                    debug!(%error, "what came of a delivery cannot be written yet");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    warn!(%error, delivery = delivery.id, "what came of a delivery cannot be written; it is tried again");
                    return;
                }
            }
        };
        let (endpoint, event) = (&*delivery.endpoint_id, &*delivery.event_id);
        match outcome {
            TryOutcome::Delivered => debug!(endpoint, event, "delivered to a webhook"),
            TryOutcome::Again(_) => debug!(endpoint, event, error = ended.error, "a webhook is tried again"),
            TryOutcome::Dead => warn!(endpoint, event, error = ended.error, "a delivery to a webhook is given up"),
        }
        if settled && !matches!(outcome, TryOutcome::Again(_)) {
            self.metrics.ended(outcome == TryOutcome::Delivered);
        }
        if gone {
            match self.store.disable_webhook(&delivery.endpoint_id, at).await {
                Ok(true) => warn!(endpoint, "a webhook endpoint has answered 410 and is disabled"),
                Ok(false) => {}
                Err(error) => warn!(%error, endpoint, "a webhook endpoint has answered 410 and cannot be disabled now"),
            }
        }
    }

    /// Sends an event, signed as of now.
    pub(super) async fn post(&self, url: &str, event: &str, body: String, secrets: &Secrets) -> Result<Reply, NoReply> {
        let (now, seconds) = (self.now(), self.now() / 1_000);
        let headers = [
            ("webhook-id", event.to_owned()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signatures(secrets.keys(now), event, seconds, &body)),
        ];
        self.courier.post(url, &headers, body, self.limits.timeout).await
    }
}

impl Ended {
    fn of(sent: Result<Reply, NoReply>) -> Self {
        let reply = match sent {
            Ok(reply) => reply,
            Err(error) => {
                let what = match error {
                    NoReply::Denied(_) => WebhookTry::Denied,
                    NoReply::Timeout(_) => WebhookTry::Timeout,
                    NoReply::Unreachable(_) | NoReply::BrokenOff(_) => WebhookTry::Unreachable,
                };
                return Self::failed(what, &error.to_string());
            }
        };
        let Reply { status, retry_after: after, beginning } = reply;
        let delivered = (200..300).contains(&status);
        let error = match status {
            _ if delivered => None,
            300..400 => Some(format!("the answer is a redirect, {status}, which is not followed")),
            410 => Some("the answer is 410: the endpoint wants no more".to_owned()),
            _ => Some(format!("the answer is {status}")),
        };
        Self {
            what: if delivered { WebhookTry::Delivered } else { WebhookTry::Refused },
            status: Some(status),
            error,
            answer: Some(String::from_utf8_lossy(&beginning).into_owned()),
            retry_after: after.and_then(|after| retry_after(&after, SystemTime::now())),
        }
    }

    fn failed(what: WebhookTry, error: &str) -> Self {
        Self { what, status: None, error: Some(error.to_owned()), answer: None, retry_after: None }
    }
}

/// A place at an endpoint, until it is dropped.
struct Place {
    webhooks: Arc<Webhooks>,
    endpoint: String,
}

impl Place {
    fn take(webhooks: &Arc<Webhooks>, endpoint: &str) -> Self {
        *webhooks.busy.lock().entry(endpoint.to_owned()).or_default() += 1;
        Self { webhooks: webhooks.clone(), endpoint: endpoint.to_owned() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut busy = self.webhooks.busy.lock();
        if let Some(places) = busy.get_mut(&self.endpoint) {
            *places -= 1;
            if *places == 0 {
                busy.remove(&self.endpoint);
            }
        }
        drop(busy);
        // Somebody may wait for the place, or be due sooner than the next look.
        self.webhooks.bell.notify_one();
    }
}

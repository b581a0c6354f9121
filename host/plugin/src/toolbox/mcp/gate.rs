//! Where the calls of runs leave for an MCP server: behind the lease, however they get there.
//!
//! A connection is shared by all runs, and its messages are sent by tasks of their own. So the lease of the run that
//! calls is left here, under the key of the call, and is looked at where the message is sent. What belongs to the
//! connection itself, and not to a run, passes.

use std::{collections::HashMap, io, sync::Arc};

use outlast_runtime::lease::Lease;
use parking_lot::Mutex;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::{
    RoleClient,
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage, RequestMetaObject},
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::{
        TokioChildProcess, Transport,
        common::client_side_sse::BoxedSseResponse,
        streamable_http_client::{
            StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse, StreamableHttpResponseLimits,
        },
    },
};
use tokio_util::sync::CancellationToken;

/// Where a call has its key: in the `_meta` of its parameters.
pub(super) const KEY: &str = "outlast/idempotency-key";

/// The calls that wait for their answers, by their keys.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Mutex<HashMap<String, Open>>>);

#[derive(Clone)]
struct Open {
    lease: Lease,
    /// Nobody waits for the answer any more.
    given_up: CancellationToken,
}

/// A call that waits for its answer.
pub(super) struct Calling {
    gate: Gate,
    key: String,
}

impl Gate {
    /// A call begins.
    pub(super) fn begin(&self, key: &str, lease: &Lease) -> Calling {
        let open = Open { lease: lease.clone(), given_up: CancellationToken::new() };
        self.0.lock().insert(key.to_owned(), open);
        Calling { gate: self.clone(), key: key.to_owned() }
    }

    /// What is to be looked at before this message is sent; none when it is not the call of a run.
    fn of(&self, message: &ClientJsonRpcMessage) -> Option<Open> {
        let JsonRpcMessage::Request(request) = message else { return None };
        let ClientRequest::CallToolRequest(call) = &request.request else { return None };
        // Where it was put, or where it is when the message was read.
        let meta = [call.params.meta.as_ref(), call.extensions.get::<RequestMetaObject>()];
        let key = meta.into_iter().flatten().find_map(|meta| meta.0.get(KEY)?.as_str());
        let open = key.and_then(|key| self.0.lock().get(key).cloned());
        // A call whose caller is gone is not sent.
        Some(open.unwrap_or_else(|| {
            let given_up = CancellationToken::new();
            given_up.cancel();
            Open { lease: Lease::none(), given_up }
        }))
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(open) = self.gate.0.lock().remove(&self.key) {
            open.given_up.cancel();
        }
    }
}

impl Open {
    /// Sends while the lease holds; none when the call was abandoned before it was begun with.
    async fn pass<T>(open: Option<Self>, send: impl Future<Output = T>) -> Option<T> {
        let Some(Self { lease, given_up }) = open else { return Some(send.await) };
        given_up.run_until_cancelled(lease.held()).await?;
        Some(lease.gate(send).await)
    }
}

/// A client over HTTP whose calls pass the gate.
#[derive(Clone)]
pub(super) struct GatedClient {
    pub client: reqwest::Client,
    pub gate: Gate,
}

type Headers = HashMap<HeaderName, HeaderValue>;
type Posted = Result<StreamableHttpPostResponse, StreamableHttpError<reqwest::Error>>;
type Streamed = Result<BoxedSseResponse, StreamableHttpError<reqwest::Error>>;

impl StreamableHttpClient for GatedClient {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        authorization: Option<String>,
        headers: Headers,
    ) -> Posted {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, authorization, headers, limits).await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        authorization: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Posted {
        let open = self.gate.of(&message);
        let send = self.client.post_message_with_response_limits(uri, message, session, authorization, headers, limits);
        Open::pass(open, send).await.unwrap_or(Err(StreamableHttpError::TransportChannelClosed))
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        authorization: Option<String>,
        headers: Headers,
    ) -> Result<(), StreamableHttpError<reqwest::Error>> {
        self.client.delete_session(uri, session, authorization, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        authorization: Option<String>,
        headers: Headers,
    ) -> Streamed {
        self.client.get_stream(uri, session, last_event, authorization, headers).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        authorization: Option<String>,
        headers: Headers,
        most: usize,
    ) -> Streamed {
        self.client.get_stream_with_max_sse_event_size(uri, session, last_event, authorization, headers, most).await
    }
}

/// A child whose standard input the calls reach through the gate.
pub(super) struct GatedChild {
    pub child: TokioChildProcess,
    pub gate: Gate,
}

impl Transport<RoleClient> for GatedChild {
    type Error = io::Error;

    fn send(&mut self, message: TxJsonRpcMessage<RoleClient>) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let open = self.gate.of(&message);
        let send = self.child.send(message);
        async move { Open::pass(open, send).await.unwrap_or_else(|| Err(io::Error::other("the call was abandoned"))) }
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleClient>>> + Send {
        self.child.receive()
    }

    fn close(&mut self) -> impl Future<Output = io::Result<()>> + Send {
        self.child.close()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::poll;
    use rmcp::model::NumberOrString;
    use serde_json::{Value, json};

    use super::*;
    use outlast_runtime::lease::Moment;

    fn message(json: &Value) -> ClientJsonRpcMessage {
        serde_json::from_value(json.clone()).unwrap()
    }

    fn call(key: &str) -> ClientJsonRpcMessage {
        let params = json!({"name": "post", "arguments": {}, "_meta": {KEY: key}});
        message(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
    }

    #[tokio::test]
    async fn a_call_is_sent_while_the_lease_of_its_run_holds() {
        let (gate, lease) = (Gate::default(), Lease::none());
        let (_one, _other) = (gate.begin("a-1", &lease), gate.begin("b-1", &Lease::endless()));
        assert_eq!(Open::pass(gate.of(&call("b-1")), async { "sent" }).await, Some("sent"));
        let sent = AtomicBool::new(false);
        let mut send = std::pin::pin!(Open::pass(gate.of(&call("a-1")), async { sent.store(true, Ordering::Relaxed) }));
        assert!(poll!(send.as_mut()).is_pending() && !sent.load(Ordering::Relaxed));
        lease.renew(Moment::now(), std::time::Duration::from_secs(3_600));
        assert_eq!(send.await, Some(()));
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_before_it_left_is_not_sent() {
        let (gate, lease) = (Gate::default(), Lease::none());
        let calling = gate.begin("a-1", &lease);
        let mut send = std::pin::pin!(Open::pass(gate.of(&call("a-1")), async { "sent" }));
        assert!(poll!(send.as_mut()).is_pending());
        drop(calling);
        assert_eq!(send.await, None);
        assert_eq!(Open::pass(gate.of(&call("a-1")), async { "sent" }).await, None);
        assert!(gate.0.lock().is_empty());
    }

    #[tokio::test]
    async fn what_belongs_to_the_connection_passes() {
        let gate = Gate::default();
        for other in [
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
        ] {
            assert!(gate.of(&message(&other)).is_none(), "{other}");
        }
        assert!(matches!(call("a"), JsonRpcMessage::Request(request) if request.id == NumberOrString::Number(1)));
    }
}

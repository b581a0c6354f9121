//! The interface `http`: requests to where the operator allows.
//!
//! A request is in the journal: that it began, and what was answered, as soon as it is there. One that does more than
//! ask is not sent before its beginning is committed, so that there is no effect that the journal does not know. Of a
//! request that was in flight when the server stopped, nobody knows the effect: it is sent again, with the same key, if
//! that is safe, and ends as failure `interrupted` if it is not.

use std::sync::Arc;

use wasmtime::component::Resource;

use crate::{
    bindings::{
        handles::{OpenRequest, OpenTask},
        http::{Host, HostPending, Request, Response},
        types::{Failure, FailureKind},
    },
    failure::{cancelled, failure},
    outbound::{Access, Answer, CheckedRequest, invalid},
    sandbox::{RunState, TaskKind, digest},
};

const SEND: &str = "http.send";
const SENT: &str = "http.send.end";
const START: &str = "http.start";
const GET: &str = "http.pending.get";

impl Host for RunState {
    async fn send(&mut self, request: Request) -> wasmtime::Result<Result<Response, Failure>> {
        match self.begin_request(SEND, request).await? {
            Ok(number) => self.answered(SENT, number).await,
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn start(&mut self, request: Request) -> wasmtime::Result<Result<Resource<OpenRequest>, Failure>> {
        match self.begin_request(START, request).await? {
            Ok(number) => self.hold(OpenRequest { number, taken: false }).map(Ok),
            Err(failure) => Ok(Err(failure)),
        }
    }
}

impl HostPending for RunState {
    async fn task(&mut self, handle: Resource<OpenRequest>) -> wasmtime::Result<Resource<OpenTask>> {
        let number = self.table.get(&handle)?.number;
        let task = self.tasks.handle(number);
        self.hold(task)
    }

    async fn get(&mut self, handle: Resource<OpenRequest>) -> wasmtime::Result<Result<Response, Failure>> {
        let open = self.table.get_mut(&handle)?;
        if open.taken {
            return Ok(Err(invalid("already_taken", "The answer of this request was already received.")));
        }
        open.taken = true;
        let number = open.number;
        self.answered(GET, number).await
    }

    async fn drop(&mut self, handle: Resource<OpenRequest>) -> wasmtime::Result<()> {
        let OpenRequest { number, taken } = self.table.delete(handle)?;
        if !taken {
            self.tasks.give_up(number, &Err::<Answer, _>(given_up()));
        }
        Ok(())
    }
}

impl RunState {
    /// Begins a request, if it is one and allowed. Returns its number among the tasks of the run.
    async fn begin_request(&mut self, import: &str, request: Request) -> wasmtime::Result<Result<u64, Failure>> {
        let (arguments, request) = self.aside(size_of(&request), move || (digest_of(&request), request)).await;
        let number = self.tasks.number();
        let run = self.active(import)?;
        let (stop, access) = (run.stop.clone(), run.granted()?.http.clone());
        if let Some(begun) = self.replayed::<Result<(), Failure>>(import, &arguments)? {
            if let Err(failure) = begun {
                return Ok(Err(failure));
            }
            if !self.tasks.recall(number, TaskKind::Request) {
                // It was in flight when the server stopped.
                match CheckedRequest::read(request, &access.limits) {
                    Ok(request) if request.is_repeatable() => self.send_beside(import, number, access, request)?,
                    _ => {
                        access.metrics.interrupted.inc();
                        self.tasks.settle(number, TaskKind::Request, &Err::<Answer, _>(interrupted()));
                    }
                }
            }
            return Ok(Ok(number));
        }
        if stop.is_cancelled() {
            return Ok(Err(cancelled()));
        }
        let request = checked(request, &access, self.tasks.open(TaskKind::Request));
        if let Err(failure) = &request
            && failure.kind == FailureKind::Denied
        {
            access.metrics.denied.inc();
            self.log.note(tracing::Level::WARN, "http", &failure.message);
        }
        self.record(import, arguments, &request.as_ref().map(drop)).await?;
        match request {
            Ok(request) => {
                self.send_beside(import, number, access, request)?;
                Ok(Ok(number))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Sends a request beside the component.
    fn send_beside(
        &mut self,
        import: &str,
        number: u64,
        access: Arc<Access>,
        request: CheckedRequest,
    ) -> wasmtime::Result<()> {
        let run = self.active(import)?;
        let key = run.secret.key(number);
        let committed = (run.journaled && !request.only_asks()).then(|| run.port.committed());
        let (lease, log) = (run.lease.clone(), self.log.clone());
        self.tasks.begin(number, TaskKind::Request, async move {
            if let Some(committed) = committed {
                committed.await;
            }
            // With all its redirects.
            let answer = lease.gate(access.send(request, &key)).await;
            if let Err(failure) = &answer
                && failure.kind == FailureKind::Denied
            {
                log.note(tracing::Level::WARN, "http", &failure.message);
            }
            answer
        });
        Ok(())
    }

    /// Waits for the answer of a request.
    async fn answered(&mut self, import: &str, number: u64) -> wasmtime::Result<Result<Response, Failure>> {
        let answer = self.take_answer::<Result<Answer, Failure>>(import, number).await?;
        Ok(answer.and_then(|answer| answer).map(Response::from))
    }
}

/// A request that may be sent, beside so many that are open.
fn checked(request: Request, access: &Access, open: usize) -> Result<CheckedRequest, Failure> {
    let request = CheckedRequest::read(request, &access.limits)?;
    access.permit(&request.method, &request.url, &request.headers)?;
    let most = access.limits.requests;
    if open >= most {
        let message =
            format!("There are {open} requests whose answers were not received, the limit (limits.http_requests).");
        return Err(failure(FailureKind::Limit, "too_many_requests", message));
    }
    Ok(request)
}

/// What a request has in all, in bytes.
fn size_of(request: &Request) -> usize {
    let Request { method, url, headers, body, options } = request;
    let headers = headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>();
    method.len() + url.len() + headers + body.len() + options.as_ref().map_or(0, String::len)
}

/// The digest of a request.
fn digest_of(request: &Request) -> String {
    let Request { method, url, headers, body, options } = request;
    let mut arguments =
        vec![method.as_bytes(), url.as_bytes(), body, options.as_deref().unwrap_or_default().as_bytes()];
    for header in headers {
        arguments.extend([header.name.as_bytes(), header.value.as_bytes()]);
    }
    digest(&arguments)
}

/// What a component reads of a request that the server's stop has ended.
fn interrupted() -> Failure {
    let message = "The server was stopped while the request was in progress. Whether it took effect is unknown.";
    failure(FailureKind::Interrupted, "interrupted", message)
}

/// The answer of a request that the component gave up.
fn given_up() -> Failure {
    failure(FailureKind::Other, "given_up", "The component abandoned the request.")
}

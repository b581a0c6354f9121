//! The agent `approver` waits until someone approves what was asked, up to a day.
//!
//! `Buy three chairs` opens a request and waits. `approve resp_…` or `reject resp_…`, from the same principal, decides it. The
//! decision is in the agent's state, and the waiting run looks at it every minute. It sleeps in between, which takes no
//! instance, and a restart of the server does not disturb it.

use std::time::Duration;

use outlast_guest::{Agent, Failure, Outcome, Turn, Wants, respond, state, state::Scope::Principal, tasks};
use serde::{Deserialize, Serialize};

struct Approver;

outlast_guest::agent!(Approver);

const LOOK: Duration = Duration::from_secs(60);
const LOOKS: u32 = 24 * 60;

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Open,
    Approved,
    Rejected,
}

impl Agent for Approver {
    const NAME: &str = "approver";
    const ABOUT: &str = "Waits for an approval: `approve ID` or `reject ID` decides a request.";

    fn wants() -> Wants {
        Wants::new().state("64KiB").why("Keeps the requests that are open.")
    }

    fn run(turn: Turn) -> Result<Outcome, Failure> {
        let text = turn.user_text();
        match text.trim().split_once(' ') {
            Some(("approve", id)) => decide(id.trim(), Request::Approved),
            Some(("reject", id)) => decide(id.trim(), Request::Rejected),
            _ => wait(&turn.response_id, &text),
        }
    }
}

fn decide(id: &str, decision: Request) -> Result<Outcome, Failure> {
    // Of two decisions at the same time, the first one stands.
    let open = state::replace(Principal, id, Some(&Request::Open), Some(&decision))?;
    respond::text(if open { "Decided." } else { "There is no open request with this id." });
    Ok(Outcome::Completed)
}

fn wait(id: &str, text: &str) -> Result<Outcome, Failure> {
    state::set(Principal, id, &Request::Open)?;
    respond::text(&format!("Waiting for `approve {id}` or `reject {id}`.\n"));
    let decision = poll(id)?;
    state::delete(Principal, id)?;
    respond::text(&match decision {
        Request::Approved => format!("Approved: {text}"),
        Request::Rejected => format!("Rejected: {text}"),
        Request::Open => "No one decided within a day.".to_owned(),
    });
    Ok(Outcome::Completed)
}

/// The decision, or that the request is still open after a day.
fn poll(id: &str) -> Result<Request, Failure> {
    for _ in 0..LOOKS {
        tasks::sleep(LOOK)?;
        match state::get(Principal, id)? {
            None | Some(Request::Open) => {}
            Some(decision) => return Ok(decision),
        }
    }
    Ok(Request::Open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_guest::mock::Mock;

    #[test]
    fn a_request_is_open_for_a_day() {
        let run = Mock::new().input("Buy three chairs").run::<Approver>();
        assert_eq!(run.slept, Duration::from_secs(86_400));
        assert!(run.text().ends_with("No one decided within a day."), "{}", run.text());
    }

    #[test]
    fn what_was_decided_is_found() {
        let run = Mock::new().state(Principal, "resp_1", &Request::Rejected).call(|| poll("resp_1"));
        assert!(run.result == Ok(Request::Rejected) && run.slept == LOOK);
    }

    #[test]
    fn only_an_open_request_is_decided() {
        let said = |mock: Mock| mock.input("approve resp_1").run::<Approver>().text();
        assert_eq!(said(Mock::new().state(Principal, "resp_1", &Request::Open)), "Decided.");
        assert_eq!(said(Mock::new().state(Principal, "resp_1", &Request::Rejected)), said(Mock::new()));
    }
}

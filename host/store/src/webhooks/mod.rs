//! Who is told when responses end.
//!
//! - `endpoints`: who is told of what.
//! - `deliveries`: what is told, written with the end of a response; the log of it.
//! - `queue`: which delivery is tried next, by whom, and what came of it.

mod deliveries;
mod endpoints;
mod queue;

pub(super) use self::deliveries::write_for;
pub use self::{
    deliveries::{DeliveryFilter, DeliveryRow, DeliveryState},
    endpoints::WebhookRow,
    queue::{Claim, Claimed, Tried, TryOutcome},
};

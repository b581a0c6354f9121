//! The words of the Responses API: requests, responses, items, events, errors.
//!
//! Pure data. Nothing here reads a clock, draws a random number or does I/O, so everything here can be
//! tested by value. Shapes follow OpenAI's Responses API and the Open Responses specification (release
//! 2026-04-24); where the two differ, the type's documentation says what is sent and why.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod built_in;
mod check;
mod compaction;
mod conversation;
mod custom_input;
mod emission;
mod error;
mod event;
mod failed;
mod fold;
mod id;
mod idempotency;
mod input;
mod item;
mod parts;
mod request;
mod response;
mod schema;
mod status;
mod surrogates;
mod tokens;
mod tools;
mod webhook;
mod websocket;

pub use built_in::BuiltIn;
pub use check::RequestLimits;
pub use compaction::{
    AllOf, Compaction, compact_threshold, compaction_item, is_standing, is_user_message, not_sealed_here, read_compact,
    sealed_content, sealed_reasoning, summary_message, summary_request, unfold,
};
pub use conversation::{
    Conversation, ConversationId, CreateConversation, conversation_busy, conversation_not_found, parse_items,
    parse_metadata,
};
pub use custom_input::{CustomInput, INPUT};
pub use emission::{Emission, EmitError, Emitted, ItemIndex};
pub use error::{ApiError, ErrorBody, ErrorEnvelope, ErrorKind, shown_id};
pub use event::{Event, Frame, Segment, encode, frames, is_end, payloads, skip_frames, snapshot_frame};
pub use failed::StreamError;
pub use fold::{Fold, FoldError};
pub use id::ResponseId;
pub use idempotency::IdempotencyKey;
pub use input::{MAX_INPUT_ITEMS, check_calls, identify, is_half_call, references};
pub use item::{Content, Item, ItemStatus, SummaryPart};
pub use request::{CreateRequest, previous_not_found};
pub use response::{Deleted, IncompleteDetails, Response, ResponseError, Usage};
pub use schema::*;
pub use status::{ActiveStatus, Status, TerminalStatus};
pub use surrogates::half_characters;
pub use tokens::{input_tokens, tokens};
pub use tools::{ClientTool, ClientTools, ToolKind, brings_tools, callable, chosen, flat_name};
pub use webhook::{
    CreateWebhook, UpdateWebhook, WEBHOOK_EVENT_TYPES, WebhookEndpoint, WebhookEvent, check_event_types, event_id,
    is_id, parse_rotation, parse_webhook_test, read_runs, sample, webhook_id, webhook_not_found,
};
pub use websocket::{check_message, error_message, read_message};

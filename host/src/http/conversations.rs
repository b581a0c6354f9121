//! `/v1/conversations`.

use std::time::SystemTime;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, Principal, body, page::Page};
use crate::{
    protocol::{
        ApiError, Conversation, ConversationId, CreateConversation, ErrorKind, conversation_busy,
        conversation_not_found, identify, parse_items, parse_metadata,
    },
    run,
    store::{NewItem, Store, StoreError, Written},
};

/// `POST /v1/conversations`: makes a conversation.
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Json<Conversation>, ApiError> {
    let body = body::read_json(request, &api.limits).await?;
    let CreateConversation { metadata, mut items } = CreateConversation::parse(&body, &api.limits.request)?;
    let id = ConversationId::new(Uuid::now_v7());
    let created_at = run::milliseconds(SystemTime::now());
    let texts = with_ids(&mut items);
    let items = new_items(&texts);
    api.manager.store().create_conversation(&principal, &id, created_at, &metadata.to_string(), &items).await?;
    found(&api, &principal, &id).await
}

/// `GET /v1/conversations/{id}`
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Conversation>, ApiError> {
    found(&api, &principal, &parse(&id)?).await
}

/// `POST /v1/conversations/{id}`: replaces the metadata.
pub(super) async fn update(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Conversation>, ApiError> {
    let id = parse(&id)?;
    let body = body::read_json(request, &api.limits).await?;
    let metadata = parse_metadata(&body)?;
    api.manager.store().set_conversation_metadata(&principal, &id, &metadata.to_string()).await?;
    found(&api, &principal, &id).await
}

/// `DELETE /v1/conversations/{id}`: removes a conversation and its items. Its responses stay.
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if !api.manager.store().delete_conversation(&principal, &parse(&id)?).await? {
        return Err(conversation_not_found(&id));
    }
    Ok(Json(json!({"id": id, "object": "conversation.deleted", "deleted": true})))
}

/// `POST /v1/conversations/{id}/items`: adds items at the end.
pub(super) async fn create_items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let id = parse(&id)?;
    let body = body::read_json(request, &api.limits).await?;
    let mut items = parse_items(&body, &api.limits.request)?;
    let texts = with_ids(&mut items);
    match api.manager.store().add_items(&principal, &id, &new_items(&texts)).await? {
        Written::Yes => Ok(Json(Page::list(items, false))),
        refused => Err(not_written(&api, &principal, &id, refused).await?),
    }
}

/// `GET /v1/conversations/{id}/items`
pub(super) async fn items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let page = Page::parse(&query)?;
    let id = parse(&id)?;
    let store = api.manager.store();
    if store.conversation_head(&principal, &id).await?.is_none() {
        return Err(conversation_not_found(id.as_str()));
    }
    let after = position(store, &principal, &id, "after", page.after()).await?;
    let before = position(store, &principal, &id, "before", page.before()).await?;
    let items = store.items(&principal, &id, &page.range(after, before)).await?;
    let items = items.iter().map(|item| read(item)).collect::<Result<_, _>>()?;
    Ok(Json(page.of_range(items)))
}

/// `GET /v1/conversations/{id}/items/{item}`
pub(super) async fn item(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path((id, item)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    match api.manager.store().item(&principal, &parse(&id)?, &item).await? {
        Some((_, text)) => Ok(Json(read(&text)?)),
        None => Err(item_not_found(&item)),
    }
}

/// `DELETE /v1/conversations/{id}/items/{item}`: removes an item. The answer is the conversation.
pub(super) async fn delete_item(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path((id, item)): Path<(String, String)>,
) -> Result<Json<Conversation>, ApiError> {
    let id = parse(&id)?;
    match api.manager.store().delete_item(&principal, &id, &item).await? {
        Written::Yes => found(&api, &principal, &id).await,
        Written::NotFound if api.manager.store().conversation_head(&principal, &id).await?.is_some() => {
            Err(item_not_found(&item))
        }
        refused => Err(not_written(&api, &principal, &id, refused).await?),
    }
}

fn parse(id: &str) -> Result<ConversationId, ApiError> {
    ConversationId::parse(id).ok_or_else(|| conversation_not_found(id))
}

async fn found(api: &Api, principal: &str, id: &ConversationId) -> Result<Json<Conversation>, ApiError> {
    let conversation = api.manager.store().conversation(principal, id).await?;
    conversation.map(Json).ok_or_else(|| conversation_not_found(id.as_str()))
}

/// Gives every item an id and returns the ids and the items as JSON.
fn with_ids(items: &mut [Value]) -> Vec<(String, String)> {
    identify(items, |prefix, _| format!("{prefix}_{}", Uuid::now_v7().simple()));
    items.iter().map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item.to_string())).collect()
}

fn new_items(texts: &[(String, String)]) -> Vec<NewItem<'_>> {
    texts.iter().map(|(id, item)| NewItem { id, item }).collect()
}

async fn position(
    store: &Store,
    principal: &str,
    conversation: &ConversationId,
    param: &str,
    item: Option<&str>,
) -> Result<Option<i64>, ApiError> {
    let Some(id) = item else { return Ok(None) };
    match store.item(principal, conversation, id).await? {
        Some((position, _)) => Ok(Some(position)),
        None => Err(Page::unknown_cursor(param, id)),
    }
}

async fn not_written(
    api: &Api,
    principal: &str,
    id: &ConversationId,
    refused: Written,
) -> Result<ApiError, StoreError> {
    let head = api.manager.store().conversation_head(principal, id).await?;
    Ok(match (refused, head.and_then(|head| head.active)) {
        (Written::Guarded, Some(active)) => conversation_busy(id, &active),
        // It has ended meanwhile.
        (Written::Guarded, None) => run::Refusal::ConversationMoved.into(),
        _ => conversation_not_found(id.as_str()),
    })
}

fn item_not_found(id: &str) -> ApiError {
    let shown: String = id.chars().take(80).collect();
    ApiError::new(ErrorKind::NotFound, "item_not_found", format!("Item with id '{shown}' not found."))
}

fn read(item: &str) -> Result<Value, StoreError> {
    serde_json::from_str(item).map_err(|error| StoreError::Damaged(format!("a stored item: {error}")))
}

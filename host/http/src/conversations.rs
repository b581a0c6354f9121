//! `/v1/conversations`.

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State},
};
use outlast_protocol::{
    ApiError, Conversation, ConversationId, CreateConversation, CreateConversationShape, CreateItemsShape, Deleted,
    ErrorKind, StoredItem, UpdateConversationShape, conversation_busy, conversation_not_found, identify, parse_items,
    parse_metadata, shown_id,
};
use outlast_run::Refusal;
use outlast_runtime::clock::Clock;
use outlast_store::{NewItem, STORED_ROW, Store, StoreError, Written};
use serde_json::Value;

use super::{
    Api, Principal, body,
    error::Failure,
    page::{ItemList, Page, PageQuery},
};

/// Makes a conversation.
#[utoipa::path(
    post,
    path = "/v1/conversations",
    operation_id = "createConversation",
    tag = "Conversations",
    request_body = CreateConversationShape,
    responses(
        (status = 200, description = "The conversation.", body = Conversation),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    request: Request,
) -> Result<Json<Conversation>, Failure> {
    let body = body::read_json(request, &api).await?;
    let CreateConversation { metadata, mut items } =
        body.parse(|body| CreateConversation::parse(body, &api.limits.request())).await?;
    let id = ConversationId::new(api.manager.clock().id());
    let texts = with_ids(api.manager.clock(), &mut items);
    let items = new_items(&texts);
    let metadata = metadata.to_string();
    api.manager.reserve(&principal, metadata.len() + size(&texts)).await?;
    api.manager
        .store()
        .create_conversation(&principal, &id, api.manager.clock().milliseconds(), &metadata, &items)
        .await?;
    found(&api, &principal, &id).await
}

/// Shows a conversation.
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}",
    operation_id = "getConversation",
    tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id or name.")),
    responses(
        (status = 200, description = "The conversation.", body = Conversation),
        (status = 404, description = "`conversation_not_found`"),
    ),
)]
pub(super) async fn retrieve(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Conversation>, Failure> {
    found(&api, &principal, &parse(&id)?).await
}

/// Replaces the metadata of a conversation.
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}",
    operation_id = "updateConversation",
    tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id or name.")),
    request_body = UpdateConversationShape,
    responses(
        (status = 200, description = "The conversation.", body = Conversation),
        (status = 404, description = "`conversation_not_found`"),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Conversation>, Failure> {
    let id = parse(&id)?;
    let body = body::read_json(request, &api).await?;
    let metadata = body.parse(parse_metadata).await?.to_string();
    api.manager.reserve(&principal, metadata.len()).await?;
    api.manager
        .store()
        .set_conversation_metadata(&principal, &id, &metadata, api.manager.clock().milliseconds())
        .await?;
    found(&api, &principal, &id).await
}

/// Removes a conversation and its items.
///
/// Its responses stay.
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}",
    operation_id = "deleteConversation",
    tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id or name.")),
    responses(
        (status = 200, description = "It is removed.", body = Deleted),
        (status = 404, description = "`conversation_not_found`"),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, Failure> {
    if !api.manager.delete_conversation(&principal, &parse(&id)?).await? {
        return Err(conversation_not_found(&id).into());
    }
    Ok(Json(Deleted::new(id, "conversation.deleted")))
}

/// Adds items at the end of a conversation.
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}/items",
    operation_id = "createItems",
    tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id or name.")),
    request_body = CreateItemsShape,
    responses(
        (status = 200, description = "The items that were added.", body = ItemList),
        (status = 404, description = "`conversation_not_found`"),
        (
            status = 409,
            description = "`conversation_response_not_completed`, `conversation_changed`: `response_id` names the \
                           response in progress.",
        ),
    ),
)]
pub(super) async fn create_items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<ItemList>, Failure> {
    let id = parse(&id)?;
    let body = body::read_json(request, &api).await?;
    let mut items = body.parse(|body| parse_items(body, &api.limits.request())).await?;
    let texts = with_ids(api.manager.clock(), &mut items);
    api.manager.reserve(&principal, size(&texts)).await?;
    match api.manager.store().add_items(&principal, &id, &new_items(&texts), api.manager.clock().milliseconds()).await?
    {
        Written::Yes => Ok(Json(Page::list(items, false))),
        refused => Err((not_written(&api, &principal, &id, refused).await?).into()),
    }
}

/// Lists the items of a conversation.
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/items",
    operation_id = "listItems",
    tag = "Conversations",
    params(("id" = String, Path, description = "The conversation's id or name."), PageQuery),
    responses(
        (status = 200, description = "A page of items.", body = ItemList),
        (status = 404, description = "`conversation_not_found`"),
    ),
)]
pub(super) async fn items(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<ItemList>, Failure> {
    let page = Page::parse(&query)?;
    let id = parse(&id)?;
    let store = api.manager.store();
    if store.conversation_head(&principal, &id).await?.is_none() {
        return Err(conversation_not_found(id.as_str()).into());
    }
    let after = position(store, &principal, &id, "after", page.after()).await?;
    let before = position(store, &principal, &id, "before", page.before()).await?;
    let items = store.items(&principal, &id, &page.range(after, before)).await?;
    let items = items.iter().map(|item| read(item)).collect::<Result<_, _>>()?;
    Ok(Json(page.of_range(items)))
}

/// Shows an item of a conversation.
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}/items/{item}",
    operation_id = "getItem",
    tag = "Conversations",
    params(
        ("id" = String, Path, description = "The conversation's id or name."),
        ("item" = String, Path, description = "The item's id."),
    ),
    responses(
        (status = 200, description = "The item.", body = StoredItem),
        (status = 404, description = "`conversation_not_found`, `item_not_found`"),
    ),
)]
pub(super) async fn item(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path((id, item)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    match api.manager.store().item(&principal, &parse(&id)?, &item).await? {
        Some((_, text)) => Ok(Json(read(&text)?)),
        None => Err(item_not_found(&item).into()),
    }
}

/// Removes an item from a conversation.
///
/// The answer is the conversation.
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}/items/{item}",
    operation_id = "deleteItem",
    tag = "Conversations",
    params(
        ("id" = String, Path, description = "The conversation's id or name."),
        ("item" = String, Path, description = "The item's id."),
    ),
    responses(
        (status = 200, description = "The conversation, without the item.", body = Conversation),
        (status = 404, description = "`conversation_not_found`, `item_not_found`"),
        (
            status = 409,
            description = "`conversation_response_not_completed`, `conversation_changed`: `response_id` names the \
                           response in progress.",
        ),
    ),
)]
pub(super) async fn delete_item(
    State(api): State<Api>,
    Extension(Principal(principal)): Extension<Principal>,
    Path((id, item)): Path<(String, String)>,
) -> Result<Json<Conversation>, Failure> {
    let id = parse(&id)?;
    match api.manager.store().delete_item(&principal, &id, &item, api.manager.clock().milliseconds()).await? {
        Written::Yes => found(&api, &principal, &id).await,
        Written::NotFound if api.manager.store().conversation_head(&principal, &id).await?.is_some() => {
            Err(item_not_found(&item).into())
        }
        refused => Err((not_written(&api, &principal, &id, refused).await?).into()),
    }
}

fn parse(id: &str) -> Result<ConversationId, ApiError> {
    ConversationId::parse(id).ok_or_else(|| conversation_not_found(id))
}

async fn found(api: &Api, principal: &str, id: &ConversationId) -> Result<Json<Conversation>, Failure> {
    let conversation = api.manager.store().conversation(principal, id).await?;
    Ok(Json(conversation.ok_or_else(|| conversation_not_found(id.as_str()))?))
}

/// Gives every item an id and returns the ids and the items as JSON.
fn with_ids(clock: &Clock, items: &mut [Value]) -> Vec<(String, String)> {
    identify(items, |prefix, _| format!("{prefix}_{}", clock.id().simple()));
    items.iter().map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item.to_string())).collect()
}

/// How much the ids and items are that are added, as the quota counts them.
fn size(texts: &[(String, String)]) -> usize {
    texts.iter().map(|(_, item)| item.len() + STORED_ROW as usize).sum()
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
        (Written::Guarded, None) => Refusal::ConversationMoved.into(),
        _ => conversation_not_found(id.as_str()),
    })
}

fn item_not_found(id: &str) -> ApiError {
    let shown = shown_id(id);
    ApiError::new(ErrorKind::NotFound, "item_not_found", format!("Item with id '{shown}' not found."))
}

fn read(item: &str) -> Result<Value, StoreError> {
    serde_json::from_str(item).map_err(|error| StoreError::Damaged(format!("a stored item: {error}")))
}

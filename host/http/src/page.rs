//! Pages of a list: `limit`, `order`, `after`, `before`.

use outlast_protocol::{ApiError, StoredItem, shown_id};
use outlast_store::ItemRange;
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::query::{get, number};

/// A page of a list of items.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemList {
    /// Always `list`.
    object: &'static str,
    /// The items.
    #[schema(value_type = Vec<StoredItem>)]
    data: Vec<Value>,
    /// The id of the first one.
    #[schema(required)]
    first_id: Option<String>,
    /// The id of the last one.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether the list continues after this page.
    has_more: bool,
}

/// The query that asks for a page, as it is described; [`Page::parse`] reads it.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)]
pub(super) struct PageQuery {
    /// How many items. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// `asc`, oldest first, or `desc`, newest first. Default: `desc`.
    #[param(inline)]
    order: Option<Order>,
    /// Only what follows the item with this id, in the order of the list.
    after: Option<String>,
    /// Only what precedes the item with this id, in the order of the list.
    before: Option<String>,
}

/// The order of a list.
#[derive(Debug, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)]
enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// How many a page of a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(usize);

impl Limit {
    /// Reads the query: `limit` 1 to 100 (20).
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, ApiError> {
        let limit = number(query, "limit", 20, 1..=100)?;
        Ok(Self(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// How many to ask the store for: one more than the page has, to see whether there are more.
    pub(super) fn asked(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The page, of what was [asked](Self::asked) for, and whether the list continues after it.
    pub(super) fn cut<T>(self, mut rows: Vec<T>) -> (Vec<T>, bool) {
        let has_more = rows.len() > self.0;
        rows.truncate(self.0);
        (rows, has_more)
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    limit: Limit,
    ascending: bool,
    after: Option<String>,
    before: Option<String>,
}

impl Page {
    /// Reads the query: `limit` 1 to 100 (20), `order` `asc` or `desc` (`desc`), `after` and `before` an item's id.
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, ApiError> {
        let limit = Limit::parse(query)?;
        let ascending = match get(query, "order") {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(ApiError::invalid("order", "invalid_value", "'order' must be 'asc' or 'desc'.")),
        };
        let cursor = |name| get(query, name).map(str::to_owned);
        Ok(Self { limit, ascending, after: cursor("after"), before: cursor("before") })
    }

    /// This page of `items`, which are in ascending order.
    ///
    /// # Errors
    ///
    /// `after` or `before` is not the id of one of them.
    pub(super) fn of(&self, mut items: Vec<Value>) -> Result<ItemList, ApiError> {
        if !self.ascending {
            items.reverse();
        }
        let place = |param: &str, id: &Option<String>| match id {
            None => Ok(None),
            Some(id) => {
                let place = items.iter().position(|item| item["id"] == **id);
                place.map(Some).ok_or_else(|| Self::unknown_cursor(param, id))
            }
        };
        let start = place("after", &self.after)?.map_or(0, |place| place + 1);
        let end = place("before", &self.before)?.unwrap_or(items.len()).max(start);
        let has_more = end - start > self.limit.0;
        // With only `before`, the page is the one that ends there.
        let range = if self.after.is_none() && self.before.is_some() {
            end.saturating_sub(self.limit.0).max(start)..end
        } else {
            start..end.min(start + self.limit.0)
        };
        Ok(Self::list(items.drain(range).collect(), has_more))
    }

    /// The id of the item that the page comes after.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The id of the item that the page comes before.
    pub(super) fn before(&self) -> Option<&str> {
        self.before.as_deref()
    }

    /// What to ask the store for, when the cursors stand at these positions. With only `before`, the page is the one that
    /// ends there, so it is read backwards.
    pub(super) fn range(&self, after: Option<i64>, before: Option<i64>) -> ItemRange {
        let limit = self.limit.asked();
        if self.backwards() {
            return ItemRange { ascending: !self.ascending, after: before, before: None, limit };
        }
        ItemRange { ascending: self.ascending, after, before, limit }
    }

    /// This page of what the store has for [`range`](Self::range).
    pub(super) fn of_range(&self, items: Vec<Value>) -> ItemList {
        let (mut items, has_more) = self.limit.cut(items);
        if self.backwards() {
            items.reverse();
        }
        Self::list(items, has_more)
    }

    fn backwards(&self) -> bool {
        self.after.is_none() && self.before.is_some()
    }

    /// The list object.
    pub(super) fn list(data: Vec<Value>, has_more: bool) -> ItemList {
        let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        ItemList { object: "list", data, first_id, last_id, has_more }
    }

    /// A 400 for a cursor that names nothing in the list.
    pub(super) fn unknown_cursor(param: &str, id: &str) -> ApiError {
        let shown = shown_id(id);
        ApiError::invalid(param, "invalid_value", format!("'{param}': there is no item with id '{shown}'."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(query: &[(&str, &str)]) -> Result<(Vec<String>, bool), ApiError> {
        let query: Vec<_> = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let items = (1..=5).map(|number| json!({"id": format!("i{number}")})).collect();
        let page = Page::parse(&query)?.of(items)?;
        let ids = page.data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        Ok((ids, page.has_more))
    }

    #[test]
    fn pages_follow_each_other_in_both_orders() {
        assert_eq!(page(&[("limit", "2")]).unwrap(), (vec!["i5".to_owned(), "i4".to_owned()], true));
        assert_eq!(page(&[("limit", "2"), ("after", "i2")]).unwrap(), (vec!["i1".to_owned()], false));
        let ascending = page(&[("order", "asc"), ("limit", "2"), ("after", "i2")]).unwrap();
        assert_eq!(ascending, (vec!["i3".to_owned(), "i4".to_owned()], true));
        let before = page(&[("order", "asc"), ("limit", "2"), ("before", "i4")]).unwrap();
        assert_eq!(before, (vec!["i2".to_owned(), "i3".to_owned()], true));
    }

    #[test]
    fn what_is_no_page_is_named() {
        for (query, param) in [
            (("limit", "0"), "limit"),
            (("limit", "101"), "limit"),
            (("limit", "x"), "limit"),
            (("order", "up"), "order"),
            (("after", "i9"), "after"),
            (("before", "i9"), "before"),
        ] {
            assert_eq!(page(&[query]).unwrap_err().param.as_deref(), Some(param));
        }
    }
}

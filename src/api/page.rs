//! Lists in pages.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::Error;

/// Holds the cursor of the next page, when there is one.
const NEXT: HeaderName = HeaderName::from_static("x-narvana-next-cursor");
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Entries at most, from 1 to 1000; 100 when absent.
    pub(super) limit: Option<usize>,
    /// Where to go on: the header `X-Narvana-Next-Cursor` of the page before.
    pub(super) cursor: Option<String>,
}

/// A part of a list: a JSON array, and the next cursor in a header.
pub(super) struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// In which order a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Ids grow.
    OldestFirst,
    /// Ids shrink.
    NewestFirst,
}

/// `limit` as a number within its bounds.
pub(super) fn limit(limit: Option<usize>) -> Result<usize, Error> {
    match limit {
        None => Ok(LIMIT_DEFAULT),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(other) => Err(Error::field("limit", format!("must be from 1 to {LIMIT_MAX}, got {other}"))),
    }
}

impl PageQuery {
    /// Cuts the wanted page out of a list that is ordered by id. The cursor is the id of the last entry before, which
    /// need not exist any more.
    pub(super) fn cut<S, T, I>(
        &self,
        order: Order,
        list: impl Iterator<Item = S>,
        id: impl Fn(&S) -> I,
        show: impl Fn(S) -> T,
    ) -> Result<Page<T>, Error>
    where
        I: Ord + Display + FromStr,
    {
        let limit = limit(self.limit)?;
        let bad = |_| Error::field("cursor", "is not one that a list of this kind has given");
        let after = self.cursor.as_deref().map(|cursor| cursor.parse::<I>().map_err(bad)).transpose()?;
        let beyond = |row: &S| match (&after, order) {
            (None, _) => true,
            (Some(after), Order::OldestFirst) => id(row) > *after,
            (Some(after), Order::NewestFirst) => id(row) < *after,
        };
        let mut rows: Vec<S> = list.filter(beyond).take(limit + 1).collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| id(row).to_string());
        Ok(Page { items: rows.into_iter().map(show).collect(), next })
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        if let Some(cursor) = self.next.and_then(|next| HeaderValue::from_str(&next).ok()) {
            response.headers_mut().insert(NEXT, cursor);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(order: Order, list: &[u32], limit: usize) -> Vec<Vec<u32>> {
        let mut query = PageQuery { limit: Some(limit), cursor: None };
        let mut pages = Vec::new();
        loop {
            let page = query.cut(order, list.iter().copied(), |n| *n, |n| n).expect("valid");
            pages.push(page.items);
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_are_the_list() {
        assert_eq!(pages(Order::OldestFirst, &[1, 2, 3, 4, 5], 2), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(pages(Order::NewestFirst, &[5, 4, 3, 2], 2), [vec![5, 4], vec![3, 2]]);
        assert_eq!(pages(Order::OldestFirst, &[], 2), [Vec::<u32>::new()]);
    }

    #[test]
    fn a_cursor_survives_its_entry() {
        let query = PageQuery { limit: None, cursor: Some("3".to_owned()) };
        let page = query.cut(Order::OldestFirst, [1, 2, 4].into_iter(), |n: &u32| *n, |n| n).expect("valid");
        assert_eq!(page.items, [4]);
    }

    #[test]
    fn bounds() {
        for limit in [0, 1_001] {
            assert!(super::limit(Some(limit)).is_err());
        }
        let query = PageQuery { limit: None, cursor: Some("x".to_owned()) };
        assert!(query.cut(Order::OldestFirst, [1].into_iter(), |n: &u32| *n, |n| n).is_err());
    }
}

//! How much the bytes of a request may become: lists of so many elements, and no list of operations within another.
//!
//! A few bytes a level would else nest lists until the stack is used up, and two bytes an element become fifty in memory,
//! before anybody has looked at the request. What is in the log was let through, and is read as it is.

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// What is being decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Something else than a request.
    Anything,
    /// A request.
    Request,
    /// A list of operations of a request.
    List,
}

thread_local! {
    /// Decoding is one call, so this is about the innermost thing that is decoded on this thread.
    static WITHIN: Cell<Within> = const { Cell::new(Within::Anything) };
}

/// Ends with what is decoded, also if that fails.
struct Until {
    before: Within,
}

impl Drop for Until {
    fn drop(&mut self) {
        WITHIN.set(self.before);
    }
}

fn enter(now: Within) -> Until {
    Until {
        before: WITHIN.replace(now),
    }
}

/// For the body of a request: the bounds hold in it.
pub(super) fn of_message<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    let _until = enter(Within::Request);
    T::deserialize(from)
}

/// For a field of a request with at most `MAX` elements.
pub(super) fn at_most<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    match WITHIN.get() {
        Within::Anything => Vec::deserialize(from),
        Within::Request | Within::List => from.deserialize_seq(AtMost::<T, MAX>(PhantomData)),
    }
}

/// For a list of operations, or of their replies, of which none is such a list: at most `MAX`.
pub(super) fn flat<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    match WITHIN.get() {
        Within::Anything => Vec::deserialize(from),
        Within::List => Err(D::Error::custom("a list can not be in a list")),
        Within::Request => {
            let _until = enter(Within::List);
            from.deserialize_seq(AtMost::<T, MAX>(PhantomData))
        }
    }
}

struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        if let Some(len) = elements.size_hint()
            && len > MAX
        {
            return Err(A::Error::invalid_length(len, &self));
        }
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

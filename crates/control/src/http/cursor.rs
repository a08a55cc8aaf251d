//! Cursors: where the next page of a list begins, opaque to whoever carries one. A cursor of another list, or one that
//! was not made here, is refused.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hostler_model::{Code, Refusal, api::Page};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How many bytes guard against a cursor that was mistyped or belongs elsewhere. Not a secret: a cursor grants nothing.
const GUARD: usize = 6;

/// Which list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    /// Of tasks.
    Tasks,
    /// Of dead letters.
    Letters,
    /// Of machines.
    Vms,
    /// Of snapshots.
    Snapshots,
    /// Of audit entries.
    Audit,
    /// Of imports.
    Imports,
    /// Of tenants.
    Tenants,
    /// Of reservations.
    Reservations,
    /// Of tokens.
    Tokens,
}

impl List {
    const fn name(self) -> &'static str {
        match self {
            List::Tasks => "tasks",
            List::Letters => "letters",
            List::Vms => "vms",
            List::Snapshots => "snapshots",
            List::Audit => "audit",
            List::Imports => "imports",
            List::Tenants => "tenants",
            List::Reservations => "reservations",
            List::Tokens => "tokens",
        }
    }
}

fn guard(list: List, id: Uuid) -> [u8; GUARD] {
    let digest = Sha256::new().chain_update(list.name()).chain_update(id.as_bytes()).finalize();
    let mut guard = [0; GUARD];
    guard.copy_from_slice(&digest[..GUARD]);
    guard
}

/// The cursor behind this item.
pub(super) fn write(list: List, id: Uuid) -> String {
    let mut bytes = id.as_bytes().to_vec();
    bytes.extend(guard(list, id));
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The item that a cursor is behind.
pub(super) fn read(list: List, text: &str) -> Result<Uuid, Refusal> {
    let invalid = || {
        let detail = "this cursor was not given out for this list; begin without one, or use `next_cursor` as it came";
        Refusal::new(Code::CursorInvalid, detail)
    };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
    let (id, found) = bytes.split_at_checked(16).ok_or_else(invalid)?;
    let id = Uuid::from_slice(id).map_err(|_| invalid())?;
    if found == guard(list, id) { Ok(id) } else { Err(invalid()) }
}

/// A page of at most `limit` items, of which one more was asked for to know whether there is a next page.
pub(super) fn page<T>(list: List, mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> Uuid) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| write(list, id(last)));
    Page { items, next_cursor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0042);
        let cursor = write(List::Tasks, id);
        assert_eq!(read(List::Tasks, &cursor), Ok(id));
        for (list, text) in
            [(List::Vms, cursor.as_str()), (List::Tasks, &cursor[1..]), (List::Tasks, ""), (List::Tasks, "../é")]
        {
            assert_eq!(read(list, text).unwrap_err().code, Code::CursorInvalid, "{text}");
        }
    }
}

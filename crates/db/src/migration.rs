//! Migrations: how a database comes to have the tables that a program knows.

use std::fmt::Display;

use crate::{Error, Result};

/// Each runs once, in order. The database counts them, and keeps a mark of their text.
pub type Migrations = &'static [&'static str];

/// What tells one text of migrations from another: FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/). Only to notice.
pub(crate) fn mark(migrations: &[&str]) -> i32 {
    let bytes = migrations.iter().flat_map(|sql| sql.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.cast_signed()
}

/// Refuses a database that another program made: a newer one, or one with other tables.
pub(crate) fn check(what: &impl Display, migrations: Migrations, have: usize, marked: i32) -> Result<()> {
    if have > migrations.len() {
        return Err(Error::Aborted(format!(
            "{what} was made by a newer hostler (schema {have}, this one knows {}); start that one",
            migrations.len()
        )));
    }
    if have > 0 && marked != mark(&migrations[..have]) {
        return Err(Error::Aborted(format!(
            "{what} was made by another build of hostler, before its tables were settled, and cannot be read by this \
             one; start that build, or begin anew with an empty one"
        )));
    }
    Ok(())
}

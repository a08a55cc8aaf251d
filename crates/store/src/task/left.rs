//! What is left of a task's attempts, as a number in the column `clean`.

use hostler_db::{Error, Result, Row};
use hostler_model::task::Left;

pub(super) const fn number(left: Left) -> u8 {
    match left {
        Left::Unknown => 0,
        Left::Nothing => 1,
        Left::Something => 2,
    }
}

pub(super) fn read(row: &Row<'_>, column: usize) -> Result<Left> {
    match row.get::<u32>(column)? {
        0 => Ok(Left::Unknown),
        1 => Ok(Left::Nothing),
        2 => Ok(Left::Something),
        other => Err(Error::Decode { column, detail: format!("{other} is none of 0, 1 and 2") }),
    }
}

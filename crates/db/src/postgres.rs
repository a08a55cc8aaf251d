//! PostgreSQL: the connections to a server, and what makes the same texts run there.

mod channel;
mod columns;
mod dialect;
mod gate;
mod link;
mod schema;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod tls;

pub use channel::{Channel, Heard};
pub use dialect::as_sent;
pub use gate::Timeline;
pub(crate) use server::Server;
pub(crate) use session::Session;

use crate::{
    Result,
    row::{Cell, decode},
};

/// What a column of a row holds.
pub(crate) fn cell(row: &tokio_postgres::Row, column: usize) -> Result<Cell<'_>> {
    use tokio_postgres::types::Type;
    let fail = |e| decode(column, e);
    let kind = row.columns().get(column).ok_or_else(|| decode(column, "there is no such column"))?.type_();
    let cell = match *kind {
        Type::INT8 => row.try_get::<_, Option<i64>>(column).map_err(fail)?.map(Cell::Integer),
        Type::INT4 => row.try_get::<_, Option<i32>>(column).map_err(fail)?.map(|n| Cell::Integer(n.into())),
        Type::BOOL => row.try_get::<_, Option<bool>>(column).map_err(fail)?.map(|b| Cell::Integer(b.into())),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(column).map_err(fail)?.map(Cell::Real),
        Type::TEXT | Type::VARCHAR => row.try_get::<_, Option<&str>>(column).map_err(fail)?.map(Cell::Text),
        _ => return Err(decode(column, format!("it is of the type {kind}, which no text is to ask for"))),
    };
    Ok(cell.unwrap_or(Cell::Null))
}

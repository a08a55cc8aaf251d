//! Rows as PostgreSQL takes many of them soonest: an array for each column, in its binary form. To take them out of a JSON
//! document costs its server more than half of what it costs to insert them.
//!
//! The form is that of `array_recv`: dimensions, whether any element is NULL, the elements' type, the length, the first
//! index, and then each element behind its length. Never here: which columns a text has (`dialect`).

use std::{error::Error as StdError, sync::Arc};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::dialect::{Column, Kind};
use crate::{
    Cell,
    bind::{Parameters, Refused},
};

/// The rows of one statement.
#[derive(Debug)]
pub(super) struct Columns {
    known: Arc<[Column<'static>]>,
    arrays: Vec<Array>,
}

/// One column of all rows.
#[derive(Debug, Default)]
pub(super) struct Array {
    length: i32,
    has_null: bool,
    elements: BytesMut,
}

impl Columns {
    pub(super) fn new(known: Arc<[Column<'static>]>) -> Columns {
        Columns { arrays: known.iter().map(|_| Array::default()).collect(), known }
    }

    /// How many bytes they take.
    pub(super) fn size(&self) -> usize {
        self.arrays.iter().map(|array| array.elements.len()).sum()
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
    }
}

impl Parameters for Columns {
    fn place(&self, name: &str) -> Result<Option<usize>, Refused> {
        Ok(self.known.iter().position(|column| column.name == name))
    }

    fn count(&self) -> usize {
        self.known.len()
    }

    fn bind(&mut self, at: usize, cell: Cell<'_>) -> Result<(), Refused> {
        let Column { name, kind } = &self.known[at];
        let array = &mut self.arrays[at];
        array.length += 1;
        match (cell, kind) {
            (Cell::Null, _) => {
                array.has_null = true;
                array.elements.put_i32(-1);
            }
            (Cell::Integer(number), Kind::Integer) => array.put(&number.to_be_bytes())?,
            (Cell::Text(text), Kind::Text) => array.put(text.as_bytes())?,
            (Cell::Integer(_) | Cell::Real(_) | Cell::Text(_), _) => {
                return Err(Refused::because(format!("its field {name} holds {}, which is no {kind:?}", cell.what())));
            }
        }
        Ok(())
    }
}

impl Array {
    fn put(&mut self, element: &[u8]) -> Result<(), Refused> {
        self.elements.put_i32(i32::try_from(element.len()).map_err(Refused::because)?);
        self.elements.put_slice(element);
        Ok(())
    }
}

impl ToSql for Array {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let element = if *kind == Type::INT8_ARRAY { Type::INT8 } else { Type::TEXT };
        out.put_i32(1);
        out.put_i32(self.has_null.into());
        out.put_u32(element.oid());
        out.put_i32(self.length);
        out.put_i32(1);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8_ARRAY | Type::TEXT_ARRAY)
    }

    to_sql_checked!();
}

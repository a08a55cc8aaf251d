//! Rows bound to the named parameters of a statement, field by field: either engine takes them out of a JSON text much more
//! slowly (docs/benchmarks.md says by how much the queue gained).
//!
//! A field is bound to the parameter of its name; one that the statement does not name is left out. Never here: documents.
//! A value that is not a number, a text or nothing is refused.

use std::fmt::{self, Display, Write as _};

use serde::{
    Serialize, Serializer,
    ser::{Error as _, Impossible, SerializeMap, SerializeStruct},
};

use crate::Cell;

/// What rows are bound to.
pub(crate) trait Parameters {
    /// Where the parameter of this name is, if there is one.
    fn place(&self, name: &str) -> Result<Option<usize>, Refused>;

    /// How many there are.
    fn count(&self) -> usize;

    /// Takes one value.
    fn bind(&mut self, at: usize, cell: Cell<'_>) -> Result<(), Refused>;
}

/// Where the fields of a batch's rows go: found with the first row, and the same for all that follow.
#[derive(Default)]
pub(crate) struct Places(Vec<(String, Option<usize>)>);

/// Binds one row.
pub(crate) fn row<P: Parameters>(parameters: &mut P, places: &mut Places, row: &impl Serialize) -> Result<(), Refused> {
    let (is_first, mut next) = (places.0.is_empty(), 0);
    row.serialize(Fields { parameters, places, next: &mut next, key: String::new() })?;
    if next != places.0.len() {
        return Err(Refused(format!("it has {next} fields where others have {}", places.0.len())));
    }
    // A parameter without a field would keep what the batch before it left there.
    match places.0.iter().filter(|(_, place)| place.is_some()).count() {
        bound if is_first && bound != parameters.count() => {
            Err(Refused(format!("{bound} fields for {} parameters", parameters.count())))
        }
        _ => Ok(()),
    }
}

/// Why a row cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("a row cannot be bound: {0}")]
pub(crate) struct Refused(String);

impl Refused {
    /// For a reason of the parameters' own.
    pub(crate) fn because(why: impl Display) -> Refused {
        Refused(why.to_string())
    }
}

impl serde::ser::Error for Refused {
    fn custom<T: Display>(why: T) -> Refused {
        Refused(why.to_string())
    }
}

struct Fields<'a, P> {
    parameters: &'a mut P,
    places: &'a mut Places,
    next: &'a mut usize,
    /// Of a map's entry whose value is yet to come.
    key: String,
}

impl<P: Parameters> Fields<'_, P> {
    fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Refused> {
        let place = self.place(name)?;
        *self.next += 1;
        match place {
            Some(at) => value.serialize(Value { parameters: self.parameters, at }),
            None => Ok(()),
        }
    }

    fn place(&mut self, name: &str) -> Result<Option<usize>, Refused> {
        match self.places.0.get(*self.next) {
            Some((known, place)) if known == name => Ok(*place),
            Some((known, _)) => Err(Refused(format!("its field {name} is where others have {known}"))),
            None => {
                let place = self.parameters.place(name)?;
                self.places.0.push((name.to_owned(), place));
                Ok(place)
            }
        }
    }
}

impl<P: Parameters> SerializeStruct for Fields<'_, P> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Refused> {
        self.field(key, value)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

impl<P: Parameters> SerializeMap for Fields<'_, P> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.key.clear();
        write!(self.key, "{}", Name(key)).map_err(Refused::custom)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        let key = std::mem::take(&mut self.key);
        self.field(&key, value)?;
        // The next name takes its room.
        self.key = key;
        Ok(())
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

/// A field's name as it is written: serde's formatter takes texts, and whatever else is one value.
struct Name<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Display for Name<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// What holds of fields and of values: wrappings are looked into, and what is none of the kinds that may stand there is
/// refused.
macro_rules! otherwise {
    ($what:expr; $($name:ident($($arg:ty),*) -> $out:ty;)*) => {
        fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
            value.serialize(self)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
            value.serialize(self)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), Refused> {
            Err(Refused(format!("a variant with a value where {} should be", $what)))
        }

        $(fn $name(self, $(_: $arg),*) -> Result<$out, Refused> {
            Err(Refused(format!("{} where {} should be", stringify!($name), $what)))
        })*
    };
}

type No = Impossible<(), Refused>;

impl<P: Parameters> Serializer for Fields<'_, P> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = No;

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }

    otherwise! { "fields";
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_seq(Option<usize>) -> No;
        serialize_tuple(usize) -> No;
        serialize_tuple_struct(&'static str, usize) -> No;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No;
    }
}

/// Binds one value.
struct Value<'a, P> {
    parameters: &'a mut P,
    at: usize,
}

impl<P: Parameters> Value<'_, P> {
    fn bind(self, cell: Cell<'_>) -> Result<(), Refused> {
        self.parameters.bind(self.at, cell)
    }
}

macro_rules! bind {
    ($cell:path as $wide:ty; $($name:ident($kind:ty);)*) => {
        $(fn $name(self, value: $kind) -> Result<(), Refused> {
            self.bind($cell(<$wide>::from(value)))
        })*
    };
}

impl<P: Parameters> Serializer for Value<'_, P> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = No;
    type SerializeStruct = No;
    type SerializeStructVariant = No;

    bind! { Cell::Integer as i64;
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
    }

    bind! { Cell::Real as f64;
        serialize_f32(f32);
        serialize_f64(f64);
    }

    fn serialize_u64(self, value: u64) -> Result<(), Refused> {
        let value = i64::try_from(value).map_err(Refused::custom)?;
        self.bind(Cell::Integer(value))
    }

    fn serialize_char(self, value: char) -> Result<(), Refused> {
        self.bind(Cell::Text(value.encode_utf8(&mut [0; 4])))
    }

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        self.bind(Cell::Text(value))
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.bind(Cell::Null)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        self.bind(Cell::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refused> {
        self.bind(Cell::Text(variant))
    }

    otherwise! { "one value";
        serialize_bytes(&[u8]) -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_seq(Option<usize>) -> No;
        serialize_tuple(usize) -> No;
        serialize_tuple_struct(&'static str, usize) -> No;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> No;
        serialize_map(Option<usize>) -> No;
        serialize_struct(&'static str, usize) -> No;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> No;
    }
}

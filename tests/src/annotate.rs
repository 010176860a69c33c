//! Encoded bytes with the names of what they are.
//!
//! A struct is `{field=bytes …}`, a variant `number:Name` and what is in it, a list `count[…]`, a
//! present option `01` and the value. What is left without names and brackets is the encoding.

use quarry_common::codec;
use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt::{Error, Write};

/// The bytes of a message with the names of its fields and variants.
///
/// # Panics
/// If the names do not belong to the bytes that [`codec::encode`] makes.
pub fn annotate<T: Serialize>(value: &T) -> String {
    let mut annotator = Annotator::default();
    value.serialize(&mut annotator).expect("it can be encoded");
    assert_eq!(annotator.bytes, codec::encode(value), "{}", annotator.text);
    annotator.text
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Annotator {
    text: String,
    bytes: Vec<u8>,
}

impl Annotator {
    fn raw(&mut self, bytes: &[u8]) {
        self.text.push_str(&hex(bytes));
        self.bytes.extend_from_slice(bytes);
    }

    /// Something without parts.
    fn plain(&mut self, value: &impl Serialize) -> Result<(), Error> {
        self.raw(&codec::encode(value));
        Ok(())
    }

    fn variant(&mut self, number: u32, name: &str) -> Result<(), Error> {
        self.plain(&number)?;
        write!(self.text, ":{name}")
    }

    fn parts(&mut self, open: &str, close: char) -> Parts<'_> {
        self.text.push_str(open);
        Parts {
            begun_at: self.text.len(),
            annotator: self,
            close,
        }
    }
}

/// The parts of a list, a tuple, a map, a struct or a variant.
struct Parts<'a> {
    annotator: &'a mut Annotator,
    begun_at: usize,
    close: char,
}

impl Parts<'_> {
    fn part<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        let text = &mut self.annotator.text;
        if text.len() > self.begun_at {
            text.push(' ');
        }
        text.push_str(name);
        value.serialize(&mut *self.annotator)
    }

    fn close(self) -> Result<(), Error> {
        let text = &mut self.annotator.text;
        let parts = text.split_off(self.begun_at);
        // A list of bytes is one piece.
        let bytes = parts.split(' ').all(|part| part.len() == 2);
        text.push_str(&if bytes { parts.replace(' ', "") } else { parts });
        text.push(self.close);
        Ok(())
    }
}

macro_rules! plain {
    ($($method:ident $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            self.plain(&value)
        })*
    };
}

impl<'a> Serializer for &'a mut Annotator {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    fn is_human_readable(&self) -> bool {
        false
    }

    plain! {
        serialize_bool bool,
        serialize_u8 u8,
        serialize_u16 u16,
        serialize_u32 u32,
        serialize_u64 u64,
        serialize_u128 u128,
        serialize_i8 i8,
        serialize_i16 i16,
        serialize_i32 i32,
        serialize_i64 i64,
        serialize_i128 i128,
        serialize_f32 f32,
        serialize_f64 f64,
        serialize_char char,
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.plain(&value.len())?;
        self.text.push('[');
        self.raw(value);
        self.text.push(']');
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.raw(&[0]);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.raw(&[1]);
        self.text.push(' ');
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        number: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.variant(number, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        number: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(number, variant)?;
        self.text.push(' ');
        value.serialize(self)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Parts<'a>, Error> {
        self.plain(&count.ok_or(Error)?)?;
        Ok(self.parts("[", ']'))
    }

    fn serialize_tuple(self, _count: usize) -> Result<Parts<'a>, Error> {
        Ok(self.parts("(", ')'))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _count: usize,
    ) -> Result<Parts<'a>, Error> {
        Ok(self.parts("(", ')'))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        number: u32,
        variant: &'static str,
        _count: usize,
    ) -> Result<Parts<'a>, Error> {
        self.variant(number, variant)?;
        Ok(self.parts(" (", ')'))
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Parts<'a>, Error> {
        self.serialize_seq(count)
    }

    fn serialize_struct(self, _name: &'static str, _count: usize) -> Result<Parts<'a>, Error> {
        Ok(self.parts("{", '}'))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        number: u32,
        variant: &'static str,
        _count: usize,
    ) -> Result<Parts<'a>, Error> {
        self.variant(number, variant)?;
        Ok(self.parts(" {", '}'))
    }
}

macro_rules! parts {
    ($($of:ident $method:ident,)*) => {
        $(impl $of for Parts<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.part("", value)
            }

            fn end(self) -> Result<(), Error> {
                self.close()
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

macro_rules! named_parts {
    ($($of:ident,)*) => {
        $(impl $of for Parts<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.part(&format!("{name}="), value)
            }

            fn end(self) -> Result<(), Error> {
                self.close()
            }
        })*
    };
}

named_parts! {
    SerializeStruct,
    SerializeStructVariant,
}

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.part("", key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.annotator.text.push_str(" -> ");
        value.serialize(&mut *self.annotator)
    }

    fn end(self) -> Result<(), Error> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{ChunkId, PoolId};
    use quarry_common::wire::meta::{NodeKind, Op};
    use std::collections::BTreeMap;

    #[test]
    fn every_byte_has_the_name_of_its_field() {
        let op = Op::MakeNode {
            parent: quarry_common::ids::InodeId(300),
            name: b"ab".to_vec(),
            mode: 5,
            kind: NodeKind::CharDevice(7),
        };
        assert_eq!(
            annotate(&op),
            "02:MakeNode {parent=fb2c01 name=02[6162] mode=05 kind=02:CharDevice 07}"
        );
        let others = (
            Some("x"),
            None::<u8>,
            BTreeMap::from([(PoolId(1), vec![(ChunkId(300), false)])]),
            [1u8, 2],
        );
        assert_eq!(
            annotate(&others),
            "(01 01[78] 00 01[01 -> 01[(fb2c01 00)]] (0102))"
        );
    }
}

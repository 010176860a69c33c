//! Samples of any type that serde can read: every variant of every enum in it, and the names of all
//! types that were met on the way.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde::de::value::{Error, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use std::collections::{BTreeMap, BTreeSet};

/// Below this many levels lists and options are empty, so that types which contain themselves end.
const DEPTH_MAX: u32 = 10;

/// How often a sample is made up until the type takes it.
const TRIES: usize = 100;

/// Makes up what a deserializer would have read.
pub struct Sampler {
    source: Source,
    depth: u32,
    /// Names of the structs and enums that were met.
    pub types: BTreeSet<&'static str>,
    /// By enum, which variant comes next: in turn, so that none is left out.
    next: BTreeMap<&'static str, usize>,
}

/// Where numbers, lengths and variants come from.
enum Source {
    Random(SmallRng),
    Counted(Counted),
}

/// Every number is one more than the one before it, and as wide as its type allows; options are
/// there, lists have one element.
#[derive(Default)]
struct Counted {
    last: u64,
    /// Variants that are taken once; of all other enums the first.
    chosen: Vec<(Enum, usize)>,
    /// Enums that were met.
    met: Vec<Enum>,
}

/// The name of an enum and its variants.
type Enum = (&'static str, &'static [&'static str]);

impl Sampler {
    /// The same seed makes the same samples.
    pub fn new(seed: u64) -> Sampler {
        Sampler::of(Source::Random(SmallRng::seed_from_u64(seed)))
    }

    fn of(source: Source) -> Sampler {
        Sampler {
            source,
            depth: 0,
            types: BTreeSet::new(),
            next: BTreeMap::new(),
        }
    }

    /// One sample for each variant of each enum in the type, all options and lists with something in
    /// them, and no two numbers of a sample the same. Always the same ones: a variant that is added
    /// to the type adds samples and changes none.
    ///
    /// # Panics
    /// As [`Sampler::sample`].
    pub fn full<T: DeserializeOwned>() -> Vec<T> {
        let mut samples = Vec::new();
        let mut known = BTreeSet::new();
        let mut waiting = vec![Vec::new()];
        while let Some(chosen) = waiting.pop() {
            let mut sampler = Sampler::of(Source::Counted(Counted {
                chosen: chosen.clone(),
                ..Counted::default()
            }));
            samples.push(sampler.sample());
            let Source::Counted(Counted { met, .. }) = sampler.source else {
                unreachable!("the source stays");
            };
            let new: Vec<Enum> = met.into_iter().filter(|met| known.insert(*met)).collect();
            // The last is taken first.
            for of in new.into_iter().rev() {
                let others = (1..of.1.len()).rev();
                waiting.extend(others.map(|variant| [&chosen[..], &[(of, variant)]].concat()));
            }
        }
        samples
    }

    fn variant(&mut self, of: Enum) -> usize {
        match &mut self.source {
            Source::Random(_) => {
                let next = self.next.entry(of.0).or_default();
                *next += 1;
                (*next - 1) % of.1.len()
            }
            Source::Counted(Counted { chosen, met, .. }) => {
                met.push(of);
                let at = chosen.iter().position(|(chosen, _)| *chosen == of);
                at.map_or(0, |at| chosen.remove(at).1)
            }
        }
    }

    /// One sample. Some types refuse what they could be by their fields (a list in a list): then the next one.
    ///
    /// # Panics
    /// If the type asks what is there before it reads: such a type has no place in a binary format.
    pub fn sample<T: DeserializeOwned>(&mut self) -> T {
        let mut made = (0..TRIES).map(|_| {
            self.depth = 0;
            T::deserialize(&mut *self)
        });
        let sample = made.find(Result::is_ok).and_then(Result::ok);
        sample.expect("a type of a binary format")
    }

    /// Small and large ones, for a type of so many bytes.
    fn number(&mut self, len: usize) -> u64 {
        match &mut self.source {
            Source::Random(random) => {
                let bits = random.random_range(0..64);
                random.next_u64() >> bits
            }
            Source::Counted(counted) => {
                counted.last += 1;
                let beyond_narrower = match len {
                    1 => 0,
                    _ => 1 << (len.min(8) * 4),
                };
                beyond_narrower + counted.last
            }
        }
    }

    fn count(&mut self) -> usize {
        match &mut self.source {
            _ if self.depth >= DEPTH_MAX => 0,
            Source::Random(random) => random.random_range(0..4),
            Source::Counted(_) => 1,
        }
    }

    fn is_there(&mut self) -> bool {
        match &mut self.source {
            Source::Random(random) => random.random(),
            Source::Counted(_) => true,
        }
    }

    fn text(&mut self) -> String {
        match &mut self.source {
            Source::Random(random) => {
                let len = random.random_range(0..12);
                let letters = (0..len).map(|_| char::from(random.random_range(b'a'..=b'z')));
                letters.collect()
            }
            Source::Counted(_) => self.number(1).to_string(),
        }
    }

    fn items<'de, V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, Error> {
        self.depth += 1;
        let value = visitor.visit_seq(Items {
            sampler: self,
            left,
        });
        self.depth -= 1;
        value
    }
}

/// The elements of a list, a tuple, a struct or a map.
struct Items<'a> {
    sampler: &'a mut Sampler,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        seed.deserialize(&mut *self.sampler).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(&mut *self.sampler)
    }
}

/// One variant of an enum.
struct Variant<'a> {
    sampler: &'a mut Sampler,
    number: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let number: U32Deserializer<Error> = self.number.into_deserializer();
        Ok((seed.deserialize(number)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.sampler.depth += 1;
        let value = seed.deserialize(&mut *self.sampler);
        self.sampler.depth -= 1;
        value
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.sampler.items(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.sampler.items(fields.len(), visitor)
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $int:ty,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number(size_of::<$int>()) as $int)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Sampler {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("the type asks what is there"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.is_there())
    }

    numbers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128,
        deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64,
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char('x')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_byte_buf(self.text().into_bytes())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.depth >= DEPTH_MAX || !self.is_there() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.types.insert(name);
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.types.insert(name);
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let count = self.count();
        self.items(count, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.items(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.types.insert(name);
        self.items(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.count();
        self.depth += 1;
        let value = visitor.visit_map(Items {
            sampler: self,
            left,
        });
        self.depth -= 1;
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.types.insert(name);
        self.items(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.types.insert(name);
        let number = self.variant((name, variants)) as u32;
        visitor.visit_enum(Variant {
            sampler: self,
            number,
        })
    }
}

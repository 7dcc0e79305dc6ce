//! Values in request bodies that JSON alone doesn't describe: whole numbers,
//! and fields that take one or several.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::{PartialSchema, ToSchema};

/// An object. A struct's own parser takes a list of its fields' values, too.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Expected<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        from.deserialize_any(Expected(PhantomData))
    }
}

/// A whole number of 0 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(value_type = u64, format = "uint64")]
pub struct Whole(pub u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl Visitor<'_> for Expected {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 0 or more")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
                Ok(Whole(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
                u64::try_from(value)
                    .map(Whole)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
        }

        from.deserialize_any(Expected)
    }
}

/// A seed: any 64 bits, signed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl Visitor<'_> for Expected {
            type Value = Seed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Seed, E> {
                Ok(Seed(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Seed, E> {
                Ok(Seed(value.cast_unsigned()))
            }
        }

        from.deserialize_any(Expected)
    }
}

/// One string or several; which of the two is kept, for answers that repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Strings {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl Strings {
    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl<'de> Visitor<'de> for Expected {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Strings, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Strings::Many)
            }
        }

        from.deserialize_any(Expected)
    }
}

/// A text, or the ids of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// To be encoded.
    Plain(String),
    /// Encoded already.
    Ids(Vec<u32>),
}

/// One text or several, each as a string or as token ids; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<Text>);

/// An element of a list: what it is decides what the list is.
enum Element {
    Plain(String),
    Id(u32),
    Ids(Vec<u32>),
}

const TEXTS: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl<'de> Visitor<'de> for Expected {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Plain(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Element, E> {
                u32::try_from(value)
                    .map(Element::Id)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Element, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Element::Ids)
            }
        }

        from.deserialize_any(Expected)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl<'de> Visitor<'de> for Expected {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(TEXTS)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![Text::Plain(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mixed = || A::Error::custom(format!("mixed elements, expected {TEXTS}"));
                let mut texts = Vec::new();
                let mut ids = Vec::new();
                let mut first = None;
                while let Some(element) = list.next_element::<Element>()? {
                    let kind = std::mem::discriminant(&element);
                    if *first.get_or_insert(kind) != kind {
                        return Err(mixed());
                    }
                    match element {
                        Element::Id(id) => ids.push(id),
                        Element::Plain(text) => texts.push(Text::Plain(text)),
                        Element::Ids(ids) => texts.push(Text::Ids(ids)),
                    }
                }
                match (texts.is_empty(), ids.is_empty()) {
                    (true, true) => {
                        Err(A::Error::custom(format!("an empty list, expected {TEXTS}")))
                    }
                    (true, false) => Ok(Texts(vec![Text::Ids(ids)])),
                    (false, _) => Ok(Texts(texts)),
                }
            }
        }

        from.deserialize_any(Expected)
    }
}

// ---- what they look like in the OpenAPI document ----

fn typed(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

fn string() -> Schema {
    typed(Type::String).into()
}

fn list_of(items: impl Into<RefOr<Schema>>, at_least: usize) -> Schema {
    let list = ArrayBuilder::new().items(items.into());
    list.min_items(Some(at_least)).into()
}

fn id() -> Schema {
    let whole = typed(Type::Integer).minimum(Some(0));
    whole.maximum(Some(u32::MAX)).into()
}

impl PartialSchema for Seed {
    fn schema() -> RefOr<Schema> {
        typed(Type::Integer)
            .minimum(Some(i64::MIN))
            .maximum(Some(u64::MAX))
            .into()
    }
}
impl ToSchema for Seed {}

impl PartialSchema for Strings {
    fn schema() -> RefOr<Schema> {
        let one = OneOfBuilder::new().item(string());
        one.item(list_of(string(), 0)).into()
    }
}
impl ToSchema for Strings {}

impl PartialSchema for Texts {
    fn schema() -> RefOr<Schema> {
        let one = OneOfBuilder::new().item(string());
        one.item(list_of(string(), 1))
            .item(list_of(id(), 1))
            .item(list_of(list_of(id(), 0), 1))
            .into()
    }
}
impl ToSchema for Texts {}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str) -> Result<Vec<Text>, String> {
        let parsed = serde_json::from_str::<Texts>(json);
        parsed.map(|t| t.0).map_err(|e| e.to_string())
    }

    #[test]
    fn texts_come_in_four_forms() {
        let plain = |t: &str| Text::Plain(t.to_owned());
        assert_eq!(texts(r#""a""#).unwrap(), [plain("a")]);
        assert_eq!(texts(r#"["a", "b"]"#).unwrap(), [plain("a"), plain("b")]);
        assert_eq!(texts("[1, 2]").unwrap(), [Text::Ids(vec![1, 2])]);
        let lists = [Text::Ids(vec![1]), Text::Ids(vec![])];
        assert_eq!(texts("[[1], []]").unwrap(), lists);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "[]",
            "[1, \"a\"]",
            "[\"a\", 1]",
            "[\"a\", [1]]",
            "[[1], \"a\"]",
            "[[1], 2]",
            "[1, [2]]",
            "[-1]",
            "[1.0]",
            "[4294967296]",
            "[[1, \"a\"]]",
            "[[[1]]]",
            "{}",
            "null",
            "true",
        ] {
            let said = texts(bad).expect_err(bad);
            assert!(said.contains("expected"), "{bad}: {said}");
        }
    }

    #[test]
    fn whole_numbers_and_seeds() {
        let whole = |json: &str| serde_json::from_str::<Whole>(json).map(|w| w.0).ok();
        assert_eq!(whole("18446744073709551615"), Some(u64::MAX));
        for bad in ["-1", "1.0", "1e3", "\"1\"", "18446744073709551616", "true"] {
            assert_eq!(whole(bad), None, "{bad}");
        }
        let seed = |json: &str| serde_json::from_str::<Seed>(json).map(|w| w.0).ok();
        assert_eq!(seed("-1"), Some(u64::MAX));
        assert_eq!(seed("1.5"), None);
    }
}

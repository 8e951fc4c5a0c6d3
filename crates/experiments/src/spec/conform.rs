//! Structure of a document against its JSON Schema: every unknown key, missing key and wrong type
//! at once.
//!
//! Deserialisation stops at the first fault, so it cannot report all. This walk holds the parsed
//! file against the very schema that `exp schema` prints, which is made from the same structs, and
//! returns a copy in which faults are repaired by placeholders. The copy always deserialises, so
//! that the checks of meaning run as well; what was repaired is marked, and they stay silent on it.

use super::{
    diagnostic::Severity,
    similar,
    source::{At, Source, join},
};
use serde_json::{Map, Value as Json};
use toml::{
    Spanned, Value as Toml,
    de::{DeTable, DeValue},
};

/// Kinds of TOML value, in the words of messages.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Array,
    Table,
    Date,
}

impl Kind {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(_) => Self::Text,
            DeValue::Integer(_) => Self::Int,
            DeValue::Float(_) => Self::Float,
            DeValue::Boolean(_) => Self::Bool,
            DeValue::Array(_) => Self::Array,
            DeValue::Table(_) => Self::Table,
            DeValue::Datetime(_) => Self::Date,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "a whole number",
            Self::Float => "a number with a fraction",
            Self::Bool => "true or false",
            Self::Array => "a list",
            Self::Table => "a table",
            Self::Date => "a date",
        }
    }

    /// Whether a value of this kind may stand where the schema says `type`.
    fn fits(self, schema_type: &str) -> bool {
        match schema_type {
            "string" => self == Self::Text,
            "integer" => self == Self::Int,
            "number" => matches!(self, Self::Int | Self::Float),
            "boolean" => self == Self::Bool,
            "array" => self == Self::Array,
            "object" => self == Self::Table,
            _ => false,
        }
    }
}

/// Holds a parsed document against a schema; returns the repaired copy.
pub(crate) fn conform(table: &DeTable<'_>, schema: &Json, source: &mut Source) -> Toml {
    let none = Map::new();
    let definitions = schema.get("$defs").and_then(Json::as_object).unwrap_or(&none);
    Walk { definitions, source }.table("", table, schema)
}

struct Walk<'a> {
    definitions: &'a Map<String, Json>,
    source: &'a mut Source,
}

impl<'a> Walk<'a> {
    /// Follows a reference to a definition.
    fn follow(&self, schema: &'a Json) -> &'a Json {
        let name = schema.get("$ref").and_then(Json::as_str);
        name.and_then(|name| name.strip_prefix("#/$defs/"))
            .and_then(|name| self.definitions.get(name))
            .unwrap_or(schema)
    }

    /// The alternatives of a schema, nested ones flattened, without the null of optional values.
    fn alternatives(&self, schema: &'a Json) -> Vec<&'a Json> {
        let schema = self.follow(schema);
        let listed = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
        match listed {
            Some(list) => list.iter().flat_map(|inner| self.alternatives(inner)).collect(),
            None if schema.get("type").and_then(Json::as_str) == Some("null") => Vec::new(),
            None => vec![schema],
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, schema: &'a Json) -> Toml {
        let alternatives = self.alternatives(schema);
        let words: Vec<&str> = alternatives.iter().flat_map(|s| words(s)).collect();
        let kind = Kind::of(value.get_ref());
        if !words.is_empty() && words.len() >= alternatives.len() {
            return self.word(path, value.get_ref(), kind, &words);
        }
        let fitting = alternatives.iter().find(|s| types(s).any(|t| kind.fits(t)));
        let Some(fitting) = fitting else {
            let mut expected: Vec<&str> =
                alternatives.iter().flat_map(|s| types(s)).filter_map(type_word).collect();
            expected.dedup();
            let message = format!(
                "`{path}`: expected {}, found {}",
                if expected.is_empty() { "nothing".into() } else { expected.join(" or ") },
                kind.word()
            );
            return self.repair(path, message, None, schema);
        };
        match value.get_ref() {
            DeValue::Table(table) => self.table(path, table, fitting),
            DeValue::Array(items) => {
                let (least, most) = (bound(fitting, "minItems"), bound(fitting, "maxItems"));
                let count = items.len() as f64;
                if least.is_some_and(|n| count < n) || most.is_some_and(|n| count > n) {
                    let expected = least.or(most).unwrap_or_default();
                    let message =
                        format!("`{path}`: expected {expected} entries, found {}", items.len());
                    return self.repair(path, message, None, schema);
                }
                let inner = fitting.get("items").unwrap_or(&Json::Null);
                let entries = items.iter().enumerate();
                Toml::Array(
                    entries
                        .map(|(i, item)| self.value(&format!("{path}[{i}]"), item, inner))
                        .collect(),
                )
            }
            DeValue::String(text) => Toml::String(text.to_string()),
            DeValue::Boolean(b) => Toml::Boolean(*b),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(i) => self.bounded(path, i, fitting, schema),
                    Err(_) => {
                        let message = format!(
                            "`{path}`: expected a whole number of 64 bits, found {}",
                            digits.as_str()
                        );
                        self.repair(path, message, None, schema)
                    }
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
                Ok(x) if x.is_finite() => Toml::Float(x),
                _ => {
                    let found = digits.as_str();
                    let message = format!("`{path}`: expected a finite number, found {found}");
                    self.repair(path, message, None, schema)
                }
            },
            // no key of the vocabulary takes a date, so the kinds above never fit one
            DeValue::Datetime(date) => Toml::String(date.to_string()),
        }
    }

    fn bounded(&mut self, path: &str, i: i64, fitting: &Json, schema: &'a Json) -> Toml {
        let format = fitting.get("format").and_then(Json::as_str);
        let most = bound(fitting, "maximum").or(match format {
            Some("uint8") => Some(f64::from(u8::MAX)),
            Some("uint32") => Some(f64::from(u32::MAX)),
            _ => None,
        });
        let least = bound(fitting, "minimum");
        if least.is_some_and(|n| (i as f64) < n) || most.is_some_and(|n| i as f64 > n) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("in {least}..={most}"),
                (Some(least), None) => format!("of at least {least}"),
                (_, most) => format!("of at most {}", most.unwrap_or_default()),
            };
            let message = format!("`{path}`: expected a whole number {range}, found {i}");
            return self.repair(path, message, None, schema);
        }
        Toml::Integer(i)
    }

    fn word(&mut self, path: &str, value: &DeValue<'_>, kind: Kind, words: &[&str]) -> Toml {
        let found = match value {
            DeValue::String(text) if words.contains(&text.as_ref()) => {
                return Toml::String(text.to_string());
            }
            DeValue::String(text) => format!("{text:?}"),
            _ => kind.word().to_owned(),
        };
        let message = format!("`{path}`: expected one of {}, found {found}", words.join(", "));
        let help = similar::near(found.trim_matches('"'), words.iter().copied());
        self.source.find(path, At::Value, Severity::Error, message, help);
        self.source.poison(path);
        Toml::String(words[0].to_owned())
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>, schema: &'a Json) -> Toml {
        let none = Map::new();
        let known = schema.get("properties").and_then(Json::as_object);
        let open = schema.get("additionalProperties").filter(|s| s.is_object());
        let mut repaired = toml::Table::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let inner = join(path, name);
            if let Some(schema) = known.and_then(|known| known.get(name)).or(open) {
                let entry = self.value(&inner, value, schema);
                repaired.insert(name.to_owned(), entry);
                continue;
            }
            let owner = if path.is_empty() { "the file".into() } else { format!("`{path}`") };
            let message = format!("unknown key `{name}` in {owner}");
            let words = known.unwrap_or(&none).keys().map(String::as_str);
            let help = similar::advice(name, words);
            self.source.find(&inner, At::Key, Severity::Error, message, help);
        }
        let required = schema.get("required").and_then(Json::as_array);
        for name in required.into_iter().flatten().filter_map(Json::as_str) {
            if repaired.contains_key(name) {
                continue;
            }
            let inner = join(path, name);
            let owner = if path.is_empty() { "the file".into() } else { format!("`{path}`") };
            let message = format!("{owner}: expected key `{name}`, found none");
            let property = known.and_then(|known| known.get(name)).unwrap_or(&Json::Null);
            let placeholder = self.repair(&inner, message, describe(property), property);
            repaired.insert(name.to_owned(), placeholder);
        }
        Toml::Table(repaired)
    }

    /// Reports a fault and stands a placeholder in for it.
    fn repair(
        &mut self,
        path: &str,
        message: String,
        help: Option<String>,
        schema: &'a Json,
    ) -> Toml {
        self.source.find(path, At::Value, Severity::Error, message, help);
        self.source.poison(path);
        self.placeholder(schema)
    }

    /// A value that deserialises.
    fn placeholder(&self, schema: &'a Json) -> Toml {
        let alternatives = self.alternatives(schema);
        let Some(first) = alternatives.first() else { return Toml::String(String::new()) };
        if let Some(word) = words(first).next() {
            return Toml::String(word.to_owned());
        }
        match types(first).next() {
            Some("integer") => Toml::Integer(1),
            Some("number") => Toml::Float(1.0),
            Some("boolean") => Toml::Boolean(false),
            Some("array") => {
                let least = bound(first, "minItems").unwrap_or(0.0) as usize;
                let inner = first.get("items").unwrap_or(&Json::Null);
                Toml::Array(vec![self.placeholder(inner); least])
            }
            Some("object") => {
                let known = first.get("properties").and_then(Json::as_object);
                let required = first.get("required").and_then(Json::as_array);
                let names = required.into_iter().flatten().filter_map(Json::as_str);
                let entry = |name: &str| {
                    let schema = known.and_then(|known| known.get(name)).unwrap_or(&Json::Null);
                    (name.to_owned(), self.placeholder(schema))
                };
                Toml::Table(names.map(entry).collect())
            }
            _ => Toml::String(String::new()),
        }
    }
}

/// The words of an enumeration.
fn words(schema: &Json) -> impl Iterator<Item = &str> {
    let single = schema.get("const").and_then(Json::as_str);
    let several = schema.get("enum").and_then(Json::as_array);
    single.into_iter().chain(several.into_iter().flatten().filter_map(Json::as_str))
}

/// The types that a schema accepts.
fn types(schema: &Json) -> impl Iterator<Item = &str> {
    let kind = schema.get("type");
    let single = kind.and_then(Json::as_str);
    let several = kind.and_then(Json::as_array);
    single.into_iter().chain(several.into_iter().flatten().filter_map(Json::as_str))
}

fn type_word(schema_type: &str) -> Option<&'static str> {
    Some(match schema_type {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        _ => return None,
    })
}

fn bound(schema: &Json, key: &str) -> Option<f64> {
    schema.get(key).and_then(Json::as_f64)
}

/// What a missing key is for, from its description in the schema.
fn describe(property: &Json) -> Option<String> {
    property.get("description").and_then(Json::as_str).map(|text| text.replace('\n', " "))
}

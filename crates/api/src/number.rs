//! Whole numbers as JSON has them: it knows one kind of number, and writes some whole ones as `7.0`.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// The first number beyond `u64`.
const BEYOND: f64 = 18_446_744_073_709_551_616.0;

pub(super) fn whole<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    fitting(&Number::deserialize(deserializer)?)
}

/// Null is as good as absent.
pub(super) fn whole_if_any<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    Option::<Number>::deserialize(deserializer)?.as_ref().map(fitting).transpose()
}

pub(super) fn wholes<'de, D>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error>
where
    D: Deserializer<'de>,
{
    let named: BTreeMap<String, Number> = BTreeMap::deserialize(deserializer)?;
    named.into_iter().map(|(name, number)| Ok((name, fitting(&number)?))).collect()
}

fn fitting<T: TryFrom<u64>, E: Error>(number: &Number) -> Result<T, E> {
    let whole = number.as_u64().or_else(|| {
        let number = number.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole and in the range"
        )]
        (number.fract() == 0.0 && (0.0..BEYOND).contains(&number)).then_some(number as u64)
    });
    let fitting = whole.and_then(|whole| T::try_from(whole).ok());
    fitting.ok_or_else(|| {
        E::custom(format!("{number} is no count: below zero, no whole number, or too large"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> Option<u16> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        whole(&mut deserializer).ok()
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (text, number) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("7e2", Some(700)),
            ("-0.0", Some(0)),
            ("65535", Some(65_535)),
            ("65536", None),
            ("7.5", None),
            ("-1", None),
            ("1e300", None),
            ("18446744073709551616", None),
            ("\"7\"", None),
            ("null", None),
        ] {
            assert_eq!(port(text), number, "{text}");
        }
    }
}

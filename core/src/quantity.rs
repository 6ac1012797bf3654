//! Amounts of memory as Kubernetes quantities.

use std::fmt;
use std::str::FromStr;

use crate::name::NameError;

/// An amount of memory in bytes. As text it is a Kubernetes quantity: `256Mi`, `1Gi`, `500M`,
/// `134217728`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(pub u64);

/// Suffixes of Kubernetes quantities that make sense for memory, and the bytes of each, the largest
/// first. An amount is written with the first of which it is a multiple.
const SUFFIXES: &[(&str, u64)] = &[
    ("Gi", 1 << 30),
    ("G", 1_000_000_000),
    ("Mi", 1 << 20),
    ("M", 1_000_000),
    ("Ki", 1 << 10),
    ("k", 1000),
    ("", 1),
];

impl Memory {
    /// `number` × 2²⁰ bytes.
    pub const fn mebibytes(number: u64) -> Self {
        Self(number << 20)
    }
}

impl FromStr for Memory {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            NameError("is no amount of memory as Kubernetes writes it: 256Mi or 1Gi, say".into())
        };
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let (_, unit) = SUFFIXES
            .iter()
            .find(|(suffix, _)| *suffix == &text[digits.len()..])
            .ok_or_else(invalid)?;
        let is_digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_digits(digits) {
            let number: u64 = digits.parse().map_err(|_| invalid())?;
            return number.checked_mul(*unit).map(Self).ok_or_else(invalid);
        }
        // `1.5Gi`, or `4.294967296e+09`, as Helm writes large numbers.
        let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
        let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        if !is_digits(before) || !is_digits(after) || !is_digits(exponent.trim_start_matches('+')) {
            return Err(invalid());
        }
        let bytes = digits.parse::<f64>().map_err(|_| invalid())?
            * f64::from(u32::try_from(*unit).map_err(|_| invalid())?);
        // An f64 holds every whole number up to 2⁵³, which is more than 9e15.
        if bytes < 9e15 { Ok(Self(bytes as u64)) } else { Err(invalid()) }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits =
            SUFFIXES.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (suffix, unit) = fits.copied().unwrap_or(("", 1));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_as_kubernetes_does() {
        for (text, bytes) in [
            ("256Mi", 256 << 20),
            ("1Gi", 1 << 30),
            ("64Ki", 64 << 10),
            ("500M", 500_000_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Memory(bytes)), "{text}");
            assert_eq!(Memory(bytes).to_string(), text);
        }
        assert_eq!("134217728".parse(), Ok(Memory::mebibytes(128)));
        assert_eq!("1.5Gi".parse(), Ok(Memory::mebibytes(1536)));
        assert_eq!("4.294967296e+09".parse(), Ok(Memory::mebibytes(4096)));
        assert_eq!("2e9".parse(), Ok(Memory(2_000_000_000)));
        assert_eq!(Memory(0).to_string(), "0");
        for text in [
            "",
            "Mi",
            "256MB",
            "256 Mi",
            "-1Gi",
            "1.Gi",
            ".5Gi",
            "1e-3",
            "1e99",
            "99999999999Gi",
            "256mi",
            "½Gi",
        ] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}

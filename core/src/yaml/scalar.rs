//! The types of unquoted YAML scalars.
//!
//! Kubernetes reads YAML 1.1 as sigs.k8s.io/yaml does, and so does this module where YAML 1.2
//! differs (`yes`, `on`, `010`). So a label that Kubernetes refuses is refused in a directory too.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarType {
    Null,
    Boolean,
    Number,
    Text,
    /// The key `<<`: its value's entries are merged into the mapping.
    Merge,
}

/// The type of a plain (unquoted, untagged) scalar.
pub(super) fn resolve(plain: &str) -> ScalarType {
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => ScalarType::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => ScalarType::Boolean,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => ScalarType::Boolean,
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => ScalarType::Boolean,
        "<<" => ScalarType::Merge,
        _ if is_number(plain) => ScalarType::Number,
        _ => ScalarType::Text,
    }
}

/// Whether a word is a boolean in Kubernetes but not in YAML 1.2.
pub(super) fn is_boolean_of_yaml_1_1(plain: &str) -> bool {
    resolve(plain) == ScalarType::Boolean
        && !plain.eq_ignore_ascii_case("true")
        && !plain.eq_ignore_ascii_case("false")
}

fn is_number(plain: &str) -> bool {
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(plain, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // Digits may be grouped (1_000), but a leading underscore makes a word.
    if unsigned.starts_with('_') {
        return false;
    }
    let digits = unsigned.replace('_', "");
    is_radix(&digits, ["0x", "0X"], |c| c.is_ascii_hexdigit())
        || is_radix(&digits, ["0o", "0O"], |c| matches!(c, '0'..='7'))
        || is_radix(&digits, ["0b", "0B"], |c| matches!(c, '0' | '1'))
        || is_decimal(&digits)
}

fn is_radix(text: &str, prefixes: [&str; 2], digit: fn(char) -> bool) -> bool {
    prefixes.iter().any(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(digit))
    })
}

/// Digits with at most one point among them, and perhaps an exponent.
fn is_decimal(text: &str) -> bool {
    let all_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)))
        }
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && all_digits(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_kubernetes_takes_for_numbers() {
        for number in [
            "0", "2", "-1", "+7", "010", "0x1F", "0o17", "0b101", "1_000", "1.5", ".5", "1.",
            "1e3", "12e-4", "1.0E+9", ".inf", ".NaN",
        ] {
            assert_eq!(resolve(number), ScalarType::Number, "{number}");
        }
    }

    #[test]
    fn words_addresses_versions_and_dates_are_text() {
        for text in [
            "a",
            "1.2.3",
            "192.0.2.1",
            "::1",
            "0x",
            "0xg",
            "e3",
            "1e",
            ".",
            "-",
            "+",
            "_1",
            "2024-01-01",
            "1:30",
            "1e3e4",
            "inf",
            "yEs",
        ] {
            assert_eq!(resolve(text), ScalarType::Text, "{text}");
        }
    }

    #[test]
    fn booleans_are_what_kubernetes_takes_for_booleans() {
        for boolean in ["true", "False", "yes", "No", "on", "OFF", "y", "N"] {
            assert_eq!(resolve(boolean), ScalarType::Boolean, "{boolean}");
        }
        assert!(
            is_boolean_of_yaml_1_1("yes")
                && !is_boolean_of_yaml_1_1("true")
                && !is_boolean_of_yaml_1_1("text")
        );
    }
}

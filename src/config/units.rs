//! The forms of single values: sizes with units, weights, addresses. Pure.

use super::schema::Kind;
use toml::de::DeValue;

/// What a value of the kind looks like, for messages.
pub(super) fn expected(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "a text".into(),
        Kind::Path => "a path".into(),
        Kind::Address => "host:port".into(),
        Kind::Ip => "an IP address".into(),
        Kind::Url => "http://host:port".into(),
        Kind::Node => "a node's name".into(),
        Kind::Integer(min, i64::MAX) => format!("a whole number, at least {min}"),
        Kind::Integer(min, max) => format!("a whole number, {min} to {max}"),
        Kind::Weight => "a number above 0".into(),
        Kind::Bytes => "bytes, such as 1000000 or \"2TB\"".into(),
        Kind::Bool => "true or false".into(),
        Kind::Texts => "a list of texts".into(),
        Kind::Map => "a table of texts".into(),
        Kind::Choice(values) => values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" or "),
    }
}

/// Checks the form of a text.
pub(super) fn text(kind: Kind, text: &str) -> Result<String, String> {
    match kind {
        Kind::Choice(values) if !values.contains(&text) => {
            Err(format!("is {text:?} and should be {}", expected(kind)))
        }
        Kind::Address => host_port(text).map(|_| text.to_owned()).map_err(|e| format!("is {text:?}: {e}")),
        Kind::Ip if text.parse::<std::net::IpAddr>().is_err() => {
            Err(format!("is {text:?} and should be {}", expected(kind)))
        }
        Kind::Url => url(text).map(|_| text.trim_end_matches('/').to_owned()),
        Kind::Path | Kind::Text if text.is_empty() => Err("is empty".into()),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<Result<i64, String>> {
    let integer = value.as_integer()?;
    let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
    Some(parsed.map_err(|_| "is too large a number".to_owned()))
}

/// A text, number or truth value as it is written.
pub(super) fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

pub(super) fn bytes(value: &DeValue<'_>) -> Option<Result<u64, String>> {
    if let Some(number) = integer(value) {
        return Some(number.and_then(|n| u64::try_from(n).map_err(|_| format!("is {n}, below 0"))));
    }
    value.as_str().map(parse_bytes)
}

/// `2TB`, `512 MiB`, `1.5GB`, `1000`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("is {text:?} and should be bytes, such as \"2TB\" or \"512MiB\"");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024_u128),
        None => (unit, 1000),
    };
    let power = match letter {
        "" if base == 1000 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let thousandths = milli(number).ok_or_else(bad)?;
    let bytes = thousandths.checked_mul(base.pow(power)).ok_or_else(bad)? / 1000;
    u64::try_from(bytes).map_err(|_| bad())
}

pub(super) fn weight_milli(value: &DeValue<'_>) -> Option<Result<u32, String>> {
    let text = match value {
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        _ => return None,
    };
    let weight = milli(&text).and_then(|milli| u32::try_from(milli).ok());
    let good = weight.filter(|milli| (1..=1_000_000).contains(milli));
    Some(good.ok_or_else(|| format!("is {text} and should be 0.001 to 1000, with at most three decimals")))
}

/// A decimal with at most three decimals, in thousandths; no floating point, so none of its surprises.
fn milli(text: &str) -> Option<u128> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let padded = format!("{decimals:0<3}");
    whole.parse::<u128>().ok()?.checked_mul(1000)?.checked_add(padded.parse().ok()?)
}

/// `host:port` with `[…]` round an IPv6 address.
pub fn host_port(text: &str) -> Result<(String, u16), String> {
    let rule = "it should be host:port";
    let (host, port) = text.rsplit_once(':').ok_or(rule)?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match bracketed {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => Ok((address.to_owned(), port)),
        None if !host.is_empty() && host.chars().all(plain) => Ok((host.to_owned(), port)),
        _ => Err(rule.into()),
    }
}

/// Whether a host is this machine, whoever says it.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Host and port of an `http(s)://` address.
pub fn url(text: &str) -> Result<(String, u16), String> {
    let bad = |why: &str| format!("is {text:?}: {why}");
    let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it should begin with http://"))?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(bad("only http:// and https:// are known")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        // Not shown: it may hold a password.
        return Err("has a user or a password in it: these have keys of their own".into());
    }
    if authority.contains(['/', '?', '#']) {
        return Err(bad("there should be nothing after the port"));
    }
    let with_port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => authority.to_owned(),
        _ => format!("{authority}:{default}"),
    };
    host_port(&with_port).map_err(|e| bad(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let good = [
            ("0", 0),
            ("1000", 1000),
            ("2TB", 2_000_000_000_000),
            ("512 MiB", 512 << 20),
            ("1.5gb", 1_500_000_000),
            ("36G", 36_000_000_000),
            ("1KiB", 1024),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "TB", "-1", "1.2345GB", "1XB", "1 T B", "99999999PB", "1iB", "1e3"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(url("http://ch-1.example:8123"), Ok(("ch-1.example".into(), 8123)));
        assert_eq!(url("https://h"), Ok(("h".into(), 443)));
        assert_eq!(url("http://[::1]:8123/"), Ok(("::1".into(), 8123)));
        for bad in
            ["h:1", "ftp://h:1", "http://", "http://u:p@h:1", "http://h:1/path", "http://h:x", "http://::1:5"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}

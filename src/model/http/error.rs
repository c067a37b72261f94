//! What a refusal means: from a status, headers and a body to an [`Error`].

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::model::Error;

/// How much of what a provider said goes into an error: enough to know it by, short enough for a line of a log.
const EXCERPT_CHARS: usize = 300;

/// The longest pause that is believed: longer ones are slips (milliseconds for seconds, a wrong clock).
const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How servers say that a transcript is too long; OpenAI, llama.cpp and vLLM, and then Anthropic.
const CONTEXT_WORDS: [&str; 7] = [
    "context length",
    "maximum context",
    "available context size",
    "context window",
    "context size",
    "prompt is too long",
    "exceed context limit",
];

/// Keys shorter than this are placeholders such as `x`, and hiding each `x` would make a text unreadable.
const MIN_SECRET_BYTES: usize = 4;

/// Returns the beginning of a text, on one line, without control characters and without the key.
pub(in crate::model) fn excerpt(text: &str, key: Option<&SecretString>) -> String {
    let key = key.map(ExposeSecret::expose_secret).filter(|key| key.len() >= MIN_SECRET_BYTES);
    let hidden = key.map(|key| text.replace(key, "[key]"));
    let mut line = String::new();
    let mut chars = 0;
    for word in hidden.as_deref().unwrap_or(text).split(|c: char| c.is_whitespace() || is_unprintable(c)) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
            chars += 1;
        }
        for c in word.chars() {
            if chars >= EXCERPT_CHARS {
                line.push('…');
                return line;
            }
            line.push(c);
            chars += 1;
        }
    }
    line
}

/// Whether a character could do something to a terminal, or hide there: controls, and marks that turn the direction of
/// the text.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Says what an answer with a status other than 2xx means.
/// `hint` says what to look at where it seems to come from something else than the API.
pub(in crate::model) fn refused(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    key: Option<&SecretString>,
    hint: &str,
) -> Error {
    let body = String::from_utf8_lossy(body);
    let said = Said::read(&body, key);
    let now = Timestamp::now();
    let retry_after = retry_after(headers, now).or_else(|| allowance_pause(headers, now).filter(|_| status == 429));
    if (300..400).contains(&status) {
        let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
        let to = excerpt(to.split(['?', '#']).next().unwrap_or_default(), key);
        let message = format!("it redirects to {to}, and redirects are not followed; {hint}");
        return Error::BadRequest { status, message };
    }
    said.into_error(status, retry_after, hint)
}

/// What a provider says about a failure, in whichever shape.
pub(in crate::model) struct Said {
    message: String,
    /// `error.code` and `error.type`, in lower case, one after the other.
    code: String,
    /// The status that `error.code` gives, where it is one.
    status: Option<u16>,
}

impl Said {
    fn read(body: &str, key: Option<&SecretString>) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(value) => Self::of(value.get("error").unwrap_or(&value), key),
            Err(_) => Self { message: excerpt(body, key), code: String::new(), status: None },
        }
    }

    /// Reads an error object: OpenAI's `{message, type, code}`, FastAPI's `{detail}`, or a mere text.
    pub(in crate::model) fn of(error: &Value, key: Option<&SecretString>) -> Self {
        let message = match error {
            Value::String(text) => text.clone(),
            _ => ["message", "detail", "error"]
                .iter()
                .find_map(|name| words(error.get(name)?))
                .unwrap_or_else(|| error.to_string()),
        };
        let code = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.to_lowercase(),
            _ => String::new(),
        };
        let status = ["code", "status"].iter().find_map(|name| {
            let value = error.get(name)?;
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            u16::try_from(number).ok().filter(|status| (400..600).contains(status))
        });
        Self { message: excerpt(&message, key), code: format!("{} {}", code("code"), code("type")), status }
    }

    /// Says what the failure means where its status is known.
    fn into_error(self, status: u16, retry_after: Option<Duration>, hint: &str) -> Error {
        let message = if self.message.is_empty() { "it said nothing more".to_owned() } else { self.message };
        match status {
            // No pause helps an account without money.
            429 if self.code.contains("insufficient_quota") => Error::BadRequest { status, message },
            429 => Error::RateLimited { retry_after },
            401 | 403 => Error::Auth { status, message },
            408 | 409 | 500.. => Error::Overloaded { status, message, retry_after },
            400 | 413 | 422 if is_context(&self.code, &message) => Error::ContextTooLong { message },
            // Where the API itself says that there is no such model, the address is right.
            404 | 405 if !self.code.contains("not_found_error") => {
                Error::BadRequest { status, message: format!("{message} ({hint})") }
            }
            _ => Error::BadRequest { status, message },
        }
    }

    /// Says what the failure means where it stands in an answer that began as a success; none where it does not say
    /// enough of itself.
    pub(in crate::model) fn into_error_of_its_own(self, hint: &str) -> Error {
        let code = self.code.as_str();
        let status = if code.contains("rate_limit") || code.contains("insufficient_quota") {
            429
        } else if is_context(code, &self.message) {
            400
        } else if let Some(status) = self.status {
            status
        } else if code.contains("authentication") || code.contains("invalid_api_key") {
            401
        } else if code.contains("permission_error") {
            403
        } else if code.contains("not_found_error") {
            404
        } else if code.contains("billing_error") {
            402
        } else if code.contains("invalid_request") {
            400
        } else if code.contains("overloaded_error") {
            529
        } else {
            500
        };
        self.into_error(status, None, hint)
    }

    /// Returns what was said, in a line.
    pub(in crate::model) fn into_message(self) -> String {
        self.message
    }
}

/// Returns the words of a message that is a text, or a list of what is wrong with each field. What the fields held is
/// left out: it is the prompt.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => words(value.get("message")?),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(|item| item.get("msg")?.as_str()).collect();
            (!items.is_empty()).then(|| items.join("; "))
        }
        _ => None,
    }
}

fn is_context(code: &str, message: &str) -> bool {
    let message = message.to_lowercase();
    code.contains("context_length_exceeded")
        || code.contains("exceed_context_size")
        || code.contains("request_too_large")
        || CONTEXT_WORDS.iter().any(|words| message.contains(words))
}

/// Reads `retry-after-ms`, else `Retry-After` as seconds or as a date. What can't be read is as if it were not there.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str| text.parse::<f64>().ok().filter(|number| *number >= 0.0);
    let bounded = |seconds: f64| Duration::from_secs_f64(seconds.min(MAX_RETRY_AFTER.as_secs_f64()));
    if let Some(millis) = text("retry-after-ms").and_then(seconds) {
        return Some(bounded(millis / 1000.0));
    }
    let text = text(RETRY_AFTER.as_str())?;
    if let Some(seconds) = seconds(text) {
        return Some(bounded(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok()?;
    // A date in the past asks for no pause at all.
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default().min(MAX_RETRY_AFTER))
}

/// Reads from `x-ratelimit-*` or `anthropic-ratelimit-*` how long nothing more is allowed: until the later reset of those of which nothing remains.
/// None where something remains, or it is not said.
pub(super) fn allowance_pause(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    /// What remains, and when it is whole again.
    const ALLOWANCES: [[&str; 2]; 6] = [
        ["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ["anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"],
        ["anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"],
        ["anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"],
        ["anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"],
    ];
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let pause = |[remaining, whole]: [&str; 2]| {
        let remaining: u64 = text(remaining)?.parse().ok()?;
        (remaining == 0).then(|| reset(text(whole)?, now))?
    };
    ALLOWANCES.into_iter().filter_map(pause).max()
}

/// Reads when an allowance is whole again: as a span (`6m0s`, `1.5s`, `20ms`), as mere seconds, or as a time (RFC 3339).
fn reset(text: &str, now: Timestamp) -> Option<Duration> {
    let bounded = |seconds: f64| {
        let is_span = seconds.is_finite() && seconds >= 0.0;
        is_span.then(|| Duration::from_secs_f64(seconds.min(MAX_RETRY_AFTER.as_secs_f64())))
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return bounded(seconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(Duration::try_from(time.duration_since(now)).unwrap_or_default().min(MAX_RETRY_AFTER));
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_seconds;
        rest = after;
    }
    bounded(seconds).filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    const HINT: &str = "is base_url right?";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[track_caller]
    fn check_pause(pairs: &[(&'static str, &str)], expected: Option<Duration>) {
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(retry_after(&headers(pairs), now), expected, "{pairs:?}");
    }

    #[test]
    fn the_pause_is_read_in_each_form() {
        check_pause(&[], None);
        check_pause(&[("retry-after", "7")], Some(Duration::from_secs(7)));
        check_pause(&[("retry-after", " 0.5 ")], Some(Duration::from_millis(500)));
        check_pause(&[("retry-after", "9"), ("retry-after-ms", "250")], Some(Duration::from_millis(250)));
        check_pause(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(Duration::from_secs(60)));
        check_pause(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(Duration::ZERO));
    }

    #[test]
    fn an_insane_pause_is_clamped_or_not_there() {
        check_pause(&[("retry-after", "99999999999999999999999")], Some(MAX_RETRY_AFTER));
        check_pause(&[("retry-after", "inf")], Some(MAX_RETRY_AFTER));
        check_pause(&[("retry-after", "Sun, 06 Nov 2094 08:49:37 GMT")], Some(MAX_RETRY_AFTER));
        for nonsense in ["-1", "soon", "", "NaN", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            check_pause(&[("retry-after", nonsense)], None);
        }
    }

    #[test]
    fn a_spent_allowance_is_read_in_each_form() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |pairs: &[(&'static str, &str)], expected: Option<u64>| {
            let read = allowance_pause(&headers(pairs), now);
            assert_eq!(read, expected.map(Duration::from_millis), "{pairs:?}");
        };
        let (left, reset) = ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests");
        check(&[], None);
        check(&[(left, "7"), (reset, "2s")], None);
        check(&[(left, "0")], None);
        for (text, millis) in
            [("2s", 2_000), ("6m0s", 360_000), ("20ms", 20), ("1h1.5s", 3_601_500), ("3", 3_000), ("0.25", 250)]
        {
            check(&[(left, "0"), (reset, text)], Some(millis));
        }
        check(&[(left, "0"), (reset, "2026-01-01T00:00:05Z")], Some(5_000));
        check(&[(left, "0"), (reset, "2025-01-01T00:00:05Z")], Some(0));
        check(&[(left, "0"), (reset, "99999999999999d")], Some(7 * 24 * 60 * 60 * 1_000));
        for nonsense in ["", "soon", "-1", "NaN", "inf", "5x", "s", "1s?", "1.2.3s"] {
            check(&[(left, "0"), (reset, nonsense)], None);
        }
        let (tokens, of_tokens) = ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens");
        check(&[(left, "0"), (reset, "1s"), (tokens, "0"), (of_tokens, "9s")], Some(9_000));
        let (left_of_input, reset_of_input) =
            ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset");
        check(&[(left_of_input, "0"), (reset_of_input, "2026-01-01T00:01:00Z")], Some(60_000));
        check(&[(left_of_input, "1"), (reset_of_input, "2026-01-01T00:01:00Z")], None);
        let both = headers(&[(left, "0"), (reset, "4s")]);
        assert_eq!(refused(429, &both, b"", None, "").retry_after(), Some(Duration::from_secs(4)));
        assert_eq!(refused(500, &both, b"", None, "").retry_after(), None);
    }

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let error = refused(status, &HeaderMap::new(), body.as_bytes(), None, HINT);
        let variant = format!("{error:?}");
        let variant = variant.split([' ', '{']).next().unwrap_or_default();
        assert_eq!(variant, expected, "{status} {body}: {error}");
    }

    #[test]
    fn each_refusal_has_its_class() {
        check(429, "", "RateLimited");
        check(429, r#"{"error":{"code":"insufficient_quota","message":"pay"}}"#, "BadRequest");
        check(429, r#"{"error":{"type":"insufficient_quota","code":null}}"#, "BadRequest");
        for status in [408, 409, 500, 502, 503, 529] {
            check(status, "<html>", "Overloaded");
        }
        check(401, "{}", "Auth");
        check(403, "[]", "Auth");
        check(400, r#"{"error":{"code":"context_length_exceeded","message":"too long"}}"#, "ContextTooLong");
        check(400, r#"{"error":{"message":"This model's maximum context length is 8192 tokens"}}"#, "ContextTooLong");
        let llama = r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#;
        check(400, llama, "ContextTooLong");
        check(413, r#"{"message":"exceeds the available context size"}"#, "ContextTooLong");
        check(413, "Request Entity Too Large", "BadRequest");
        check(400, r#"{"error":{"message":"no such field"}}"#, "BadRequest");
        let anthropic = |kind: &str, message: &str| {
            format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#)
        };
        let long = "prompt is too long: 208310 tokens > 200000 maximum";
        check(400, &anthropic("invalid_request_error", long), "ContextTooLong");
        let long = "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000";
        check(400, &anthropic("invalid_request_error", long), "ContextTooLong");
        check(
            413,
            &anthropic("request_too_large", "Request exceeds the maximum allowed number of bytes"),
            "ContextTooLong",
        );
        check(529, &anthropic("overloaded_error", "Overloaded"), "Overloaded");
        check(402, "", "BadRequest");
        check(404, "", "BadRequest");
    }

    #[test]
    fn a_wrong_address_is_hinted_at() {
        let message = refused(404, &HeaderMap::new(), b"404 page not found", None, HINT).to_string();
        assert!(message.contains("404 page not found") && message.contains(HINT), "{message}");
        let body = br#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#;
        let message = refused(404, &HeaderMap::new(), body, None, HINT).to_string();
        assert!(message.ends_with(": model: x"), "{message}");
        let moved = headers(&[("location", "https://example.com/login?token=abc")]);
        let message = refused(302, &moved, b"", None, HINT).to_string();
        assert!(message.contains("https://example.com/login,") && !message.contains("abc"), "{message}");
    }

    #[test]
    fn what_was_said_is_found_in_each_shape() {
        for body in [
            r#"{"error":{"message":"no such model","type":"x"}}"#,
            r#"{"error":"no such model"}"#,
            r#"{"detail":"no such model"}"#,
            r#"{"message":"no such model"}"#,
            r#"{"detail":[{"loc":["body","messages"],"msg":"no such model","input":"the prompt"}]}"#,
            "no such\r\n\tmodel",
        ] {
            let message = refused(400, &HeaderMap::new(), body.as_bytes(), None, HINT).to_string();
            assert!(message.ends_with(": no such model"), "{body}: {message}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line_without_the_key() {
        let key = SecretString::from("sk-very-secret");
        assert_eq!(excerpt("a\x1b[31m\n b\u{202e}c sk-very-secret!", Some(&key)), "a [31m b c [key]!");
        assert_eq!(excerpt(&"ü".repeat(9000), None).chars().count(), EXCERPT_CHARS + 1);
        for pad in 280..310 {
            let line = excerpt(&format!("{}sk-very-secret", "x".repeat(pad)), Some(&key));
            assert!(!line.contains("sk"), "{line}");
        }
        assert_eq!(excerpt("", Some(&key)), "");
    }

    #[test]
    fn an_error_inside_a_success_is_mapped_by_its_code() {
        let of = |text: &str| {
            let error = Said::of(&serde_json::from_str(text).unwrap(), None).into_error_of_its_own(HINT);
            format!("{error:?}").split(' ').next().unwrap_or_default().to_owned()
        };
        assert_eq!(of(r#"{"code":429,"message":"slow down"}"#), "RateLimited");
        assert_eq!(of(r#"{"code":"429","message":"slow down"}"#), "RateLimited");
        assert_eq!(of(r#"{"type":"rate_limit_error"}"#), "RateLimited");
        assert_eq!(of(r#"{"code":"insufficient_quota"}"#), "BadRequest");
        assert_eq!(of(r#"{"type":"invalid_request_error"}"#), "BadRequest");
        assert_eq!(of(r#"{"code":"context_length_exceeded"}"#), "ContextTooLong");
        assert_eq!(of(r#"{"type":"request_too_large"}"#), "ContextTooLong");
        assert_eq!(of(r#"{"type":"overloaded_error"}"#), "Overloaded");
        assert_eq!(of(r#"{"type":"api_error"}"#), "Overloaded");
        assert_eq!(of(r#"{"type":"timeout_error"}"#), "Overloaded");
        assert_eq!(of(r#"{"type":"authentication_error"}"#), "Auth");
        assert_eq!(of(r#"{"type":"permission_error"}"#), "Auth");
        assert_eq!(of(r#"{"type":"not_found_error"}"#), "BadRequest");
        assert_eq!(of(r#"{"type":"billing_error"}"#), "BadRequest");
        assert_eq!(of(r#"{"code":502}"#), "Overloaded");
        assert_eq!(of(r#"{"type":"server_error"}"#), "Overloaded");
        assert_eq!(of(r#""something""#), "Overloaded");
        assert_eq!(of("null"), "Overloaded");
    }
}

//! What in a network file may be a secret: it is never shown, not even in the excerpt that says that it should not be
//! there.

use std::ops::Range;

use super::SecretRef;
use super::node::{Node, Value};

/// Returns the bytes of all strings that may hold a secret: what must never be shown.
pub(super) fn in_tree(tree: &Node) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    gather_secrets(tree, false, &mut found);
    found
}

fn gather_secrets(node: &Node, under_secret: bool, found: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Table(entries) => {
            entries.iter().for_each(|(key, entry)| gather_secrets(entry, is_secret_key(key), found));
        }
        Value::Array(items) => items.iter().for_each(|item| gather_secrets(item, under_secret, found)),
        Value::String(text) if under_secret && !SecretRef::is_reference(text) => found.push(node.span.clone()),
        _ => {}
    }
}

/// Whether a key is one that people put secrets under.
fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    ["key", "secret", "password", "passwd", "credential", "authorization"].iter().any(|word| key.contains(word))
        || key.ends_with("token")
}

/// Returns the bytes that may be a secret, found without parsing: what follows `key =` on a line where the key's name
/// speaks of one, and credentials in a URL.
pub(super) fn in_text(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let mut from = 0;
        while let Some(equals) = line[from..].find('=').map(|at| from + at) {
            let key = line[from..equals].trim_end().trim_end_matches(['"', '\'']);
            let key = key.rsplit(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).next().unwrap_or_default();
            from = equals + 1;
            if is_secret_key(key) {
                let value = line[from..].trim_start();
                let start = line.len() - value.len();
                let quoted = value.trim_start_matches(['"', '\'']);
                let end = match value.chars().next() {
                    // The keys within are looked at one by one.
                    Some('{') => continue,
                    Some('[') => value.trim_end().len(),
                    _ => quoted.find(['"', '\'']).unwrap_or(quoted.trim_end().len()),
                };
                if !SecretRef::is_reference(&quoted[..end]) {
                    let quotes = value.len() - quoted.len();
                    found.push(offset + start..offset + start + quotes + end);
                }
            }
        }
        let mut from = 0;
        while let Some(at) = line[from..].find("://").map(|at| from + at + 3) {
            let host = line[at..].find(['/', '"', '\'', ' ', '\n']).map_or(line.len(), |end| at + end);
            if let Some(sign) = line[at..host].rfind('@') {
                found.push(offset + at..offset + at + sign);
            }
            from = at;
        }
        offset += line.len();
    }
    found
}

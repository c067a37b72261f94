//! From what people write to what the index of words is asked, and what it is told of names in code.
//!
//! The index takes a text apart where a character is neither letter nor digit, and knows words by their English stems. So
//! it finds `max` in `max_deliveries` by itself; what it can't see are the words in `MaxDeliveries`.

use std::collections::BTreeSet;

use super::Error;

/// How long a query may be. It is a question or a few names; who gives more wants something else.
pub const MAX_QUERY_BYTES: usize = 4 * 1024;

/// How many words of a query are looked for, the first ones: each costs a look at all places where it stands.
const MAX_TERMS: usize = 48;

/// How much of a word is looked at: the longest names in code are shorter.
const MAX_WORD_CHARS: usize = 128;

/// Words that join others and say nothing of what is looked for. They stand everywhere, so that to look for them takes
/// long and finds everything.
const JOINING: [&str; 88] = [
    "a", "about", "after", "all", "an", "and", "any", "are", "as", "at", "be", "been", "before", "but", "by", "can",
    "could", "did", "do", "does", "each", "for", "from", "get", "gets", "had", "has", "have", "how", "i", "if", "in",
    "into", "is", "it", "its", "me", "more", "most", "my", "no", "not", "of", "on", "one", "only", "or", "other",
    "our", "out", "over", "own", "same", "shall", "should", "so", "some", "such", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "to", "under", "up", "upon", "us", "was", "we", "were", "what",
    "when", "where", "which", "while", "who", "whose", "why", "will", "with", "would", "you",
];

/// Returns what the index is asked for a query: any of its words, those that say something. It is never a syntax error,
/// whatever the query is: each word is quoted.
///
/// # Errors
/// The query is too long, or has no words.
pub(super) fn expression(query: &str) -> Result<String, Error> {
    if query.len() > MAX_QUERY_BYTES {
        return Err(Error::QueryTooLong(query.len()));
    }
    let all = terms(query);
    let telling: Vec<&String> = all.iter().filter(|term| !JOINING.contains(&term.as_str())).collect();
    let chosen = if telling.is_empty() { all.iter().collect() } else { telling };
    if chosen.is_empty() {
        return Err(Error::NoWords);
    }
    Ok(chosen.into_iter().take(MAX_TERMS).map(|term| format!("\"{term}\"")).collect::<Vec<_>>().join(" OR "))
}

/// Returns the words of a query in small letters, each once: names in code whole, and their parts after them.
pub(super) fn terms(query: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut terms = Vec::new();
    for name in names(query) {
        let parts = parts_of(name);
        let whole = name.trim_matches('_').to_lowercase();
        let all = std::iter::once(whole).chain(parts.into_iter().filter(|part| part.chars().count() > 1));
        terms.extend(all.filter(|term| !term.is_empty() && seen.insert(term.clone())));
    }
    terms
}

/// Returns what the index is told of a text beside the text: the parts of the names in it that it would take for one word.
pub(super) fn hidden_parts(text: &str) -> String {
    let words = names(text).flat_map(|name| name.split('_'));
    let parts: BTreeSet<String> =
        words.map(capitals_apart).filter(|parts| parts.len() > 1).flatten().map(str::to_lowercase).collect();
    parts.into_iter().collect::<Vec<_>>().join(" ")
}

/// Returns the words and names of a text; the rest of one that is longer than any is left out.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|name| !name.is_empty()).map(|name| {
        let end = name.char_indices().nth(MAX_WORD_CHARS).map_or(name.len(), |(at, _)| at);
        &name[..end]
    })
}

/// Returns the words of a name in small letters: `max_deliveries` and `MaxDeliveries` both have two.
fn parts_of(name: &str) -> Vec<String> {
    name.split('_').filter(|part| !part.is_empty()).flat_map(capitals_apart).map(str::to_lowercase).collect()
}

/// Takes a name apart where its capitals do: `RunId` is `Run` and `Id`, and `HTTPServer` is `HTTP` and `Server`.
fn capitals_apart(name: &str) -> Vec<&str> {
    let letters: Vec<(usize, char)> = name.char_indices().collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for index in 1..letters.len() {
        let (at, letter) = letters[index];
        let before = letters[index - 1].1;
        let after = letters.get(index + 1).is_some_and(|(_, after)| after.is_lowercase());
        if letter.is_uppercase() && (!before.is_uppercase() || after) {
            parts.push(&name[start..at]);
            start = at;
        }
    }
    parts.extend((start < name.len()).then(|| &name[start..]));
    parts
}

/// Returns the beginning of something that was asked for, to be named in an error.
pub(super) fn excerpt(asked: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown: String = asked.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if asked.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_its_telling_words_quoted() {
        assert_eq!(expression("How is a run forked?").unwrap(), r#""run" OR "forked""#);
        assert_eq!(expression("the of and").unwrap(), r#""the" OR "of" OR "and""#);
        assert_eq!(expression("run RUN Run").unwrap(), r#""run""#);
    }

    #[test]
    fn names_are_looked_for_whole_and_in_parts() {
        assert_eq!(expression("max_deliveries").unwrap(), r#""max_deliveries" OR "max" OR "deliveries""#);
        assert_eq!(expression("RunSupervisor").unwrap(), r#""runsupervisor" OR "run" OR "supervisor""#);
        assert_eq!(hidden_parts("RunSupervisor a_b HTTPServer run"), "http run server supervisor");
        assert_eq!(hidden_parts("plain words, max_deliveries"), "");
    }

    #[test]
    fn what_means_something_to_the_index_means_nothing_here() {
        assert_eq!(
            expression(r#"text:x* NEAR("y" z) AND -w ^v"#).unwrap(),
            r#""text" OR "x" OR "near" OR "y" OR "z" OR "w" OR "v""#
        );
    }

    #[test]
    fn a_query_without_words_or_of_a_megabyte_is_refused() {
        for empty in ["", " ", "\"'()*:^-+{}[]?!.,;", "\0", "___"] {
            assert!(matches!(expression(empty), Err(Error::NoWords)), "{empty:?}");
        }
        assert!(matches!(expression(&"word ".repeat(200_000)), Err(Error::QueryTooLong(1_000_000))));
        let many = (0..1_000).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            expression(&many[..MAX_QUERY_BYTES.min(many.len())]).unwrap().matches(" OR ").count(),
            MAX_TERMS - 1
        );
    }
}

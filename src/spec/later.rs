//! What the design of network files has and this version does not: refused as such, never ignored.

/// A key of a later version, and what to do until then. A `*` stands for any name.
pub(super) const KEYS: &[(&[&str], &str)] = &[
    (&["tools", "*", "mcp"], "use a `builtin` tool, or supply the tool from a Rust program"),
    (&["tools", "*", "sandbox"], "take it out; `allow` says which programs may be started"),
    (
        &["network", "fleet", "cost_usd_per_day"],
        "write `[[budgets]]` with `of = \"network\"`, `per = \"day\"` and `cost_usd`",
    ),
];

/// Returns what to do in place of a key, if it is one of a later version.
pub(super) fn key<S: AsRef<str>>(path: &[S]) -> Option<&'static str> {
    KEYS.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, remedy)| *remedy)
}

fn matches<S: AsRef<str>>(pattern: &[&str], path: &[S]) -> bool {
    pattern.len() == path.len()
        && pattern.iter().zip(path).all(|(pattern, step)| *pattern == "*" || *pattern == step.as_ref())
}

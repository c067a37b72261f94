//! Places in the gate at which a test may let the process die: `gate.after_intent.once`, and so on.

/// Passes a place, on behalf of a call of some class. In a release build nothing happens here.
pub(super) fn point(place: &str, class: &str) {
    if cfg!(debug_assertions) {
        crate::fault::point(&format!("gate.{place}.{class}"));
    }
}

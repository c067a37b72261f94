//! Which ballots are taken, and what a grant covers.

//! Budgets: what may be spent, what is held for calls under way, and what has been spent. Pure arithmetic; who waits
//! for whom is the gate's business.
//!
//! A call reserves the most that it can cost before it starts, in all accounts that it spends from or in none, and settles what
//! it did cost afterwards. So `spent + held <= limit` holds at all times, however many calls race; only a provider that bills
//! more than it was allowed can break it, and what it bills beyond is recorded as debt.

mod account;
mod calendar;
mod ledger;
mod name;
mod price;

pub use account::{Account, Amount, Cap, Limit};
pub use calendar::Today;
pub use ledger::{Balance, Book, Closed, Doubt, Entry, Ledger, NotRaised, Opening};
pub use name::AccountName;
pub use price::{NANO_USD_PER_USD, Rates};

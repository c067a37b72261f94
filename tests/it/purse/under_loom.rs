//! The very source of the purse, with loom's locks in the place of the standard library's.

use loom::sync::Arc;
use loom::thread;
use provost::budget::{Account, AccountName, Amount, Cap, Rates, Today};
use provost::spec::Limits;

/// What the purse locks with.
mod sync {
    use std::future::Ready;
    use std::marker::PhantomData;

    pub(super) use loom::sync::{Mutex, MutexGuard};

    pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    /// Who waits for what is freed is no matter here.
    #[derive(Debug)]
    pub(super) struct Notify;
    pub(super) type Notified<'a> = (Ready<()>, PhantomData<&'a ()>);

    impl Notify {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) fn notify_waiters(&self) {}

        pub(super) fn notified(&self) -> Notified<'_> {
            (std::future::ready(()), PhantomData)
        }
    }
}

#[path = "../../../src/runtime/purse.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is public where it is at home, and not all of it matters here")]
mod purse;

use purse::{Ask, Purse, SharedAccount, Source};

fn cap(model_calls: u64) -> Cap {
    Cap::of_run(&Limits { model_calls: Some(model_calls), ..Limits::default() })
}

/// Two calls, each with an account of its own beside one that both share: whatever order they take each other's turns in,
/// the shared limit holds, nobody waits for ever, and nothing stays held.
#[test]
fn in_every_interleaving_the_limit_holds_and_all_comes_back() {
    loom::model(|| {
        let account = |name: &str| std::sync::Arc::new(SharedAccount::new(AccountName::new(name), Account::default()));
        let shared = [account("network/n"), account("tenant/n/t")];
        let purse = |own: &str, reversed: bool| {
            let source =
                |account: &std::sync::Arc<SharedAccount>| Source { account: account.clone(), caps: [cap(1)].into() };
            let mut sources: Vec<Source> = shared.iter().map(source).chain([source(&account(own))]).collect();
            if reversed {
                sources.reverse();
            }
            Purse::new(sources)
        };
        let made = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let call = |purse: Purse, is_made: bool| {
            let made = made.clone();
            move || {
                let (counts, rates) = (Amount::ONE_STEP, Rates::default());
                let ask = Ask { counts, input_tokens: 1, wanted: 1, at_least: 1, rates };
                if let Ok((_, held)) = purse.reserve(&ask, Today::default()) {
                    match is_made {
                        true => {
                            made.fetch_add(1, loom::sync::atomic::Ordering::SeqCst);
                            purse.settle(held, held, Today::default());
                        }
                        false => purse.release(held),
                    }
                }
            }
        };
        let others = [call(purse("run/a", false), true), call(purse("run/b", true), true)];
        let threads = others.map(thread::spawn);
        for thread in threads {
            thread.join().unwrap();
        }
        let made = made.load(loom::sync::atomic::Ordering::SeqCst);
        assert_eq!(made, 1, "one of them has it, and only one");
        for account in &shared {
            let (held, spent) = account.with(|account| (account.held(), account.spent().model_calls));
            assert_eq!((held, spent), (Amount::default(), 1));
        }
    });
}

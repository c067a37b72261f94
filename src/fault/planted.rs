//! The bugs that can be planted. Each is one that a change might bring in, in the place where it would be; a test that
//! claims to guard an invariant has to find the one that breaks it.

/// Lists the bugs: the variant, its name in the environment and in `docs/testing.md`, and what is wrong with it.
macro_rules! bugs {
    ($($variant:ident $name:literal $what:literal)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Returns its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Says what is wrong with it.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

bugs! {
    DecidesOtherwise "decides_otherwise" "an agent that has a tool's result answers with it, and asks the model no more"
    IntentNotDurable "intent_not_durable" "a call is made when its intent has its number, before that is on disk"
    EffectBeforeIntent "effect_before_intent" "a tool is called first, and its intent recorded with its result"
    AppliedBeforeNumbered "applied_before_numbered" "events are applied as they come, and numbered when they are written, the last one first"
    ToldBeforeCommit "told_before_commit" "who waits for a commit is told before it is made"
    EndToldBeforeDurable "end_told_before_durable" "a run's end is reported before it is on disk"
    EpochNotChecked "epoch_not_checked" "a commit does not look whether the store is still the process's own"
    ClaimNotHeld "claim_not_held" "two may take up one run at the same time"
    OnceMadeAgain "once_made_again" "a call of a `once` tool that was cut off is made again without a word"
    CompletedMadeAgain "completed_made_again" "a run that is taken up makes calls again that have their results"
    AskedAgain "asked_again" "a question to a person that is open is put a second time when its run is taken up"
    AnswerNotDurable "answer_not_durable" "an agent hears what a person answered before that is on disk"
    AnsweredTwice "answered_twice" "a question to a person takes one answer after the other"
    RefusalForgotten "refusal_forgotten" "a call that a person refused before a crash is let through after it"
    CutOffNotCharged "cut_off_not_charged" "a model call that a crash cut off is not charged"
    AbandonedNotCharged "abandoned_not_charged" "a model call that is under way when its run is cancelled is not charged"
    FailedTryNotInLedger "failed_try_not_in_ledger" "what a failed try of a model call cost is not entered in the ledger"
    ReservedInTwo "reserved_in_two" "a reservation looks at the account and changes it in two steps, between which others have their turn"
    SettledTwice "settled_twice" "what a call cost counts twice against the run's limits, and once on record"
    FreedNotTold "freed_not_told" "who waits for budget is not told that some is free"
    PermitLostOnCancel "permit_lost_on_cancel" "the permit of a model call that is cancelled is not given back"
    RefusedAlone "refused_alone" "a provider that refuses calls for a while is left alone by the call that it told so, and by no other"
    MailLostOnRestart "mail_lost_on_restart" "an agent that is restarted does not get the mail again that its last incarnation had not dealt with"
    SnapshotMissesLast "snapshot_misses_last" "a snapshot is said to hold an event that its agents have not taken up"
    KeyChanges "key_changes" "a call that is made again after a crash has another idempotency key"
    CancelIgnored "cancel_ignored" "a run that has calls under way does not hear that it is cancelled"
    PauseIgnored "pause_ignored" "a run that is paused goes on as if it were not"
    CostForgotten "cost_forgotten" "what a reply used is charged, and not what that cost"
    RetriedAtOnce "retried_at_once" "a failed try is followed by the next without a pause"
    TenantForgotten "tenant_forgotten" "what a run spends that was taken up is another tenant's"
    TaskLost "task_lost" "a model is not told what its agent is asked"
    DeadlineBeginsAnew "deadline_begins_anew" "a run that is taken up has all of its time once more"
    PoisonNotSkipped "poison_not_skipped" "an event that is rejected is given to the next incarnation all the same"
    RestartLosesState "restart_loses_state" "an agent that is restarted begins with nothing"
    RestartTooSoon "restart_too_soon" "an agent is restarted without the pause that is on record"
    OneRestartTooMany "one_restart_too_many" "a supervisor bears one restart more than it may"
    CallNotMadeAgain "call_not_made_again" "a call after whose failure its agent is restarted is not made again"
    DeadLetterNotTold "dead_letter_not_told" "who asked is not told that the message became a dead letter"
    OrphansGoOn "orphans_go_on" "whom an agent has asked that is given up goes on for nobody"
    TakenByTwo "taken_by_two" "one instance more is at work than there may be"
    PlaceNotFreed "place_not_freed" "the place of an instance that has answered is not given back"
    PlaceFreedEarly "place_freed_early" "a place is given back before what its instance keeps is on disk"
    TakenOutOfTurn "taken_out_of_turn" "a question that has to wait goes before those that wait already"
    NoRoomBreaksOff "no_room_breaks_off" "a question for which there is no room yet counts as broken off"
    CircleNotSeen "circle_not_seen" "agents that wait for one another are left to wait"
    KeptTwice "kept_twice" "an answered question is kept twice"
    KeptLost "kept_lost" "an answered question is not kept"
    LoopUnbounded "loop_unbounded" "a route is taken more often than it may be"
    JoinTooSoon "join_too_soon" "a join does not wait for all whose answers it wants"
    LosersGoOn "losers_go_on" "whose answer a join does not wait for goes on all the same"
}

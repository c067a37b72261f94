//! Checkpoints of a store on disk: when there are any, what they are compared with, and what an anchor that fails does.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::journal::notary::{Key, Standing};

/// A store with an anchor in a directory of its own.
struct Anchored {
    dir: TempDir,
    elsewhere: TempDir,
}

impl Anchored {
    fn new() -> Self {
        let anchored = Self { dir: tempfile::tempdir().unwrap(), elsewhere: tempfile::tempdir().unwrap() };
        set_anchor(anchored.dir.path(), &anchored.target(), None).unwrap();
        anchored
    }

    fn anchor_file(&self) -> PathBuf {
        self.elsewhere.path().join("anchor.jsonl")
    }

    fn target(&self) -> Target {
        Target::File(self.anchor_file())
    }

    /// A process that appends so many events more, each in a commit of its own, and closes the store or dies.
    async fn write(&self, count: u64, closes: bool) {
        let journal = Journal::open(self.dir.path(), false).unwrap();
        if closes {
            journal.keep_checkpoints(None).unwrap();
        }
        let head = journal.store().unwrap().stream(&name("run/a")).map_or(0, |info| info.head);
        for seq in head + 1..=head + count {
            journal.append(batch(vec![part("run/a", vec![record(seq)])])).unwrap();
            journal.sync().await.unwrap();
        }
        journal.close().await.unwrap();
    }

    fn beside(&self) -> Evidence {
        Evidence::beside(self.dir.path()).unwrap()
    }

    fn at_anchor(&self) -> Result<Evidence, Error> {
        Evidence::of(self.dir.path(), &self.target(), &*self.target().connect(None).unwrap(), true)
    }

    /// Compares the store with both.
    fn verify(&self, keys: &[PublicKey]) -> Result<Vec<Attested>, Error> {
        let evidence = [self.beside(), self.at_anchor()?];
        verify_against(self.dir.path(), &evidence, keys).map(|(_, attested)| attested)
    }

    fn refuted(&self) -> Refuted {
        match self.verify(&[]) {
            Err(Error::Refuted(refuted)) => refuted,
            other => panic!("{other:?}"),
        }
    }

    /// The files of the data directory, as a backup has them.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path()) {
            fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        copy
    }

    fn put_back(&self, copy: &TempDir) {
        for file in fs::read_dir(self.dir.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        for file in fs::read_dir(copy.path()).unwrap().map(|file| file.unwrap().path()) {
            fs::copy(&file, self.dir.path().join(file.file_name().unwrap())).unwrap();
        }
    }

    /// The last checkpoint at the anchor.
    fn last(&self) -> Checkpoint {
        let text = fs::read_to_string(self.anchor_file()).unwrap();
        Checkpoint::parse(text.lines().last().unwrap()).unwrap()
    }

    /// Waits until the anchor has so many lines.
    fn until_anchored(&self, lines: usize) {
        while fs::read_to_string(self.anchor_file()).unwrap().lines().count() < lines {
            std::thread::yield_now();
        }
    }

    fn append_to_anchor(&self, line: &str) {
        let text = fs::read_to_string(self.anchor_file()).unwrap_or_default();
        fs::write(self.anchor_file(), format!("{text}{line}\n")).unwrap();
    }
}

#[tokio::test]
async fn a_store_that_is_closed_has_a_checkpoint_of_its_last_commit_beside_it_and_at_the_anchor() {
    let anchored = Anchored::new();
    for size in [3, 5, 5] {
        let before = anchored.dir.path().join("provost.db").exists().then(|| anchored.verify(&[]).unwrap());
        let written = size - before.map_or(0, |attested| attested[0].newest.as_ref().unwrap().size());
        anchored.write(written, true).await;
        for attested in anchored.verify(&[public_key(anchored.dir.path()).unwrap()]).unwrap() {
            assert_eq!((attested.newest.unwrap().size(), attested.since), (size, 0));
        }
    }
    // Nothing happened the third time, and nothing was signed or sent.
    assert_eq!(fs::read_to_string(anchored.anchor_file()).unwrap().lines().count(), 2);
    let known = anchoring(anchored.dir.path()).unwrap().unwrap();
    assert_eq!((known.lag(), known.failing), (0, None));
    let verified = verify(anchored.dir.path()).unwrap();
    assert_eq!(anchored.last().root(), verified.head);
}

/// A process that dies before it signs leaves commits without a checkpoint; the next one signs what it finds.
#[tokio::test]
async fn what_a_crash_left_without_a_checkpoint_the_next_holder_signs_as_it_finds_it() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    anchored.write(3, false).await;
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [3, 3]);
    anchored.write(0, true).await;
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
}

/// A process that dies when it has signed and not sent: the next one sends.
#[tokio::test]
async fn what_a_crash_left_unsent_the_next_holder_sends() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    let before = fs::read(anchored.anchor_file()).unwrap();
    let state = fs::read(anchored.dir.path().join("anchored.json")).unwrap();
    anchored.write(2, true).await;
    fs::write(anchored.anchor_file(), &before).unwrap();
    fs::write(anchored.dir.path().join("anchored.json"), &state).unwrap();
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 2]);
    assert_eq!(anchoring(anchored.dir.path()).unwrap().unwrap().lag(), 2);
    anchored.write(0, true).await;
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
    // What is known of the anchor may be lost, and half a line may stand at its end.
    fs::remove_file(anchored.dir.path().join("anchored.json")).unwrap();
    let mut torn = fs::read(anchored.anchor_file()).unwrap();
    torn.truncate(torn.len() - 9);
    fs::write(anchored.anchor_file(), torn).unwrap();
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 2]);
    anchored.write(0, true).await;
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
}

trait MapSince {
    fn map_since(&self) -> Vec<u64>;
}

impl MapSince for Vec<Attested> {
    fn map_since(&self) -> Vec<u64> {
        self.iter().map(|attested| attested.since).collect()
    }
}

#[tokio::test]
async fn an_older_copy_of_the_whole_directory_is_found_by_the_anchor_alone() {
    let anchored = Anchored::new();
    anchored.write(4, true).await;
    let copy = anchored.copy();
    anchored.write(4, true).await;
    anchored.put_back(&copy);
    verify_against(anchored.dir.path(), &[anchored.beside()], &[]).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Cut { size: 8, found: 4, .. }));
    // It goes on, and is longer than it was: the store is another one from there.
    anchored.write(6, true).await;
    verify_against(anchored.dir.path(), &[anchored.beside()], &[]).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Rewritten { size: 8, agreed: 4, .. }));
}

#[tokio::test]
async fn an_older_copy_of_the_store_alone_is_found_by_the_checkpoints_beside_it_too() {
    let anchored = Anchored::new();
    anchored.write(4, true).await;
    let copy = fs::read(anchored.dir.path().join("provost.db")).unwrap();
    anchored.write(4, true).await;
    fs::write(anchored.dir.path().join("provost.db"), copy).unwrap();
    let beside = verify_against(anchored.dir.path(), &[anchored.beside()], &[]);
    assert!(matches!(beside, Err(Error::Refuted(Refuted::Cut { size: 8, found: 4, .. }))), "{beside:?}");
    // Whoever opens it does not sign over what shows it: an anchor that was away gets that.
    fs::write(anchored.anchor_file(), "").unwrap();
    fs::remove_file(anchored.dir.path().join("anchored.json")).unwrap();
    anchored.write(1, true).await;
    let beside = verify_against(anchored.dir.path(), &[anchored.beside()], &[]);
    assert!(matches!(beside, Err(Error::Refuted(Refuted::Cut { size: 8, found: 5, .. }))), "{beside:?}");
    assert_eq!(anchored.last().size(), 8);
}

/// Another store in the place of this one, with a key and checkpoints of its own: who has the directory can do that.
#[tokio::test]
async fn another_store_in_its_place_is_found_by_the_anchor() {
    let (anchored, other) = (Anchored::new(), Anchored::new());
    for each in [&anchored, &other] {
        each.write(5, true).await;
    }
    let copy = other.copy();
    fs::remove_file(copy.path().join("anchor.json")).unwrap();
    anchored.put_back(&copy);
    verify_against(anchored.dir.path(), &[anchored.beside()], &[]).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::OtherStore { .. }));
    // An anchor may keep the checkpoints of several stores.
    anchored.append_to_anchor(&other.last().to_string());
    assert_eq!(anchored.verify(&[]).unwrap()[1].checkpoints, 1);
    // What lies beside a store is of that store alone.
    let both = format!("{}\n{}\n", fs::read_to_string(anchored.anchor_file()).unwrap().trim_end(), other.last());
    fs::write(anchored.dir.path().join("checkpoints.jsonl"), both).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::OtherStore { .. }));
}

#[tokio::test]
async fn what_is_forged_contradicts_or_is_no_checkpoint_is_refused() {
    let anchored = Anchored::new();
    anchored.write(5, true).await;
    let (last, own) = (anchored.last(), public_key(anchored.dir.path()).unwrap());
    let original = fs::read_to_string(anchored.anchor_file()).unwrap();
    let verified = |line: &str, keys: &[PublicKey]| {
        fs::write(anchored.anchor_file(), &original).unwrap();
        anchored.append_to_anchor(line);
        match anchored.verify(keys) {
            Ok(_) => None,
            Err(Error::Refuted(refuted)) => Some(refuted),
            Err(error) => panic!("{error}"),
        }
    };
    let genuine = last.to_string();
    assert_eq!(verified(&genuine, &[own]), None);
    let forged = genuine.replace("\"size\":5", "\"size\":4");
    assert!(matches!(verified(&forged, &[]), Some(Refuted::Forged { size: 4, .. })));
    assert!(matches!(verified("{}", &[]), Some(Refuted::Unreadable { line: 2, .. })));
    let key = Key::of([9; 32]);
    let stranger = Checkpoint::sign(last.standing, 1, &key);
    assert!(matches!(verified(&stranger.to_string(), &[]), Some(Refuted::OtherKey { .. })));
    assert!(matches!(verified(&stranger.to_string(), &[own]), Some(Refuted::OtherKey { .. })));
    // A key that was lost, and the one that took its place.
    assert_eq!(verified(&stranger.to_string(), &[own, key.public()]), None);
    assert!(matches!(verified(&genuine, &[key.public()]), Some(Refuted::OtherKey { .. })));
    let other = Standing { root: [1; 32], ..last.standing };
    let other = Checkpoint::sign(other, 1, &Key::of_directory(anchored.dir.path()).unwrap());
    assert!(matches!(verified(&other.to_string(), &[]), Some(Refuted::Contradiction { size: 5, .. })));
}

#[tokio::test]
async fn an_anchor_that_can_not_be_reached_stops_nothing_and_is_not_forgotten() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    let kept = anchored.elsewhere.path().with_extension("away");
    fs::rename(anchored.elsewhere.path(), &kept).unwrap();
    anchored.write(3, true).await;
    let known = anchoring(anchored.dir.path()).unwrap().unwrap();
    assert_eq!((known.lag(), known.anchored.unwrap().0), (3, 2));
    let since = known.failing.unwrap().since_ms;
    assert!(matches!(anchored.verify(&[]), Err(Error::Anchor(AnchorError::Unreachable { .. }))));
    anchored.write(1, true).await;
    let known = anchoring(anchored.dir.path()).unwrap().unwrap();
    assert_eq!((known.lag(), known.failing.unwrap().since_ms), (4, since));
    fs::rename(&kept, anchored.elsewhere.path()).unwrap();
    anchored.write(0, true).await;
    let known = anchoring(anchored.dir.path()).unwrap().unwrap();
    assert_eq!((known.lag(), known.failing), (0, None));
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
    // An anchor that is reached, and has nothing of what it should have.
    fs::write(anchored.anchor_file(), "").unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Lost { size: 6, newest: 0, .. }));
    fs::remove_file(anchored.dir.path().join("anchored.json")).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Nothing { .. }));
}

/// What a fresh anchor has not yet taken it has not lost. Only what the directory itself says is believed of that, and only of the
/// anchor that is its own.
#[tokio::test]
async fn an_anchor_that_has_taken_nothing_yet_is_no_sign_of_another_store() {
    let (anchored, other) = (Anchored::new(), Anchored::new());
    other.write(2, true).await;
    anchored.write(3, false).await;
    for line in ["", &other.last().to_string(), "junk", " "] {
        anchored.append_to_anchor(line);
        assert_eq!(anchored.verify(&[]).unwrap()[1].newest, None, "{line}");
    }
    let anchor = anchored.target().connect(None).unwrap();
    let named = Evidence::of(anchored.dir.path(), &anchored.target(), &*anchor, false).unwrap();
    let named = verify_against(anchored.dir.path(), &[named], &[]);
    assert!(matches!(named, Err(Error::Refuted(Refuted::OtherStore { .. }))), "{named:?}");
    anchored.write(0, true).await;
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
}

#[tokio::test]
async fn an_anchor_that_has_lost_what_it_had_taken_is_found_and_filled_again_when_it_is_set_again() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    let before = fs::read(anchored.anchor_file()).unwrap();
    anchored.write(2, true).await;
    for (left, size) in [(&before[..], 2), (&[][..], 0)] {
        fs::write(anchored.anchor_file(), left).unwrap();
        assert!(matches!(anchored.refuted(), Refuted::Lost { size: 4, newest, .. } if newest == size));
        set_anchor(anchored.dir.path(), &anchored.target(), None).unwrap();
        let known = anchoring(anchored.dir.path()).unwrap().unwrap();
        assert_eq!((known.anchored.map_or(0, |(anchored, _)| anchored), known.lag()), (size, 4 - size));
        anchored.write(0, true).await;
        assert_eq!((anchored.last().size(), anchored.verify(&[]).unwrap().map_since()), (4, vec![0, 0]));
    }
    // One that has it all is sent nothing more.
    let before = fs::read(anchored.anchor_file()).unwrap();
    set_anchor(anchored.dir.path(), &anchored.target(), None).unwrap();
    anchored.write(0, true).await;
    assert_eq!(fs::read(anchored.anchor_file()).unwrap(), before);
}

#[tokio::test]
async fn checkpoints_beside_the_store_that_the_anchor_has_taken_are_missed() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    let path = anchored.dir.path().join("checkpoints.jsonl");
    let before = fs::read(&path).unwrap();
    anchored.write(2, true).await;
    fs::write(&path, before).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Lost { size: 4, newest: 2, .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(anchored.refuted(), Refuted::Lost { size: 4, newest: 0, .. }));
}

/// An anchor that never answers, as a file system may be whose other end is gone.
struct Hangs;

impl Anchor for Hangs {
    fn append(&self, _: &str) -> Result<(), AnchorError> {
        loop {
            std::thread::park();
        }
    }

    fn lines(&self, _: &mut dyn FnMut(&str) -> bool) -> Result<(), AnchorError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closing_is_over_though_the_anchor_hangs_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let hangs: Connect = |_| Ok(Box::new(Hangs));
    set_anchor(dir.path(), &Target::of("http://anchor.example").unwrap(), Some(hangs)).unwrap();
    let journal = Journal::open(dir.path(), false).unwrap();
    journal.keep_checkpoints(Some(hangs)).unwrap();
    journal.append(batch(vec![part("run/a", vec![record(1)])])).unwrap();
    journal.close().await.unwrap();
    let known = anchoring(dir.path()).unwrap().unwrap();
    assert_eq!((known.lag(), known.anchored), (1, None));
    assert!(known.failing.unwrap().why.ends_with("it does not answer within 3 s"));
}

/// A process that was stopped, and goes on after another has taken the store over.
#[tokio::test]
async fn who_was_taken_over_signs_and_sends_nothing_more() {
    let anchored = Anchored::new();
    let stopped = Journal::open(anchored.dir.path(), false).unwrap();
    stopped.append(batch(vec![part("run/a", vec![record(1)])])).unwrap();
    stopped.sync().await.unwrap();
    stopped.keep_checkpoints(None).unwrap();
    anchored.until_anchored(1);
    stopped.append(batch(vec![part("run/a", vec![record(2)])])).unwrap();
    stopped.sync().await.unwrap();
    let other = Journal::open(anchored.dir.path(), true).unwrap();
    stopped.close().await.unwrap();
    assert_eq!(anchored.last().size(), 1);
    other.keep_checkpoints(None).unwrap();
    other.close().await.unwrap();
    // One that has come too late all the same is not the newest because it is the last.
    let path = anchored.dir.path().join("checkpoints.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    fs::write(&path, lines.lines().rev().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    anchored.write(0, true).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
}

/// Of what others write into a shared anchor only what may have been ours is of concern.
#[tokio::test]
async fn what_is_not_ours_at_a_shared_anchor_does_not_fail_ours() {
    let anchored = Anchored::new();
    anchored.write(2, true).await;
    let last = anchored.last().to_string();
    let others = ["", "  ", "{\"version\":2,\"store\":\"00\",\"tree\":1}"];
    others.iter().for_each(|line| anchored.append_to_anchor(line));
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
    // It may have been our newest, and no later one covers it.
    for (at, line) in ["junk", "{}", &last.replace("\"version\":1", "\"version\":2")].into_iter().enumerate() {
        anchored.append_to_anchor(line);
        assert!(matches!(anchored.refuted(), Refuted::Unreadable { line, .. } if line == 5 + 2 * at as u64));
        anchored.append_to_anchor(&last);
        assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
    }
}

#[test]
fn what_is_named_as_an_anchor_is_an_address_of_http_or_a_file() {
    for text in ["HTTP://a.example/x", "https://a.example"] {
        assert_eq!(Target::of(text).unwrap(), Target::Http(text.to_owned()));
    }
    for text in ["localhost:8080", "127.0.0.1:80/provost", "ftp://a.example/x"] {
        assert!(matches!(Target::of(text), Err(AnchorError::Unfit { .. })), "{text}");
    }
    assert!(matches!(Target::of("dir/localhost:8080"), Ok(Target::File(_))));
    let secret = Target::of("http://user:p@ss@a.example:1/x?key=k#f").unwrap();
    assert_eq!(secret.to_string(), "http://a.example:1/x");
    assert!(!format!("{:?}", Target::of("ftp://u:word@a/").unwrap_err()).contains("word"));
}

#[test]
fn what_is_no_file_elsewhere_is_no_anchor() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [link, dangling, pipe] = ["link", "dangling", "pipe"].map(|name| elsewhere.path().join(name));
    fs::write(dir.path().join("inside"), "").unwrap();
    std::os::unix::fs::symlink(dir.path().join("inside"), &link).unwrap();
    std::os::unix::fs::symlink(dir.path().join("nothing"), &dangling).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    for path in [link, dangling, pipe, elsewhere.path().to_owned(), "/dev/null".into()] {
        let refused = set_anchor(dir.path(), &Target::File(path.clone()), None);
        assert!(matches!(refused, Err(Error::Anchor(_))), "{path:?}: {refused:?}");
        assert_eq!(anchor(dir.path()).unwrap(), None);
    }
}

#[tokio::test]
async fn a_pruned_store_is_still_the_one_that_its_checkpoints_name() {
    let anchored = Anchored::new();
    anchored.write(4, true).await;
    let journal = Journal::open(anchored.dir.path(), false).unwrap();
    journal.keep_checkpoints(None).unwrap();
    let closed = Part { mark: Some(mark("done", true, None)), ..part("run/a", records(5..=6)) };
    journal.append(batch(vec![closed])).unwrap();
    assert_eq!(journal.prune(vec![name("run/a")], Vec::new()).await.unwrap().events, 6);
    journal.close().await.unwrap();
    assert_eq!(anchored.verify(&[]).unwrap().map_since(), [0, 0]);
    assert_eq!(anchored.last().size(), 6);
}

/// An anchor that nobody can reach.
fn nobody(_: &str) -> Result<Box<dyn Anchor>, AnchorError> {
    Target::File("/nowhere/anchor".into()).connect(None)
}

#[test]
fn an_anchor_is_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    for within in [dir.path().join("anchor"), dir.path().join(".").join("anchor")] {
        let refused = set_anchor(dir.path(), &Target::File(within), None);
        assert!(matches!(refused, Err(Error::Anchor(AnchorError::Unfit { .. }))), "{refused:?}");
    }
    assert_eq!(anchor(dir.path()).unwrap(), None);
    let target = Target::of("https://anchor.example/provost?key=1").unwrap();
    set_anchor(dir.path(), &target, Some(nobody)).unwrap();
    assert_eq!(
        (anchor(dir.path()).unwrap(), target.to_string()),
        (Some(target.clone()), "https://anchor.example/provost".into())
    );
    assert_eq!((remove_anchor(dir.path()).unwrap(), anchor(dir.path()).unwrap()), (Some(target), None));
    assert_eq!(remove_anchor(dir.path()).unwrap(), None);
}

//! What was acknowledged: which files must be there, with which contents.

use super::content::Content;
use std::collections::BTreeMap;

/// What an operation makes of the paths that it touches; `None` is no file.
pub type Change = BTreeMap<String, Option<Content>>;

/// The files of one writer, who does one thing after the other. Pure.
#[derive(Debug, Default)]
pub struct Ledger {
    files: BTreeMap<String, Content>,
    doubts: Vec<Doubt>,
}

/// An operation whose outcome is unknown: all of it was done, or nothing.
#[derive(Debug)]
struct Doubt {
    before: Change,
    after: Change,
}

impl Doubt {
    /// Whether the files are as before or as after. A digest for each file that was found.
    fn is_explained(&self, found: &BTreeMap<String, u64>) -> bool {
        let is = |change: &Change| {
            change.iter().all(|(path, content)| {
                found.get(path).copied() == content.as_ref().map(Content::digest)
            })
        };
        is(&self.before) || is(&self.after)
    }
}

impl Ledger {
    /// The files that are certainly there.
    pub fn files(&self) -> &BTreeMap<String, Content> {
        &self.files
    }

    /// Operations with an unknown outcome.
    pub fn doubt_count(&self) -> usize {
        self.doubts.len()
    }

    /// An operation was acknowledged.
    pub fn handle_done(&mut self, change: Change) {
        for (path, content) in change {
            match content {
                Some(content) => self.files.insert(path, content),
                None => self.files.remove(&path),
            };
        }
    }

    /// An operation may have been done. Its paths are to be left alone from now on.
    pub fn handle_unknown(&mut self, after: Change) {
        let before = after
            .keys()
            .map(|path| (path.clone(), self.files.remove(path)))
            .collect();
        self.doubts.push(Doubt { before, after });
    }

    /// What is wrong with the files that were found, a digest each; a line for each fault.
    pub fn faults(&self, found: &BTreeMap<String, u64>) -> Vec<String> {
        let mut faults = Vec::new();
        for (path, content) in &self.files {
            match found.get(path) {
                None => faults.push(format!("{path} is lost")),
                Some(digest) if *digest != content.digest() => {
                    faults.push(format!("{path} has other bytes"));
                }
                Some(_) => {}
            }
        }
        for doubt in &self.doubts {
            if !doubt.is_explained(found) {
                let paths: Vec<_> = doubt.after.keys().collect();
                faults.push(format!("{paths:?} are neither as before nor as after"));
            }
        }
        for path in found.keys() {
            let doubtful = self
                .doubts
                .iter()
                .any(|doubt| doubt.after.contains_key(path));
            if !doubtful && !self.files.contains_key(path) {
                faults.push(format!("{path} should not be there"));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(paths: &[(&str, Option<&Content>)]) -> Change {
        paths
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.cloned()))
            .collect()
    }

    /// Two files, and a rename whose outcome is unknown.
    fn ledger(one: &Content, two: &Content) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.handle_done(change(&[("a", Some(one))]));
        ledger.handle_done(change(&[("b", Some(one))]));
        ledger.handle_done(change(&[("b", Some(two))]));
        ledger.handle_done(change(&[("gone", Some(two))]));
        ledger.handle_done(change(&[("gone", None)]));
        ledger.handle_done(change(&[("from", Some(one))]));
        ledger.handle_unknown(change(&[("from", None), ("to", Some(one))]));
        ledger
    }

    #[test]
    fn a_comparison_accepts_both_outcomes_and_finds_every_fault() {
        let (one, two) = (Content::new(1, 10), Content::new(1, 10).patched(8, 4, 2));
        let (x, y) = (one.digest(), two.digest());
        assert_ne!(x, y);
        let ledger = ledger(&one, &two);
        let faults = |found: &[(&str, u64)]| {
            ledger.faults(
                &found
                    .iter()
                    .map(|(path, digest)| ((*path).to_owned(), *digest))
                    .collect(),
            )
        };
        let nothing = Vec::<String>::new();
        assert_eq!(faults(&[("a", x), ("b", y), ("from", x)]), nothing);
        assert_eq!(faults(&[("a", x), ("b", y), ("to", x)]), nothing);

        for (what, found) in [
            ("a is lost", &[("b", y), ("to", x)][..]),
            ("a has other bytes", &[("a", y), ("b", y), ("to", x)]),
            ("b has other bytes", &[("a", x), ("b", x), ("to", x)]),
            (
                "gone should not be there",
                &[("a", x), ("b", y), ("to", x), ("gone", y)],
            ),
            ("neither", &[("a", x), ("b", y)]),
            ("neither", &[("a", x), ("b", y), ("from", x), ("to", x)]),
            ("neither", &[("a", x), ("b", y), ("to", y)]),
        ] {
            let faults = faults(found);
            assert!(
                faults.len() == 1 && faults[0].contains(what),
                "{what}: {faults:?}"
            );
        }
    }
}

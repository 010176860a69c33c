//! Records that many append to one file: each must be there whole, once, where it was said to be.

use super::content::bytes;
use std::collections::BTreeMap;

/// A record begins with its writer, its number, the length of what follows, and a mark that random bytes hardly have.
const HEAD_LEN: usize = 24;
const MARK: u64 = 0x5143_4543_4f52_4453;

/// Which record: its writer and its number.
pub type Name = (u32, u64);

/// What became of the records of one file. Pure.
#[derive(Debug, Default)]
pub struct Records {
    acknowledged: BTreeMap<Name, At>,
    unknown: BTreeMap<Name, usize>,
}

/// Where an acknowledged record is.
#[derive(Debug)]
struct At {
    offset: u64,
    len: usize,
}

/// A record of so many bytes, its head included.
pub fn record(name: Name, len: usize) -> Vec<u8> {
    let body_len = len.max(HEAD_LEN) - HEAD_LEN;
    let mut record = Vec::with_capacity(HEAD_LEN + body_len);
    record.extend_from_slice(&MARK.to_be_bytes());
    record.extend_from_slice(&name.0.to_be_bytes());
    record.extend_from_slice(&name.1.to_be_bytes());
    record.extend_from_slice(&(body_len as u32).to_be_bytes());
    record.extend_from_slice(&bytes(name.1 ^ (u64::from(name.0) << 40), body_len));
    record
}

/// The record at the beginning of these bytes, if a whole one is there: its name and its length.
fn parse(bytes: &[u8]) -> Option<(Name, usize)> {
    let number = |from: usize, to: usize| {
        let bytes = bytes.get(from..to)?;
        Some(
            bytes
                .iter()
                .fold(0u64, |all, byte| all << 8 | u64::from(*byte)),
        )
    };
    let name = (number(8, 12)? as u32, number(12, 20)?);
    let len = HEAD_LEN + number(20, 24)? as usize;
    (number(0, 8)? == MARK && *bytes.get(..len)? == record(name, len)).then_some((name, len))
}

impl Records {
    /// A record was acknowledged to be at this offset.
    pub fn handle_done(&mut self, name: Name, offset: u64, len: usize) {
        self.acknowledged.insert(name, At { offset, len });
    }

    /// A record may be there.
    pub fn handle_unknown(&mut self, name: Name, len: usize) {
        self.unknown.insert(name, len);
    }

    /// Records that were acknowledged.
    pub fn done_count(&self) -> usize {
        self.acknowledged.len()
    }

    /// What is wrong with the file; a line for each fault.
    pub fn faults(&self, file: &[u8]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut found: BTreeMap<Name, u64> = BTreeMap::new();
        let mut at = 0;
        while at < file.len() {
            let Some((name, len)) = parse(&file[at..]) else {
                faults.push(format!("no whole record at {at} of {}", file.len()));
                break;
            };
            if let Some(first) = found.insert(name, at as u64) {
                faults.push(format!("record {name:?} is at {first} and at {at}"));
            }
            let expected = self.acknowledged.get(&name).map(|at| at.len);
            match expected.or(self.unknown.get(&name).copied()) {
                None => faults.push(format!("record {name:?} should not be there")),
                Some(expected) if expected != len => {
                    faults.push(format!(
                        "record {name:?} is {len} bytes long, not {expected}"
                    ));
                }
                Some(_) => {}
            }
            at += len;
        }
        for (name, expected) in &self.acknowledged {
            match found.get(name) {
                None => faults.push(format!("record {name:?} is lost")),
                Some(at) if *at != expected.offset => faults.push(format!(
                    "record {name:?} is at {at}, and was acknowledged at {}",
                    expected.offset
                )),
                Some(_) => {}
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_finds_every_fault_of_a_file_of_records() {
        let all: Vec<Vec<u8>> = (0..4)
            .map(|number| record((1, number), 30 + number as usize))
            .collect();
        let file = |which: &[usize]| {
            which
                .iter()
                .flat_map(|at| all[*at].clone())
                .collect::<Vec<u8>>()
        };
        let mut records = Records::default();
        records.handle_done((1, 0), 0, 30);
        records.handle_done((1, 1), 30, 31);
        records.handle_unknown((1, 2), 32);
        for good in [&[0, 1][..], &[0, 1, 2]] {
            assert_eq!(records.faults(&file(good)), Vec::<String>::new());
        }
        let mut damaged = file(&[0, 1]);
        damaged[50] ^= 1;
        let mut torn = file(&[0, 1, 2]);
        torn.pop();
        for (what, file) in [
            ("(1, 1) is lost", file(&[0, 2])),
            ("(1, 0) is at 0 and at 61", file(&[0, 1, 0])),
            ("(1, 2) is at 61 and at 93", file(&[0, 1, 2, 2])),
            ("(1, 3) should not be there", file(&[0, 1, 3])),
            ("was acknowledged at 30", file(&[0, 2, 1])),
            ("no whole record at 30", damaged),
            ("no whole record at 61", torn),
        ] {
            let faults = records.faults(&file);
            assert!(
                faults.iter().any(|fault| fault.contains(what)),
                "{what}: {faults:?}"
            );
        }
    }
}

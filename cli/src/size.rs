//! Sizes, counts, times and modes, as people type and read them.

use quarry_common::time::Nanos;
use quarry_common::wire::meta::FileKind;

/// Parses `4096`, `64K`, `1M`, `2G`, `1T` (powers of 1,024; `KiB` and `KB` mean the same) into bytes.
///
/// # Errors
/// What is wrong, for clap.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let wrong = || format!("'{text}' is no size: 4096, 64K, 1M and 2G are");
    let unit = text[digits.len()..].to_ascii_uppercase();
    let shift = match unit.as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        "P" | "PB" | "PIB" => 50,
        _ => return Err(format!("{}; the units are K, M, G, T and P", wrong())),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 2^64 bytes"))
}

/// Bytes in powers of 1,024, as `ls -h` shows them: `999`, `1.2K`, `64M`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.5K would be shown as 1024K.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value < 9.95) {
        (0, _) => bytes.to_string(),
        (_, true) => format!("{value:.1}{}", UNITS[unit]),
        (_, false) => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// A count with commas: `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its word, in the plural unless it is one.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// A time as RFC 3339 in UTC; the number of seconds where the calendar ends.
pub fn rfc3339(time: Nanos) -> String {
    let (seconds, nanos) = time.parts();
    match jiff::Timestamp::new(seconds, nanos as i32) {
        Ok(stamp) => stamp.to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

/// A time as `ls -l` shows it, in the local zone.
pub fn local(time: Nanos) -> String {
    let (seconds, nanos) = time.parts();
    match jiff::Timestamp::new(seconds, nanos as i32) {
        Ok(stamp) => {
            let zoned = stamp.to_zoned_datetime(jiff::tz::TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M").to_string()
        }
        Err(_) => format!("@{seconds}"),
    }
}

/// The letter of a kind in `ls -l`.
pub fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}

/// The word of a kind.
pub fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char_device",
        FileKind::BlockDevice => "block_device",
    }
}

/// Permissions as `ls -l` shows them, with the letter of the kind: `-rwxr-sr-t`.
pub fn mode_text(kind: FileKind, mode: u16) -> String {
    let mut text = String::from(kind_letter(kind));
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    for (at, (bit, letter)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * at);
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The permissions that a new file or directory does not get, from the process (umask(2)).
pub fn umask() -> u16 {
    use rustix::fs::Mode;
    // There is no call that only reads it; nothing else runs yet that makes files.
    let mask = rustix::process::umask(Mode::empty());
    rustix::process::umask(mask);
    mask.bits() as u16 & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("4K"), Ok(4096));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for bad in ["", "K", "1.5M", "-1", "1X", "99999999999T"] {
            let error = parse_size(bad).unwrap_err();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        let shown = |bytes| human(bytes);
        assert_eq!(shown(0), "0");
        assert_eq!(shown(1023), "1023");
        assert_eq!(shown(1024), "1.0K");
        assert_eq!(shown(64 << 20), "64M");
        assert_eq!(shown((1 << 20) - 1), "1.0M");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
    }

    #[test]
    fn modes_are_shown_as_ls_does() {
        assert_eq!(mode_text(FileKind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode_text(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(FileKind::File, 0o6711), "-rws--s--x");
        assert_eq!(mode_text(FileKind::File, 0o4600), "-rwS------");
    }

    #[test]
    fn times_are_utc_for_programs() {
        assert_eq!(rfc3339(Nanos(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Nanos(-1)), "1969-12-31T23:59:59.999999999Z");
    }
}

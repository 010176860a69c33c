//! `chmod`'s modes: octal (`644`) and symbolic (`u+x,go-w`), as POSIX says.

/// A change of permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// These bits.
    Exact {
        /// The bits.
        mode: u16,
        /// Whether a directory keeps the set-id bits it has: they are cleared only by five digits, as GNU does it,
        /// since who writes `755` rarely means them.
        keeps_set_id: bool,
    },
    /// These steps, one after the other.
    Steps(Vec<Step>),
}

/// One `who`, `op`, `permissions` of a symbolic mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bits of the classes it is about, each with its special one: 0o4700, 0o2070, 0o1007.
    classes: u16,
    /// No class was named: the umask holds back bits.
    masked: bool,
    op: char,
    permissions: Permissions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Permissions {
    /// The letters `rwxXst`.
    Letters(String),
    /// What the class of that letter has now.
    CopyOf(u32),
}

/// Parses a mode.
///
/// # Errors
/// What is wrong, for clap.
pub fn parse_mode(text: &str) -> Result<ModeChange, String> {
    let wrong = || format!("'{text}' is no mode: 644, u+x and go-w,a+r are");
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match u16::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(ModeChange::Exact {
                mode,
                keeps_set_id: text.len() <= 4,
            }),
            _ => Err(wrong()),
        };
    }
    let mut steps = Vec::new();
    for clause in text.split(',') {
        let ops = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
        let mut classes = 0;
        for letter in clause[..ops].chars() {
            classes |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return Err(wrong()),
            };
        }
        let masked = classes == 0;
        let classes = if masked { 0o7777 } else { classes };
        let mut rest = &clause[ops..];
        while let Some(op) = rest.chars().next() {
            let end = rest[1..]
                .find(['+', '-', '='])
                .map_or(rest.len(), |at| at + 1);
            let letters = &rest[1..end];
            let permissions = match letters {
                "u" => Permissions::CopyOf(6),
                "g" => Permissions::CopyOf(3),
                "o" => Permissions::CopyOf(0),
                _ if letters.chars().all(|letter| "rwxXst".contains(letter)) => {
                    Permissions::Letters(letters.to_owned())
                }
                _ => return Err(wrong()),
            };
            steps.push(Step {
                classes,
                masked,
                op,
                permissions,
            });
            rest = &rest[end..];
        }
    }
    Ok(ModeChange::Steps(steps))
}

impl ModeChange {
    /// The permissions after the change of something that has `mode`.
    pub fn apply(&self, mode: u16, is_directory: bool, umask: u16) -> u16 {
        let steps = match self {
            ModeChange::Exact {
                mode: bits,
                keeps_set_id,
            } => {
                let kept = match is_directory && *keeps_set_id {
                    true => mode & 0o6000,
                    false => 0,
                };
                return bits | kept;
            }
            ModeChange::Steps(steps) => steps,
        };
        steps
            .iter()
            .fold(mode, |mode, step| step.apply(mode, is_directory, umask))
    }
}

impl Step {
    fn apply(&self, mode: u16, is_directory: bool, umask: u16) -> u16 {
        let mut bits = 0;
        match &self.permissions {
            Permissions::CopyOf(shift) => bits = ((mode >> shift) & 7) * 0o111,
            Permissions::Letters(letters) => {
                for letter in letters.chars() {
                    bits |= match letter {
                        'r' => 0o444,
                        'w' => 0o222,
                        'x' => 0o111,
                        'X' if is_directory || mode & 0o111 != 0 => 0o111,
                        's' => 0o6000,
                        't' => 0o1000,
                        _ => 0,
                    };
                }
            }
        }
        bits &= self.classes;
        // A directory keeps its set-id bits unless they are named.
        let kept = match is_directory {
            true => 0o6000 & !bits,
            false => 0,
        };
        if self.masked {
            bits &= !umask;
        }
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & (!self.classes | kept) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, mode: u16) -> u16 {
        parse_mode(text).unwrap().apply(mode, false, 0o022)
    }

    #[test]
    fn symbolic_modes_do_what_chmod_does() {
        // Each row as GNU chmod 9.1 does it, umask 022.
        for (text, before, after) in [
            ("644", 0o777, 0o644),
            ("u+x", 0o644, 0o744),
            ("go-w", 0o666, 0o644),
            ("a=r", 0o777, 0o444),
            ("+w", 0o444, 0o644),
            ("+x", 0o644, 0o755),
            ("u=rwx,g=rx,o=", 0o000, 0o750),
            ("g=u", 0o640, 0o660),
            ("o=g", 0o640, 0o644),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("+t", 0o755, 0o1755),
            ("u-s", 0o4755, 0o755),
            ("a+X", 0o644, 0o644),
            ("a+X", 0o744, 0o755),
            ("u+r-w", 0o200, 0o400),
            ("u=", 0o4755, 0o055),
            ("o=", 0o1777, 0o770),
            ("=", 0o7777, 0o000),
            ("u=g", 0o4770, 0o770),
            ("o+s", 0o755, 0o755),
            ("a+t", 0o755, 0o1755),
            ("a=,u=rwX", 0o711, 0o600),
        ] {
            assert_eq!(applied(text, before), after, "{text} on {before:o}");
        }
        let on_directory = |text, mode| parse_mode(text).unwrap().apply(mode, true, 0);
        for (text, before, after) in [
            ("a+X", 0o644, 0o755),
            ("755", 0o2700, 0o2755),
            ("0755", 0o6700, 0o6755),
            ("4755", 0o2700, 0o6755),
            ("00755", 0o6700, 0o755),
            ("g-s", 0o2755, 0o755),
            ("755", 0o1777, 0o755),
            ("g=u,o=", 0o1777, 0o770),
            ("g=u,o=", 0o3770, 0o2770),
            ("go=", 0o3777, 0o2700),
            ("a=", 0o1777, 0o000),
            ("=", 0o7777, 0o6000),
            ("u=", 0o6755, 0o6055),
            ("g=s", 0o4755, 0o6705),
            ("g+s,o=t", 0o700, 0o3700),
            ("u+t", 0o755, 0o755),
            ("u-t", 0o1777, 0o1777),
            ("o-t", 0o1777, 0o777),
            ("o+t", 0o755, 0o1755),
            ("a-s", 0o6755, 0o755),
            ("u=rwxs", 0o6755, 0o6755),
            ("ug=t", 0o755, 0o005),
            ("a-rwx", 0o7777, 0o7000),
        ] {
            assert_eq!(on_directory(text, before), after, "{text} on {before:o}");
        }
        assert_eq!(applied("755", 0o6755), 0o755);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in ["", "888", "77777", "u", "u+q", "z+x", "u+x,", "rwx"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}

//! Names in texts for people.

use std::fmt;

/// A name or path for a text: as UTF-8, everything that is none or can not be printed escaped.
pub fn quoted(name: &[u8]) -> impl fmt::Display + '_ {
    Quoted(name)
}

struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    '\'' | '"' => write!(f, "{letter}")?,
                    _ => write!(f, "{}", letter.escape_debug())?,
                }
            }
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_readably_whatever_its_bytes_are() {
        assert_eq!(quoted("größe".as_bytes()).to_string(), "größe");
        assert_eq!(quoted(b"a\n\xff\x00b").to_string(), "a\\n\\xff\\0b");
        assert_eq!(quoted(b"it's").to_string(), "it's");
    }
}

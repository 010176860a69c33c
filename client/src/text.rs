//! Names and paths of the cluster in texts for people.

/// Text for a terminal: control characters, backslashes and what is not UTF-8 as `\n`, `\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                _ if letter.is_control() => {
                    let mut buffer = [0; 4];
                    for byte in letter.encode_utf8(&mut buffer).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                _ => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_escaped_and_others_are_not() {
        assert_eq!(escaped(b"a\nb\x1b[0m\xff\\"), "a\\nb\\x1b[0m\\xff\\\\");
        assert_eq!(escaped("grün".as_bytes()), "grün");
        // C1 controls are as good as an escape for some terminals.
        assert_eq!(escaped("\u{9b}2J".as_bytes()), "\\xc2\\x9b2J");
    }
}

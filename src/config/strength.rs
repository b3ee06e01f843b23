//! How likely it is that a secret was drawn, and not thought up.

use std::collections::BTreeMap;

use super::access::{PLACEHOLDERS, Secret};

/// Bits that a secret has at least, by how often each of its letters comes.
const LEAST_BITS: f64 = 48.0;

impl Secret {
    /// Why it can be guessed, if that is likely; to be read after its name.
    pub fn weakness(&self) -> Option<&'static str> {
        let text = self.reveal();
        let lower = text.to_lowercase();
        if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
            return Some("stands in examples");
        }
        if repeats(text.as_bytes()) {
            return Some("is one piece said again and again");
        }
        if bits(text) < LEAST_BITS {
            return Some("has few different letters");
        }
        // Of 32 drawn letters, hexadecimal or of base64, one in a million has neither.
        let has_other = text.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        (!has_other).then_some("is made of words")
    }
}

fn repeats(text: &[u8]) -> bool {
    (1..=text.len() / 2).any(|length| text.chunks(length).all(|chunk| text.starts_with(chunk)))
}

/// Shannon's entropy of its letters.
fn bits(text: &str) -> f64 {
    let mut counts: BTreeMap<char, f64> = BTreeMap::new();
    text.chars().for_each(|letter| *counts.entry(letter).or_default() += 1.0);
    let all: f64 = counts.values().sum();
    counts.values().map(|count| count * (all / count).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drawn_is_told_from_what_was_thought_up() {
        for good in
            ["9b1f7c52e0d84a36b7fd02c9e5a1486dd3705fae92c84b1b", "5d0c2f6b8a914e37", "Jh2vXyQm0dK3rL8sTqWzBn5cVf7gPa1e"]
        {
            assert_eq!(Secret::new(good).weakness(), None, "{good}");
        }
        for (bad, why) in [
            ("correct-horse-battery-staple-again", "is made of words"),
            ("My-Super-SECRET-key-1234-5678-9012", "stands in examples"),
            ("4f9a0c7be1d24f9a0c7be1d24f9a0c7be1d2", "is one piece said again and again"),
            ("aaaabbbbaaaabbbbaaaabbbbaaaabbba1", "has few different letters"),
        ] {
            assert_eq!(Secret::new(bad).weakness(), Some(why), "{bad}");
        }
    }
}

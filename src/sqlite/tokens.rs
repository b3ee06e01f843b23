//! The pieces of a statement that SQLite has parsed before: words, names, parentheses. Comments and what stands in quotes are none.

/// A piece of a statement.
pub(super) enum Token {
    /// A name or a word of SQL, in small letters.
    Word(String),
    /// A name in quotes.
    Name(String),
    /// An opening parenthesis.
    Open,
    /// A closing one.
    Close,
    /// Numbers, texts, operators.
    Other,
}

/// The tokens of a statement, each with where it begins (sqlite.org/c3ref/complete.html knows the same comments and quotes).
pub(super) struct Tokens<'s>(&'s str, usize);

impl<'s> Tokens<'s> {
    /// From its first one on.
    pub(super) fn of(sql: &'s str) -> Self {
        Self(sql, 0)
    }

    /// How far a text reaches that begins here and ends with `end`, which stands in it twice for once. Without the quotes.
    fn quoted(&self, start: usize, end: char) -> (String, usize) {
        let (mut text, mut letters) = (String::new(), self.0[start + 1..].char_indices().peekable());
        while let Some((at, letter)) = letters.next() {
            if letter == end && (end == ']' || letters.next_if(|(_, next)| *next == end).is_none()) {
                return (text, start + 1 + at + 1);
            }
            text.push(letter);
        }
        (text, self.0.len())
    }

    /// How far letters reach from there that are of a kind.
    fn while_of(&self, start: usize, kind: impl Fn(char) -> bool) -> usize {
        self.0[start..].find(|letter| !kind(letter)).map_or(self.0.len(), |length| start + length)
    }

    fn after(&self, start: usize, end: &str) -> usize {
        self.0[start..].find(end).map_or(self.0.len(), |length| start + length + end.len())
    }
}

impl Iterator for Tokens<'_> {
    type Item = (usize, Token);

    fn next(&mut self) -> Option<(usize, Token)> {
        loop {
            let (start, token) = self.piece()?;
            if let Some(token) = token {
                return Some((start, token));
            }
        }
    }
}

impl Tokens<'_> {
    /// The next piece; no token if it is a comment.
    fn piece(&mut self) -> Option<(usize, Option<Token>)> {
        // SQLite takes a byte order mark between two of them for a space.
        let start = self.while_of(self.1, |letter| letter.is_ascii_whitespace() || letter == '\u{feff}');
        let rest = &self.0[start..];
        let letter = rest.chars().next()?;
        let is_of_word =
            |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii();
        let (token, end) = match letter {
            _ if rest.starts_with("--") => (None, self.after(start, "\n")),
            _ if rest.starts_with("/*") => (None, self.after(start + 2, "*/")),
            '\'' => (Some(Token::Other), self.quoted(start, '\'').1),
            '"' | '`' | '[' => {
                let (name, end) = self.quoted(start, if letter == '[' { ']' } else { letter });
                (Some(Token::Name(name)), end)
            }
            '(' => (Some(Token::Open), start + 1),
            ')' => (Some(Token::Close), start + 1),
            '0'..='9' => (Some(Token::Other), self.while_of(start, |letter| is_of_word(letter) || letter == '.')),
            _ if is_of_word(letter) => {
                let end = self.while_of(start, is_of_word);
                (Some(Token::Word(self.0[start..end].to_ascii_lowercase())), end)
            }
            _ => (Some(Token::Other), start + letter.len_utf8()),
        };
        self.1 = end;
        Some((start, token))
    }
}

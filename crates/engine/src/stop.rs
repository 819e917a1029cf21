//! Stop strings in text that arrives in pieces.

/// Finds the first stop string in a stream of text and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopStrings {
    /// Watches for these strings; empty ones never match.
    pub fn new(stops: impl IntoIterator<Item = String>) -> StopStrings {
        StopStrings { stops: stops.into_iter().collect(), ..StopStrings::default() }
    }

    /// Takes the next piece and returns the text that certainly stands before any stop string. Once one is
    /// [`found`](Self::found), nothing more comes.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        if let Some((start, which)) = self.first_match() {
            self.found = Some(which);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let certain = self.held.len() - self.partial();
        self.held.drain(..certain).collect()
    }

    /// The text still held back when the stream ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Index of the stop string that ended the text.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// Where the match that is complete first begins (of those, the longest), so that the answer does not depend on how
    /// the text was cut into pieces.
    fn first_match(&self) -> Option<(usize, usize)> {
        let places = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = places.filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, stop.len(), i)));
        found.min_by_key(|&(start, length, _)| (start + length, start)).map(|(start, _, i)| (start, i))
    }

    /// Bytes at the end that begin a stop string.
    fn partial(&self) -> usize {
        let longest = self.stops.iter().map(|s| s.len().saturating_sub(1)).max().unwrap_or(0);
        let begins = |n: usize| {
            let tail = &self.held.as_bytes()[self.held.len() - n..];
            self.stops.iter().any(|stop| stop.len() > n && stop.as_bytes().starts_with(tail))
        };
        (1..=longest.min(self.held.len())).rev().find(|&n| begins(n)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopStrings::new(stops.iter().map(|s| s.to_string()));
        let mut text: String = pieces.iter().map(|piece| matcher.push(piece)).collect();
        text.push_str(&matcher.finish());
        (text, matcher.found())
    }

    #[test]
    fn a_stop_string_ends_the_text_before_itself() {
        assert_eq!(run(&["\nUser:"], &["Hello", "\nUs", "er", ": hi"]), ("Hello".into(), Some(0)));
        assert_eq!(run(&["END", "é!"], &["caf", "é", "! END"]), ("caf".into(), Some(1)));
        assert_eq!(run(&[""], &["text"]), ("text".into(), None));
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut matcher = StopStrings::new(["aab".to_string()]);
        assert_eq!(matcher.push("xaa"), "x");
        assert_eq!(matcher.push("a"), "a");
        assert_eq!(matcher.push("c"), "aac");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[abé]{0,30}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let cuts: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let (left, right) = text.split_at(*cut.get(&cuts));
            let whole = run(&stops, &[&text]);
            prop_assert_eq!(&whole, &run(&stops, &[left, right]));
            let chars: Vec<String> = text.chars().map(String::from).collect();
            prop_assert_eq!(&whole, &run(&stops, &chars.iter().map(String::as_str).collect::<Vec<_>>()));
            prop_assert!(text.starts_with(&whole.0));
            prop_assert!(stops.iter().all(|s| !whole.0.contains(s)));
            prop_assert_eq!(whole.1.is_some(), stops.iter().any(|s| text.contains(s)));
        }
    }
}

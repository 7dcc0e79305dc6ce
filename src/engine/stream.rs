//! From tokens to text that may be shown: whole characters, and nothing that
//! could turn out to be part of a stop string.

use crate::tokenizer::IncrementalDecoder;

/// The text of one output, as it becomes certain.
#[derive(Debug)]
pub struct TextStream {
    /// Absent where the model has no tokenizer: then all text is empty.
    decoder: Option<IncrementalDecoder>,
    stop: Vec<String>,
    held: String,
}

/// What a token did.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// This text is certain now.
    Text(String),
    /// A stop string is complete; this text stood before it.
    Stopped(String),
}

/// What a token is to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Others come after it.
    Inner,
    /// The last one.
    Last,
    /// The end: not part of the text.
    End,
}

impl Pushed {
    /// The text, whatever it means.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Stopped(text) => text,
        }
    }
}

impl TextStream {
    /// A stream that ends at any of `stop`.
    pub fn new(decoder: Option<IncrementalDecoder>, stop: Vec<String>) -> Self {
        Self {
            decoder,
            stop,
            held: String::new(),
        }
    }

    /// Whether its text may end it.
    pub fn has_stops(&self) -> bool {
        !self.stop.is_empty()
    }

    /// Adds a token. `stops_count` is false as long as stop strings are to be
    /// ignored.
    pub fn add(&mut self, id: u32, role: Role, stops_count: bool) -> Pushed {
        let certain = match role {
            Role::End => return self.finish(stops_count),
            Role::Inner => return self.push(id, stops_count),
            Role::Last => match self.push(id, stops_count) {
                Pushed::Text(text) => text,
                stopped => return stopped,
            },
        };
        match self.finish(stops_count) {
            Pushed::Text(text) => Pushed::Text(certain + &text),
            Pushed::Stopped(text) => Pushed::Stopped(certain + &text),
        }
    }

    fn push(&mut self, id: u32, stops_count: bool) -> Pushed {
        let text = self
            .decoder
            .as_mut()
            .map(|d| d.push(id))
            .unwrap_or_default();
        self.held.push_str(&text);
        self.release(stops_count)
    }

    /// The last text: what was held back.
    fn finish(&mut self, stops_count: bool) -> Pushed {
        let rest = self
            .decoder
            .as_mut()
            .map(IncrementalDecoder::flush)
            .unwrap_or_default();
        self.held.push_str(&rest);
        match self.release(stops_count) {
            Pushed::Text(mut text) => {
                text.push_str(&std::mem::take(&mut self.held));
                Pushed::Text(text)
            }
            stopped => stopped,
        }
    }

    fn release(&mut self, stops_count: bool) -> Pushed {
        if !stops_count {
            return Pushed::Text(std::mem::take(&mut self.held));
        }
        if let Some(at) = self
            .stop
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min()
        {
            let mut before = std::mem::take(&mut self.held);
            before.truncate(at);
            return Pushed::Stopped(before);
        }
        let certain = self.held.len() - self.possible_stop();
        let rest = self.held.split_off(certain);
        Pushed::Text(std::mem::replace(&mut self.held, rest))
    }

    /// Bytes at the end of the held text that begin a stop string.
    fn possible_stop(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest)
                .rev()
                .find(|&n| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]))
        };
        self.stop.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds text piece by piece, as a decoder would return it.
    fn feed(stop: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stop = stop.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = TextStream::new(None, stop);
        let mut shown = Vec::new();
        for piece in pieces {
            stream.held.push_str(piece);
            match stream.release(true) {
                Pushed::Text(text) => shown.push(text),
                Pushed::Stopped(text) => {
                    shown.push(text);
                    return (shown, true);
                }
            }
        }
        if let Pushed::Text(text) = stream.finish(true) {
            shown.push(text);
        }
        (shown, false)
    }

    #[test]
    fn a_stop_string_across_pieces_never_leaks() {
        assert_eq!(
            feed(&["END"], &["a E", "N", "D b"]),
            (vec!["a ".into(), "".into(), "".into()], true)
        );
        let (shown, stopped) = feed(&["END"], &["a E", "N", "x"]);
        assert_eq!((shown.concat(), stopped), ("a ENx".to_owned(), false));
    }

    #[test]
    fn the_earliest_of_several_wins_and_ends_are_flushed() {
        assert_eq!(feed(&["b", "ab"], &["xab"]), (vec!["x".into()], true));
        let (shown, stopped) = feed(&["\n\n"], &["x\n"]);
        assert_eq!((shown.concat(), stopped), ("x\n".to_owned(), false));
        assert_eq!(feed(&["日本"], &["a日", "本"]).0.concat(), "a");
    }

    #[test]
    fn every_split_gives_the_same_text() {
        let text = "aabaabaaab";
        for stop in ["aabaaab", "baa", "zz", "b"] {
            let expected = text.find(stop).map_or(text, |at| &text[..at]);
            for cut in 0..text.len() {
                for second in cut..text.len() {
                    let pieces = [&text[..cut], &text[cut..second], &text[second..]];
                    let (shown, stopped) = feed(&[stop], &pieces);
                    assert_eq!(shown.concat(), expected, "{stop} {pieces:?}");
                    assert_eq!(stopped, expected.len() < text.len());
                }
            }
        }
    }
}

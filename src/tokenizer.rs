//! Text ↔ token ids, whole or as a stream.

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper};

use crate::model::{ModelError, Source, TokenizerFiles};

/// What can go wrong between text and ids.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenizerError {
    /// The checkpoint has no tokenizer.
    #[error(
        "the model has no tokenizer (looked for tokenizer.json, or vocab.json and merges.txt): \
         it takes and gives token ids, no text"
    )]
    Missing,
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] ModelError),
    /// A file is malformed.
    #[error("{file}: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// What the tokenizers library said.
        reason: String,
    },
    /// One character is repeated so often that the library's regular
    /// expression would give up silently.
    #[error("{character:?} is repeated {count} times in a row; at most {MAX_REPEATS} are encoded")]
    TooManyRepeats {
        /// The character.
        character: char,
        /// How often it came in a row.
        count: usize,
    },
    /// The tokenizers library failed.
    #[error("tokenizer: {0}")]
    Library(String),
}

/// A run of one character beyond this is refused: from about a million on,
/// the regular expression fails and ids would be silently wrong.
const MAX_REPEATS: usize = 100_000;

/// Ids are places in a table, so a file with one wild id would ask for all
/// memory. No vocabulary comes near this.
const MAX_ID: u32 = 1 << 24;

const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer; cloning shares it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    vocab_size: usize,
    /// The bytes of every token, by id, where the tokenizer is byte-level.
    bytes: Option<Vec<Vec<u8>>>,
    /// The length of the longest of these.
    longest: Option<usize>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.inner.vocab_size)
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`], or what is wrong with the files.
    pub fn load(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let malformed = |file: String| {
            move |e: tokenizers::Error| TokenizerError::Malformed {
                file,
                reason: e.to_string(),
            }
        };
        let name = match files {
            TokenizerFiles::Json(source) => source.name(),
            TokenizerFiles::VocabMerges { vocab, .. } => vocab.display().to_string(),
            TokenizerFiles::Missing => String::new(),
        };
        let tokenizer = match files {
            TokenizerFiles::Missing => return Err(TokenizerError::Missing),
            TokenizerFiles::Json(source) => {
                parse(&source.read()?).map_err(malformed(source.name()))?
            }
            TokenizerFiles::VocabMerges { vocab, merges } => {
                // Read first, for the error that names the file.
                Source::File(vocab.clone()).read()?;
                Source::File(merges.clone()).read()?;
                let (vocab, merges) = (vocab.to_string_lossy(), merges.to_string_lossy());
                let model = BPE::from_file(&vocab, &merges)
                    .build()
                    .map_err(malformed(format!("{vocab}, {merges}")))?;
                byte_level(model).map_err(malformed(vocab.into_owned()))?
            }
        };
        let largest = tokenizer.get_vocab(true).into_values().max();
        match largest.filter(|&id| id >= MAX_ID) {
            Some(id) => {
                let reason = format!("token id {id} is not below {MAX_ID}");
                Err(TokenizerError::Malformed { file: name, reason })
            }
            None => Ok(Self::new(tokenizer)),
        }
    }

    fn new(mut tokenizer: tokenizers::Tokenizer) -> Self {
        // A prompt is encoded as it is, whatever the file says about training.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        let vocab = tokenizer.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        let bytes = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            .then(|| token_bytes(&tokenizer, &vocab, vocab_size));
        Self {
            inner: Arc::new(Inner {
                tokenizer,
                vocab_size,
                longest: bytes.iter().flatten().map(Vec::len).max(),
                bytes,
            }),
        }
    }

    /// Text → ids. Special tokens in the text are recognised, none are added.
    ///
    /// # Errors
    /// [`TokenizerError::TooManyRepeats`], or the library's own.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        refuse_long_runs(text)?;
        let encoding = self
            .inner
            .tokenizer
            .encode_fast(text, false)
            .map_err(library)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids → text, special tokens included; bytes that are no UTF-8 become
    /// U+FFFD. Ids without a token are skipped.
    ///
    /// # Errors
    /// The library's own.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        match &self.inner.bytes {
            Some(bytes) => {
                let found = ids.iter().filter_map(|&id| bytes.get(id as usize));
                let joined: Vec<u8> = found.flatten().copied().collect();
                Ok(String::from_utf8_lossy(&joined).into_owned())
            }
            None => self.inner.tokenizer.decode(ids, false).map_err(library),
        }
    }

    /// The vocabulary's own spelling of a token, such as `Ġworld`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.tokenizer.id_to_token(id)
    }

    /// The bytes that a token stands for, where the tokenizer is byte-level:
    /// they need not be whole characters.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let all = self.inner.bytes.as_ref()?;
        all.get(id as usize).map(Vec::as_slice)
    }

    /// Most bytes of text that `tokens` tokens can stand for; none where the
    /// tokenizer changes the text before it is split, so that any length fits.
    pub fn most_bytes(&self, tokens: usize) -> Option<usize> {
        if self.inner.tokenizer.get_normalizer().is_some() {
            return None;
        }
        Some(self.inner.longest?.saturating_mul(tokens))
    }

    /// The largest id plus one, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// The id of `<|endoftext|>`, if the vocabulary has it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.inner.tokenizer.token_to_id(END_OF_TEXT)
    }

    /// A decoder for a stream of ids.
    pub fn incremental(&self) -> IncrementalDecoder {
        IncrementalDecoder {
            tokenizer: self.clone(),
            pending: Vec::new(),
            ids: Vec::new(),
            emitted: String::new(),
        }
    }
}

/// Reads tokenizer.json. The library panics on some files that are malformed.
fn parse(json: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json))
        .unwrap_or_else(|_| Err("the tokenizers library can't read it".into()))
}

fn library(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Library(error.to_string())
}

fn byte_level(model: BPE) -> tokenizers::Result<tokenizers::Tokenizer> {
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
    if tokenizer.token_to_id(END_OF_TEXT).is_some() {
        tokenizer.add_special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])?;
    }
    Ok(tokenizer)
}

fn token_bytes(
    tokenizer: &tokenizers::Tokenizer,
    vocab: &HashMap<String, u32>,
    vocab_size: usize,
) -> Vec<Vec<u8>> {
    let byte_of = byte_alphabet();
    let added = tokenizer.get_added_tokens_decoder();
    let mut all = vec![Vec::new(); vocab_size];
    for (token, &id) in vocab {
        let bytes = token.chars().map(|c| byte_of.get(&c).copied());
        // Added tokens stand for their own text, as does anything that is not
        // in the alphabet.
        all[id as usize] = match bytes.collect::<Option<Vec<u8>>>() {
            Some(bytes) if !added.contains_key(&id) => bytes,
            _ => token.as_bytes().to_vec(),
        };
    }
    all
}

/// GPT-2's printable stand-in for every byte: the printable Latin-1 characters
/// stand for themselves, the others follow from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| {
            let stand_in = if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
                char::from(byte)
            } else {
                next += 1;
                // 0x100 to 0x143 are all characters.
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            };
            (stand_in, byte)
        })
        .collect()
}

fn refuse_long_runs(text: &str) -> Result<(), TokenizerError> {
    if text.len() <= MAX_REPEATS {
        return Ok(());
    }
    let (mut last, mut count) = ('\0', 0);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        count = if character == last { count + 1 } else { 1 };
        last = character;
        if count > MAX_REPEATS {
            count += characters.take_while(|&next| next == character).count();
            return Err(TokenizerError::TooManyRepeats { character, count });
        }
    }
    Ok(())
}

/// Turns ids into text as they come: never half a character, and all that it
/// returned, joined, is the decoding of all ids.
#[derive(Debug)]
pub struct IncrementalDecoder {
    tokenizer: Tokenizer,
    /// Byte-level: bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// Otherwise: all ids so far and their text that was returned.
    ids: Vec<u32>,
    emitted: String,
}

impl IncrementalDecoder {
    /// The text that this token completes, perhaps none.
    pub fn push(&mut self, id: u32) -> String {
        let tokenizer = self.tokenizer.clone();
        match &tokenizer.inner.bytes {
            Some(bytes) => {
                if let Some(bytes) = bytes.get(id as usize) {
                    self.pending.extend_from_slice(bytes);
                }
                self.take_complete()
            }
            None => {
                self.ids.push(id);
                self.whole_text(false)
            }
        }
    }

    /// What was held back: an incomplete character becomes U+FFFD.
    pub fn flush(&mut self) -> String {
        if self.tokenizer.inner.bytes.is_some() {
            let rest = String::from_utf8_lossy(&self.pending).into_owned();
            self.pending.clear();
            rest
        } else {
            self.whole_text(true)
        }
    }

    /// Everything up to the last character that might still grow.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_the_end = used + invalid.len() == self.pending.len();
            if invalid.is_empty() || (at_the_end && may_continue(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            used += invalid.len();
        }
        self.pending.drain(..used);
        text
    }

    /// Decoders that look at neighbouring tokens: decode all again and return
    /// what is new. Text that ends in U+FFFD may still change.
    fn whole_text(&mut self, last: bool) -> String {
        let Ok(all) = self.tokenizer.decode(&self.ids) else {
            return String::new();
        };
        if !last && all.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        let new = all
            .strip_prefix(&self.emitted)
            .unwrap_or_default()
            .to_owned();
        self.emitted.push_str(&new);
        new
    }
}

/// Whether these bytes, which end the input, could begin a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFiles;

    fn demo() -> Tokenizer {
        Tokenizer::load(&ModelFiles::demo().tokenizer).unwrap()
    }

    #[test]
    fn demo_round_trips_any_text() {
        let tokenizer = demo();
        for text in [
            "",
            "Once upon a time",
            "naïve 日本 🦊\u{200d}👩",
            "\0\t \r\n  x",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn a_stream_is_the_whole_decode_and_never_half_a_character() {
        let tokenizer = demo();
        let mut ids = tokenizer.encode("fox 🦊 日本").unwrap();
        let cut = ids.len() - 1;
        let broken = ids[..3]
            .iter()
            .chain(&ids[cut..])
            .copied()
            .collect::<Vec<_>>();
        ids.extend(broken);
        // Every byte as a token of its own, in orders that are no UTF-8 too.
        ids.extend((0..tokenizer.vocab_size() as u32).step_by(3));
        for end in 0..ids.len() {
            let mut decoder = tokenizer.incremental();
            let mut text: String = ids[..end].iter().map(|&id| decoder.push(id)).collect();
            text += &decoder.flush();
            assert_eq!(text, tokenizer.decode(&ids[..end]).unwrap());
        }
    }

    #[test]
    fn long_runs_are_refused() {
        let text = format!("ab{}ba", "a".repeat(MAX_REPEATS + 2));
        let error = demo().encode(&text).unwrap_err();
        assert!(matches!(
            error,
            TokenizerError::TooManyRepeats { character: 'a', count } if count == MAX_REPEATS + 2
        ));
        assert!(demo().encode(&"ab".repeat(MAX_REPEATS)).is_ok());
    }
}

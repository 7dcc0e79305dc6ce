//! What a pass gives for the rows that asked.

use super::ModelError;
use super::pick::Picked;
use super::workspace::Values;

/// Logits of the rows that asked for them, `[rows, vocab_size]`; on a GPU some
/// rows, of which nothing else is wanted, have a token in their place.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Those of rows without a token.
    values: Values,
    vocab_size: usize,
    /// The tokens, or none for rows that have logits; empty if all have.
    picked: Vec<Option<Picked>>,
}

/// What there is for a row.
#[derive(Debug)]
pub enum Row<'a> {
    /// Its logits, `[vocab_size]`, for a sampler to work in.
    Logits(&'a mut [f32]),
    /// The token that was chosen from them.
    Picked(Picked),
}

impl Row<'_> {
    /// The logits, if these are what there is.
    pub fn logits(&self) -> Option<&[f32]> {
        match self {
            Self::Logits(logits) => Some(logits),
            Self::Picked(_) => None,
        }
    }
}

impl Logits {
    /// Logits `[rows, vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if these are no whole rows.
    pub fn new(values: Vec<f32>, vocab_size: usize) -> Result<Self, ModelError> {
        if vocab_size == 0 || !values.len().is_multiple_of(vocab_size) {
            let len = values.len();
            return Err(ModelError::Batch(format!(
                "{len} logits are no rows of {vocab_size}"
            )));
        }
        Ok(Self::of(values.into(), vocab_size))
    }

    /// The tokens of rows, or none for those whose logits are in `values`, in
    /// their order.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if these are not the logits of so many rows.
    pub fn with_tokens(
        values: Vec<f32>,
        vocab_size: usize,
        picked: Vec<Option<Picked>>,
    ) -> Result<Self, ModelError> {
        let logits = Self::new(values, vocab_size)?;
        let whole = picked.iter().filter(|picked| picked.is_none()).count();
        if logits.rows() != whole {
            let rows = logits.rows();
            return Err(ModelError::Batch(format!(
                "logits of {rows} rows for {whole}"
            )));
        }
        Ok(Self { picked, ..logits })
    }

    /// Logits of whole rows.
    pub(super) fn of(values: Values, vocab_size: usize) -> Self {
        Self {
            values,
            vocab_size,
            picked: Vec::new(),
        }
    }

    /// Number of rows, in the order of the batch.
    pub fn rows(&self) -> usize {
        match self.picked.len() {
            0 => self.values.len() / self.vocab_size,
            rows => rows,
        }
    }

    /// The logits of one row, `[vocab_size]`.
    ///
    /// # Panics
    /// If `row` is not below [`rows`](Self::rows), or has a token.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[self.start(row)..][..self.vocab_size]
    }

    /// The same, for a sampler to work in.
    ///
    /// # Panics
    /// As [`row`](Self::row).
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let start = self.start(row);
        &mut self.values[start..][..self.vocab_size]
    }

    /// All rows, each for a sampler of its own to work in.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = Row<'_>> {
        let rows = self.rows();
        let picked = &self.picked;
        let mut whole = self.values.chunks_mut(self.vocab_size);
        (0..rows).filter_map(move |row| match picked.get(row) {
            Some(&Some(picked)) => Some(Row::Picked(picked)),
            Some(None) | None => whole.next().map(Row::Logits),
        })
    }

    /// Where the logits of a row begin.
    fn start(&self, row: usize) -> usize {
        if self.picked.is_empty() {
            return row * self.vocab_size;
        }
        assert!(self.picked[row].is_none(), "row {row} has a token");
        let before = &self.picked[..row];
        let whole = before.iter().filter(|picked| picked.is_none()).count();
        whole * self.vocab_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_tokens_and_with_logits_keep_their_order() {
        let token = |id| {
            let logprob = -1.0;
            Some(Picked { id, logprob })
        };
        let picked = vec![token(7), None, token(8), None];
        let values = vec![1.0, 2.0, 3.0, 4.0];
        let mut logits = Logits::with_tokens(values.clone(), 2, picked).unwrap();
        assert_eq!(logits.rows(), 4);
        assert_eq!(
            (logits.row(1), logits.row(3)),
            (&[1.0, 2.0][..], &[3.0, 4.0][..])
        );
        logits.row_mut(3)[0] = 5.0;
        let rows: Vec<String> = logits
            .rows_mut()
            .map(|row| match row {
                Row::Logits(logits) => format!("{logits:?}"),
                Row::Picked(picked) => picked.id.to_string(),
            })
            .collect();
        assert_eq!(rows, ["7", "[1.0, 2.0]", "8", "[5.0, 4.0]"]);
        assert!(Logits::with_tokens(values, 2, vec![None]).is_err());
    }
}

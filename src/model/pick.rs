//! What is wanted of a row that gets logits: all of them, or one token.

/// What is wanted of a row.
///
/// It follows from the request alone, never from what else is computed: the
/// device's choice is not the sampler's to the last bit of its logprob.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wish {
    /// The logits.
    Logits,
    /// A token. A model that leaves choices to others gives the logits.
    Pick(Pick),
}

/// How a token is chosen from a row of logits; see
/// [`Sampler`](crate::engine::Sampler).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// Columns that may be chosen: those after them stand for no token, and
    /// only count in the logprob's total.
    pub columns: usize,
    /// Without one it is the first of the largest logits.
    pub draw: Option<Draw>,
}

/// A draw from what filters leave of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// What may be drawn.
    pub filters: Filters,
    /// Where the cumulative distribution, in the order of ids, is inverted; in
    /// [0, 1).
    pub u: f64,
}

/// The filters, in the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filters {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// How many of the largest logits are kept, and those equal to the last of
    /// them; 0 keeps all.
    pub top_k: usize,
    /// The least likely tokens are dropped while they sum up to no more than
    /// 1 − `top_p`; above 0, up to 1.
    pub top_p: f32,
    /// Tokens at least this likely are kept, relative to the likeliest; 0 to 1.
    pub min_p: f32,
}

/// A token that the model chose itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picked {
    /// Its id.
    pub id: u32,
    /// Natural log of its probability under the model alone, before filters.
    pub logprob: f32,
}

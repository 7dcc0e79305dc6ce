//! What a model does with one text, layer by layer: attention, the residual
//! stream, and what the blocks write to it.

use std::ops::Range;

use candle_core::Tensor;

use super::gpt2::Recorder;
use super::ops::with_values;
use super::{Config, ModelError};

/// A layer's attention as it is computed, to be looked into.
pub trait Attention {
    /// How much rows of the batch attend to each position of their sequence up
    /// to their own: of each of `heads`, of each `(row, position)`,
    /// `[position + 1]`.
    ///
    /// # Errors
    /// [`ModelError`], what the device says.
    fn weights(
        &self,
        rows: &[(usize, usize)],
        heads: &[usize],
    ) -> Result<Vec<Vec<Vec<f32>>>, ModelError>;
}

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Blocks whose attention is recorded, from 0.
    pub layers: Vec<usize>,
    /// Heads whose attention is recorded, from 0.
    pub heads: Vec<usize>,
    /// Positions whose attention to those before them is recorded.
    pub positions: Vec<usize>,
    /// Positions whose residual stream is kept, after the embedding and after
    /// each block.
    pub streams: Vec<usize>,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    view: View,
    n_embd: usize,
    /// Tokens computed so far.
    seen: usize,
    /// `[layers][heads][positions]`, each `[position + 1]`.
    attention: Vec<Vec<Vec<Vec<f32>>>>,
    /// `[n_layer + 1][streams · n_embd]`
    streams: Vec<Vec<f32>>,
    norms: Norms,
    /// The residual stream before the block that is being computed.
    before: Vec<f32>,
}

/// Euclidean norms, per token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Norms {
    /// Of the residual stream: after the embedding, then after each block;
    /// `[n_layer + 1][tokens]`.
    pub residual: Vec<Vec<f32>>,
    /// Of what the block's attention adds to it, `[n_layer][tokens]`.
    pub attention: Vec<Vec<f32>>,
    /// Of what its MLP adds to it, `[n_layer][tokens]`.
    pub mlp: Vec<Vec<f32>>,
}

impl Inspection {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for layers, heads or positions that there are not.
    pub fn new(view: View, config: &Config) -> Result<Self, ModelError> {
        for (what, indices, count) in [
            ("layer", &view.layers, config.n_layer),
            ("head", &view.heads, config.n_head),
            ("position", &view.positions, config.n_positions),
            ("position", &view.streams, config.n_positions),
        ] {
            if let Some(index) = indices.iter().find(|&&index| index >= count) {
                return Err(ModelError::Batch(format!("no {what} {index} of {count}")));
            }
        }
        let rows = vec![Vec::new(); view.positions.len()];
        let heads = vec![rows; view.heads.len()];
        Ok(Self {
            attention: vec![heads; view.layers.len()],
            streams: vec![vec![0.0; view.streams.len() * config.n_embd]; config.n_layer + 1],
            norms: Norms {
                residual: vec![Vec::new(); config.n_layer + 1],
                attention: vec![Vec::new(); config.n_layer],
                mlp: vec![Vec::new(); config.n_layer],
            },
            n_embd: config.n_embd,
            seen: 0,
            before: Vec::new(),
            view,
        })
    }

    /// Forgets what was seen: the text is computed again from its start.
    pub fn restart(&mut self) {
        self.seen = 0;
        let Norms {
            residual,
            attention,
            mlp,
        } = &mut self.norms;
        for norms in [residual, attention, mlp].into_iter().flatten() {
            norms.clear();
        }
    }

    /// What is looked at.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Tokens computed so far.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The weights of attention, `[layers][heads][positions]` as they were
    /// asked for, each `[position + 1]`.
    pub fn attention(&self) -> &[Vec<Vec<Vec<f32>>>] {
        &self.attention
    }

    /// The residual stream of the positions asked for, `[n_layer + 1]`: after
    /// the embedding, then after each block; each `[streams · n_embd]`.
    pub fn streams(&self) -> &[Vec<f32>] {
        &self.streams
    }

    /// The residual stream at one of these positions, `[n_layer + 1, n_embd]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if the stream of that position was not kept.
    pub fn stream_of(&self, position: usize) -> Result<Vec<f32>, ModelError> {
        let place = self.view.streams.iter().position(|&kept| kept == position);
        let place = place.ok_or_else(|| {
            ModelError::Batch(format!("the stream of position {position} was not kept"))
        })?;
        let rows = self.streams.iter();
        let rows = rows.flat_map(|stream| &stream[place * self.n_embd..][..self.n_embd]);
        Ok(rows.copied().collect())
    }

    /// Norms of the residual stream and of what is added to it.
    pub fn norms(&self) -> &Norms {
        &self.norms
    }

    /// The places in a list of positions that are among the rows computed now.
    fn among(&self, positions: &[usize], rows: usize) -> Vec<(usize, usize)> {
        let now = self.seen..self.seen + rows;
        let places = positions.iter().copied().enumerate();
        places
            .filter(|(_, position)| now.contains(position))
            .collect()
    }

    fn hidden(&mut self, layer: usize, x: &[f32]) {
        let n_embd = self.n_embd;
        for (place, position) in self.among(&self.view.streams, x.len() / n_embd) {
            let row = &x[(position - self.seen) * n_embd..][..n_embd];
            self.streams[layer][place * n_embd..][..n_embd].copy_from_slice(row);
        }
        if let Some(block) = layer.checked_sub(1) {
            self.norms.mlp[block].extend(differences(x, &self.before, n_embd));
        }
        self.norms.residual[layer].extend(x.chunks(n_embd).map(norm));
        self.before = x.to_vec();
        if layer + 1 == self.streams.len() {
            self.seen += x.len() / n_embd;
        }
    }

    fn between(&mut self, block: usize, x: &[f32]) {
        self.norms.attention[block].extend(differences(x, &self.before, self.n_embd));
        self.before = x.to_vec();
    }

    /// Records the attention of the rows from `first` on.
    fn attention_of(
        &mut self,
        block: usize,
        attention: &dyn Attention,
        first: usize,
        rows: usize,
    ) -> Result<(), ModelError> {
        let Some(layer) = self.view.layers.iter().position(|&layer| layer == block) else {
            return Ok(());
        };
        let places = self.among(&self.view.positions, rows);
        let rows = places.iter();
        let rows: Vec<_> = rows.map(|&(_, at)| (first + at - self.seen, at)).collect();
        let of_heads = attention.weights(&rows, &self.view.heads)?;
        for (recorded, of_rows) in self.attention[layer].iter_mut().zip(of_heads) {
            for (&(place, _), weights) in places.iter().zip(of_rows) {
                recorded[place] = weights;
            }
        }
        Ok(())
    }
}

/// The recorder of a forward pass in which some sequences are looked at.
#[derive(Debug, Default)]
pub struct Inspector<'a> {
    /// The rows of each in the batch.
    looks: Vec<(Range<usize>, &'a mut Inspection)>,
}

impl<'a> Inspector<'a> {
    /// Records what happens to these rows of the batch.
    pub fn look(&mut self, rows: Range<usize>, inspection: &'a mut Inspection) {
        self.looks.push((rows, inspection));
    }

    /// Shows each its rows of `x [rows, n_embd]`.
    fn show(
        &mut self,
        x: &Tensor,
        mut see: impl FnMut(&mut Inspection, &[f32]),
    ) -> Result<(), ModelError> {
        with_values(x, |values| {
            for (rows, inspection) in &mut self.looks {
                let n_embd = inspection.n_embd;
                see(inspection, &values[rows.start * n_embd..rows.end * n_embd]);
            }
            Ok(())
        })?;
        Ok(())
    }
}

impl Recorder for Inspector<'_> {
    fn hidden(&mut self, layer: usize, x: &Tensor) -> Result<(), ModelError> {
        self.show(x, |inspection, x| inspection.hidden(layer, x))
    }

    fn attention(&mut self, layer: usize, attention: &dyn Attention) -> Result<(), ModelError> {
        for (rows, inspection) in &mut self.looks {
            inspection.attention_of(layer, attention, rows.start, rows.len())?;
        }
        Ok(())
    }

    fn between(&mut self, layer: usize, x: &Tensor) -> Result<(), ModelError> {
        self.show(x, |inspection, x| inspection.between(layer, x))
    }
}

fn norm(x: &[f32]) -> f32 {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    squares.sqrt() as f32
}

/// The norm of each row's difference.
fn differences(a: &[f32], b: &[f32], n_embd: usize) -> Vec<f32> {
    let difference = |(a, b): (&[f32], &[f32])| {
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        norm(&difference)
    };
    let rows = a.chunks(n_embd).zip(b.chunks(n_embd));
    rows.map(difference).collect()
}

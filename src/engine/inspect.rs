//! Looking at what the model does with a text.

use tokio::sync::oneshot;

use super::alternatives::Alternative;
use super::{EngineError, ParamError};
use crate::kernels::softmax;
use crate::model::{Config, Inspection, Transformer, View};

/// Most tokens of a text that is looked at.
pub const MAX_TOKENS: usize = 512;
/// Most positions through the logit lens.
pub const MAX_LENS_POSITIONS: usize = 16;
/// Most tokens at each layer of the lens.
pub const MAX_LENS: usize = 10;
/// Most weights of attention, and most values of the residual stream.
pub const MAX_VALUES: usize = 8_000_000;

/// A text to look at. All layers, heads and positions unless they are named.
#[derive(Debug, Clone, Default)]
pub struct InspectRequest {
    /// Token ids, 1 to 512.
    pub ids: Vec<u32>,
    /// Whether attention is recorded.
    pub attention: bool,
    /// Blocks whose attention is recorded, from 0.
    pub layers: Option<Vec<usize>>,
    /// Heads, from 0.
    pub heads: Option<Vec<usize>>,
    /// Positions whose attention to those before them is recorded.
    pub positions: Option<Vec<usize>>,
    /// Whether the residual stream of all positions is kept.
    pub hidden: bool,
    /// The most likely tokens at each layer, so many.
    pub lens: usize,
    /// Positions for which they are told; the last one unless set.
    pub lens_positions: Option<Vec<usize>>,
}

/// What was seen.
#[derive(Debug)]
pub struct Inspected {
    /// Attention, norms and, if it was asked for, the residual stream.
    pub inspection: Inspection,
    /// The positions of the lens.
    pub lens_positions: Vec<usize>,
    /// The logit lens, `[n_layer + 1][lens_positions][lens]`: what the model
    /// would say if it ended after the embedding, or after each block.
    pub lens: Vec<Vec<Vec<Alternative>>>,
}

impl InspectRequest {
    /// What is to be recorded, or what is wrong with the request.
    fn view(&self, config: &Config) -> Result<(View, Vec<usize>), ParamError> {
        let tokens = self.ids.len();
        if !(1..=MAX_TOKENS.min(config.n_positions)).contains(&tokens) {
            let most = MAX_TOKENS.min(config.n_positions);
            return refuse("ids", format!("{tokens} tokens, expected 1 to {most}"));
        }
        if self.lens > MAX_LENS {
            return refuse("lens", format!("{} is not from 0 to {MAX_LENS}", self.lens));
        }
        let pick = |name, asked: &Option<Vec<usize>>, count| indices(name, asked, count);
        let mut layers = pick("layers", &self.layers, config.n_layer)?;
        let heads = pick("heads", &self.heads, config.n_head)?;
        let positions = pick("positions", &self.positions, tokens)?;
        if !self.attention {
            layers.clear();
        }
        let weights = layers.len() * heads.len() * positions.len() * tokens;
        if weights > MAX_VALUES {
            let what = "name fewer layers, heads or positions";
            let message = format!("{weights} weights of attention, at most {MAX_VALUES}: {what}");
            return refuse("layers", message);
        }
        let lens_positions = match &self.lens_positions {
            None => vec![tokens - 1],
            asked => pick("lens_positions", asked, tokens)?,
        };
        if lens_positions.len() > MAX_LENS_POSITIONS {
            let count = lens_positions.len();
            let message = format!("{count} positions, at most {MAX_LENS_POSITIONS}");
            return refuse("lens_positions", message);
        }
        let streams = if self.hidden {
            (0..tokens).collect()
        } else {
            lens_positions.clone()
        };
        let values = (config.n_layer + 1) * streams.len() * config.n_embd;
        if values > MAX_VALUES {
            let message = format!("{values} values of the stream, at most {MAX_VALUES}");
            return refuse("hidden", message);
        }
        let view = View {
            layers,
            heads,
            positions,
            streams,
        };
        Ok((view, lens_positions))
    }
}

/// All indices below `count`, or those that were named, checked.
fn indices(
    name: &'static str,
    asked: &Option<Vec<usize>>,
    count: usize,
) -> Result<Vec<usize>, ParamError> {
    let Some(asked) = asked else {
        return Ok((0..count).collect());
    };
    if let Some(index) = asked.iter().find(|&&index| index >= count) {
        return refuse(name, format!("{index} is not from 0 to {}", count - 1));
    }
    // Each may be named once, so there are no more than there are.
    let distinct: std::collections::HashSet<_> = asked.iter().collect();
    if distinct.len() < asked.len() {
        return refuse(name, "one of them is named twice".to_owned());
    }
    Ok(asked.clone())
}

fn refuse<T>(param: &'static str, message: String) -> Result<T, ParamError> {
    Err(ParamError { param, message })
}

/// A text that is being looked at.
#[derive(Debug)]
pub struct Inspecting {
    pub ids: Vec<u32>,
    pub inspection: Inspection,
    lens: usize,
    lens_positions: Vec<usize>,
    pub answer: Option<oneshot::Sender<Result<Inspected, EngineError>>>,
}

impl Inspecting {
    /// Checks a request.
    ///
    /// # Errors
    /// [`EngineError::Param`] with the field at fault.
    pub fn new(
        request: InspectRequest,
        config: &Config,
        answer: oneshot::Sender<Result<Inspected, EngineError>>,
    ) -> Result<Self, EngineError> {
        let (view, lens_positions) = request.view(config)?;
        Ok(Self {
            inspection: Inspection::new(view, config)?,
            ids: request.ids,
            lens: request.lens,
            lens_positions,
            answer: Some(answer),
        })
    }

    /// Answers if all tokens have been computed.
    ///
    /// # Errors
    /// What the model says.
    pub fn answer_if_done(&mut self, model: &dyn Transformer) -> Result<(), EngineError> {
        if self.inspection.seen() < self.ids.len() {
            return Ok(());
        }
        let lens = self.look_through(model)?;
        if let Some(answer) = self.answer.take() {
            // A reader that is gone no longer cares.
            let _ = answer.send(Ok(Inspected {
                inspection: std::mem::take(&mut self.inspection),
                lens_positions: std::mem::take(&mut self.lens_positions),
                lens,
            }));
        }
        Ok(())
    }

    /// The lens, `[n_layer + 1][lens_positions][lens]`.
    fn look_through(
        &self,
        model: &dyn Transformer,
    ) -> Result<Vec<Vec<Vec<Alternative>>>, EngineError> {
        let layers = model.config().n_layer + 1;
        let mut lens = vec![Vec::new(); layers];
        if self.lens == 0 {
            return Ok(lens);
        }
        for &position in &self.lens_positions {
            let logits = model.logit_lens(&self.inspection, position)?;
            for (layer, lens) in lens.iter_mut().enumerate() {
                let row = logits.row(layer);
                let log_total = softmax::log_sum_exp(row);
                lens.push(Alternative::most_likely(row, log_total, self.lens));
            }
        }
        Ok(lens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut InspectRequest)) -> &'static str {
        let json = br#"{"n_embd": 768, "n_head": 12, "n_layer": 12}"#;
        let config = Config::from_json(json, "test").expect("a config");
        let mut request = InspectRequest {
            ids: vec![1; 200],
            attention: true,
            ..Default::default()
        };
        request.view(&config).expect("a whole text of 200 tokens");
        change(&mut request);
        request.view(&config).expect_err("out of bounds").param
    }

    #[test]
    fn what_is_too_much_or_not_there_is_named() {
        assert_eq!(refused(|r| r.ids.clear()), "ids");
        assert_eq!(refused(|r| r.ids = vec![1; 513]), "ids");
        assert_eq!(refused(|r| r.ids = vec![1; 512]), "layers");
        assert_eq!(refused(|r| r.layers = Some(vec![12])), "layers");
        assert_eq!(refused(|r| r.heads = Some(vec![3, 3])), "heads");
        assert_eq!(refused(|r| r.positions = Some(vec![200])), "positions");
        assert_eq!(refused(|r| r.lens = 11), "lens");
        let many = Some((0..17).collect());
        assert_eq!(refused(|r| r.lens_positions = many), "lens_positions");
    }
}

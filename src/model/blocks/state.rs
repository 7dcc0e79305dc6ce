//! Which block holds what: the rules behind leases, without their lock.

use std::collections::{BTreeMap, HashMap};

use crate::kernels::attention::BLOCK;

/// All blocks, by number, and the indices over them.
#[derive(Debug)]
pub(super) struct State {
    /// Blocks that hold nothing; taken from the end.
    pub(super) free: Vec<u32>,
    pub(super) blocks: Vec<Block>,
    /// Published blocks by what they hold.
    index: HashMap<Content, u32>,
    /// Published blocks that no lease holds, by the time of their release.
    pub(super) idle: BTreeMap<u64, u32>,
    /// Blocks with two or more holders.
    pub(super) shared: usize,
    /// Counts leases.
    pub(super) leases: u64,
    /// Counts releases and publications.
    clock: u64,
}

/// One block.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    pub(super) holders: u32,
    /// What it holds, once published.
    content: Option<Content>,
    /// Number of the publication, by which its successors name it.
    publication: u64,
    /// Time of the last release, while idle.
    released: u64,
}

/// What a full block holds, exactly: its tokens, and the publication of the
/// block before them, which stands for all tokens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Content {
    /// [`START`] for the first block of a text.
    pub(super) before: u64,
    pub(super) tokens: [u32; BLOCK],
}

/// No publication has this number.
pub(super) const START: u64 = 0;

impl State {
    /// `total` free blocks.
    pub(super) fn new(total: usize) -> Self {
        Self {
            // Taken from the end: the lowest block goes out first.
            free: (0..total as u32).rev().collect(),
            blocks: vec![Block::default(); total],
            index: HashMap::new(),
            idle: BTreeMap::new(),
            shared: 0,
            leases: 0,
            clock: START,
        }
    }

    /// The published blocks that hold the tokens after publication `before`,
    /// as far as they go. At least one token is left out, so that a sequence
    /// always has something to compute.
    pub(super) fn find<'a>(
        &'a self,
        before: u64,
        tokens: &'a [u32],
    ) -> impl Iterator<Item = u32> + 'a {
        let usable = tokens.len().saturating_sub(1);
        tokens[..usable]
            .as_chunks::<BLOCK>()
            .0
            .iter()
            .scan(before, |before, tokens| {
                let content = Content {
                    before: *before,
                    tokens: *tokens,
                };
                let block = *self.index.get(&content)?;
                *before = self.blocks[block as usize].publication;
                Some(block)
            })
    }

    /// A block that holds nothing, idle ones taken back when none is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop().or_else(|| self.evict())?;
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    pub(super) fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(content) = self.blocks[block as usize].content.take() {
            self.index.remove(&content);
        }
        Some(block)
    }

    pub(super) fn hold(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        match block.holders {
            0 => drop(self.idle.remove(&block.released)),
            1 => self.shared += 1,
            _ => {}
        }
        block.holders += 1;
    }

    pub(super) fn release(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        block.holders -= 1;
        match block.holders {
            0 if block.content.is_some() => {
                self.clock += 1;
                block.released = self.clock;
                self.idle.insert(self.clock, number);
            }
            0 => self.free.push(number),
            1 => self.shared -= 1,
            _ => {}
        }
    }

    /// Makes a full block known by its content, or finds the one that is.
    pub(super) fn publish(&mut self, number: u32, content: Content) -> u32 {
        if let Some(&known) = self.index.get(&content) {
            // The same tokens after the same tokens have the same bits,
            // whoever computed them: from now on there is one copy.
            self.hold(known);
            self.release(number);
            return known;
        }
        self.clock += 1;
        self.index.insert(content, number);
        let block = &mut self.blocks[number as usize];
        block.content = Some(content);
        block.publication = self.clock;
        number
    }

    /// The publication that the blocks after these name.
    pub(super) fn last_publication(&self, blocks: &[u32]) -> u64 {
        blocks
            .last()
            .map_or(START, |&block| self.blocks[block as usize].publication)
    }
}
